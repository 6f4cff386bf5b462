"""Image captioning with attention that you can see.

    import captioner
    model = captioner.load()
    caption = model.caption("photo.jpg")
    caption.text, caption.words[1].map, caption.figure()
    model.ask("photo.jpg", "what is the dog catching?").text

Names are loaded when they are first used, so that ``import captioner`` and ``captioner --help`` are quick and
the scores need no torch.
"""

from __future__ import annotations

from captioner.version import __version__

TYPE_CHECKING = False  # importing typing for it would take a tenth of what --help takes
if TYPE_CHECKING:
    from typing import Any

    from captioner.asking import Asker, load_answering
    from captioner.errors import CaptionerError
    from captioner.metrics import evaluate
    from captioner.options import Beam, Greedy, MapOptions, Sampling
    from captioner.pipeline import Captioner, load
    from captioner.results import Answer, Caption, Failure, Word

__all__ = [
    "Answer",
    "Asker",
    "Beam",
    "Caption",
    "Captioner",
    "CaptionerError",
    "Failure",
    "Greedy",
    "MapOptions",
    "Sampling",
    "Word",
    "__version__",
    "evaluate",
    "load",
    "load_answering",
]

_HOMES = {
    "Answer": "captioner.show.drawings",  # which registers what draws it
    "Asker": "captioner.asking",
    "Beam": "captioner.options",
    "Caption": "captioner.show.drawings",
    "Captioner": "captioner.pipeline",
    "CaptionerError": "captioner.errors",
    "Failure": "captioner.results",
    "Greedy": "captioner.options",
    "MapOptions": "captioner.options",
    "Sampling": "captioner.options",
    "Word": "captioner.results",
    "evaluate": "captioner.metrics",
    "load": "captioner.pipeline",
    "load_answering": "captioner.asking",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'captioner' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
