"""Packages that not every installation has."""

import os

from captioner.errors import OptionError

OPTIONAL = {
    "array_api_compat": "array-api-compat",
    "matplotlib": "matplotlib",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "onnxscript": "onnxscript",
    "pyarrow": "pyarrow",
    "pycocotools": "pycocotools",
    "ray": "'ray[data]'",
    "safetensors": "safetensors",
    "scipy": "scipy",
    "torch": "torch",
    "torchvision": "torchvision",
}
"""Modules that a slim installation lacks, and the packages that have them."""


def require(module: str, needed_by: str) -> None:
    """Refuse an option before any work where what it needs is missing.

    Raises:
        OptionError: the module is not installed.
    """
    if not is_installed(module):
        raise missing(module, needed_by)


def is_installed(module: str) -> bool:
    """Whether a module can be imported; it is not."""
    from importlib.util import find_spec

    return find_spec(module) is not None


def missing(module: str, needed_by: str = "this command") -> OptionError:
    """The error of a module of `OPTIONAL` that is not installed."""
    package = OPTIONAL[module]
    return OptionError(f"{needed_by} needs {package}, which is not installed", remedy=f"pip install {package}")


def import_numpy() -> None:
    """Import numpy without threads for linear algebra, unless OPENBLAS_NUM_THREADS asks for them.

    Captioning multiplies no matrices in numpy, and starting a thread for each core takes as long as the encoder does.
    """
    name = "OPENBLAS_NUM_THREADS"
    if name in os.environ:
        return
    os.environ[name] = "1"
    try:
        import numpy  # noqa: F401
    finally:
        del os.environ[name]  # programs that are started from here may have use for them
