"""torchvision, imported so that a build whose compiled operators do not load still works.

torchvision's wheels carry operators compiled for one build of torch. Beside another (a CUDA torchvision with
a CPU torch, say) they do not load, and the import dies with "operator torchvision::nms does not exist", since
torchvision registers shape rules for operators that it takes to be there. The models and transforms used here
call none of them: declaring the two schemas is enough for the import to go through.
"""

import importlib
import sys
from types import ModuleType

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_library: "torch.library.Library | None" = None  # the declarations live as long as this object


def import_torchvision() -> ModuleType:
    """Import ``torchvision``; where its compiled operators are missing, declare them and import again.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: the import fails for another reason than the missing operators.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error):
            raise
    for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
        del sys.modules[name]  # what the failed import left half made
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return importlib.import_module("torchvision")
