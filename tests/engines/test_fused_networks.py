"""Networks of one launch give what their layers give, one by one."""

import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.data.episodes import Episodes
from diffplan.engines import counter_rng
from diffplan.engines.decision import PlanStep
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


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The module where there is no Triton; its kernels are for tests to say."""
    triton, language = ModuleType("triton"), ModuleType("triton.language")
    parts = {"language": language, "jit": lambda function: function}
    vars(triton).update(parts, cdiv=lambda a, b: -(-a // b))
    name = "diffplan.engines.fused_networks"
    with monkeypatch.context() as while_imported:  # PyTorch asks for Triton, too
        while_imported.setitem(sys.modules, "triton", triton)
        while_imported.setitem(sys.modules, "triton.language", language)
        while_imported.setitem(sys.modules, name, ModuleType(name))
        del sys.modules[name]
        return importlib.import_module(name)


@pytest.fixture(
    params=CASES,
    ids=lambda case: f"{case[0]} {'goals' if case[1] else 'rewards'} {case[2]} K={case[3]}",
)
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


def parts_off(step: PlanStep, fused: ModuleType, precision: str, rows: int) -> dict[str, float]:
    """By how much networks of one launch are off, in deviations of what they give."""
    model, drawn = step.model, torch.Generator().manual_seed(2)
    device, horizon = model.plan_scale.device, model.config.plan.horizon

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=drawn).to(device)

    context = Context(
        *(None if t is None else normal(*t.shape) for t in step.context(rows).tensors)
    )
    noise = 0.7 * normal(rows, horizon, model.spec.planned_dim + 1)
    x, proposal = (normal(rows, model.rows, model.plan_dim) for _ in range(2))
    features = normal(2, rows, model.denoiser.features)
    twin = fused.fused(model, precision).to(device)

    def of(part: Any) -> dict[str, Tensor]:
        proposed = part.proposer.propose(context, noise)
        network = part.denoiser.network
        given = proposal if network.use_proposal else None
        body = network.bind_features(given, features)[1](x)
        alike = network.bind_features(given, features[:1, :1])[0](x)  # the same in all rows
        return {
            "states": proposed.states,
            "returns": proposed.returns,
            "short": part.proposer.propose(context, noise[:, :2], 2).states,
            "mean": part.proposer.propose(context).states,
            "body": body.float(),
            "alike": alike.float(),
        }

    found, expected = of(twin), of(model)
    assert twin.proposer.works and twin.denoiser.network.works
    return {
        name: float((found[name] - value).square().mean().sqrt() / value.std())
        for name, value in expected.items()
    }


@torch.inference_mode()
def test_one_launch_gives_what_the_layers_give(step: PlanStep, interpreted: ModuleType) -> None:
    off = parts_off(step, interpreted, "tf32x3", _ROWS)
    assert max(off.values()) < 1e-5, off
    # the model that was given stays as it was
    assert not [part for part in step.model.modules() if "Fused" in type(part).__name__]


@pytest.mark.cuda
@pytest.mark.parametrize("rows", [_ROWS, 20_000], ids=["small tiles", "large ones"])
@pytest.mark.parametrize(("precision", "bound"), [("tf32", 2e-3), ("bf16", 1e-2)])
@torch.inference_mode()
def test_one_launch_gives_it_on_a_gpu(
    step: PlanStep, precision: str, bound: float, rows: int
) -> None:
    fused = importlib.import_module("diffplan.engines.fused_networks")
    step.model.to("cuda")
    off = parts_off(step, fused, precision, rows)
    assert max(off.values()) < bound, off


@pytest.mark.cuda
@pytest.mark.parametrize("engine", ["cuda-graph-tf32", "cuda-graph-bf16"])
@torch.inference_mode()
def test_engines_of_rounded_products_plan_with_them(step: PlanStep, engine: str) -> None:
    made: Any = make_engine(engine, step.model.to("cuda"), step.settings)
    assert {"FusedProposer", "FusedMLP"} <= {type(part).__name__ for part in made._plan.modules()}
    assert made.plan(*given(step)).states.isfinite().any()


@torch.inference_mode()
def test_what_does_not_fit_is_called_layer_by_layer(
    step: PlanStep, stubbed: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **options: Any) -> None:
        raise RuntimeError("out of resource: shared memory, Required: 278528")

    for name in ("_unroll", "_body"):
        monkeypatch.setattr(stubbed, name, _Kernel(full))
    twin = stubbed.fused(step.model, "bf16")
    context, seeds, counts = given(step)
    draws = step.draw(seeds, counts)
    with pytest.warns(UserWarning, match="called layer by layer .*shared memory"):
        found = PlanStep(twin, step.settings, detailed=True)(context, draws)
    assert torch.equal(found.candidates, step(context, draws).candidates)
    assert not twin.proposer.works and not twin.denoiser.network.works


class _Kernel:
    """A kernel whose launch is a function."""

    def __init__(self, launch: Callable[..., None]) -> None:
        self.launch = launch

    def __getitem__(self, grid: Any) -> Callable[..., None]:
        return self.launch


@torch.inference_mode()
def test_decisions_with_them_keep_to_their_launches(
    step: PlanStep,
    stubbed: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    launches: Make,
    within_budget: Make,
) -> None:
    """On the meta device, with one operation for each kernel."""
    for name in ("_unroll", "_body"):
        kernel = _Kernel(lambda *arguments, **_: arguments[3].zero_())
        monkeypatch.setattr(stubbed, name, kernel)
    drawn = SimpleNamespace(uniform=_ones, standard_normal=_ones)
    monkeypatch.setattr(counter_rng, "_fused", lambda device: drawn)
    meta = torch.device("meta")
    other = PlanStep(stubbed.fused(step.model, "bf16").to(meta), step.settings)
    numbers = torch.zeros(_ROWS, dtype=torch.long, device=meta)
    context = other.context(_ROWS)
    other(context, other.draw(numbers, numbers))
    with launches() as found:
        other(context, other.draw(numbers, numbers))
    within_budget("decision", f"fused {request.node.callspec.id}", found.count)


def _ones(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
    return torch.ones(len(seeds), n, device=seeds.device)
