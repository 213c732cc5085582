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
