"""Eight-bit products: near the float plans, a row on its own, and only for who asks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from diffplan.config.config import replace_planning
from diffplan.data.episodes import Episodes
from diffplan.engines import int8, quantised
from diffplan.engines.eager import EagerEngine
from diffplan.engines.table import make_engine
from diffplan.errors import DiffplanError
from diffplan.model.context import Context

onnx = pytest.importorskip("onnx", reason="the engine is an optional extra")
pytest.importorskip("onnxruntime", reason="the engine is an optional extra")

Make = Callable[..., Any]
WIDE = {"proposer.width": 128, "denoiser.width": 128, "heads.width": 128}
exactly = pytest.mark.skipif(
    not quantised.multiplies_exactly(), reason="needs 8-bit products without saturation"
)


@pytest.fixture
def model(tiny_config: Make, tiny_model: Make, tiny_goal_episodes: Episodes) -> Any:
    made = tiny_model(tiny_config("trajectory-diffuser", WIDE), tiny_goal_episodes)
    generator = torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():  # last layers start at zero
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return made


def given(model: Any, rows: int) -> tuple[Context, torch.Tensor, torch.Tensor]:
    spec, generator = model.spec, torch.manual_seed(3)
    states = model.states.inverse(torch.randn(rows, spec.state_dim, generator=generator))
    goals = model.states.inverse(torch.randn(rows, spec.state_dim, generator=generator))
    context = Context(states, goals[:, list(spec.goal_columns)])
    return context, torch.arange(rows), torch.zeros(rows, dtype=torch.long)


@exactly
def test_its_plans_are_near_the_float_ones_and_rows_keep_to_themselves(
    model: Any, tmp_path: Path
) -> None:
    settings = replace_planning(model.config, candidates=2, reuse=True, replan_every=2).planning
    engine = make_engine("onnx-int8", model, settings, graphs=tmp_path)
    exact = EagerEngine(model, settings)
    context, seeds, counts = given(model, 3)
    found, expected = engine.plan(context, seeds, counts), exact.plan(context, seeds, counts)
    error = ((found.states - expected.states) / model.states.std).square().mean().sqrt()
    moved = (expected.states[:, 1:] - expected.states[:, :1]) / model.states.std
    assert 0 < error < 0.05 * moved.square().mean().sqrt()
    alone = slice(2, 3)
    own = engine.plan(context.rows(alone), seeds[alone], counts[alone])
    torch.testing.assert_close(own.states, found.states[alone], atol=1e-4, rtol=1e-4)
    # whoever goes on from a plan, and follows it, does so by 8 bits as well
    left = expected.states[:, settings.replan_every // model.config.plan.stride + 1 :]
    later = Context(context.state, context.goal, previous=left)
    one, other = engine.plan(later, seeds, counts), exact.plan(later, seeds, counts)
    torch.testing.assert_close(one.states, other.states, atol=0.1, rtol=0.1)
    follow = context.state, expected.states, torch.ones(3, dtype=torch.long), torch.full((3,), 0.5)
    span = model.action_high - model.action_low
    assert ((engine.act(*follow) - exact.act(*follow)) / span).abs().max() < 0.05
    names = sorted(file.name.rsplit("-", 2)[0] for file in tmp_path.glob("*.onnx"))
    assert names == ["act-4", "again-4", "plan-1", "plan-4"]


def test_nobody_gets_it_unasked_nor_where_products_saturate(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = model.config.planning
    assert make_engine("auto", model, settings).name == "onnx"
    monkeypatch.setattr(int8, "multiplies_exactly", lambda: False)
    with pytest.raises(DiffplanError, match="8-bit products without saturation"):
        make_engine("onnx-int8", model, settings)


@exactly
def test_a_detailed_plan_holds_what_is_constant_too(model: Any) -> None:
    settings = replace_planning(model.config, candidates=1).planning
    found = make_engine("onnx-int8", model, settings, detailed=True).plan(*given(model, 1))
    expected = EagerEngine(model, settings, detailed=True).plan(*given(model, 1))
    assert found.values.isnan().all() and torch.equal(found.chosen, expected.chosen)
    torch.testing.assert_close(found.candidates, expected.candidates, atol=0.1, rtol=0.1)


@exactly
def test_products_are_of_integers_but_for_those_that_read_what_is_given(model: Any) -> None:
    engine = int8.Int8Engine(model, model.config.planning)
    graph = onnx.load_model_from_string(engine.exported("plan", 1)).graph
    held = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
    whole = [node for node in graph.node if node.op_type == "MatMulIntegerToFloat"]
    assert len(whole) > 4 and all(held[node.input[1]].dtype == np.int8 for node in whole)
    # every product has a range of its own, also where several share their weights
    assert len({node.input[2] for node in whole}) > len({node.input[1] for node in whole})
    first = next(node for node in graph.node if node.op_type in ("Gemm", "MatMulIntegerToFloat"))
    assert first.op_type == "Gemm"


@pytest.mark.parametrize(
    ("rows", "columns", "gains"), [(64, 128, True), (64, 127, False), (31, 512, False)]
)
def test_small_and_narrow_products_stay_as_they_are(rows: int, columns: int, gains: bool) -> None:
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    held = [
        numpy_helper.from_array(np.zeros(shape, np.float32), name)
        for name, shape in (("first", (8, rows)), ("second", (rows, columns)))
    ]
    nodes = [
        helper.make_node("MatMul", ["given", "first"], ["between"]),  # reads what is given
        helper.make_node("MatMul", ["between", "second"], ["found"]),
    ]
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (1, width))
        for name, width in (("given", 8), ("found", columns))
    ]
    graph = helper.make_graph(nodes, "two products", ends[:1], ends[1:], held)
    products = list(quantised._products(helper.make_model(graph)))
    assert [node.input[1] for node, _ in products] == ["second"] * gains
