"""Which numbers a device multiplies fast."""

from collections.abc import Callable, Mapping
from typing import Any

import torch


def has_bfloat16(device: torch.device) -> bool:
    """Whether a device multiplies matrices in bfloat16 by itself.

    One that imitates it takes several times as long as in float32. Of processors only an x86 one of a recent
    torch can be asked; others are taken to have none.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        ask: Callable[[], Mapping[str, Any]] = getattr(torch.cpu, "get_capabilities", dict)
        capabilities = ask()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))
    return False
