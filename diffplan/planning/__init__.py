"""A decision in four stages: propose, optimise, select, decode; and what else plans can answer."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.planning.calibration import calibrate, load_statistics, save_statistics
    from diffplan.planning.chains import chain_of
    from diffplan.planning.composed import Aim
    from diffplan.planning.selection import evaluate, select
    from diffplan.planning.stages import Noise, NormalisedPlan, decode, make_plan, optimise, propose
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.planning.calibration": "calibrate load_statistics save_statistics",
            "diffplan.planning.chains": "chain_of",
            "diffplan.planning.composed": "Aim",
            "diffplan.planning.selection": "evaluate select",
            "diffplan.planning.stages": "Noise NormalisedPlan decode make_plan optimise propose",
        },
    )

__all__ = [
    "Aim",
    "Noise",
    "NormalisedPlan",
    "calibrate",
    "chain_of",
    "decode",
    "evaluate",
    "load_statistics",
    "make_plan",
    "optimise",
    "propose",
    "save_statistics",
    "select",
]
