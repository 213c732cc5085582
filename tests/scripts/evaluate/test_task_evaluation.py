"""`diffplan evaluate` of a model of several tasks: each in its own environment, as it is told."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from diffplan.config.config import Config
from diffplan.config.sections import DataConfig
from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes
from diffplan.envs.simulators.tasks import make_task_env, task_env_factory, task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.evaluate import drawing, measure, runs
from diffplan.scripts.evaluate.command import Evaluate
from diffplan.scripts.evaluate.task_given import demonstration
from diffplan.scripts.report.results import Score

NAMES = ("plain", "wide")


class Counting(gym.Env):
    """Pays the action's first entry for 4 steps; a success if that was `wanted` once.

    Observation: `width` columns of `width`, the first one plus a number drawn at the reset.
    """

    def __init__(self, width: int, wanted: float, bound: float = 1.0) -> None:
        self.width, self.wanted = width, wanted
        self.observation_space = spaces.Box(-9, 9, (width,), np.float64)
        self.action_space = spaces.Box(-bound, bound, (2,), np.float32)
        self.actions: list[np.ndarray] = []

    def _observation(self) -> np.ndarray:
        return np.concatenate([[self.width + self.offset], np.full(self.width - 1, self.width)])

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.offset, self.actions = self.np_random.uniform(), []
        return self._observation(), {}

    def step(self, action: np.ndarray) -> Any:
        self.actions.append(action)
        success = bool(action[0] == np.float32(self.wanted))
        return self._observation(), float(action[0]), False, False, {"success": success}


@pytest.fixture(autouse=True)
def _environments() -> Iterator[None]:
    for name, width, wanted, bound in (("plain", 2, 0.5, 1.0), ("wide", 3, 0.25, 2.0)):
        kwargs = {"width": width, "wanted": wanted, "bound": bound}
        gym.register(f"Count{name}-v0", Counting, max_episode_steps=4, kwargs=kwargs)
    yield
    for name in NAMES:
        del gym.registry[f"Count{name}-v0"]


@pytest.fixture
def episodes(join_episodes: Callable[..., Episodes]) -> Episodes:
    parts = []
    for name, width, bound in (("plain", 2, 1.0), ("wide", 3, 2.0)):
        states = [np.full((7, width), width, float) + e / 10 for e in range(3)]
        part = join_episodes(states, [np.zeros((6, 2))] * 3)
        bounds = {"action_low": (-bound,) * 2, "action_high": (bound,) * 2}
        info = dataclasses.replace(part.info, id=name, env_id=f"Count{name}-v0", **bounds)
        parts.append(dataclasses.replace(part, info=info))
    return combine(parts, "plain + wide")


class Acting:
    """Does what it was told of its task; remembers how it was told."""

    stride, config_name, train_seconds, uses_returns = 2, "stub", 3.0, False
    origin = None
    planning: dict[str, Any] = {"steps": 1}  # noqa: RUF012
    engine, model = SimpleNamespace(name="eager"), SimpleNamespace(moves=None)

    def __init__(self, episodes: Episodes, told: tuple[Any, ...] = ("not told",)) -> None:
        self.episodes, self.info, self.layout = episodes, episodes.info, episodes.layout
        self.told = told

    def for_task(self, task: int | None) -> "Acting":
        return Acting(self.episodes, ("id", task))

    def for_demonstration(self, states: np.ndarray) -> "Acting":
        return Acting(self.episodes, ("demonstration", int(states[0, 0])))

    def from_history(self) -> "Acting":
        return Acting(self.episodes, ("history", None))

    def predict(self, observation: Any, state: Any = None, *_: Any) -> tuple[np.ndarray, Any]:
        assert observation.shape[1] == 3
        padded = (observation[:, 2] == 0).all()
        wanted = 0.5 if padded else 0.25
        knows = self.told in (("id", 0 if padded else 1), ("demonstration", 2 if padded else 3))
        action = wanted if knows else 0.125
        return np.full((len(observation), 2), action, np.float32), None


class Worse(Acting):
    """Knows the first task only."""

    def for_task(self, task: int | None) -> Acting:
        return super().for_task(task if task == 0 else None)


@pytest.fixture
def evaluated(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, episodes: Episodes
) -> Callable[..., dict[str, Any]]:
    """Evaluates the acting agent and returns what is on the disk."""

    def evaluate(given: str = "id", seeds: tuple[int, ...] = (4,), **options: Any) -> Any:
        def acting(asked: dict[str, Any]) -> Acting:
            worse = asked["checkpoint"] == "40"
            return Worse(episodes) if worse else Acting(episodes)

        config = Config(data=DataConfig(tasks=given))  # type: ignore[arg-type]
        monkeypatch.setattr(runs, "load_agent", lambda folder, **asked: acting(asked))
        monkeypatch.setattr(runs, "_check_one_configuration", lambda found: None)
        monkeypatch.setattr(
            runs,
            "read_header",
            lambda folder, checkpoint: SimpleNamespace(
                seed=int(folder.name[-1]), step=60, fingerprint="x", config=config, decisions=()
            ),
        )
        monkeypatch.setattr(measure, "training_data", lambda info, trained_on: episodes)
        folders = tuple(tmp_path / f"run-{seed}" for seed in seeds)
        for folder in folders:
            (folder / "checkpoint-00000060").mkdir(parents=True, exist_ok=True)
        settings = {"episodes": 6, "num_envs": 4, "pictures": False, "baselines": False}
        Evaluate(folders, json=tmp_path / "x.json", **{**settings, **options}).run()
        return json.loads((tmp_path / "x.json").read_text())

    return evaluate


def test_every_task_is_played_and_counted(
    evaluated: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    results = evaluated(baselines=True)
    assert list(results["tasks"]) == list(NAMES) and results["task_given"] == "id"
    plain, wide = (results["tasks"][name] for name in NAMES)
    assert plain["env_id"] == "Countplain-v0"
    assert plain["policies"]["planner"]["returns"] == [2.0] * 6
    assert wide["policies"]["planner"]["returns"] == [1.0] * 6
    assert plain["policies"]["planner"]["success_rate"] == 1
    assert plain["policies"]["random"]["success_rate"] == 0
    assert results["return_mean"] == 1.5 and results["return_ci95"] == [1.5, 1.5]
    assert results["success_rate"] == 1 and results["success_ci95"][0] < 1
    assert results["episodes"] == 12 and results["episodes_per_task"] == 6
    assert results["decision_ms_median"] > 0
    assert "how they differ" in results["protocol"]
    out = capsys.readouterr().out
    assert "plain + wide, 2 tasks" in out and "told of its task: its number" in out
    starts = (*(f"{name} " for name in NAMES), "mean over tasks")
    rows = [line for line in out.splitlines() if line.startswith(starts)]
    assert [row.split()[0] for row in rows] == ["plain", "wide", "mean"]
    assert "1.5 [1.5, 1.5]  100.0 %" in rows[2]
    # in the wide task every policy returns 1
    alike = [note for note in results["notes"] if "told from random actions" in note]
    assert [note.split(":")[0] for note in alike] == ["wide"]
    assert len({len(row) for row in rows[:2]}) == 1


def test_one_episode_of_each_task_says_so(evaluated: Callable[..., Any]) -> None:
    results = evaluated(episodes=1)
    assert any(note.startswith("one episode of each task: ") for note in results["notes"])
    # of 2 and 1, one degree of freedom
    assert results["return_ci95"] == pytest.approx([1.5 - 6.3531, 1.5 + 6.3531], abs=1e-3)
    assert not any("one episode" in note for note in evaluated(episodes=2)["notes"])


def test_the_page_of_results_says_the_same(evaluated: Callable[..., Any], tables: Any) -> None:
    results = evaluated(baselines=True)
    page = tables.tasks_table({**results, "machine": {**results["machine"], "versions": VERSIONS}})
    assert "| plain | 2.0 [2.0, 2.0] | 100 % [61, 100] | 6 |" in page
    assert "| **mean** | 1.5 [1.5, 1.5] |" in page


VERSIONS = {"torch": "2", "mujoco": "3"}


@pytest.mark.parametrize(
    ("trained", "asked", "success", "given"),
    [
        ("id", None, 1, "id"),
        ("prompt", None, 1, "demonstration"),
        ("none", None, 0, None),
        ("id", "unknown", 0, "unknown"),
        ("prompt", "history", 0, "history"),
        ("id", "demonstration", 1, "demonstration"),
    ],
)
def test_agents_are_told_as_asked_or_as_trained(
    evaluated: Callable[..., Any], trained: str, asked: Any, success: int, given: str | None
) -> None:
    results = evaluated(trained, task_given=asked)
    assert results["success_rate"] == success and results["task_given"] == given
    assert ("--task-given" in results["command"]) == (asked is not None)


def test_training_seeds_are_the_units(evaluated: Callable[..., Any]) -> None:
    results = evaluated(seeds=(4, 5))
    assert [run["training_seed"] for run in results["runs"]] == [4, 5]
    assert [run["return_mean"] for run in results["runs"]] == [1.5, 1.5]
    assert results["training_seeds"] == 2 and results["episodes"] == 24
    assert len(results["tasks"]["wide"]["policies"]["planner"]["returns"]) == 12


def test_the_best_checkpoint_is_chosen_over_all_tasks(
    evaluated: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = [Path(f"checkpoint-{step:08d}") for step in (20, 40)]
    monkeypatch.setattr(runs, "list_checkpoints", lambda folder: steps)
    results = evaluated(checkpoint="best", select_episodes=2)
    (run,) = results["runs"]
    assert run["selection"]["chosen"] == 20
    # told of its task the checkpoint of 20 updates succeeds in both, the other in one
    scores = {step: score[0] for step, score in run["selection"]["scores"].items()}
    assert scores == {"20": 1.5, "40": 1.25}
    assert results["return_mean"] == 1.5


def test_pictures_of_every_task(evaluated: Callable[..., Any], tmp_path: Path) -> None:
    drawn: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("plans_over_time", "returns_picture"):
            patch.setattr(drawing.pictures, name, lambda path, *_: drawn.append(Path(path).name))
        evaluated(pictures=True)
    assert drawn == ["plans-plain.png", "plans-wide.png", "returns.png"]


def test_what_is_of_one_task_only_is_refused(
    evaluated: Callable[..., Any], episodes: Episodes
) -> None:
    for options, message in (
        ({"env": "Countplain-v0"}, "--env Countplain-v0 goes with a model of one task"),
        ({"video": True}, "--video goes with a model of one task"),
    ):
        with pytest.raises(DiffplanError, match=message):
            evaluated(**options)


def test_telling_the_task_needs_several(
    evaluated: Callable[..., Any], episodes: Episodes, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = dataclasses.replace(episodes.info, tasks=())
    monkeypatch.setattr(Acting, "__init__", lambda self, *_: setattr(self, "info", one))
    with pytest.raises(DiffplanError, match="--task-given id goes with a model of several tasks"):
        evaluated(task_given="id")


def test_a_demonstration_is_an_episode_of_the_task(episodes: Episodes) -> None:
    for task, width in ((0, 2), (1, 3)):
        shown = {float(demonstration(episodes, task, seed)[0, 0]) for seed in range(20)}
        assert shown == {float(np.float32(width + e / 10)) for e in range(3)}
        assert demonstration(episodes, task, 0).shape == (7, 3)


def test_the_mean_of_tasks_leaves_out_how_they_differ() -> None:
    rng = np.random.default_rng(0)
    returns = np.concatenate([rng.normal(0, 1, 40), rng.normal(100, 1, 40)])
    lengths = np.ones(80, int)
    apart = Score("x", returns, lengths, None, strata=2).return_estimate
    assert apart.mean == pytest.approx(returns.mean())
    assert apart.high - apart.low == pytest.approx(2 * 1.96 / np.sqrt(80), rel=0.2)
    assert Score("x", returns, lengths, None).return_estimate.high - apart.mean > 5


# ---------------------------------------------------------------------------------- environments


def test_a_narrower_task_is_padded_and_acts_within_its_own_bounds(episodes: Episodes) -> None:
    plain, wide = task_infos(episodes.info)
    env = make_task_env(plain, episodes.layout)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (3,) and observation[2] == 0
    assert env.observation_space.shape == (3,) and env.observation_space.contains(observation)
    assert isinstance(env.action_space, spaces.Box) and (env.action_space.high == 2).all()
    env.step(np.array([1.5, -2], np.float32))
    assert env.unwrapped.actions[0].tolist() == [1, -1]  # type: ignore[attr-defined]
    other = make_task_env(wide, episodes.layout)
    assert type(other) is type(gym.make("Countwide-v0"))  # as it is


def test_a_dict_is_padded_in_its_last_state_key(join_episodes: Callable[..., Episodes]) -> None:
    pytest.importorskip("gymnasium_robotics")
    from diffplan.data.info import DatasetInfo, ObservationLayout, Task

    task = Task("maze", "PointMaze_UMaze-v3", {}, 4)
    info = DatasetInfo("x", "combined", None, {}, (-1.0,) * 2, (1.0,) * 2, {}, (task,))
    layout = ObservationLayout(6, 2, (0, 1), (2, 3), ("observation",))
    env = task_env_factory(*task_infos(info), layout)()
    observation, _ = env.reset(seed=0)
    state, goal = layout.split(observation)
    assert state.shape == (6,) and not state[4:].any() and state[:2].any()
    assert goal is not None and goal.shape == (2,)


def test_without_tasks_nothing_changes(join_episodes: Callable[..., Episodes]) -> None:
    plain = join_episodes([np.zeros((3, 2))], [np.zeros((2, 2))])
    info = dataclasses.replace(plain.info, env_id="Countplain-v0")
    assert task_infos(info) == (info,)
    assert make_task_env(info, plain.layout).observation_space.shape == (2,)
