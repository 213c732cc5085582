"""Which device a name means; PyTorch is imported once a name is well spelt."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from diffplan.errors import DiffplanError

if TYPE_CHECKING:
    import torch

_NAME = re.compile(r"auto|cpu|cuda(:\d+)?|mps")


def check_device(name: Any, option: str = "device") -> None:
    """Raise DiffplanError for what no device is called. Whether it is there only PyTorch knows."""
    if not _NAME.fullmatch(str(name)):
        raise DiffplanError(f"{option} is {name!r}, expected auto, cpu, cuda, cuda:N or mps")


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name: "cpu", "cuda", "cuda:1", "mps", or "auto", the first GPU there is.

    Raises DiffplanError for any other name, and for a device that PyTorch does not see.
    """
    check_device(name)
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        seen = f"only {count}" if count else "no CUDA device"
        raise DiffplanError(f"device is {str(name)!r}, but PyTorch sees {seen}; use cpu or auto")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise DiffplanError("device is 'mps', but PyTorch sees no such device; use cpu or auto")
    return device
