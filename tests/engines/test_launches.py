"""Decisions of every configuration can be captured, in no more launches than recorded."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.config.config import replace_planning
from diffplan.config.planners import CONFIGS
from diffplan.constraints import Limit
from diffplan.data.episodes import Episodes
from diffplan.engines import counter_rng
from diffplan.engines.decision import ActStep, PlanStep
from diffplan.engines.table import make_engine
from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec
from diffplan.planning.wishes import Wishes

Make = Callable[..., Any]
META = torch.device("meta")
_ROWS = 5

# with rewards, or with one candidate, a decision does less; but where it does otherwise
_LARGE = "trajectory-diffuser-published"
CASES: list[tuple[str, bool, int, dict[str, Any]]] = [
    (name, False, 3, {"plan.horizon": 2} if name == _LARGE else {}) for name in CONFIGS
]
CASES += [
    (name, rewards, candidates, {})
    for name in ("trajectory-diffuser", "multi-task", "streams")
    for rewards, candidates in ((False, 1), (True, 1), (True, 3))
]
CASES += [
    ("trajectory-diffuser", False, 1, {"planning.reuse": True, "planning.replan_every": 2}),
    ("trajectory-diffuser", False, 3, {"planning.select": "softmax", "planning.eta": 0.5}),
    ("trajectory-diffuser", False, 3, {"planning.start": "sdedit", "planning.start_level": 2}),
    ("trajectory-diffuser", True, 3, {"proposer.kind": "gru", "denoiser.network": "unet"}),
    ("trajectory-diffuser", False, 1, {"plan.columns": "goal", "plan.space": "absolute"}),
    ("multi-task", True, 3, {"heads.aggregation": 0.5, "plan.space": "absolute"}),
]


@pytest.fixture
def one_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random numbers as the kernels draw them."""

    def drawn(seeds: Tensor, counts: Tensor, n: int) -> Tensor:
        return torch.ones(len(seeds), n, device=seeds.device)

    kernels = SimpleNamespace(uniform=drawn, standard_normal=drawn)
    monkeypatch.setattr(counter_rng, "_fused", lambda device: kernels)


def model_of(config: Any, episodes: Episodes) -> PlannerModel:
    """Without data: only shapes matter."""
    landmarks = 5 if episodes.layout.goal_dim else 0
    return PlannerModel(ModelSpec.of(episodes, config, landmarks), config).eval().to(META)


def label(name: str, rewards: bool, candidates: int, changes: dict[str, Any]) -> str:
    said = [f"{key}={value}" for key, value in changes.items()]
    return " ".join([name, "rewards" if rewards else "goals", f"K={candidates}", *said])


@pytest.mark.usefixtures("one_launch")
@pytest.mark.parametrize("case", CASES, ids=lambda case: label(*case))
def test_a_decision_waits_for_nothing_and_keeps_to_its_launches(
    case: tuple[str, bool, int, dict[str, Any]],
    tiny_episodes: Episodes,
    tiny_goal_episodes: Episodes,
    tiny_config: Make,
    launches: Make,
    within_budget: Make,
) -> None:
    name, rewards, candidates, changes = case
    episodes = tiny_episodes if rewards else tiny_goal_episodes
    model = model_of(tiny_config(name, changes), episodes)
    settings = replace_planning(model.config, candidates=candidates).planning
    if settings.value_guidance:
        with pytest.raises(DiffplanError, match="cuda-graph cannot take gradients"):
            make_engine("cuda-graph", model, settings)
        return
    count = planned(PlanStep(model, settings), launches)
    if settings.reuse:
        count += planned(PlanStep(model, settings, reuse=True), launches)
    if not model.config.actions_in_plan:
        act = ActStep(model)
        count += asked(lambda: act(*act.example(_ROWS)), launches)
    within_budget("decision", label(*case), count)


def planned(step: PlanStep, launches: Make) -> int:
    numbers = torch.zeros(_ROWS, dtype=torch.long, device=META)
    context = step.context(_ROWS)
    return asked(lambda: step(context, step.draw(numbers, numbers)), launches)


def asked(call: Callable[[], Any], launches: Make) -> int:
    """Launches of a call, after one that made what stays, as before a capture."""
    with torch.inference_mode():
        call()
        with launches() as found:
            call()
    count: int = found.count
    return count


@pytest.mark.usefixtures("one_launch")
def test_rejecting_plans_is_captured_too(
    tiny_goal_episodes: Episodes, tiny_config: Make, launches: Make, within_budget: Make
) -> None:
    model = model_of(tiny_config(), tiny_goal_episodes)
    settings = replace_planning(model.config, candidates=3).planning
    wishes = Wishes((Limit(0, high=1.0),), "reject")
    count = planned(PlanStep(model, settings, steering=wishes), launches)
    within_budget("decision", "constrained by rejection", count)


def test_a_goal_is_held_without_a_copy(
    tiny_goal_episodes: Episodes, tiny_config: Make, launches: Make
) -> None:
    model = model_of(tiny_config("diffuser", {"plan.pin_goal": True}), tiny_goal_episodes)
    with launches():
        assert model.held() is not None


def test_numbers_without_kernels_wait_for_nothing_either(
    launches: Make, within_budget: Make
) -> None:
    numbers = torch.zeros(_ROWS, dtype=torch.long, device=META)
    with launches() as found:
        counter_rng.standard_normal(numbers, numbers, 7)
    within_budget("numbers", "standard normal, in plain tensors", found.count)


def test_a_wait_and_a_copy_are_noticed(launches: Make) -> None:
    x = torch.zeros(3, device=META)
    for spoils in (lambda: x + torch.ones(3), lambda: x[[0, 2]], lambda: torch.zeros(2).to(META)):
        with pytest.raises(AssertionError, match="copies"), launches():
            spoils()
    for spoils in (lambda: bool(x[0]), x.nonzero, lambda: x[x > 0], x.cpu):
        with pytest.raises((NotImplementedError, RuntimeError)), launches():
            spoils()
