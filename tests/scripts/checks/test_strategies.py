"""Denoisers that learn beside each other are those that learn alone."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from diffplan.config.config import with_settings
from diffplan.config.planners import get_config
from diffplan.data.episodes import Episodes
from diffplan.training.loop import train
from diffplan.training.run import RunOptions

runs = pytest.importorskip("diffplan.scripts.checks.strategy_runs")

EVERY: dict[str, Any] = {
    "training.min_snr": 5.0,
    "training.immiscible": True,
    "training.curriculum": 2,
    "denoiser.routing": 0.8,
}


def test_runs_in_one_process_are_those_of_train(
    tmp_path: Path, tiny_goal_episodes: Episodes
) -> None:
    settings = {tmp_path / "none": {}, tmp_path / "every": EVERY}
    runs.train_together(tiny_goal_episodes, settings, 3, [6])
    for folder, changes in settings.items():
        config = with_settings(get_config("trajectory-diffuser"), changes)
        options = RunOptions(tmp_path / f"{folder.name}-alone", 6, seed=3, progress=False)
        alone = train(tiny_goal_episodes, config, options)
        one, other = (
            load_file(path / "model.safetensors") for path in (folder / alone.name, alone)
        )
        assert one.keys() == other.keys()
        assert not [key for key in one if not one[key].equal(other[key])]
