"""Names that a setting chooses from, read off the tables of what they name."""

import re
from typing import TYPE_CHECKING, Literal

from diffplan.diffusion.grids import GRIDS
from diffplan.diffusion.processes import PROCESSES, SCHEDULES
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.errors import DiffplanError
from diffplan.nn import NETWORKS

if TYPE_CHECKING:  # a type checker knows no table
    Grid = str
    Network = str
    Process = str
    Sampler = str
    Schedule = str
else:
    Grid = Literal[tuple(GRIDS)]
    Network = Literal[tuple(NETWORKS)]
    Process = Literal[tuple(PROCESSES)]
    Sampler = Literal[tuple(SAMPLERS)]
    Schedule = Literal[tuple(SCHEDULES)]

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


def check_device(name: str, option: str = "device") -> None:
    """Raise DiffplanError for what no device is called. Whether it is there only PyTorch knows."""
    if not _DEVICE.fullmatch(name):
        raise DiffplanError(f"{option} is {name!r}, expected cpu, cuda or cuda:N")
