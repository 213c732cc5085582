"""Rows of a plan: a batch is its rows, and none sees another."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from diffplan.config.config import replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.chains import chain_of
from diffplan.planning.stages import Noise, NormalisedPlan, make_plan

Make = Callable[..., Any]


def planning(model: PlannerModel, **changes: Any) -> PlanningConfig:
    """The model's settings with changes, checked as a user's would be."""
    clip = {"clip": changes.pop("clip")} if "clip" in changes else {}
    config = replace_planning(model.config, **changes)
    return dataclasses.replace(config.planning, **clip)


def assert_same(one: NormalisedPlan, other: NormalisedPlan, **tolerance: float) -> None:
    for field in dataclasses.fields(NormalisedPlan):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a is not None:
            torch.testing.assert_close(a, b, **tolerance)


WHOLE: list[tuple[str, dict[str, Any]]] = [
    ("trajectory-diffuser", {"candidates": 3, "denoising_steps": 2}),
    ("trajectory-diffuser", {"candidates": 2, "start": "noise", "denoising_steps": 2, "eta": 0.5}),
    ("trajectory-diffuser", {"start": "sdedit", "start_level": 9, "guidance_weight": 2.0}),
    ("trajectory-diffuser-published", {"candidates": 4}),
    ("proposer-only", {"candidates": 3}),
]


def some_rows(noise: Noise, rows: Any) -> Noise:
    steps = None if noise.steps is None else noise.steps[:, rows]
    return Noise(noise.propose[rows], noise.start[rows], steps, noise.select[rows])


@pytest.mark.parametrize(("name", "changes"), WHOLE)
@pytest.mark.parametrize("rewards", [True, False])
def test_a_batch_of_plans_is_its_rows(
    models: Make, plan_inputs: Make, name: str, changes: dict[str, Any], rewards: bool
) -> None:
    model = models(name, rewards=rewards)
    options = planning(model, **changes)
    context, noise = plan_inputs(model, options, rows=4)
    together = make_plan(model, context, noise, options, chain_of(model, options))
    for row in range(4):
        alone = make_plan(
            model, context.rows([row]), some_rows(noise, [row]), options, chain_of(model, options)
        )
        ours = NormalisedPlan(
            *(
                None if value is None else value[row : row + 1]
                for value in (getattr(together, f.name) for f in dataclasses.fields(NormalisedPlan))
            )
        )
        assert_same(ours, alone, atol=2e-5, rtol=2e-5)


@settings(max_examples=15)
@given(
    data=st.data(),
    which=st.sampled_from(range(len(WHOLE))),
    rows=st.integers(2, 5),
    size=st.sampled_from([0.1, 1.0, 1e3]),
)
def test_no_row_depends_on_the_others(
    models: Make, plan_inputs: Make, data: st.DataObject, which: int, rows: int, size: float
) -> None:
    name, changes = WHOLE[which]
    model = models(name, rewards=True)
    options = planning(model, **changes)
    keep = data.draw(st.integers(0, rows - 1))
    one_context, one_noise = plan_inputs(model, options, rows, seed=1)
    two_context, two_noise = plan_inputs(model, options, rows, seed=2, size=size)
    mask = torch.arange(rows) == keep
    index = torch.where(mask, torch.arange(rows), torch.arange(rows) + rows)

    def both(a: Tensor, b: Tensor, dim: int = 0) -> Tensor:
        return torch.cat([a, b], dim).index_select(dim, index)

    assert one_noise.steps is not None and two_noise.steps is not None
    mixed_context = Context(
        both(one_context.state, two_context.state),
        None,
        None
        if one_context.target_return is None
        else both(one_context.target_return, two_context.target_return),
    )
    mixed_noise = Noise(
        both(one_noise.propose, two_noise.propose),
        both(one_noise.start, two_noise.start),
        both(one_noise.steps, two_noise.steps, 1),
        both(one_noise.select, two_noise.select),
    )
    before = make_plan(model, one_context, one_noise, options, chain_of(model, options))
    after = make_plan(model, mixed_context, mixed_noise, options, chain_of(model, options))
    assert torch.equal(before.states[keep], after.states[keep])
    assert torch.equal(before.candidates[keep], after.candidates[keep])
    assert torch.equal(before.values[keep], after.values[keep])
    other = (keep + 1) % rows
    assert not torch.equal(before.states[other], after.states[other])


@pytest.mark.parametrize("sampler", sorted(set(SAMPLERS) - {"dpm-solver-v3"}))
@pytest.mark.parametrize("guidance_weight", [1.0, 1.5])
def test_every_sampler_refines_proposals(
    sampler: str, guidance_weight: float, models: Make, plan_inputs: Make
) -> None:
    """Also those that ask about levels between the grid's."""
    model = models()
    options = planning(
        model,
        sampler=sampler,
        start="sdedit",
        start_level=10,
        denoising_steps=5,
        guidance_weight=guidance_weight,
    )
    context, noise = plan_inputs(model, options)
    found = make_plan(model, context, noise, options, chain_of(model, options))
    assert found.states.isfinite().all()
    one = planning(model, start="sdedit", start_level=10, denoising_steps=5)
    assert (sampler == "ddim" and guidance_weight == 1.0) == torch.equal(
        found.states, make_plan(model, context, noise, one, chain_of(model, one)).states
    )


def test_a_plan_is_a_pure_function(models: Make, plan_inputs: Make) -> None:
    model = models()
    options = planning(model, candidates=3, denoising_steps=3, sampler="ancestral")
    context, noise = plan_inputs(model, options)
    kept = [t.clone() for t in (context.state, noise.propose, noise.start, noise.steps)]
    torch.manual_seed(1)
    one = make_plan(model, context, noise, options, chain_of(model, options))
    torch.manual_seed(2)
    assert_same(
        one, make_plan(model, context, noise, options, chain_of(model, options)), atol=0, rtol=0
    )
    for before, after in zip(
        kept, (context.state, noise.propose, noise.start, noise.steps), strict=True
    ):
        assert torch.equal(before, after)
