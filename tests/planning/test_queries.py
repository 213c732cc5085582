"""What networks answer beside plans: from what they are asked by, and from nothing else."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffplan.model.context import Context
from diffplan.planning.queries import answers_of

Make = Callable[..., Any]


@pytest.mark.parametrize("name", ["multi-task", "streams"])
def test_what_leads_along_states_depends_on_neither_goal_nor_return(
    name: str, models: Make
) -> None:
    model = models(name)
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state, x, noise = normal(3, 4), *(normal(3, model.rows, model.plan_dim) for _ in range(2))
    contexts = [Context(state, None, None)]
    contexts += [Context(state, normal(3, 2), normal(3)) for _ in range(2)]
    answers = answers_of(model)
    with torch.no_grad():
        first, *others = (answers.inverse_dynamics(context, x, noise) for context in contexts)
        # what to do without a plan depends on the goal
        acts = [answers.policy(context, noise) for context in contexts[1:]]
    assert all(torch.equal(other, first) for other in others)
    assert not torch.equal(*acts)


def test_heads_are_asked_of_plans_at_the_least_noise(models: Make) -> None:
    """Of a x, the mean of x_t at level 1."""
    model = models("multi-task")
    generator = torch.Generator().manual_seed(0)
    state, goal, x = (
        torch.randn(shape, generator=generator)
        for shape in ((3, 4), (3, 2), (3, model.rows, model.plan_dim))
    )
    heads, process = model.multi_task, model.plain_process
    context = Context(state, goal)
    with torch.no_grad():
        path, encoded = model.path_from(state), heads.encode(context)
        said = heads.tell(process, 1, process.a[1] * x, encoded, path, ("returns",))
        expected = heads.heads.value("returns", said["returns"]).squeeze(-1)
        torch.testing.assert_close(answers_of(model).evaluation(context, x), expected)


def test_where_actions_lead_depends_on_them_and_on_neither_goal_nor_return(models: Make) -> None:
    """Of heads whose actions are part of the forward process."""
    model = models("multi-task", heads__aggregation=0.5)
    generator, plan = torch.Generator().manual_seed(0), model.config.plan

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    state, noise = normal(3, 4), normal(3, model.rows, model.plan_dim)
    actions, others = normal(2, 3, plan.horizon, plan.stride, 2)
    blind, wishing = Context(state, None), Context(state, normal(3, 2), normal(3))
    answers = answers_of(model)
    with torch.no_grad():
        found = answers.forward_model(blind, actions, noise, 3)
        assert found.shape == noise.shape and found.isfinite().all()
        assert torch.equal(answers.forward_model(wishing, actions, noise, 3), found)
        assert not torch.allclose(answers.forward_model(blind, others, noise, 3), found)
