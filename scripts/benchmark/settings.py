"""Where the settings of a benchmark come from: a run, or a configuration with sizes of a task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from diffplan.config.config import Config, settled, with_settings
from diffplan.config.planners import CONFIGS
from diffplan.config.presets import config_for
from diffplan.data.info import ObservationLayout
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint, read_header


@dataclass(frozen=True)
class Sizes:
    """A task by its sizes alone, for configurations without a run.

    dataset: whose preset applies.
    """

    dataset: str
    layout: ObservationLayout
    action_dim: int


_MAZE = ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
SIZES: dict[str, Sizes] = {
    "hopper": Sizes("hopper-medium-v2", ObservationLayout(11), 3),
    "walker2d": Sizes("walker2d-medium-v2", ObservationLayout(17), 6),
    "halfcheetah": Sizes("halfcheetah-medium-v2", ObservationLayout(17), 6),
    "pointmaze": Sizes("pointmaze-medium", _MAZE, 2),
    "maze2d-large": Sizes("maze2d-large-v1", _MAZE, 2),
}


def default_config(name: str, like: str) -> Config:
    """The settings of a run, or of a named configuration with the preset of the sizes `like`.

    Raises DiffplanError for neither of them, or unknown sizes.
    """
    # a name before a folder of the same name
    if name in CONFIGS:
        if like not in SIZES:
            raise DiffplanError(f"--like is {like!r}, expected one of {', '.join(SIZES)}")
        has_goal = SIZES[like].layout.goal_dim > 0
        config = config_for(name, SIZES[like].dataset, has_goal)
        # candidates are swept: whether there is a value is for those to decide
        value = {"heads.value": config.heads.value}
        return with_settings(settled(config, has_goal), value)
    if not Path(name).is_dir():
        raise DiffplanError(
            f"{name!r} is neither a RUN folder nor a configuration; configurations: "
            f"{', '.join(CONFIGS)}"
        )
    # of a run its own settings are the defaults, without its weights being read
    return read_header(find_checkpoint(name)).config
