"""Which checkpoint counts, how several runs become one row, and what a score may be called."""

import dataclasses
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest

from diffplan.config.config import settled
from diffplan.config.planners import get_config
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.envs.formats.d4rl_catalogue import D4RL_FILE
from diffplan.envs.rollouts.reading import Failure
from diffplan.envs.rollouts.serial import DecisionTimes, Rollout
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate import measure, runs
from diffplan.scripts.evaluate.command import Evaluate
from diffplan.scripts.evaluate.labels import Labels
from diffplan.scripts.evaluate.scores import over_runs, over_tasks
from diffplan.scripts.report.results import Score, table

HOPPER = DatasetInfo(
    "hopper-medium-v2",
    "d4rl",
    "diffplan/hopper-v2",
    {},
    (-1.0,) * 3,
    (1.0,) * 3,
    {"d4rl_name": "hopper-medium-v2", "data_source": D4RL_FILE},
)
# Mean return by checkpoint: on the selection seeds, on the evaluation seeds.
SELECTED = {10: 100.0, 20: 300.0, 30: 200.0}
JUDGED = {10: 1.0, 20: 2000.0, 30: 1000.0}
SELECT_SEED = 100_000


@dataclass
class Agent:
    """As much of a planner as an evaluation looks at."""

    folder: Path
    step: int
    info: DatasetInfo = HOPPER
    layout: ObservationLayout = field(default_factory=lambda: ObservationLayout(11))
    config_name = "stub"
    stride = 2
    planning: ClassVar[dict[str, Any]] = {
        **{"start": "process", "denoising_steps": 3, "sampler": "ddim", "eta": 0.0},
        **{"start_level": None, "noise_scale": 0.5, "temperature": 0.5, "target": "fixed"},
    }
    uses_returns = False
    origin = None
    engine: ClassVar[Any] = SimpleNamespace(name="eager")

    @property
    def train_seconds(self) -> float:
        return float(self.step)


@dataclass
class World:
    """Run folders a (training seed 0), b (1), ...; what was rolled out: (run, step, seed, n)."""

    folder: Path
    rolled: list[tuple[str, int, int, int]] = field(default_factory=list)
    shift: dict[str, float] = field(default_factory=dict)
    headers: dict[str, dict[str, Any]] = field(default_factory=dict)
    info: DatasetInfo = HOPPER

    def evaluate(self, *names: str, **options: Any) -> dict[str, Any]:
        folders = tuple(self.folder / name for name in names or ("a",))
        small = {"episodes": 4, "select_episodes": 3, "pictures": False, "baselines": False}
        return Evaluate(folders, **{**small, **options}).run()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    world = World(tmp_path)
    for name in "abc":
        for step in SELECTED:
            (tmp_path / name / f"checkpoint-{step:08d}").mkdir(parents=True)

    def load_agent(folder: Path, checkpoint: str, device: str, **_: Any) -> Agent:
        return Agent(folder, 30 if checkpoint == "last" else int(checkpoint), world.info)

    def read_header(folder: Path, checkpoint: str) -> SimpleNamespace:
        step = 30 if checkpoint == "last" else int(checkpoint)
        values = {
            "decisions": (),
            "config": CONFIG,
            "info": world.info,
            "fingerprint": "f",
            "step": step,
            "seed": ord(folder.name) - ord("a"),
        }
        return SimpleNamespace(**values | world.headers.get(folder.name, {}))

    def rollout(policy: Any, _: Any, *, episodes: int, seed: int, **__: Any) -> Rollout:
        name = policy.folder.name
        world.rolled.append((name, policy.step, seed, episodes))
        mean = (SELECTED if seed == SELECT_SEED else JUDGED)[policy.step]
        returns = mean + world.shift.get(name, 0.0) + np.linspace(-3, 3, episodes)
        ones = np.ones(episodes)
        return Rollout(returns, ones * 40, None, ones > 1, ones, ones, ())

    def time_decisions(policy: Agent, *_: Any, **__: Any) -> DecisionTimes:
        return DecisionTimes(np.full(8, 2.0), np.arange(8) % 4 == 0)

    monkeypatch.setattr(runs, "load_agent", load_agent)
    monkeypatch.setattr(runs, "read_header", read_header)
    monkeypatch.setattr(runs, "rollout", rollout)
    monkeypatch.setattr(measure, "rollout_in_processes", rollout)
    monkeypatch.setattr(measure, "time_decisions", time_decisions)
    return world


def test_the_last_checkpoint_counts_unless_the_best_is_asked_for(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    results = world.evaluate()
    assert world.rolled == [("a", 30, 1000, 4)]
    assert results["checkpoint"] == "last" and results["runs"][0]["updates"] == 30
    assert "best of" not in capsys.readouterr().out + json.dumps(results)


def test_the_best_checkpoint_is_chosen_on_seeds_of_its_own_and_says_so(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    results = world.evaluate(checkpoint="best")
    assert world.rolled == [
        *(("a", step, SELECT_SEED, 3) for step in (10, 20, 30)),
        ("a", 20, 1000, 4),
    ]
    assert results["return_mean"] == 2000.0  # of the evaluation seeds
    run = results["runs"][0]
    assert run["updates"] == run["selection"]["chosen"] == 20
    assert run["selection"]["seeds"] == [SELECT_SEED, SELECT_SEED + 2]
    score = 100 * (200 + 20.272305) / (3234.3 + 20.272305)
    assert run["selection"]["scores"]["30"][0] == pytest.approx(score)
    note = (
        "best of 3 checkpoints, chosen by score on seeds 100000-100002; not comparable with "
        "last-checkpoint scores"
    )
    assert run["selection"]["note"] == note
    out = capsys.readouterr().out
    assert note in out and "planner (best of 3 checkpoints)  " in out
    assert "--checkpoint best --select-episodes 3 --select-seed 100000" in results["command"]
    assert (world.folder / "a" / "results-checkpoint-best.json").is_file()
    assert not (world.folder / "a" / "results.json").exists()
    # where `load_agent(checkpoint="best")` finds it
    best = json.loads((world.folder / "a" / "best.json").read_text())
    assert best["chosen"] == 20 and set(best["scores"]) == {"10", "20", "30"}
    assert best["command"] == results["command"]

    # what chose and what scored stands in the results, and what chose does not score
    seeds = [SELECT_SEED, SELECT_SEED + 2]
    assert results["chosen_on"] == [{"what": "checkpoint of a", "episode_seeds": [seeds]}]
    assert results["scored_on"]["episode_seeds"] == [1000, 1003]
    assert "training seed 0; chosen on episode seeds 100000 to 100002: checkpoint of a" in out
    with pytest.raises(DiffplanError, match=r"by which .*00000020 was chosen as the best of its"):
        world.evaluate(checkpoint="20", seed=SELECT_SEED - 3)
    before = world.evaluate(checkpoint="20", seed=SELECT_SEED - 4)
    assert before["scored_on"]["range"] == "choosing"


def test_what_is_tried_by_hand_leaves_the_seeds_of_scores_alone(world: World) -> None:
    tried = world.evaluate(checkpoint="20")
    assert world.rolled[0][2] == 5000 and tried["scored_on"]["range"] == "choosing"
    assert tried["chosen_on"] == [{"what": "checkpoint 20", "episode_seeds": None}]
    given = world.evaluate(checkpoint="20", seed=1000)["scored_on"]
    seeds = {"episode_seeds": [1000, 1003], "training_seeds": [0]}
    assert given == {**seeds, "range": "reporting"}
    assert world.evaluate()["chosen_on"] == []


def test_a_folder_without_checkpoints_has_no_best(world: World) -> None:
    (world.folder / "d").mkdir()
    (world.folder / "d" / "config.json").touch()  # a checkpoint, not a run
    with pytest.raises(DiffplanError, match="d holds no checkpoints to choose from"):
        world.evaluate("d", checkpoint="best")


def test_several_runs_have_a_row_each_and_one_whose_units_they_are(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.shift = {"b": 30.0, "c": 60.0}
    results = world.evaluate("a", "b", "c")
    assert results["return_mean"] == pytest.approx(1030.0)
    half = 4.30265 * 30 / math.sqrt(3)
    assert results["return_ci95"] == pytest.approx([1030 - half, 1030 + half], abs=1e-3)
    scaled = [100 * (r + 20.272305) / (3234.3 + 20.272305) for r in results["return_ci95"]]
    assert results["normalised_ci95"] == pytest.approx(scaled)
    assert results["episodes"] == 12 and results["training_seeds"] == 3
    assert [(r["training_seed"], r["return_mean"]) for r in results["runs"]] == [
        (0, pytest.approx(1000.0)),
        (1, pytest.approx(1030.0)),
        (2, pytest.approx(1060.0)),
    ]
    for run in results["runs"]:
        assert run["episodes"] == 4 and run["train_seconds"] == 30.0
        assert run["decision_ms_median"] == 2.0 and run["normalised_score"] > 0
    assert results["policies"]["planner_seed_1"]["returns"] == [1027.0, 1029.0, 1031.0, 1033.0]
    assert "Student's t over their means" in results["protocol"]
    out = capsys.readouterr().out
    rows = [line for line in out.splitlines() if line.startswith("planner, ") and "  " in line]
    assert [row.split("  ")[0] for row in rows] == [
        *(f"planner, training seed {seed}" for seed in range(3)),
        "planner, over 3 training seeds",
    ]
    assert "3 x 4" in rows[3] and "over training seeds: the mean of 3 runs" in out
    target = world.folder / "results-a-b-c.json"
    assert json.loads(target.read_text())["runs"] == json.loads(json.dumps(results["runs"]))


def test_the_best_of_several_runs_is_chosen_for_each(world: World) -> None:
    results = world.evaluate("a", "b", checkpoint="best")
    assert [run["selection"]["chosen"] for run in results["runs"]] == [20, 20]
    assert sum("best of 3 checkpoints" in note for note in results["notes"]) == 2


CONFIG = settled(get_config("trajectory-diffuser"), has_goal=True)
OTHER = dataclasses.replace(CONFIG, plan=dataclasses.replace(CONFIG.plan, horizon=9))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"config": OTHER}, r"b has plan.horizon = 9, .*a 16; .* one by one"),
        ({"fingerprint": "g"}, "b has data = 'g'"),
        ({"step": 20}, "b has updates = 20, "),
        ({"seed": 0}, "a and .*b both have the training seed 0"),
    ],
)
def test_runs_that_differ_in_more_than_the_seed_are_not_pooled(
    world: World, header: dict[str, Any], message: str
) -> None:
    world.headers["b"] = header
    with pytest.raises(DiffplanError, match=message):
        world.evaluate("a", "b")
    assert world.rolled == []


# --- Labels --------------------------------------------------------------------------------------


def test_d4rl_own_file_in_its_own_environment_is_a_score() -> None:
    labels = Labels.of(HOPPER, HOPPER, 11, 1000)
    assert labels.score == "D4RL hopper score" and labels.comparable and labels.lines == []
    assert labels.fields == {
        "reference": "D4RL hopper",
        "score_label": "D4RL hopper score",
        "data_label": None,
        "environment_differences": None,
        "environment_changed": None,
        "time_limit_differs": None,
    }


def with_details(**details: Any) -> DatasetInfo:
    return dataclasses.replace(HOPPER, details={**HOPPER.details, **details})


@pytest.mark.parametrize(
    ("own", "used", "limit", "field", "line"),
    [
        (with_details(data_source="made elsewhere"), {}, 1000, "data_label", "made elsewhere"),
        (
            with_details(environment_differences="v5 for v2"),
            {},
            1000,
            "environment_differences",
            "environment: v5 for v2",
        ),
        (
            HOPPER,
            {"env_id": "Ant-v5"},
            1000,
            "environment_changed",
            "the dataset's is diffplan/hopper-v2",
        ),
        (
            dataclasses.replace(HOPPER, env_id="Hopper-v5"),  # chosen when it was trained
            {},
            1000,
            "environment_changed",
            "Hopper-v5 in place of diffplan/hopper-v2",
        ),
        (HOPPER, {"env_kwargs": {"frame_skip": 2}}, 1000, "environment_changed", "frame_skip is 2"),
        (HOPPER, {}, 400, "time_limit_differs", "400 steps, hopper-medium-v2 has 1000"),
        (HOPPER, {}, None, "time_limit_differs", "diffplan/hopper-v2 has none"),
    ],
)
def test_whatever_differs_makes_it_a_scale_and_is_said(
    own: DatasetInfo, used: dict[str, Any], limit: int | None, field: str, line: str
) -> None:
    labels = Labels.of(own, dataclasses.replace(own, **used), 11, limit)
    assert not labels.comparable and str(labels.score).endswith(" scale")
    assert [key for key, value in labels.fields.items() if value][2:] == [field]
    assert line in labels.lines[0] and "not D4RL benchmark scores" in labels.lines[-1]


def test_data_that_do_not_come_from_d4rl_are_labelled_whatever_they_are_called() -> None:
    info = dataclasses.replace(HOPPER, id="mujoco/hopper/medium-v0", source="minari", details={})
    assert Labels.of(info, info, 11, 1000).fields["data_label"] == (
        "mujoco/hopper/medium-v0, not D4RL's file"
    )


def test_without_a_reference_there_is_nothing_to_compare_with() -> None:
    maze = dataclasses.replace(HOPPER, env_id="PointMaze_UMaze-v3", details={})
    labels = Labels.of(maze, maze, 4, 300)
    assert labels.score is None and labels.lines == []


def test_labels_are_printed_and_written(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.info = with_details(data_source="made elsewhere", environment_differences="v5 for v2")
    results = world.evaluate(time_limit=50)
    assert results["score_label"] == "D4RL hopper scale"
    assert results["environment_differences"] == "v5 for v2"
    assert results["data_label"] == "hopper-medium-v2, made elsewhere"
    assert results["env_kwargs"] == {"max_episode_steps": 50}
    assert results["time_limit_differs"] == "50 steps, hopper-medium-v2 has 1000"
    out = capsys.readouterr().out
    assert "D4RL hopper scale [95 % CI]" in out and "D4RL hopper score" not in out
    shown = "start process, denoising_steps 3, sampler ddim, noise_scale 0.5"
    assert f"planning: {shown}; engine eager\n" in out
    for note in results["notes"]:
        assert f"\n{note}\n" in out
    assert len(results["notes"]) == 5


def test_scores_are_means_over_the_scores_of_episodes() -> None:
    returns = np.array([0.0, 1000.0, 3000.0, 3000.0])
    score = Score("x", returns, np.ones(4), None)
    estimate = score.normalised_estimate("hopper")
    assert estimate is not None and score.normalised_estimate(None) is None
    assert estimate.mean == pytest.approx(100 * (1750 + 20.272305) / (3234.3 + 20.272305))
    assert estimate.low < estimate.mean < estimate.high
    assert "D4RL hopper scale" in table([score], "hopper", "D4RL hopper scale")


def test_episodes_that_failed_anywhere_count_nowhere() -> None:
    failure = Failure(1, 1001, 7, "lost")
    times = np.ones(1)

    def played(returns: list[float], failures: tuple[Failure, ...]) -> Score:
        values, lengths = np.array(returns), np.ones(len(returns), int)
        found = Rollout(values, lengths, None, lengths > 0, times, lengths, (), failures)
        return Score.of("planner", found, None)

    whole, cut = played([1.0, 2.0, 3.0], ()), played([4.0, 6.0], (failure,))
    assert (whole.counted, cut.counted) == ("3", "2 of 3")
    runs = over_runs("both", (whole, cut))
    assert runs.returns.tolist() == [1.0, 3.0, 4.0, 6.0] and runs.counted == "2 x 2 of 3"
    tasks = over_tasks((cut, whole))
    assert tasks.returns.tolist() == [4.0, 6.0, 1.0, 3.0] and tasks.counted == "4 of 6"
    # over runs of several tasks the same episode is left out of every one
    assert over_runs("all", (tasks, over_tasks((whole, whole)))).counted == "2 x 4 of 6"
    found = tasks.summary(None, None)
    assert found["episodes_left_out"] == [1] and found["failed"][0]["seed"] == 1001
    assert "failed" not in whole.summary(None)
    with pytest.raises(DiffplanError, match="no episode finished in all"):
        over_runs(
            "none", (played([1.0], (Failure(1, 1, 1, ""),)), played([1.0], (Failure(0, 0, 1, ""),)))
        )
