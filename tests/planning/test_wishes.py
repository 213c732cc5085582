"""Ways to meet constraints: exact where they say so, right on Gaussians, free where unused."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from diffplan.constraints import Avoid, Custom, Disc, Limit
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.grids import consecutive_grid, time_grid
from diffplan.diffusion.processes import PROCESSES
from diffplan.engines.decision import PlanStep
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.stages import Guided
from diffplan.planning.walks import particles, resampled
from diffplan.planning.wanted import Wanted
from diffplan.planning.wishes import Wishes

Make = Callable[..., Any]


def ahead(model: PlannerModel, rows: int = 3) -> tuple[Any, Limit]:
    """What plans are made for, and a bound that the plans of these weights break."""
    step = PlanStep(model, model.config.planning)
    context = dataclasses.replace(step.context(rows), clock=torch.zeros(rows))
    states = step(context, step.draw(torch.arange(rows), torch.zeros(rows).long())).states
    return context, Limit(0, high=float(states[:, 1:, 0].detach().median()))


def planned(model: PlannerModel, context: Any, wishes: Wishes, **settings: Any) -> Any:
    own = dataclasses.replace(model.config.planning, **settings)
    step = PlanStep(model, own, steering=wishes)
    numbers = torch.arange(len(context))
    with torch.no_grad():
        return step(context, step.draw(numbers, torch.zeros_like(numbers)))


def test_projected_plans_keep_to_what_can_be_kept(models: Make) -> None:
    model = models()
    context, bound = ahead(model)
    free = planned(model, context, Wishes((bound,), "reject"))
    kept = planned(model, context, Wishes((bound,), "project"))
    assert float(free.violations.max()) > 1e-2
    assert float(kept.violations.max()) < 1e-5
    # the state that plans begin in is no wish
    torch.testing.assert_close(kept.states[:, 0], free.states[:, 0])


def test_an_optimised_proposal_comes_nearer(models: Make) -> None:
    model = models()
    context, bound = ahead(model)
    steps = model.main_process.T
    free, kept = (
        planned(model, context, Wishes((bound,), "red-diff", weight), denoising_steps=steps)
        for weight in (0.0, 1.0)
    )
    assert float(kept.violations.sum()) < 0.9 * float(free.violations.sum())


# the steps of one have a fixed length: many of them, and short ones
@pytest.mark.parametrize(("way", "steps", "weight"), [("pigdm", 25, 1.0), ("dps", 100, 0.1)])
def test_gradients_through_the_denoiser_know_what_goes_together(
    way: Any, steps: int, weight: float
) -> None:
    """Of two columns that are nearly one, the other follows what one of them is asked to be.

    A Gaussian prior of unit variances and correlation .9; the posterior mean at (1, .9).
    """
    process = PROCESSES["ddpm"](torch.linspace(1e-3, 0.12, 100).tolist())
    cov = torch.tensor([[1.0, 0.9], [0.9, 1.0]])

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t]
        return x @ (a * cov @ torch.linalg.inv(a * a * cov + sigma * sigma * torch.eye(2))).T

    class OneColumn(Wanted):
        def __init__(self) -> None:
            self.way, self.weight = way, weight

        def gap(self, x: Tensor) -> Tensor:
            return torch.stack([1 - x[..., 0], torch.zeros_like(x[..., 1])], -1)

        def off(self, x: Tensor) -> Tensor:
            return (x[:, 0, 0] - 1).abs()

    grid = time_grid(process.T, steps)
    x = torch.zeros(1, 1, 2)
    free = ddim(denoise, process, grid, x)
    kept = ddim(OneColumn().steered(denoise, process, grid), process, grid, x)[0, 0]
    torch.testing.assert_close(free, torch.zeros_like(free))
    assert abs(float(kept[0]) - 1) < 0.2
    assert abs(float(kept[1]) - 0.9) < 0.2


def test_a_differentiable_cost_is_stepped_down_and_a_black_box_chooses(models: Make) -> None:
    model = models()
    context, bound = ahead(model)
    cost = Custom(lambda states: states[..., 0] - bound.high)
    kept = planned(model, context, Wishes((cost,), "project"))
    assert float(kept.violations.max()) < 1e-4
    black = Custom(lambda states: states[..., 0] - bound.high, differentiable=False)
    one = planned(model, context, Wishes((black,), "reject"))
    of_many = planned(model, context, Wishes((black,), "reject"), candidates=32, temperature=2.0)
    assert float(of_many.violations.sum()) < float(one.violations.sum())


def test_rows_do_not_know_each_other(models: Make) -> None:
    model = models()
    context, bound = ahead(model)
    for way in ("project", "smc", "smc-gradient", "dps"):
        wishes = Wishes((bound, Avoid(Disc((0.0, 0.0), 0.5))), way)  # type: ignore[arg-type]
        # of one step no particle is drawn again
        settings = {"candidates": 4, "denoising_steps": 3, "eta": 1.0 if "smc" in way else 0.0}
        together = planned(model, context, wishes, **settings)
        alone = planned(model, context.rows(slice(0, 1)), wishes, **settings)
        torch.testing.assert_close(together.states[:1], alone.states, rtol=1e-4, atol=1e-5)


def test_a_plan_of_which_nothing_is_asked_costs_nothing(models: Make) -> None:
    model = models()
    step = PlanStep(model, model.config.planning)
    assert step.fields == ("states", "first")
    assert step.context(2).clock is None


@pytest.mark.parametrize("steered", [False, True])
def test_particles_find_the_posterior_of_two_modes(steered: bool) -> None:
    """A prior of two modes and a Gaussian likelihood: mean and variance are known exactly.

    0.5 N(-1, .2) + 0.5 N(1, .2) times exp(-(x - .8)^2 / (2 * .5)).
    """
    process = PROCESSES["ddpm"](torch.linspace(1e-3, 0.12, 100).tolist())
    means, variance, seen, noise = torch.tensor([-1.0, 1.0]), 0.2, 0.8, 0.5
    grid, count = consecutive_grid(process.T), 4000

    def denoise(x: Tensor, t: int) -> Tensor:
        a, sigma = process.a[t], process.sigma[t]
        spread = a * a * variance + sigma * sigma
        share = torch.softmax(-((x - a * means) ** 2) / (2 * spread), -1)
        return (share * (means + variance * a / spread * (x - a * means))).sum(-1, keepdim=True)

    def guided_of(index: Tensor | None) -> Guided:
        return Guided(denoise, None, None, None, {})

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 1, 1, generator=generator)
    steps = torch.randn(process.T, count, 1, 1, generator=generator)
    found, _ = particles(
        *(guided_of, guided_of(None), process, grid, x, steps, 1.0),
        potential=lambda x0: (x0[:, 0, 0] - seen) ** 2 / (2 * noise),
        k=count,
        steered=steered,
    )
    line = torch.linspace(-4, 4, 4001)
    density = torch.stack([torch.exp(-((line - m) ** 2) / (2 * variance)) for m in means]).sum(0)
    density = density * torch.exp(-((line - seen) ** 2) / (2 * noise))
    density = density / density.sum()
    mean = float((density * line).sum())
    spread = float((density * (line - mean) ** 2).sum())
    assert abs(float(found.mean()) - mean) < 0.08
    assert abs(float(found.var()) - spread) < 0.08
    # unweighed, both modes would be as likely
    assert mean > 0.5


def test_resampling_keeps_what_counts() -> None:
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0], [5.0, 0.0, 0.0, 0.0]])
    index, poor = resampled(logits)
    assert poor.tolist() == [False, True]
    assert index[0].tolist() == [0, 1, 2, 3]
    assert index[1].tolist() == [0, 0, 0, 0]
