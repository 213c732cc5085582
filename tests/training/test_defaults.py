"""Decisions by rules: taken once, from the data, never against a hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from diffplan.config.config import Config, adopted, settled, with_settings
from diffplan.config.decisions import Decision
from diffplan.data.episodes import Episodes
from diffplan.model.run_folder import read_header
from diffplan.training import defaults
from diffplan.training.loop import train
from diffplan.training.run import RunOptions

SMALL = {
    "plan.horizon": 4,
    "proposer.width": 8,
    "denoiser.width": 8,
    "heads.width": 8,
    "heads.value_ensemble": 1,
    "training.batch_size": 8,
}


def test_what_was_decided_stays_and_a_hand_wins(
    tmp_path: Path, tiny_episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:

    def rule(config: Config, *_: Any) -> Iterator[Decision]:
        yield Decision("planning.denoising_steps", config.plan.horizon, "as many as states")
        yield Decision("planning.replan_every", 3, "three")

    monkeypatch.setattr(defaults, "DATA_RULES", (rule,))
    told: list[str] = []
    asked = with_settings(Config(), SMALL | {"planning.replan_every": 2})

    def run(steps: int, config: Config) -> Path:
        options = RunOptions(
            tmp_path / "run",
            steps=steps,
            resume=True,
            device="cpu",
            progress=False,
            tell=lambda decisions: told.extend(each.setting for each in decisions),
        )
        return train(tiny_episodes, config, options)

    first = read_header(run(2, asked))
    taken = {each.setting: each.value for each in first.decisions}
    assert taken["planning.denoising_steps"] == first.config.planning.denoising_steps == 4
    assert "planning.replan_every" not in taken  # given by hand
    assert first.config.planning.replan_every == 2
    assert told == list(taken)
    assert taken["planning.denoising_steps"] == 4
    monkeypatch.setattr(defaults, "DATA_RULES", ())
    second = run(4, asked)
    assert read_header(second).decisions == first.decisions
    # a hand changes how it plans, also where the data had decided
    third = read_header(run(6, with_settings(asked, {"planning.denoising_steps": 1})))
    assert third.config.planning.denoising_steps == 1
    assert "planning.denoising_steps" not in {each.setting for each in third.decisions}


def test_a_run_lends_what_is_open_and_nothing_else() -> None:
    run = with_settings(settled(Config(), has_goal=False), {"plan.stride": 3, "heads.width": 7})
    again = adopted(with_settings(Config(), {"plan.horizon": 5}), run)
    assert (again.plan.horizon, again.plan.stride) == (5, 3)
    assert again.heads.width == Config().heads.width
    assert again.heads.value == run.heads.value == "none"
    # of the others None is a value
    clipped = with_settings(run, {"planning.clip": 3.0})
    assert adopted(with_settings(Config(), {"planning.clip": None}), clipped).planning.clip is None
    # candidates by hand may need a value
    assert adopted(with_settings(Config(), {"planning.candidates": 4}), run).heads.value == "auto"
