"""Loading a trained agent: the same actions as before it was saved."""

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.agents import AgentState, load_agent
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.run_folder import Header
from diffplan.planning.chains import matching_level

Make = Callable[..., Any]


def arrays(state: AgentState) -> dict[str, np.ndarray]:
    """Every array of a state, copied."""
    plan = state.plan.numpy()._asdict()
    own = {"goals": state.goals, "age": state.age, "seeds": state.seeds, "count": state.count}
    return {key: np.array(value) for key, value in {**plan, **own}.items() if value is not None}


def assert_equal(one: AgentState, other: AgentState) -> None:
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for key in a:
        np.testing.assert_array_equal(a[key], b[key])


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(DiffplanError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def run(tmp_path: Path, make_agent: Make) -> Path:
    """A run with checkpoints at 10 and 20 updates; the first has other weights."""
    agent = make_agent()
    weights = agent.model.state_dict()
    for step, factor in ((10, 1.1), (20, 1.0)):
        header = Header(
            agent.model.config, agent.model.spec, agent.layout, agent.info, "f", step, 0, 3.5
        )
        scaled = {key: value * factor for key, value in weights.items()}
        save_checkpoint(tmp_path / "run", header, scaled, {})
    return tmp_path / "run"


def test_a_loaded_agent_acts_as_the_one_that_was_saved(
    run: Path, make_agent: Make, observe: Make
) -> None:
    agent, loaded = make_agent(), load_agent(run, engine="eager", detailed=True)
    action, state = loaded.predict(observe(2))
    np.testing.assert_array_equal(action, agent.predict(observe(2))[0])
    assert_equal(state, agent.predict(observe(2))[1])
    assert loaded.config_name == "trajectory-diffuser"
    assert loaded.train_seconds == 3.5
    assert (loaded.layout, loaded.info) == (agent.layout, agent.info)
    assert (loaded.stride, loaded.horizon) == (2, 4)
    np.testing.assert_array_equal(
        load_agent(run, checkpoint=20, engine="eager").predict(observe(2))[0], action
    )
    for older in (load_agent(run, checkpoint=10), load_agent(run / "checkpoint-00000010")):
        assert not np.array_equal(older.predict(observe(2))[0], action)


def test_planning_settings_of_a_loaded_agent(run: Path, observe: Make) -> None:
    agent = load_agent(run, seed=4, denoising_steps=3, candidates=2, replan_every=1)
    assert agent.plan(observe(1)).candidates.shape == (1, 2, 5, 4)
    assert agent.seed == 4
    recorded = json.loads(json.dumps(agent.planning))
    names = ("denoising_steps", "candidates", "replan_every")
    assert [recorded[name] for name in names] == [3, 2, 1]
    sdedit = load_agent(run, start="sdedit")
    level = matching_level(sdedit.model, sdedit.settings)
    assert sdedit.settings.start_level == sdedit.planning["start_level"] == level


def test_loading_nonsense_gets_one_line(run: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for path, expected in (
        (tmp_path / "nowhere", "no folder"),
        (tmp_path / "empty", "holds no checkpoint"),
    ):
        assert expected in refusal(lambda p=path: load_agent(p))
    assert "'newest'" in refusal(lambda: load_agent(run, checkpoint="newest"))
    assert "checkpoint-00000015" in refusal(lambda: load_agent(run, checkpoint=15))
    assert "'stepz'" in refusal(lambda: load_agent(run, stepz=3))
    assert "'nonsense', expected auto, cpu" in refusal(lambda: load_agent(run, device="nonsense"))
    if not torch.cuda.is_available():
        assert "'cuda'" in refusal(lambda: load_agent(run, device="cuda"))
    weights = run / "checkpoint-00000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:200])
    assert "truncated" in refusal(lambda: load_agent(run))


def test_no_run_at_all_gets_one_line() -> None:
    for nothing in (None, "", 3):
        assert f"given {nothing!r}, expected the folder" in refusal(lambda n=nothing: load_agent(n))


def test_a_printed_agent_says_how_it_plans(make_agent: Make) -> None:
    agent = make_agent(candidates=4, start="noise", replan_every=2)
    first, where, how = repr(agent).splitlines()
    assert first.startswith("PlannerAgent: trajectory-diffuser, 0 updates on ")
    assert where.endswith("engine eager on cpu")
    assert f"{agent.horizon} states {agent.stride} environment steps apart" in how
    assert how.endswith("anew every 2 steps; optimised in 1 step from noise, one of 4")


def test_an_agent_goes_to_another_device_or_engine(run: Path, observe: Make) -> None:
    agent = load_agent(run, engine="eager")
    assert agent.to("cpu") is agent
    action, state = agent.predict(observe(2))
    if importlib.util.find_spec("onnxruntime"):
        other = agent.to("cpu", "onnx")
        assert (agent.engine.name, other.engine.name) == ("eager", "onnx")
        np.testing.assert_allclose(other.predict(observe(2))[0], action, atol=1e-5)
    assert "'nonsense', expected auto, cpu" in refusal(lambda: agent.to("nonsense"))
    if not torch.cuda.is_available():
        assert "'cuda'" in refusal(lambda: agent.to("cuda"))
    assert agent.predict(observe(2), state)[0].shape == (2, 2)


@pytest.mark.cuda
def test_an_agent_moves_to_a_gpu_and_takes_its_state_along(run: Path, observe: Make) -> None:
    agent = load_agent(run, engine="eager")
    action, state = agent.predict(observe(2))
    moved = agent.to("cuda")
    assert (agent.device.type, moved.device.type) == ("cpu", "cuda")
    np.testing.assert_allclose(moved.predict(observe(2))[0], action, atol=1e-4)
    expected = agent.predict(observe(2), state)[0]
    again, after = moved.predict(observe(2), state)
    np.testing.assert_allclose(again, expected, atol=1e-4)
    assert after.plan.states.device.type == "cuda"
    graphs = agent.to("cuda", "cuda-graph")
    assert load_agent(run).to("cuda").engine.name == graphs.engine.name == "cuda-graph"
    # new plans, one on the way, and one row of two that plans anew
    calls = [(None, None), (state, None), (state, np.array([False, True]))]
    for given, begins in calls:
        expected = agent.predict(observe(2), given, begins)[0]
        np.testing.assert_allclose(
            graphs.predict(observe(2), given, begins)[0], expected, atol=1e-4
        )
