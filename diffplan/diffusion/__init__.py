"""Diffusion without a model: processes, what is drawn from them, samplers, guidance."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.diffusion.forward import STARTS, q_sample
    from diffplan.diffusion.grids import GRIDS
    from diffplan.diffusion.process import Process
    from diffplan.diffusion.processes import SCHEDULES, build_process
    from diffplan.diffusion.samplers import SAMPLERS
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.diffusion.forward": "STARTS q_sample",
            "diffplan.diffusion.grids": "GRIDS",
            "diffplan.diffusion.process": "Process",
            "diffplan.diffusion.processes": "SCHEDULES build_process",
            "diffplan.diffusion.samplers": "SAMPLERS",
        },
    )

__all__ = [
    "GRIDS",
    "SAMPLERS",
    "SCHEDULES",
    "STARTS",
    "Process",
    "build_process",
    "q_sample",
]
