"""`diffplan compare`: which seeds choose and which judge, resuming, timing, rows left out."""

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import diffplan.agents
from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.serial import DecisionTimes, Rollout
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate import tasks
from diffplan.scripts.studies import compare
from diffplan.scripts.studies.compare import Compare, compare_table

ROWS: dict[str, dict[str, Any]] = {
    "proposer only": {"start": "none"},
    "refined": {"start": "process"},
    "from noise": {"start": "noise"},
}
# Return by start and replanning interval: on the tuning seeds, on the others.
TUNED = {"none": {4: 1.0, 8: 3.0, 12: 2.0}, "process": {4: 5.0, 8: 4.0, 12: 3.0}}
JUDGED = {"none": {4: 10.0, 8: 20.0, 12: 90.0}, "process": {4: 23.0, 8: 99.0, 12: 99.0}}
TUNE_SEED = 500


@dataclass
class Agent:
    """As much of a planner as the comparison looks at."""

    info: DatasetInfo
    planning: dict[str, Any]
    config_name = "stub"
    train_seconds = 1.5
    updates = 7
    stride = 2
    horizon = 6
    layout = None
    model = SimpleNamespace(config=SimpleNamespace(denoiser=SimpleNamespace(levels=20)))

    @property
    def settings(self) -> SimpleNamespace:
        return SimpleNamespace(**self.planning)


@dataclass
class World:
    """A run folder, and what was rolled out and timed from it: (policy, first seed, episodes)."""

    run: Path
    rolled: list[tuple[str, int, int]] = field(default_factory=list)
    timed: list[str] = field(default_factory=list)
    interrupt_at: tuple[str, int] | None = None

    def compare(self, **options: Any) -> dict[str, Any]:
        self.rolled.clear()
        self.timed.clear()
        return Compare(self.run, episodes=3, tune_episodes=2, tune_seed=TUNE_SEED, **options).run()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, maze_agent: Any) -> World:
    world = World(tmp_path / "run")
    (world.run / "checkpoint-00000060").mkdir(parents=True)

    def load_agent(folder: Path, device: str, tuned: bool, **planning: Any) -> Agent:
        if planning.get("start") == "noise":
            raise DiffplanError("this model cannot plan from noise")
        return Agent(maze_agent.info, {"replan_every": 6, **planning})

    def name(policy: Any) -> str:
        if isinstance(policy, Agent):
            return f"{policy.planning['start']} {policy.planning['replan_every']}"
        return type(policy).__name__

    def rollout(policy: Any, _: Any, *, episodes: int, num_envs: int, seed: int, **__: Any) -> Any:
        called = (name(policy), seed, episodes)
        world.rolled.append(called)
        if called[:2] == world.interrupt_at:
            raise KeyboardInterrupt
        mean = 0.0
        if isinstance(policy, Agent):
            table = TUNED if seed == TUNE_SEED else JUDGED
            mean = table[policy.planning["start"]][policy.planning["replan_every"]]
        returns = mean + np.arange(episodes, dtype=float)
        ones = np.ones(episodes)
        return Rollout(returns, ones * 40, ones > 0, ones > 1, ones, ones, ())

    def time_decisions(policy: Agent, *_: Any, steps: int, **__: Any) -> DecisionTimes:
        world.timed.append(policy.planning["start"])
        slow = 1.0 if len(world.timed) in (3, 4) else 7.0  # both are fast in the second round
        interval = policy.planning["replan_every"]
        replanned = np.arange(steps) % interval == 0
        return DecisionTimes(slow * np.where(replanned, 3.0, 0.5), replanned)

    monkeypatch.setattr(compare, "ROWS", ROWS)
    monkeypatch.setattr(compare, "STRIDES", (2, 4, 8, 16))
    monkeypatch.setattr(diffplan.agents, "load_agent", load_agent)
    monkeypatch.setattr(tasks, "rollout", rollout)
    monkeypatch.setattr(tasks, "time_decisions", time_decisions)
    return world


def test_the_tuning_seeds_choose_and_the_evaluation_seeds_judge(world: World) -> None:
    rows = world.compare(seed=0)["rows"]
    # 8 and 16 strides are longer than the horizon of 6
    assert world.rolled == [
        *((f"none {every}", TUNE_SEED, 2) for every in (4, 8, 12)),
        ("none 8", 0, 3),
        *((f"process {every}", TUNE_SEED, 2) for every in (4, 8, 12)),
        ("process 4", 0, 3),
        *(2 * [("WaypointController", 0, 3)]),
        ("RandomPolicy", 0, 3),
    ]
    assert {name: rows[name]["replan_every"] for name in ("proposer only", "refined")} == {
        "proposer only": 8,
        "refined": 4,
    }
    assert rows["refined"]["returns"] == [23.0, 24.0, 25.0]
    assert rows["refined"]["difference"] == [3.0, 3.0, 3.0]  # paired: the spread cancels
    assert rows["proposer only"]["difference"] is None
    assert rows["random actions"]["difference"][0] == -20.0
    assert rows["refined"]["tuning"]["8"][0] == 4.5
    assert list(rows) == [
        "proposer only",
        "refined",
        "depth-first controller (made the data)",
        "shortest-path controller",
        "random actions",
    ]
    assert (world.run / "compare.png").read_bytes().startswith(b"\x89PNG")


def test_a_way_that_the_model_cannot_plan_is_left_out_with_the_reason(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    report = world.compare()
    assert report["left_out"] == {"from noise": "this model cannot plan from noise"}
    assert "from noise" not in report["rows"]
    assert "Left out: from noise (this model cannot plan from noise)." in capsys.readouterr().out
    assert json.loads((world.run / "compare.json").read_text()) == json.loads(json.dumps(report))


def test_an_interrupted_comparison_goes_on_and_a_finished_one_stands(world: World) -> None:
    world.interrupt_at = ("process 8", TUNE_SEED)
    with pytest.raises(KeyboardInterrupt):
        world.compare()
    world.interrupt_at = None
    first = world.compare()
    assert [name for name, *_ in world.rolled if name.startswith("none")] == []
    assert ("process 4", TUNE_SEED, 2) in world.rolled
    again = world.compare()
    assert world.rolled == [] and world.timed == []
    assert again["rows"] == first["rows"]


@pytest.mark.parametrize("change", ["seed", "settings", "training"])
def test_rows_of_another_comparison_are_not_taken_over(
    change: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.compare()
    if change == "settings":
        refined = {"start": "process", "candidates": 8}
        monkeypatch.setattr(compare, "ROWS", {**ROWS, "refined": refined})
    elif change == "training":
        monkeypatch.setattr(Agent, "updates", 8)
    order = list(world.compare(**({"seed": 77} if change == "seed" else {}))["rows"])
    assert order[:2] == ["proposer only", "refined"] and order[-1] == "random actions"
    again = {name.split()[0] for name, *_ in world.rolled}
    everything = {"none", "process", "WaypointController", "RandomPolicy"}
    assert again == ({"process"} if change == "settings" else everything)


def test_times_are_of_the_fastest_round_and_spread_over_the_interval(world: World) -> None:
    report = world.compare()
    assert world.timed == 5 * ["none", "process"]  # in turn
    row = report["rows"]["proposer only"]
    assert row["replan_ms_median"] == 3.0 and row["between_ms_median"] == 0.5
    assert row["decision_ms_mean"] == pytest.approx((3.0 + 7 * 0.5) / 8)  # 4 strides of 2 steps
    assert "decision_ms_mean" not in report["rows"]["random actions"]

    # Times measured by another protocol are measured again; episodes stand.
    path = world.run / "compare.json"
    path.write_text(path.read_text().replace("Milliseconds are", "Milliseconds were"))
    world.compare()
    assert len(world.timed) == 10 and world.rolled == []


def test_the_table_has_a_line_per_row_and_says_where_it_comes_from(world: World) -> None:
    lines = compare_table(world.compare(seed=40)).splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 5
    cells = [cell.strip() for cell in table[3].strip("|").split("|")]
    assert cells[:2] == ["refined", "4"]
    assert cells[2].startswith("24.0 [23.") and cells[3] == "+3.0 [+3.0, +3.0]"
    assert cells[4:] == ["100 % [44, 100]", "1.12", "3.00"]
    text = "\n".join(lines)
    assert f"Command: `diffplan compare {world.run} --episodes 3 --seed 40 " in text
    assert "PointMaze_UMaze-v3, 3 episodes, seeds 40 to 42" in text


@pytest.mark.parametrize(
    "options, message",
    [
        ({"seed": TUNE_SEED - 2}, "tuning seeds 500 to 501 overlap evaluation seeds 498 to 500"),
        ({"seed": -1}, "--seed must not be negative, got -1"),
        ({"threads": 0}, "--threads must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], message: str, world: World) -> None:
    with pytest.raises(DiffplanError, match=message):
        world.compare(**options)
    assert world.rolled == [] and len(list(world.run.iterdir())) == 1  # the checkpoint


def test_a_missing_run_is_named_and_not_made(world: World) -> None:
    shutil.rmtree(world.run)
    with pytest.raises(DiffplanError, match=r"no folder .*run"):
        world.compare()
    assert not world.run.exists()
