"""Networks of one launch give what their layers give, one by one."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch

from diffplan.data.episodes import Episodes
from diffplan.engines.decision import Plan, PlanStep
from diffplan.engines.table import make_engine
from diffplan.model.context import Context

Make = Callable[..., Any]
CASES = [
    ("trajectory-diffuser", True, 64, 3),
    ("trajectory-diffuser", True, 256, 1),
    ("trajectory-diffuser", False, 256, 1),
    ("trajectory-diffuser", False, 128, 3),
    ("multi-task", False, 64, 3),
]
_ROWS = 19  # a tile and a part of one


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The kernels in Triton's interpreter in place of a GPU."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    name = "diffplan.engines.fused_networks"
    # its own functions are interpreted if it was imported so
    held = {k: v for k, v in sys.modules.items() if k == name or _reads_the_variable(k)}
    for module in held:
        del sys.modules[module]
    yield importlib.import_module(name)
    for module in [k for k in sys.modules if k == name or _reads_the_variable(k)]:
        del sys.modules[module]
    sys.modules.update(held)


def _reads_the_variable(module: str) -> bool:
    return module.partition(".")[0] == "triton" and not module.startswith("triton._C")


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]} {case[1:]}")
def step(
    request: pytest.FixtureRequest,
    tiny_episodes: Episodes,
    tiny_goal_episodes: Episodes,
    tiny_config: Make,
    tiny_model: Make,
) -> PlanStep:
    name, goals, width, candidates = request.param
    changes = {"proposer.width": width, "denoiser.width": width, "heads.value": "returns"}
    config = tiny_config(name, changes)
    model = tiny_model(config, tiny_goal_episodes if goals else tiny_episodes)
    with torch.no_grad():  # those of this size would run away
        for parameter in model.parameters():
            parameter.mul_(0.5 * (16 / width) ** 0.5)
    settings = replace(config.planning, candidates=candidates, temperature=0.7, denoising_steps=2)
    return PlanStep(model, settings, detailed=True)


def given(step: PlanStep) -> tuple[Context, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    zeros = step.context(_ROWS).tensors
    drawn = (None if t is None else torch.randn(t.shape, generator=generator) for t in zeros)
    return Context(*drawn), torch.arange(_ROWS), torch.arange(_ROWS) % 3


def assert_alike(found: Plan, expected: Plan, bound: float) -> None:
    """Of the states: what is chosen may differ where values tie."""
    assert found.candidates is not None
    gap = (found.candidates.cpu() - expected.candidates).nan_to_num()
    assert gap.square().mean().sqrt() < bound * expected.candidates.nan_to_num().std()


@torch.inference_mode()
def test_one_launch_gives_what_the_layers_give(step: PlanStep, interpreted: ModuleType) -> None:
    context, seeds, counts = given(step)
    twin = interpreted.fused(step.model, "tf32x3")
    swapped = {type(part).__name__ for part in twin.modules()}
    assert {"FusedProposer", "FusedMLP"} <= swapped
    other = PlanStep(twin, step.settings, detailed=True)
    draws = step.draw(seeds, counts)
    assert_alike(other(context, draws), step(context, draws), 1e-5)
    # the model that was given stays as it was
    assert not [part for part in step.model.modules() if "Fused" in type(part).__name__]


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("engine", "bound"), [("cuda-graph-tf32", 1e-2), ("cuda-graph-bf16", 6e-2)]
)
@torch.inference_mode()
def test_one_launch_gives_it_on_a_gpu(step: PlanStep, engine: str, bound: float) -> None:
    expected = step(given(step)[0], step.draw(*given(step)[1:]))
    made = make_engine(engine, step.model.to("cuda"), step.settings, detailed=True)
    assert_alike(made.plan(*given(step)), expected, bound)
