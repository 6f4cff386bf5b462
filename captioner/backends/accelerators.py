"""Which accelerators a machine has, told without torch: importing it takes longer than captioning."""

import importlib.util
import os
import platform
import re
import sys
from pathlib import Path


def has_nvidia_gpu() -> bool:
    """Whether the driver of an NVIDIA GPU is there and CUDA_VISIBLE_DEVICES does not hide all of them."""
    if os.environ.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1"):
        return False
    on_windows = Path(os.environ.get("SYSTEMROOT", "C:/Windows"), "System32/nvcuda.dll")
    return any(path.exists() for path in (Path("/dev/nvidiactl"), Path("/dev/dxg"), on_windows))  # dxg: WSL 2


def torch_may_use_one() -> bool:
    """Whether torch, which is installed, may find an accelerator: True where it cannot be told."""
    if sys.platform == "darwin":
        return platform.machine() == "arm64"
    if not (has_nvidia_gpu() or Path("/dev/kfd").exists()):  # kfd: AMD
        return False
    origin = getattr(importlib.util.find_spec("torch"), "origin", None)
    try:
        version = Path(origin or "").with_name("version.py").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return True
    return re.search(r"^(cuda|hip)\b.*= *['\"]", version, re.MULTILINE) is not None
