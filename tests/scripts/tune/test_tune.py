"""`diffplan tune` end to end on a tiny run: what is saved, who uses it, what is refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffplan.agents import load_agent
from diffplan.data.episodes import Episodes
from diffplan.envs.rollouts.reading import Failure
from diffplan.envs.rollouts.serial import Rollout
from diffplan.model.run_folder import list_checkpoints
from diffplan.model.tuned import TUNING, read_tuning
from diffplan.scripts.cli import main
from diffplan.scripts.tune import design, play

BUDGET = ["--budget", "60", "--settings", "6"]


@pytest.fixture(scope="module")
def trained(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_episodes: Episodes,
    tiny_options: list[str],
) -> Path:
    """A run of two updates, of data with rewards; its environment is made up below."""
    folder = tmp_path_factory.mktemp("tune")
    tiny_episodes.save(folder / "data")
    words = ["train", "trajectory-diffuser", "--dataset", str(folder / "data"), "--preset", "none"]
    words += ["--out", str(folder / "run"), "--device", "cpu", *tiny_options]
    assert main([*words, "--steps", "2"]) == 0
    return folder / "run"


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "run"))


class World:
    """Episodes return 5, more where plans are made every 2 steps."""

    def __init__(self) -> None:
        self.played: list[tuple[int, int]] = []  # first seed, episodes
        self.stop_after: int | None = None
        self.failing = False

    def rollout(self, agent: Any, _: Any, *, episodes: int, seed: int, **__: Any) -> Rollout:
        if len(self.played) == self.stop_after:
            raise KeyboardInterrupt
        self.played.append((seed, episodes))
        returns = 5.0 + 3 * (agent.settings.replan_every == 2) + np.arange(episodes) % 3
        ones, failures = np.ones(episodes), ()
        if self.failing:
            failures = (Failure(0, seed, 1, "it broke"),)
            returns, ones = returns[1:], ones[1:]
        return Rollout(returns, ones, None, ones > 1, ones, ones, (), failures)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(play, "rollout", world.rollout)
    return world


PENDULUM = ["--env", "diffplan_tune_test:Push-v0"]


@pytest.fixture(autouse=True)
def _environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = (
        "import gymnasium as gym, numpy as np",
        "class Push(gym.Env):",
        "    observation_space = gym.spaces.Box(-9, 9, (3,), np.float64)",
        "    action_space = gym.spaces.Box(-2, 1, (2,), np.float32)",
        "    def reset(self, *, seed=None, options=None):",
        "        super().reset(seed=seed)",
        "        return np.zeros(3), {}",
        "    def step(self, action):",
        "        return np.zeros(3), 1.0, False, False, {}",
        "gym.register('Push-v0', Push, max_episode_steps=6)",
    )
    (tmp_path / "diffplan_tune_test.py").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(str(tmp_path))


def tune(run: Path, *words: str) -> int:
    return main(["tune", str(run), *BUDGET, *PENDULUM, *words])


def evaluate(run: Path, *words: str) -> int:
    few = ["--episodes", "2", "--no-pictures", "--no-baselines", "--engine", "eager"]
    return main(["evaluate", str(run), *few, *PENDULUM, *words])


def test_the_winner_is_what_the_checkpoint_plans_with(
    run: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    before = load_agent(run).planning
    assert before["replan_every"] == 4
    assert tune(run) == 0
    said = capsys.readouterr().out
    assert "6 settings, 60 episodes of a budget of 60, seeds 200000 to " in said
    assert re.search(r"\nreplan_every 2\b.*: return \+3.0 \[80 %: \+3.0, \+3.0\] in a final", said)
    record = json.loads((run / "checkpoint-00000002" / TUNING).read_text())
    assert record["adopted"] and record["planning"]["replan_every"] == 2
    assert record["default"] == before
    assert sum(trial["episodes"] for trial in record["trials"]) == 60
    first, last = record["seeds"][0]
    seeds = {seed + e for seed, count in world.played for e in range(count)}
    assert seeds == set(range(first, last + 1))
    # everybody plans so, and whoever asks gets back what was trained or given
    assert load_agent(run).settings.replan_every == 2
    assert load_agent(run, replan_every=1).settings.replan_every == 1
    assert load_agent(run, tuned=False).planning == before
    names = {file.name for file in (run / "checkpoint-00000002").iterdir()}
    assert {TUNING, "tuning.png"} <= names and "tuning-unfinished.json" not in names


def test_an_evaluation_says_so_and_refuses_the_seeds_that_chose(
    run: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run) == 0
    _, last = json.loads((run / "checkpoint-00000002" / TUNING).read_text())["seeds"][0]
    capsys.readouterr()
    for words in (["--seed", str(last)], ["--checkpoint", "best", "--select-seed", "199999"]):
        assert evaluate(run, *words) == 2
        refused = capsys.readouterr().err.splitlines()[-1]
        assert f"touch 200000 to {last}, by which `diffplan tune` chose" in refused
    assert evaluate(run, "--seed", str(last), "--no-tuned") == 0
    assert "tuned on seeds" not in capsys.readouterr().out
    assert evaluate(run) == 0
    assert f"tuned on seeds 200000-{last} (60 episodes): replan_every 2" in capsys.readouterr().out
    plain, tuned = (json.loads(file.read_text()) for file in sorted(run.glob("results*.json")))
    assert plain["planning"]["replan_every"] == 4 and plain["runs"][0]["tuned"] is None
    assert tuned["planning"]["replan_every"] == 2 and "tuned on" in tuned["runs"][0]["tuned"]


def test_a_shared_planner_keeps_its_tuning(run: Path, world: World, tmp_path: Path) -> None:
    assert tune(run) == 0
    load_agent(run).save_pretrained(tmp_path / "shared")
    again = load_agent(tmp_path / "shared")
    assert again.settings.replan_every == 2
    assert load_agent(tmp_path / "shared", tuned=False).settings.replan_every == 4
    assert "| settings | tuned on seeds" in (tmp_path / "shared" / "README.md").read_text()
    # settings by hand win, also where they need fewer networks than were trained
    load_agent(run, replan_every=1, start="none").save_pretrained(tmp_path / "other")
    other = load_agent(tmp_path / "other")
    assert (other.settings.replan_every, other.settings.start) == (1, "none")
    assert other.origin is not None and other.origin.tuning is not None
    assert other.origin.tuning.line.endswith("by hand: replan_every 1, start none")


def test_an_interrupted_tuning_changes_nothing_and_goes_on(
    run: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.stop_after = 7
    with pytest.raises(KeyboardInterrupt):
        tune(run)
    assert load_agent(run).settings.replan_every == 4
    world.stop_after = None
    played = world.played[:]
    assert tune(run) == 0
    assert "going on from" in capsys.readouterr().out
    once = sum(count for _, count in world.played)
    assert world.played[:7] == played and once == 60
    record = read_tuning(run / "checkpoint-00000002")
    assert record is not None and record.planning["replan_every"] == 2


def test_tuned_again_it_begins_with_what_was_tuned_on_other_seeds(
    run: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(run) == 0
    first = json.loads((run / "checkpoint-00000002" / TUNING).read_text())
    (_, last), _ = first["seeds"][0], capsys.readouterr()
    assert tune(run, "--seed", "4999") == 2
    assert "episode seeds below 5000 are held back for scores" in capsys.readouterr().err
    assert tune(run, "--seed", str(last)) == 2
    assert f"give one from {last + 1} on" in capsys.readouterr().err
    assert tune(run) == 0
    second = json.loads((run / "checkpoint-00000002" / TUNING).read_text())
    assert second["seeds"][1][0] == last + 1 and second["episodes"] == 120
    assert not second["adopted"] and second["planning"] == first["planning"]
    assert second["gain"] == first["gain"] and "trials" not in second["earlier"]
    assert load_agent(run).settings.replan_every == 2


def test_what_was_tuned_belongs_to_its_weights(run: Path, world: World) -> None:
    assert tune(run) == 0
    later = run / "checkpoint-00000004"
    shutil.copytree(list_checkpoints(run)[-1], later)
    (later / TUNING).unlink()
    with pytest.warns(UserWarning, match="checkpoint-00000004 plans with the settings of its tra"):
        assert load_agent(run).settings.replan_every == 4
    assert load_agent(run, checkpoint=2).settings.replan_every == 2
    # trained on, it may begin with them, on seeds that have not chosen them
    last = json.loads((run / "checkpoint-00000002" / TUNING).read_text())["seeds"][0][1]
    assert tune(run) == 0
    record = json.loads((later / TUNING).read_text())
    assert record["seeds"][0][0] == last + 1 and record["earlier"] is None
    assert record["trials"][1]["settings"]["replan_every"] == 2


def test_failed_episodes_do_not_end_it_unless_there_are_no_others(
    run: Path, world: World, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.failing = True
    assert tune(run) == 0
    assert "the first of the failed episodes: episode 0 (seed 200000) failed at step 1: it" in (
        capsys.readouterr().out
    )
    assert tune(run, "--by", "success") == 2
    assert "the environment reports no success; give --by return" in capsys.readouterr().err


def test_a_damaged_file_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoint-00000002" / TUNING).write_text('{"planning": {"replan_every": 99}}')
    assert evaluate(run) == 2
    assert f"{TUNING} is damaged" in capsys.readouterr().err
    assert evaluate(run, "--no-tuned") == 0


@pytest.mark.filterwarnings("ignore:.*copies of one plan")
@pytest.mark.parametrize("rewards", [True, False])
def test_settings_differ_and_begin_with_the_default(
    rewards: bool, models: Callable[..., Any]
) -> None:
    from diffplan.agents import PlannerAgent
    from diffplan.data.info import DatasetInfo, ObservationLayout

    model = models(rewards=rewards)
    layout = (
        ObservationLayout(3)
        if rewards
        else ObservationLayout(4, 2, (0, 1), (2, 3), ("observation",))
    )
    info = DatasetInfo("x", "arrays", None, {}, (-2.0,) * 2, (1.0,) * 2, {})

    def make(settings: dict[str, Any]) -> PlannerAgent:
        return PlannerAgent(model, layout, info, config_name="x", engine="eager", **settings)

    tried = design.design(make({}), 12, 0, make)
    assert tried[0] == {} and len(tried) == 12
    plans = [json.dumps(make(settings).planning, sort_keys=True) for settings in tried]
    assert len(set(plans)) == 12
    assert tried == design.design(make({}), 12, 0, make) != design.design(make({}), 12, 1, make)
    names = {name for settings in tried for name in settings}
    assert {"replan_every", "start", "candidates"} <= names
    assert ("target_quantile" in names) is rewards
    assert ("subgoal_steps" in names) is not rewards
