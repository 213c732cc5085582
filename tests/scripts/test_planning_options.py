"""Every planning setting can be given after training, without a list of them kept by hand."""

import pickle
from dataclasses import fields
from typing import Any

import pytest
import tyro

from diffplan.config.sections import PlanningConfig
from diffplan.scripts.planning_options import PlanningOptions

NAMES = [each.name for each in fields(PlanningConfig)]


def test_every_setting_is_an_option_and_none_is_given_by_default() -> None:
    options = PlanningOptions()
    assert [each.name for each in fields(options)] == NAMES  # type: ignore[arg-type]
    assert options.given == {}


def test_options_are_read_as_the_settings_are_typed() -> None:
    words = ["--clip", "None", "--candidates", "4", "--start", "none", "--reuse"]
    found = tyro.cli(PlanningOptions, args=words)
    assert found.given == {"start": "none", "clip": None, "candidates": 4, "reuse": True}
    assert pickle.loads(pickle.dumps(found)) == found
    assert tyro.cli(PlanningOptions, args=["--no-reuse"]).given == {"reuse": False}


@pytest.mark.parametrize(
    "words",
    [
        *(["--start", "middle"], ["--candidates", "4.5"], ["--replan-every", "a"]),
        # what was decided in training is not undecided afterwards
        *(["--start", "None"], ["--denoising-steps", "None"], ["--subgoal-steps", "None"]),
    ],
)
def test_other_types_are_refused(words: list[str], capsys: pytest.CaptureFixture[Any]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(PlanningOptions, args=words)
    assert words[1] in capsys.readouterr().err


def test_the_help_is_that_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tyro.cli(PlanningOptions, args=["--help"])
    shown = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Reverse steps. (default: the run's own)" in shown
    assert "Plans per decision, K." in shown and "--clip FLOAT|None" in shown
    assert shown.count("(default: the run's own)") == len(NAMES)
