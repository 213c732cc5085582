"""Planning for offline reinforcement learning: propose, optimise by diffusion, select, decode.

    run = diffplan.train("trajectory-diffuser", dataset="mine.npz", out="runs/mine")
    agent = diffplan.load_agent("runs/mine")
    action, state = agent.predict(observation)

Begin with `train`, `load_agent` and `load_dataset`; `diffplan demo` does all of it once. Public is
what stands here and what `diffplan.agents`, `.config`, `.constraints`, `.data`, `.diffusion`,
`.engines`, `.envs`, `.model`, `.nn`, `.planning` and `.training` hand on; modules inside them may
change. PyTorch is imported when the first name that needs it is used.
"""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.agents import AgentState, Plan, PlannerAgent, Queries, load_agent
    from diffplan.config import CONFIGS, Config, config_for, get_config
    from diffplan.data import DatasetInfo, Episodes, ObservationLayout
    from diffplan.diffusion import SAMPLERS
    from diffplan.envs import load_arrays, load_dataset, load_datasets
    from diffplan.errors import DiffplanError
    from diffplan.model import Context, PlannerModel
    from diffplan.planning import (
        Noise,
        NormalisedPlan,
        chain_of,
        decode,
        make_plan,
        optimise,
        propose,
        select,
    )
    from diffplan.scripts.train import Run, train
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.agents": "AgentState Plan PlannerAgent Queries load_agent",
            "diffplan.config": "CONFIGS Config config_for get_config",
            "diffplan.data": "DatasetInfo Episodes ObservationLayout",
            "diffplan.diffusion": "SAMPLERS",
            "diffplan.envs": "load_arrays load_dataset load_datasets",
            "diffplan.errors": "DiffplanError",
            "diffplan.model": "Context PlannerModel",
            "diffplan.planning": (
                "Noise NormalisedPlan chain_of decode make_plan optimise propose select"
            ),
            "diffplan.scripts.train": "Run train",
        },
    )

__version__ = "0.1.0"
"""Of the package."""

__all__ = [
    "CONFIGS",
    "SAMPLERS",
    "AgentState",
    "Config",
    "Context",
    "DatasetInfo",
    "DiffplanError",
    "Episodes",
    "Noise",
    "NormalisedPlan",
    "ObservationLayout",
    "Plan",
    "PlannerAgent",
    "PlannerModel",
    "Queries",
    "Run",
    "__version__",
    "chain_of",
    "config_for",
    "decode",
    "get_config",
    "load_agent",
    "load_arrays",
    "load_dataset",
    "load_datasets",
    "make_plan",
    "optimise",
    "propose",
    "select",
    "train",
]
