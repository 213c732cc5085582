"""What a planner is, as data: settings, what they must satisfy, named ones."""

from diffplan.config.config import Config, config_from_dict, config_to_dict, replace_planning
from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.presets import config_for
from diffplan.config.sections import (
    DataConfig,
    DenoiserConfig,
    HeadsConfig,
    PlanningConfig,
    PlanSpaceConfig,
    ProposerConfig,
    TrainingConfig,
)

__all__ = [
    "CONFIGS",
    "Config",
    "DataConfig",
    "DenoiserConfig",
    "HeadsConfig",
    "PlanSpaceConfig",
    "PlanningConfig",
    "ProposerConfig",
    "TrainingConfig",
    "config_for",
    "config_from_dict",
    "config_to_dict",
    "get_config",
    "replace_planning",
]
