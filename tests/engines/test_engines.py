"""Engines give eager's numbers, for any batch size, and say in a line where they cannot run."""

import builtins
import copy
import dataclasses
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.config.config import replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.data.episodes import Episodes
from diffplan.engines.cuda_graph import GraphEngine
from diffplan.engines.decision import Plan
from diffplan.engines.eager import EagerEngine
from diffplan.engines.onnx import OnnxEngine
from diffplan.engines.table import ENGINES, Engine, make_engine
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.planning.stages import decode

Make = Callable[..., Any]

KINDS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    ("trajectory-diffuser", {}, {"candidates": 3}),
    ("trajectory-diffuser", {}, {"candidates": 1, "start": "sdedit", "eta": 0.5}),
    ("trajectory-diffuser", {"proposer.kind": "gru"}, {"candidates": 2, "temperature": 0.0}),
    ("trajectory-diffuser", {"plan.space": "absolute", "denoiser.network": "dit"}, {}),
    (
        "trajectory-diffuser",
        {"plan.columns": "goal", "heads.lookahead": 2, "heads.gain": 2.0},
        {"candidates": 2},
    ),
    ("trajectory-diffuser-published", {"plan.horizon": 4}, {"candidates": 4}),
    ("proposer-only", {"proposer.kind": "one-shot"}, {"candidates": 4}),
    ("from-noise", {}, {"guidance_weight": 1.5}),
    # far apart, or rounding would choose among them
    ("multi-task", {}, {"candidates": 3, "temperature": 2.0}),
    (
        "multi-task",
        {"heads.aggregation": 0.5, "plan.space": "absolute"},
        {"candidates": 2, "temperature": 2.0},
    ),
    ("streams", {}, {"candidates": 3}),
]


@pytest.fixture(params=["goals", "rewards"])
def data(
    request: pytest.FixtureRequest, tiny_episodes: Episodes, tiny_goal_episodes: Episodes
) -> Episodes:
    return tiny_goal_episodes if request.param == "goals" else tiny_episodes


def inputs(model: Any, rows: int) -> tuple[Context, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    spec = model.spec
    goals = torch.randn(rows, spec.goal_dim, generator=generator) if spec.goal_dim else None
    targets = torch.randn(rows, generator=generator) if model.use_returns else None
    states = torch.randn(rows, spec.state_dim, generator=generator)
    return Context(states, goals, targets), torch.arange(rows) + 5, torch.arange(rows) % 3


def build(name: str, changes: Any, planning: Any, data: Episodes, config: Make, make: Make) -> Any:
    model = copy.deepcopy(make(config(name, changes), data))
    with torch.no_grad():
        for parameter in model.parameters():  # last layers start at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.manual_seed(1)))
    return model, replace_planning(model.config, **planning).planning


def assert_alike(one: Plan, other: Plan) -> None:
    assert one._fields == other._fields
    for name, a, b in zip(one._fields, one, other, strict=True):
        if a is None or b is None:
            assert a is b
            continue
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, atol=2e-4, rtol=1e-3, equal_nan=True, msg=name)


@pytest.mark.parametrize(("name", "changes", "planning"), KINDS)
@pytest.mark.parametrize("engine", [OnnxEngine, GraphEngine])
def test_an_engine_gives_what_eager_gives(
    engine: Callable[..., Engine],
    name: str,
    changes: dict[str, Any],
    planning: dict[str, Any],
    data: Episodes,
    tiny_config: Make,
    tiny_model: Make,
) -> None:
    if engine is OnnxEngine:
        pytest.importorskip("onnxruntime")
    if changes.get("plan.columns") == "goal" and not data.layout.goal_dim:
        pytest.skip("plans of the goal's columns need a goal")
    model, settings = build(name, changes, planning, data, tiny_config, tiny_model)
    eager, other = EagerEngine(model, settings), engine(model, settings)
    for rows in (1, 3) if name == "proposer-only" else (3,):  # three are filled up to four
        given = inputs(model, rows)
        expected, found = eager.plan(*given), other.plan(*given)
        assert_alike(found, expected)
        if model.config.actions_in_plan:  # the plan's own actions are taken
            continue
        row = torch.arange(rows)
        follow = given[0].state, expected.states, row + 1, torch.full((rows,), 0.5)
        told = None if expected.features is None else expected.features[row, row]
        follow = *follow, expected.features
        actions = eager.act(*follow)
        torch.testing.assert_close(other.act(*follow), actions, atol=1e-4, rtol=1e-3)
        ahead = model.states(model.planned_part(expected.states[row, row + 1]))
        by_hand = decode(model, model.observed(follow[0]), ahead, follow[3], told)
        torch.testing.assert_close(actions, by_hand, atol=1e-6, rtol=1e-6)
    assert other.startup_seconds > 0
    again = other.plan(*given)
    assert_alike(again, found)


def test_a_captured_batch_may_be_empty(data: Episodes, tiny_config: Make, tiny_model: Make) -> None:
    model, settings = build("trajectory-diffuser", {}, {}, data, tiny_config, tiny_model)
    engine, eager = GraphEngine(model, settings), EagerEngine(model, settings)
    engine.plan(*inputs(model, 2))
    context, *random = inputs(model, 2)
    nobody = context.rows(slice(0, 0)), *(t[:0] for t in random)
    found, expected = engine.plan(*nobody), eager.plan(*nobody)
    assert_alike(found, expected)
    assert engine.read(found.first).shape == expected.first.shape == (0, *found.first.shape[1:])


def test_captured_engines_are_told_apart(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model, settings = build("proposer-only", {}, {}, tiny_episodes, tiny_config, tiny_model)
    named = {"cuda-graph": {}, "cuda-graph-tf32": {"tf32": True}, "cuda-graph-bf16": {"bf16": True}}
    for name, options in named.items():
        assert GraphEngine(model, settings, **options).name == name


def test_a_gpu_without_a_captured_graph_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = SimpleNamespace(plan_scale=SimpleNamespace(device=torch.device("cuda")))
    made = dataclasses.replace(ENGINES["eager"], make=lambda *_: "called")
    monkeypatch.setitem(ENGINES, "eager", made)
    settings = PlanningConfig(value_guidance=1.0)
    with pytest.warns(UserWarning, match=r"value_guidance takes gradients, .*engine eager"):
        assert make_engine("auto", model, settings) == "called"


def test_what_was_planned_stays(
    tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    model, settings = build("proposer-only", {}, {}, tiny_episodes, tiny_config, tiny_model)
    engine = GraphEngine(model, settings)
    first = engine.keep(engine.plan(*inputs(model, 2)))
    kept = [part.clone() for part in first if part is not None]
    context, *random = inputs(model, 2)
    backwards = torch.tensor([1, 0])
    engine.plan(context.rows(backwards), *(t[backwards] for t in random))
    assert_alike(first, Plan(*kept))


def test_weights_are_rounded_once_and_plans_stay_float32(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    given = tiny_goal_episodes, tiny_config, tiny_model
    model, settings = build("trajectory-diffuser", {}, {"candidates": 2}, *given)
    found = GraphEngine(model, settings, bf16=True).plan(*inputs(model, 4))
    with torch.autocast("cpu", torch.bfloat16):
        expected = EagerEngine(model, settings).plan(*inputs(model, 4))
    assert found.states.dtype == torch.float32
    # biases are rounded too, which autocast leaves out where they are added apart
    torch.testing.assert_close(found.states, expected.states.float(), atol=0.01, rtol=0.01)
    exact = EagerEngine(model, settings).plan(*inputs(model, 4)).states
    assert not torch.equal(found.states, exact)


def test_what_is_too_large_for_one_call_is_run_in_parts(
    tiny_episodes: Episodes,
    tiny_config: Make,
    tiny_model: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, settings = build("proposer-only", {}, {}, tiny_episodes, tiny_config, tiny_model)
    engine, given = GraphEngine(model, settings), inputs(model, 11)
    monkeypatch.setattr(engine, "_most", lambda *_: 4)
    made = engine.plan(*given)
    assert_alike(made, EagerEngine(model, settings).plan(*given))
    assert {size for _, size, _ in engine._captured} == {4}
    # parts are put together in tensors of their own, one call's are the engine's
    assert engine.keep(made) is made
    one = engine.plan(*inputs(model, 4))
    kept = engine.keep(one)
    assert kept is not one and engine.keep(kept) is kept
    assert (engine.read(kept.first) == kept.first.numpy()).all()


def test_captured_plans_go_on_from_the_ones_before(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    reuse = {"candidates": 2, "reuse": True, "replan_every": 2}
    given = tiny_goal_episodes, tiny_config, tiny_model
    model, settings = build("trajectory-diffuser", {}, reuse, *given)
    eager, other = EagerEngine(model, settings), GraphEngine(model, settings)
    context, *random = inputs(model, 3)
    afresh = eager.plan(context, *random)
    again = dataclasses.replace(context, previous=afresh.states[:, 2:])
    expected = eager.plan(again, *random)
    assert_alike(other.plan(again, *random), expected)
    assert not torch.allclose(expected.states, afresh.states)


def test_a_plan_that_nothing_competes_with_is_judged_for_who_asks(
    tiny_goal_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    given = tiny_goal_episodes, tiny_config, tiny_model
    model, settings = build("trajectory-diffuser", {}, {"candidates": 1}, *given)
    for valued, asked in ((False, {}), (True, {"valued": True})):
        values = EagerEngine(model, settings, detailed=True, **asked).plan(*inputs(model, 2)).values
        assert values is not None and values.isfinite().all() == valued


@pytest.mark.parametrize("engine", ["eager", "onnx"])
def test_an_engine_can_be_sent_to_another_process(
    engine: str, tiny_episodes: Episodes, tiny_config: Make, tiny_model: Make
) -> None:
    if engine == "onnx":
        pytest.importorskip("onnxruntime")
    model, settings = build("proposer-only", {}, {}, tiny_episodes, tiny_config, tiny_model)
    here = make_engine(engine, model, settings)
    given = inputs(model, 1)
    expected = here.plan(*given)
    there = pickle.loads(pickle.dumps(here))
    assert_alike(there.plan(*given), expected)


def test_engines_that_cannot_run_say_so(
    tiny_episodes: Episodes,
    tiny_config: Make,
    tiny_model: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model, settings = build("proposer-only", {}, {}, tiny_episodes, tiny_config, tiny_model)
    with pytest.raises(DiffplanError, match="expected auto, eager, onnx, onnx-int8"):
        make_engine("fast", model, settings)
    with pytest.raises(DiffplanError, match="cuda-graph needs the model on a GPU"):
        make_engine("cuda-graph", model, settings)
    real = builtins.__import__

    def without(name: str, *args: Any, **options: Any) -> Any:
        if name.split(".", maxsplit=1)[0] == "onnxruntime":
            raise ImportError("No module named 'onnxruntime'", name="onnxruntime")
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DiffplanError, match=r"pip install 'diffplan\[onnx\]'"):
        make_engine("onnx", model, settings)
    assert make_engine("auto", model, settings).name == "eager"


@pytest.mark.cuda
@pytest.mark.filterwarnings("error:no CUDA graph")
@pytest.mark.parametrize(("name", "changes", "planning"), KINDS)
def test_a_captured_graph_gives_what_eager_gives_on_the_cpu(
    name: str,
    changes: dict[str, Any],
    planning: dict[str, Any],
    data: Episodes,
    tiny_config: Make,
    tiny_model: Make,
) -> None:
    if changes.get("plan.columns") == "goal" and not data.layout.goal_dim:
        pytest.skip("plans of the goal's columns need a goal")
    model, settings = build(name, changes, planning, data, tiny_config, tiny_model)
    given = inputs(model, 3)
    expected = EagerEngine(model, settings).plan(*given)
    model = model.to("cuda")
    captured = make_engine("cuda-graph", model, settings)
    there = [t.to(torch.device("cuda")) for t in given]
    for asked in (given, given, there, there):
        found = captured.plan(*asked)
        assert_alike(Plan(*(None if part is None else part.cpu() for part in found)), expected)
    first = captured.read(captured.keep(captured.plan(*given)).first)
    torch.testing.assert_close(torch.from_numpy(first), expected.first, atol=2e-4, rtol=1e-3)
