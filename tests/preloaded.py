"""What processes that the tests fork have imported: those that train, see `launched`, and kernels of notebooks.

They are forked from one process, since there is only one such process to a test process: see `multiprocessing`.
"""

import contextlib
from importlib import import_module

from captioner.model.vision import import_torchvision

for name in ("torch.distributed", "captioner.commands.train", "captioner.training.loop", "captioner.show.figure"):
    import_module(name)
import_torchvision()
with contextlib.suppress(ImportError):  # an extra
    import_module("ipykernel.kernelapp")
