"""Updates of every configuration can be captured, in no more launches than recorded."""

import contextlib
import dataclasses
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from diffplan.config.planners import CONFIGS
from diffplan.data import windows
from diffplan.data.combine import combine
from diffplan.data.episodes import Episodes
from diffplan.training.graph import CapturedUpdate, why_not
from diffplan.training.learner import Learner

Make = Callable[..., Any]
META = torch.device("meta")

# these differ from the default by the tables of their process alone
_LARGE = "trajectory-diffuser-published"
_ALIKE = ("resfusion", "rectified-flow", "diffuse-vae", "conditioned", "interpolant")
CASES: list[tuple[str, bool, dict[str, Any]]] = [
    (name, False, {"plan.horizon": 2} if name == _LARGE else {})
    for name in CONFIGS
    if name not in _ALIKE
]
CASES += [(name, True, {}) for name in ("trajectory-diffuser", "multi-task", "streams", "diffuser")]
CASES += [
    ("proposer-only", True, {"data.tasks": "prompt"}),
    ("trajectory-diffuser", False, {"plan.columns": "goal", "heads.value": "bootstrapped"}),
    ("trajectory-diffuser", True, {"proposer.kind": "gru", "data.best_of_windows": 4}),
    ("interpolant", False, {"denoiser.prediction": "velocity", "proposer.kind": "one-shot"}),
]


class Generator(torch.Generator):
    """One of the host that says it is a GPU's."""

    there: torch.device

    def __new__(cls, device: Any = "cpu") -> "Generator":
        made = super().__new__(cls)
        made.there = torch.device(device)
        return made

    def __init__(self, device: Any = "cpu") -> None:
        super().__init__()

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return self.there


class Optimiser:
    """Adam fused to one launch, which meta tensors do not have."""

    def __init__(self, parameters: list[torch.Tensor], lr: Any, **options: Any) -> None:
        self.param_groups: list[dict[str, Any]] = [{"params": parameters, "lr": lr}]

    def zero_grad(self, set_to_none: bool) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.grad.zero_()

    @torch.no_grad()
    def step(self) -> None:
        for parameter in self.param_groups[0]["params"]:
            parameter.add_(parameter.grad)


def label(name: str, rewards: bool, changes: dict[str, Any]) -> str:
    said = [f"{key}={value}" for key, value in changes.items()]
    return " ".join([name, "rewards" if rewards else "goals", *said])


@pytest.mark.parametrize("case", CASES, ids=lambda case: label(*case))
def test_an_update_waits_for_nothing_and_keeps_to_its_launches(
    case: tuple[str, bool, dict[str, Any]],
    tiny_episodes: Episodes,
    tiny_goal_episodes: Episodes,
    tiny_config: Make,
    launches: Make,
    within_budget: Make,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name, rewards, changes = case
    monkeypatch.setattr(torch, "Generator", Generator)
    # not made for meta tensors with a generator
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda x, generator: x.fill_(1.0))
    monkeypatch.setattr(torch, "autocast", lambda *a, **k: contextlib.nullcontext())
    monkeypatch.setattr(torch.optim, "AdamW", Optimiser)
    monkeypatch.setattr(windows, "fits", lambda size, device: True)
    episodes = tiny_episodes if rewards else tiny_goal_episodes
    if "data.tasks" in changes:
        parts = [
            dataclasses.replace(episodes, info=dataclasses.replace(episodes.info, id=task))
            for task in ("one", "other")
        ]
        episodes = combine(parts, "two")
    there = SimpleNamespace(
        device=META, process_index=0, num_processes=1, prepare=lambda module, **_: module
    )
    learner = Learner(episodes, tiny_config(name, changes), 0, there)
    assert learner.sampler.device == learner.generator.device == META
    learner.prepare()
    learner.update(0)  # the first are called before one is captured, and make what stays
    with launches() as found:
        losses = learner.update(1)
    assert losses and all(loss.device == META for loss in losses.values())
    within_budget("update", label(*case), found.count)


@pytest.mark.cuda
@pytest.mark.filterwarnings("error:no CUDA graph")
def test_a_replayed_update_does_what_a_called_one_does(
    tiny_goal_episodes: Episodes, tiny_config: Make
) -> None:
    AcceleratorState._reset_state(reset_partial_state=True)  # other tests train on the CPU
    found = []
    for captured in (True, False):
        torch.manual_seed(0)  # of the networks
        learner = Learner(tiny_goal_episodes, tiny_config(), 0, Accelerator())
        assert learner.sampler.device.type == "cuda"
        if not captured:
            learner._captured = None
        learner.prepare()
        losses = [learner.update(step) for step in range(8)]
        average = torch.cat([p.flatten() for p in learner.average.module.parameters()])
        assert (learner._captured is not None and learner._captured._graph is not None) == captured
        found.append((losses[-1]["denoiser"], learner.weights.vector, average))
        found[-1] += (learner.generator.get_state(),)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


def test_what_is_not_captured_says_why() -> None:
    gpu, host = torch.device("cuda"), torch.device("cpu")
    assert why_not(gpu, gpu, 1) is None and why_not(host, host, 1) == ""
    assert "do not fit" in str(why_not(gpu, host, 1))
    assert "2 processes" in str(why_not(gpu, gpu, 2))


@pytest.mark.cuda
def test_what_cannot_be_captured_goes_on_drawing() -> None:
    """A capture that fails leaves generators in the middle of it."""
    device = torch.device("cuda", torch.cuda.current_device())
    generator = torch.Generator(device).manual_seed(3)

    def update() -> torch.Tensor:
        drawn = torch.rand(4, device=device, generator=generator) + torch.rand(4, device=device)
        return drawn * float(drawn.sum())  # waits for the device

    def draw(call: Callable[[], torch.Tensor]) -> list[torch.Tensor]:
        generator.manual_seed(3)
        torch.manual_seed(4)
        return [call().clone() for _ in range(6)]

    expected = draw(update)
    with pytest.warns(UserWarning, match="updates are called one by one"):
        found = draw(CapturedUpdate(update, [generator], device))
    assert torch.equal(torch.stack(found), torch.stack(expected))
