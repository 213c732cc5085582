"""Names that a setting chooses from, read off the tables of what they name."""

from typing import TYPE_CHECKING, Literal

from diffplan.diffusion.grids import GRIDS
from diffplan.diffusion.processes import PROCESSES, SCHEDULES
from diffplan.diffusion.samplers import SAMPLERS
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
