"""Small building blocks shared by the networks: sinusoidal embeddings and plain MLPs."""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from diffplan.errors import DiffplanError


def sinusoidal(values: Tensor, dim: int, max_period: float = 10_000.0) -> Tensor:
    """Sines and cosines of `values` [...] at `dim / 2` geometric frequencies: [..., dim].

    Vaswani et al. 2017, section 3.5; computed in float32 whatever the dtype of `values`.
    """
    if dim < 2 or dim % 2:
        raise DiffplanError(f"a sinusoidal embedding needs an even size of 2 or more, got {dim}")
    half = dim // 2
    steps = torch.arange(half, device=values.device, dtype=torch.float32)
    angles = values.float().unsqueeze(-1) * torch.exp(steps * (-math.log(max_period) / half))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


_GOAL_FREQUENCIES = (1.5, 3.0, 6.0)  # radians per normalised unit: from the whole space to a wall


def goal_features(state: Tensor, goal: Tensor, columns: Sequence[int]) -> Tensor:
    """Features of where a state is and where it should be: [..., goal_feature_size(G)].

    state [..., D] and goal [..., G], normalised; columns: where the state holds the achieved goal.
    The goal, the way to it, and sines and cosines of both places: a plain MLP smooths over walls,
    whose effect changes within a fraction of the space (Tancik et al. 2020, arXiv 2006.10739).
    """
    place = state[..., list(columns)]
    both = torch.cat([place, goal], dim=-1)
    waves = [both * frequency for frequency in _GOAL_FREQUENCIES]
    angles = torch.cat(waves, dim=-1)
    return torch.cat([goal, goal - place, angles.sin(), angles.cos()], dim=-1)


def goal_feature_size(goal_dim: int) -> int:
    """Columns of `goal_features` for goals of `goal_dim` columns."""
    return goal_dim * (2 + 4 * len(_GOAL_FREQUENCIES))


def mlp(
    input_dim: int,
    hidden: Sequence[int],
    output_dim: int,
    *,
    activation: Callable[[], nn.Module] = nn.SiLU,
    zero_last: bool = False,
) -> nn.Sequential:
    """Linear layers with `activation` between them; `zero_last` makes the initial output zero."""
    layers: list[nn.Module] = []
    size = input_dim
    for width in hidden:
        layers += [nn.Linear(size, width), activation()]
        size = width
    last = nn.Linear(size, output_dim)
    if zero_last:
        zero_(last)
    return nn.Sequential(*layers, last)


def zero_(layer: nn.Linear | nn.Conv1d) -> None:
    """Set weight and bias of `layer` to zero, in place."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
