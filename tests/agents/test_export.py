"""An exported planner acts as its agent does, and tells what is wrong with its folder."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan import runtime
from diffplan.agents import PlannerAgent, export
from diffplan.agents.exporting import RUNTIME
from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes
from diffplan.engines.quantised import multiplies_exactly
from diffplan.errors import DiffplanError

pytest.importorskip("onnxruntime", reason="the engine is an optional extra")

Make = Callable[..., Any]
BOX = {"rewards": True}
CASES: dict[str, dict[str, Any]] = {
    "goals, 3 candidates, reuse": {"candidates": 3, "reuse": True, "replan_every": 4},
    "returns by step, softmax": BOX | {"candidates": 4, "target": "by-step", "select": "softmax"},
    "the goal's columns, far ahead": {
        "config": {"plan.columns": "goal", "heads.lookahead": 2, "heads.gain": 2.0}
    },
    "detours": {"detour_after": 2},
    "heads, returns decremented": BOX | {"name": "multi-task", "target": "decremented"},
}
ALONE = """
import json, sys

class Nothing:
    def find_spec(self, name, *_):
        if name.partition(".")[0] in ("diffplan", "torch", "gymnasium", "pydantic"):
            raise ImportError(name)

sys.meta_path.insert(0, Nothing())
sys.path[:] = [at for at in sys.path if "diffplan" not in at]
sys.path.insert(0, sys.argv[1])
from diffplan_runtime import load

given, state, actions = json.loads(sys.argv[2]), None, []
agent = load(sys.argv[1])
for observation in given:
    action, state = agent.predict(observation, state)
    actions.append(action.tolist())
print(json.dumps(actions))
"""


def observations(agent: PlannerAgent, rows: int, steps: int) -> list[Any]:
    """A walk with goals that stay, but for one that moves half way."""
    rng, width = np.random.default_rng(1), agent.layout.state_dim
    walk = np.cumsum(0.2 * rng.normal(size=(steps, rows, width)), 0)
    if not agent.layout.goal_dim:
        return list(walk)
    goals = np.repeat(rng.normal(size=(1, rows, 2)), steps, 0)
    goals[steps // 2 :, 0] += 1
    return [{"observation": at, "desired_goal": goal} for at, goal in zip(walk, goals, strict=True)]


def check_alike(agent: PlannerAgent, other: runtime.Agent, rows: int = 3, steps: int = 14) -> None:
    """The same actions, in a loop whose rows begin at different times."""
    mine: Any = agent.reset_rows(None, np.ones(rows, bool), 7 + np.arange(rows))
    its: Any = other.reset_rows(None, np.ones(rows, bool), 7 + np.arange(rows))
    for step, given in enumerate(observations(agent, rows, steps)):
        start = np.arange(rows) == step - 3
        fresh = {"deterministic": False, "seed": step} if step == 5 else {}
        action, mine = agent.predict(given, mine, start, **fresh)
        found, its = other.predict(given, its, start, **fresh)
        np.testing.assert_allclose(found, action, atol=2e-5)
        rewards = np.full(rows, 0.1)
        mine = agent.observe(mine, rewards, start < 1)
        its = other.observe(its, rewards, start < 1)
    np.testing.assert_array_equal(its.count, mine.count)
    np.testing.assert_allclose(its.target_return, mine.target_return, rtol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_an_export_acts_as_its_agent(case: str, make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(detailed=False, **CASES[case])
    assert export(agent, tmp_path / "robot", (2,)) < 2e-5
    check_alike(agent, runtime.load(tmp_path / "robot"))


@pytest.mark.parametrize("given", ["id", "prompt"])
def test_an_export_is_told_its_task_as_its_agent(
    given: str, tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make, tmp_path: Path
) -> None:
    info = tiny_episodes.info
    parts = [
        dataclasses.replace(tiny_episodes, info=dataclasses.replace(info, id=name)) for name in "ab"
    ]
    both = combine(parts, "both")
    model = tiny_model(tiny_config("proposer-only", {"data.tasks": given}), both)
    agent = PlannerAgent(model, both.layout, both.info, config_name="x", engine="eager")
    export(agent, tmp_path / "robot", (2,))
    other = runtime.load(tmp_path / "robot")
    check_alike(agent, other, steps=2)
    if given == "id":
        check_alike(agent.for_task(1), other.for_task(1), steps=2)
        for wrong in (2, -1):
            with pytest.raises(DiffplanError, match="0 a, 1 b"):
                other.for_task(wrong)
        with pytest.raises(DiffplanError, match="not told its task by states"):
            other.from_history()
    else:
        shown = np.random.default_rng(0).normal(size=(9, 3))
        check_alike(agent.for_demonstration(shown), other.for_demonstration(shown), steps=2)
        check_alike(agent.from_history(), other.from_history())
        check_alike(agent.for_task(None), other.from_history().for_task(None), steps=2)


@pytest.fixture(scope="module")
def robot(make_agent: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small export."""
    folder = tmp_path_factory.mktemp("exports") / "robot"
    export(make_agent(**BOX), folder)
    return folder


def test_an_export_needs_neither_diffplan_nor_pytorch(robot: Path, make_agent: Make) -> None:
    rows = np.random.default_rng(3).normal(size=(9, 2, 3))
    command = [sys.executable, "-c", ALONE, str(robot), json.dumps(rows.tolist())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    state, agent = None, make_agent(**BOX)
    for observation, found in zip(rows, json.loads(done.stdout), strict=True):
        action, state = agent.predict(observation, state)
        np.testing.assert_allclose(found, action, atol=2e-5)


def test_the_folder_says_what_it_is(robot: Path) -> None:
    settings = json.loads((robot / "settings.json").read_text())
    assert (settings["action_low"], settings["action_high"]) == ([-2, -2], [1, 1])
    assert len(settings["normalisation"]["std"]) == 3
    assert "diffplan_runtime" in (robot / "README.md").read_text()
    held = {path.name for path in robot.iterdir()} - {"manifest.json"}
    assert {*json.loads((robot / "manifest.json").read_text())["files"]} == held
    assert (robot / RUNTIME).read_text() == Path(runtime.__file__).read_text()


def test_a_damaged_folder_is_refused(robot: Path, tmp_path: Path) -> None:
    def refusal(name: str, text: str | None) -> str:
        folder = tmp_path / "copy"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(robot, folder)
        (folder / name).unlink()
        if text is not None:
            (folder / name).write_text(text)
        with pytest.raises(DiffplanError) as error:
            runtime.load(folder)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "lacks plan-1.onnx" in refusal("plan-1.onnx", None)
    assert "checksum is wrong" in refusal("act-1.onnx", "nothing")
    assert "checksum is wrong" in refusal("settings.json", "{}")
    assert "has no manifest.json" in refusal("manifest.json", None)
    assert "damaged" in refusal("manifest.json", "{")
    assert "names no files" in refusal("manifest.json", f'{{"diffplan_export": {runtime.FORMAT}}}')
    assert "export format 7" in refusal("manifest.json", '{"diffplan_export": 7}')


@pytest.mark.parametrize(
    ("observation", "match"),
    [
        (np.zeros((2, 4)), r"shape \(2, 4\), expected \[B, 3\]"),
        (np.zeros((1, 2, 3)), r"shape \(1, 2, 3\)"),
        ({"observation": np.zeros(3)}, "is dict, expected an array"),
        (["a", "b", "c"], "expected real numbers"),
        (np.ones(3, complex), "complex128"),
        (np.ma.masked_array(np.ones(3), mask=[0, 1, 0]), "masked entries"),
        ([[1, 2, 3], [1]], "ragged"),
        (7.0, r"shape \(\), expected"),
        ([0, np.nan, 0], "not finite"),
        ([0, 3e38, 3e38], "no finite action"),
    ],
)
def test_wrong_observations_are_refused(robot: Path, observation: Any, match: str) -> None:
    with pytest.raises(DiffplanError, match=match) as error:
        runtime.load(robot).predict(observation)
    assert "\n" not in str(error.value)


def test_parts_of_an_observation_have_as_many_rows(make_agent: Make, tmp_path: Path) -> None:
    export(make_agent("proposer-only"), tmp_path / "robot")
    agent = runtime.load(tmp_path / "robot")
    with pytest.raises(DiffplanError, match="differ in batch shape"):
        agent.predict({"observation": np.zeros((2, 4)), "desired_goal": np.zeros((3, 2))})
    with pytest.raises(DiffplanError, match=r"\['observation'\], expected a dict with"):
        agent.predict({"observation": np.zeros((2, 4))})
    goal = torch.zeros(2, 2, requires_grad=True)
    agent.predict({"observation": torch.zeros(2, 4, requires_grad=True), "desired_goal": goal})


def test_wrong_states_are_refused(robot: Path) -> None:
    agent, rows = runtime.load(robot), np.zeros((2, 3))
    _, state = agent.predict(rows)
    for given, match in (({}, "state is a dict"), (state, "expected \\[3, 5, 3\\]")):
        with pytest.raises(DiffplanError, match=match):
            agent.predict(np.zeros((3, 3)), given)
    with pytest.raises(DiffplanError, match="episode_start has 3"):
        agent.predict(rows, state, np.zeros(3, bool))
    acting = dataclasses.replace(state, plan=state.plan._replace(actions=np.zeros((2, 4, 2))))
    with pytest.raises(DiffplanError, match="another agent's; pass state=None"):
        agent.predict(rows, acting)
    action, again = agent.predict(rows[0])
    assert action.shape == (2,) and again.plan.states.shape == (1, 5, 3)


def test_graphs_in_8_bits_are_refused_where_products_overflow(
    make_agent: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not multiplies_exactly():
        pytest.skip("this processor has no 8-bit products")
    agent = make_agent("proposer-only", **BOX, config={"proposer.width": 128})
    assert 0 < export(agent, tmp_path / "robot", engine="onnx-int8") < 0.1
    assert runtime.load(tmp_path / "robot").predict(np.zeros(3))[0].shape == (2,)
    monkeypatch.setattr(runtime, "multiplies_exactly", lambda product: False)
    with pytest.raises(DiffplanError, match="this processor's 8-bit products overflow"):
        runtime.load(tmp_path / "robot")


def test_what_cannot_be_exported_leaves_no_folder(make_agent: Make, tmp_path: Path) -> None:
    agent, folder = make_agent(**BOX), tmp_path / "robot"
    for options, match in (
        ({"batch_sizes": (0, 1)}, r"\[0, 1\]"),
        ({"engine": "eager"}, "makes no graphs"),
    ):
        with pytest.raises(DiffplanError, match=match):
            export(agent, folder, **options)
    guided = make_agent("diffuser", **BOX)
    with pytest.raises(DiffplanError, match="gradients"):
        export(guided, folder)
    assert not list(tmp_path.iterdir())
    folder.mkdir()
    (folder / "mine").touch()
    with pytest.raises(DiffplanError, match="new folder"):
        export(agent, folder)
    assert [path.name for path in folder.iterdir()] == ["mine"]
