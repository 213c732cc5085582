"""Presets: every dataset has one or a reason, no two apply, and they fit their configuration."""

from fnmatch import fnmatchcase

import pytest

from diffplan.config.config import config_to_dict, with_settings
from diffplan.config.planners import CONFIGS, get_config
from diffplan.config.presets import (
    NOT_RELEASED,
    RELEASED,
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
        assert why_none(dataset) == reasons[0]
    else:
        assert "main.py" in preset.source


def test_every_pattern_means_some_dataset() -> None:
    patterns = [p for row in RELEASED for p in row.datasets] + list(NOT_RELEASED)
    assert [p for p in patterns if not any(fnmatchcase(n, p) for n in CATALOGUE)] == []


@pytest.mark.parametrize("name", CONFIGS)
def test_every_preset_fits_its_configuration(name: str) -> None:
    for preset in presets_of(name):
        changed = config_to_dict(with_settings(get_config(name), preset.settings))
        for key, value in preset.settings.items():
            section, _, option = key.partition(".")
            assert changed[section].pop(option) == value
        base = config_to_dict(get_config(name))
        for key in preset.settings:
            section, _, option = key.partition(".")
            del base[section][option]
        assert changed == base  # nothing else


@pytest.mark.parametrize(
    ("name", "dataset", "settings"),
    [
        ("decision-diffuser", "hopper-medium-v2", (0.5, 1.2, 0.0, 3, 20, 1)),
        ("diffusion-veteran", "hopper-medium-v2", (1.0, 1.0, 0.0, 3, 20, 50)),
        ("diffuser", "hopper-medium-v2", (1.0, 1.0, 0.2, 3, 20, 64)),
        # two guide steps of 1e-4 or 1e-3, until level 5
        ("diffuser", "hopper-medium-expert-v2", (1.0, 1.0, 2e-4, 5, 20, 64)),
        ("diffuser", "halfcheetah-medium-v2", (1.0, 1.0, 2e-3, 5, 20, 64)),
    ],
)
def test_other_planners_plan_as_their_papers(
    name: str, dataset: str, settings: tuple[float, ...]
) -> None:
    planning = config_for(name, dataset=dataset, has_goal=False).planning
    assert settings == (
        planning.noise_scale,
        planning.guidance_weight,
        planning.value_guidance,
        planning.value_guidance_until,
        planning.denoising_steps,
        planning.candidates,
    )


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


@pytest.mark.parametrize("name", ["trajectory-diffuser", "proposer-only", "from-noise"])
def test_ours_know_no_names(name: str) -> None:
    for dataset in ("hopper-medium-v2", "mujoco/HalfCheetah/medium-v0", "metaworld/mt10-v0"):
        for has_goal in (True, False):
            assert config_for(name, dataset, has_goal) == get_config(name)


@pytest.mark.parametrize("dataset", ["human-v2", "D4RL/pen/human-v2", "hopper", "my-own", ""])
def test_other_names_have_nothing_published(dataset: str) -> None:
    assert preset_for(PUBLISHED, dataset, has_goal=False) is None
    assert "nothing is published" in why_none(dataset)


def test_diffuser_plans_a_maze_once_and_follows_its_waypoints() -> None:
    config = config_for("diffuser", "pointmaze-medium-v3", has_goal=True)
    assert config.planning.replan_every == config.plan.horizon * config.plan.stride == 256
    assert config.heads.kind == "separate" and not config.planning.value_guidance


@pytest.mark.parametrize("name", ["diffuser", "decision-diffuser", "diffusion-veteran"])
def test_other_planners_are_punished_for_falling_as_published(name: str) -> None:
    assert get_config(name).data.termination_penalty == -100
    assert get_config("trajectory-diffuser").data.termination_penalty == 0
