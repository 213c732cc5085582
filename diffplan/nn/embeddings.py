"""Small building blocks shared by the networks: sinusoidal embeddings and plain MLPs."""

import math
from collections.abc import Callable, Sequence
from functools import cache

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
    # in bfloat16 neighbouring levels would have the same angles
    angles = values.float().unsqueeze(-1) * torch.exp(steps * (-math.log(max_period) / half))
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


@cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Numbers [n] as float32 on the device, copied there once: a CUDA graph may hold no copy.

    And kept: it reads them for as long as it lives.
    """
    # kept for every later plan, also for one that is differentiated
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)


_GOAL_FREQUENCIES = (1.5, 3.0, 6.0)  # radians per normalised unit: from the whole space to a wall


def goal_features(state: Tensor, goal: Tensor, columns: Sequence[int]) -> Tensor:
    """Features of where a state is and where it should be: [..., goal_feature_size(G)].

    state [..., D] and goal [..., G], normalised; columns: where the state holds the achieved goal.
    The goal, the way to it, and sines and cosines of both places: a plain MLP smooths over walls,
    whose effect changes within a fraction of the space (Tancik et al. 2020, arXiv 2006.10739).
    """
    place = chosen_columns(state, columns)
    angles = _angles(place, goal)
    return torch.cat([goal, goal - place, angles.sin(), angles.cos()], dim=-1)


def _angles(place: Tensor, goal: Tensor) -> Tensor:
    return angles_of(torch.cat([place, goal], dim=-1))


def angles_of(place: Tensor) -> Tensor:
    """The places [..., G] at all frequencies [..., 3 G], in radians."""
    return torch.cat([place * frequency for frequency in _GOAL_FREQUENCIES], dim=-1)


def chosen_columns(values: Tensor, columns: Sequence[int]) -> Tensor:
    """values[..., columns] without an index tensor, which would have to cross to the device."""
    first = columns[0]
    if list(columns) == list(range(first, first + len(columns))):
        return values[..., first : first + len(columns)]
    return torch.stack([values[..., column] for column in columns], dim=-1)


class GoalMap(nn.Module):
    """`goal_features` of many states [B, D] for one goal [B, G] each, in few operations."""

    way: Tensor
    angles: Tensor

    def __init__(self, state_dim: int, columns: Sequence[int]) -> None:
        super().__init__()
        place = chosen_columns(torch.eye(state_dim), columns)
        # follow from the columns alone, so no weights to save
        self.register_buffer("way", -place, persistent=False)
        # angles are linear in state and goal
        angles = _angles(place, torch.zeros_like(place))
        self.register_buffer("angles", angles, persistent=False)

    def bind(self, goal: Tensor) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """State [B, D] -> the features of it and `goal`, in the parts that make them up."""
        # what the goal decides is taken once per plan
        of_goal = _angles(torch.zeros_like(goal), goal)

        def features(state: Tensor) -> tuple[Tensor, ...]:
            angles = torch.addmm(of_goal, state, self.angles)
            return goal, torch.addmm(goal, state, self.way), angles.sin(), angles.cos()

        return features


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
