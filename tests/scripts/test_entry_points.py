"""Everything that takes a trained model, with one of one task and one of several.

What a model cannot answer is refused in one line that says why; nothing else fails.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from diffplan.agents import PlannerAgent, Queries, load_agent
from diffplan.data.episodes import Episodes
from diffplan.errors import DiffplanError
from diffplan.scripts.cli import COMMANDS, main
from diffplan.scripts.studies import beside, rows

B = 3
# (configuration, data, tasks)
MODELS = [
    (config, data, tasks)
    for config, data in (
        ("trajectory-diffuser", "goals"),
        ("multi-task", "goals"),
        ("multi-task", "rewards"),
        ("streams", "rewards"),
    )
    for tasks in (1, 2)
]
Train = Callable[..., Path]


class Moves(gym.Env):
    """Three numbers that the two actions push; pays the first one. As `tiny_episodes`."""

    observation_space = gym.spaces.Box(-9, 9, (3,), np.float64)
    action_space = gym.spaces.Box(-2, 1, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.state = self.np_random.uniform(-1, 1, 3)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> Any:
        self.state = 0.9 * self.state + 0.1 * np.array([*action, action.prod()])
        return self.state.copy(), float(self.state[0]), False, False, {}


@pytest.fixture(scope="module", autouse=True)
def _environment() -> Iterator[None]:
    gym.register("Moves-v0", Moves, max_episode_steps=12)
    yield
    del gym.registry["Moves-v0"]


@pytest.fixture(scope="module")
def train(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_goal_episodes: Episodes,
    tiny_episodes: Episodes,
    tiny_options: list[str],
) -> Train:
    """Trains a configuration for a few updates on one dataset or two, once; returns the run."""
    folder = tmp_path_factory.mktemp("entries")
    maze = {"env_id": "PointMaze_UMaze-v3", "env_kwargs": {"max_episode_steps": 12}}
    maze |= {"action_low": (-1.0, -1.0), "action_high": (1.0, 1.0)}
    clipped = np.clip(tiny_goal_episodes.actions, -1, 1)
    data = {
        "goals": (dataclasses.replace(tiny_goal_episodes, actions=clipped), maze),
        "rewards": (tiny_episodes, {"env_id": "Moves-v0"}),
    }
    for name, (episodes, facts) in data.items():
        for task in ("a", "b"):
            info = dataclasses.replace(episodes.info, id=f"{name}-{task}", **facts)
            dataclasses.replace(episodes, info=info).save(folder / f"{name}-{task}")

    def make(config: str, kind: str, tasks: int, *options: str) -> Path:
        run = folder / "-".join([config, kind, str(tasks), *options]).replace("--", "")
        if not run.is_dir():
            words = ["train", config, "--dataset"]
            words += [str(folder / f"{kind}-{task}") for task in "ab"[:tasks]]
            words += ["--out", str(run), "--steps", "2", "--device", "cpu", "--preset", "none"]
            assert main([*words, *tiny_options, *options]) == 0
        return run

    return make


def observation(agent: PlannerAgent) -> Any:
    """B random observations."""
    rng, layout = np.random.default_rng(0), agent.layout
    states = rng.normal(size=(B, layout.state_dim))
    if not layout.dict_keys:
        return states
    return {layout.dict_keys[0]: states, "desired_goal": rng.normal(size=(B, layout.goal_dim))}


# --- The agent and its queries -------------------------------------------------------------------


@pytest.fixture(params=MODELS, ids=lambda model: "-".join(map(str, model)))
def agent(request: pytest.FixtureRequest, train: Train) -> PlannerAgent:
    return load_agent(train(*request.param))


def test_an_agent_plans_and_acts_told_or_not(agent: PlannerAgent) -> None:
    seen = observation(agent)
    told: list[PlannerAgent] = [agent]
    if agent.info.tasks:
        told += [agent.for_task(None), agent.for_task(0), agent.for_task(1)]
    for each in told:
        actions, state = each.predict(seen)
        assert actions.shape == (B, 2) and np.isfinite(actions).all()
        assert np.isfinite(each.predict(seen, state)[0]).all()
        assert np.isfinite(each.plan(seen).states).all()
    if agent.info.tasks:
        first, second = (each.plan(seen).states for each in told[2:])
        assert not np.array_equal(first, second)
        assert np.array_equal(agent.plan(seen).states, told[1].plan(seen).states)


def test_a_task_is_told_in_the_way_of_the_training_alone(agent: PlannerAgent) -> None:
    several = bool(agent.info.tasks)
    ways: dict[str, tuple[Any, ...]] = {
        "for_task": (0,),
        "for_demonstration": (np.zeros((4, agent.layout.state_dim)),),
        "from_history": (),
    }
    for way, given in ways.items():
        if several and way == "for_task":
            continue
        with pytest.raises(DiffplanError) as refused:
            getattr(agent, way)(*given)
        assert "\n" not in str(refused.value)


def test_a_model_that_is_shown_its_task_acts_on_it(train: Train) -> None:
    agent = load_agent(train("multi-task", "rewards", 2, "--data.tasks", "prompt"))
    seen, rng = observation(agent), np.random.default_rng(1)
    with pytest.raises(DiffplanError, match="by a demonstration"):
        agent.for_task(0)
    shown = agent.for_demonstration(rng.normal(size=(9, 3)))
    for each in (agent, agent.for_task(None), shown, agent.from_history()):
        state = None
        for _ in range(agent.settings.replan_every + 1):  # a plan, and the one after it
            actions, state = each.predict(seen, state)
            assert np.isfinite(actions).all()
        assert np.isfinite(Queries(each).policy(seen)).all()
    assert not np.array_equal(shown.plan(seen).states, agent.plan(seen).states)


def test_the_value_of_noisy_plans_knows_the_task(train: Train) -> None:
    agent = load_agent(train("diffuser", "rewards", 2))
    value, seen = agent.model.noisy_value, observation(agent)
    assert value is not None and agent.settings.value_guidance > 0
    x, level = torch.zeros(B, agent.model.rows, agent.model.plan_dim), torch.ones(B)
    first, second = (
        value(x, level, agent.model.value_condition(agent.for_task(task).context(seen)))
        for task in (0, 1)
    )
    assert (first != second).all()
    guided = [agent.for_task(task).plan(seen).states for task in (0, 1)]
    assert not np.array_equal(*guided)


def test_every_query_has_an_answer_or_a_reason(agent: PlannerAgent) -> None:
    if agent.model.config.heads.kind == "separate":
        with pytest.raises(DiffplanError, match="answers no queries"):
            Queries(agent)
        return
    plan, spec = agent.model.config.plan, agent.model.spec
    rng = np.random.default_rng(0)
    states = rng.normal(size=(B, plan.horizon + 1, spec.state_dim))
    actions = rng.uniform(-1, 1, (B, plan.horizon * plan.stride, spec.action_dim))
    goals = rng.normal(size=(B, spec.goal_dim)) if spec.goal_dim else None
    several, streams = len(agent.info.tasks) > 1, agent.model.config.heads.kind == "streams"
    for each in (agent, agent.for_task(1)) if several else (agent,):
        asked = Queries(each)
        assert asked.plan(observation(agent)).states.shape == states.shape
        assert asked.policy(observation(agent)).shape == (B, spec.action_dim)
        assert asked.inverse_dynamics(states).shape == actions.shape
        assert asked.evaluate(states, goals).shape == (B,)
        assert asked.evaluate(states, goals, actions).shape == (B,)
        if streams:
            assert asked.forward_model(states[:, 0], actions).shape == states.shape
        else:
            with pytest.raises(DiffplanError, match="needs the actions in the forward process"):
                asked.forward_model(states[:, 0], actions)
        if agent.model.config.has_head("task"):
            assert asked.task(states).sum(1) == pytest.approx(1, abs=1e-5)
        else:
            with pytest.raises(DiffplanError, match="task"):
                asked.task(states)


# --- The command line ----------------------------------------------------------------------------

FEW = ["--windows", "20", "--mlp-updates", "2"]
SMALL = ["--episodes", "2", "--num-envs", "2", "--no-pictures"]
ON_RUNS: dict[str, list[str]] = {
    "evaluate": ["evaluate", "RUN", *SMALL],
    "evaluate-best": ["evaluate", "RUN", *SMALL, "--checkpoint", "best", "--select-episodes", "1"],
    "study": [
        *["study", "RUN", "--rows", "ways", "--out", "DIR", "--episodes", "2"],
        *["--tune-episodes", "1"],
    ],
    "export": ["export", "RUN", "DIR"],
    "tune": ["tune", "RUN", "--budget", "48", "--settings", "2", "--num-envs", "2"],
    "calibrate": ["calibrate", "RUN", "--samples", "8", "--start", "noise"],
    "analyse": ["analyse", "RUN", "--windows", "64"],
    "queries": ["queries", "RUN", *FEW],
    "queries-against": ["queries", "RUN", "--against", "SEPARATE", *FEW],
    "benchmark": [
        *["benchmark", "RUN", "--sweep", "batch", "--batch", "1", "2", "--engines", "eager"],
        *["--rounds", "1", "--seconds", "0.01"],
    ],
}
TRIED = [  # commands take longer: with and without goals, tasks and heads, not each with each
    ("trajectory-diffuser", "goals", 1),
    ("multi-task", "rewards", 2),
    ("streams", "rewards", 2),
]
NO_RUN = {"train", "family", "demo"}


def test_every_command_that_takes_a_run_is_among_those_tried() -> None:
    tried = {words[0] for words in ON_RUNS.values()} | NO_RUN
    assert {words[0] for words in COMMANDS if len(words) == 1} == tried


@pytest.mark.parametrize("command", ON_RUNS)
@pytest.mark.parametrize("model", TRIED, ids=lambda model: "-".join(map(str, model)))
@pytest.mark.slow
def test_every_command_works_or_says_why_not(
    command: str,
    model: tuple[str, str, int],
    train: Train,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    few_ways(monkeypatch, "proposer only", "from noise, 10 steps")
    run = train(*model)
    capsys.readouterr()
    words = {"RUN": str(run), "DIR": str(tmp_path / "robot")}
    if "SEPARATE" in ON_RUNS[command]:  # of the same data, told of its tasks in codes of its own
        words["SEPARATE"] = str(train("trajectory-diffuser", *model[1:]))
        capsys.readouterr()
    status = main([words.get(word, word) for word in ON_RUNS[command]])
    error = capsys.readouterr().err
    refused = {
        ("queries", "trajectory-diffuser"): "answers no queries",
        ("queries-against", "trajectory-diffuser"): "answers no queries",
        ("calibrate", "streams"): "dpm-solver-v3",
        ("analyse", "streams"): "a denoiser at one noise level",
    }.get((command, model[0]))
    if refused is None:
        assert status == 0, error
        return
    (line,) = [line for line in error.splitlines() if line.startswith("error: ")]
    assert status == 2 and refused in line


def few_ways(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Of `diffplan study --rows ways`, with one interval each."""
    ways = {
        k: dataclasses.replace(rows.WAYS[k], goal_strides=(2,), reward_strides=(2,)) for k in names
    }
    monkeypatch.setitem(rows.GROUPS, "ways", ways)
    monkeypatch.setattr(beside, "ROUNDS", 1)


@pytest.mark.slow
def test_a_comparison_and_an_evaluation_are_of_every_task(
    train: Train, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    way, alone = "from noise, 10 steps", "proposer only"
    few_ways(monkeypatch, way, alone)
    run = train("multi-task", "rewards", 2)
    assert main(["evaluate", str(run), *SMALL]) == 0
    tasks = json.loads((run / "results.json").read_text())["tasks"]
    assert [Path(name).name for name in tasks] == ["rewards-a", "rewards-b"]
    capsys.readouterr()
    words = {"RUN": str(run), "DIR": str(run / "ways")}
    command = [words.get(word, word) for word in ON_RUNS["study"]]
    assert main(command) == 0
    found = json.loads((run / "ways/ways.json").read_text())["study"][run.name]
    assert found["tasks"] == 2 and list(found["rows"]) == [way]
    assert "where no denoiser is run" in found["left_out"][alone]
    cell = json.loads(next((run / f"ways/{run.name}/cells/ways").glob("*.json")).read_text())
    # told of its task the planner does otherwise in the same environment
    first, second = np.split(np.array(cell["returns"]), 2)
    assert len(first) == 2 and not np.array_equal(first, second)
    assert f"- {run.name}: the mean over 2 tasks" in capsys.readouterr().out
    few_ways(monkeypatch, alone)
    assert main(command) == 2
    assert "goes with none of the rows; proposer only: " in capsys.readouterr().err
