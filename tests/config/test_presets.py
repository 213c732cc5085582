"""Presets: every dataset has one or a reason, no two apply, and they fit their configuration."""

from fnmatch import fnmatchcase

import pytest

from diffplan.config.config import config_to_dict
from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.presets import (
    NOT_RELEASED,
    RELEASED,
    apply,
    config_for,
    preset_for,
    presets_of,
    why_none,
)
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE

PUBLISHED = "trajectory-diffuser-published"


@pytest.mark.parametrize("dataset", CATALOGUE)
def test_every_d4rl_dataset_has_one_published_preset_or_one_reason(dataset: str) -> None:
    rows = [row for row in RELEASED for p in row.datasets if fnmatchcase(dataset, p)]
    reasons = [reason for p, reason in NOT_RELEASED.items() if fnmatchcase(dataset, p)]
    assert len(rows) + len(reasons) == 1
    preset = preset_for(PUBLISHED, dataset, has_goal=False)
    assert (preset is None) == (not rows)
    if preset is None:
        assert why_none(PUBLISHED, dataset) == reasons[0]
    else:
        assert "main.py" in preset.source


def test_every_pattern_means_some_dataset() -> None:
    patterns = [p for row in RELEASED for p in row.datasets] + list(NOT_RELEASED)
    assert [p for p in patterns if not any(fnmatchcase(n, p) for n in CATALOGUE)] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_preset_fits_its_configuration(name: str) -> None:
    for preset in presets_of(name):
        changed = config_to_dict(apply(get_config(name), preset))
        for key, value in preset.settings.items():
            section, _, option = key.partition(".")
            assert changed[section].pop(option) == value
        base = config_to_dict(get_config(name))
        for key in preset.settings:
            section, _, option = key.partition(".")
            del base[section][option]
        assert changed == base  # nothing else


def test_published_settings_in_the_units_of_the_configuration() -> None:
    config = config_for(PUBLISHED, dataset="walker2d-medium-expert-v2", has_goal=False)
    assert config.plan.horizon == 31  # the published 32 count the current state
    assert config.data.discount == 1  # targets are undiscounted returns
    assert config.planning.target == "decremented"
    assert config.planning.target_return == 5100
    assert config.planning.guidance_weight == 1.1
    assert config.training.learning_rate == 2e-4
    assert config_for(PUBLISHED, "pen-human-v1", has_goal=False).planning.denoising_steps == 5


def test_a_task_without_a_row_for_the_dataset_reads_its_target_off_the_data() -> None:
    planning = config_for(PUBLISHED, "hopper-expert-v2", has_goal=False).planning
    assert (planning.target, planning.target_return) == ("decremented", None)


def test_no_published_target_where_the_return_counts_steps_to_the_goal() -> None:
    config = config_for(PUBLISHED, "maze2d-large-v1", has_goal=True)
    assert config.plan.horizon == 127
    assert config.planning.target == get_config(PUBLISHED).planning.target
    assert config.planning.target_return is None


def test_ours_go_by_the_kind_of_data() -> None:
    for name in ("trajectory-diffuser", "proposer-only", "from-noise"):
        base, changed = get_config(name), config_for(name, "anything", has_goal=False)
        assert config_for(name, "antmaze-umaze-v2", has_goal=True) == base
        assert changed.plan != base.plan
        assert changed.data.discount > base.data.discount
        # what the configuration stands for stays
        refines = name == "trajectory-diffuser"
        assert (changed.planning.start != base.planning.start) == refines
        assert (changed.planning.candidates != base.planning.candidates) == refines


@pytest.mark.parametrize("dataset", ["halfcheetah-medium-v2", "mujoco/HalfCheetah/medium-v0"])
def test_ours_differ_for_a_task_with_reasons_of_its_own(dataset: str) -> None:
    every = config_for("trajectory-diffuser", "walker2d-medium-v2", has_goal=False)
    own = config_for("trajectory-diffuser", dataset, has_goal=False)
    assert (own.plan.stride, own.planning.replan_every, own.planning.candidates) == (1, 1, 1)
    assert own.planning.start == "process"
    assert (every.plan.stride, every.planning.replan_every) == (2, 8)
    assert every.planning.candidates == 4
    assert own.data == every.data
    hopper = config_for("trajectory-diffuser", "hopper-medium-v2", has_goal=False)
    assert (hopper.planning.start, hopper.planning.candidates) == ("raw", 1)
    assert hopper.plan == every.plan and every.planning.start == "sdedit"
    alone = config_for("proposer-only", dataset, has_goal=False)
    assert (alone.plan.stride, alone.planning.start) == (1, "none")


@pytest.mark.parametrize("dataset", ["human-v2", "D4RL/pen/human-v2", "hopper", "my-own", ""])
def test_other_names_have_nothing_published(dataset: str) -> None:
    assert preset_for(PUBLISHED, dataset, has_goal=False) is None
    assert "nothing is published" in why_none(PUBLISHED, dataset)
