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
_HOLD_FREQUENCIES = (4.0, 12.0)  # finer: what is held is held to a fraction of its size
_THERE = 0.1  # normalised units: so far off, a thing is half on its way


Asked = Callable[[Tensor, Tensor], tuple[Tensor, ...]]
"""`GoalFeatures.asked` of a model."""


class GoalFeatures(nn.Module):
    """Features of where a state is and where it should be.

    weight: buffer [N, D], offset: [N], of what holds things (`diffplan.data.things`), on normalised
    states.
    """

    weight: Tensor
    offset: Tensor
    members: Tensor
    holders: Tensor
    held: Tensor

    def __init__(
        self,
        state_dim: int,
        columns: Sequence[int],
        things: Sequence[int] = (),
        holds: Sequence[tuple[int, int]] = (),
    ) -> None:
        """columns: [G], where the state holds the achieved goal, () without a goal.

        things: [G] the thing of each, negative for none; () where nothing has to be fetched.
        holds: [N] things and columns of the state that take part in moving them.
        """
        super().__init__()
        self.columns = tuple(columns)
        self.thing_count, self.hold_count = max(things, default=-1) + 1, len(holds)
        if not self.thing_count:
            return
        every = range(self.thing_count)
        members = [[float(thing == other) for thing in every] for other in things]
        # follow from the arguments alone, so no weights to save
        self.register_buffer("members", torch.tensor(members), persistent=False)
        if not holds:
            return
        self.register_buffer("weight", torch.zeros(len(holds), state_dim))
        self.register_buffer("offset", torch.zeros(len(holds)))
        taking = dict.fromkeys(column for _, column in holds)
        holders = [[float(thing == other) for other, _ in holds] for thing in every]
        self.register_buffer("holders", torch.tensor(holders), persistent=False)
        held = [[float(column == each) for each in taking] for _, column in holds]
        self.register_buffer("held", torch.tensor(held), persistent=False)

    def fit(self, weight: Tensor, offset: Tensor) -> None:
        """Take over what holds things, on normalised states."""
        if self.hold_count:
            self.weight.copy_(weight)
            self.offset.copy_(offset)

    @property
    def size(self) -> int:
        """Columns F of the features."""
        more = self.thing_count + self.hold_count
        if self.hold_count:
            more += (2 + 2 * len(_HOLD_FREQUENCIES)) * self.held.shape[1]
        return len(self.columns) * (2 + 4 * len(_GOAL_FREQUENCIES)) + more

    def forward(self, state: Tensor, goal: Tensor) -> Tensor:
        """state [..., D] and goal [..., G], normalised -> [..., F].

        The goal, the way to it, and sines and cosines of both places: a plain MLP smooths over
        walls, whose effect changes within a fraction of the space (Tancik et al. 2020, arXiv
        2006.10739). And `asked`.
        """
        place = chosen_columns(state, self.columns)
        way, angles = goal - place, _angles(place, goal)
        return torch.cat([goal, way, angles.sin(), angles.cos(), *self.asked(state, way)], dim=-1)

    def asked(self, state: Tensor, way: Tensor) -> tuple[Tensor, ...]:
        """Which things have a way to go, and how far off is what holds them: parts of features.

        state [..., D] and way [..., G], normalised. Of the things that have to go somewhere, how
        far off it is comes finely, too: which one is meant is a product, which an MLP learns slowly
        and only where data are, and a hand that is a finger's breadth off grasps nothing.
        """
        if not self.thing_count:
            return ()
        goes = _share(way.square() @ self.members)
        if not self.hold_count:
            return (goes,)
        # a sum, not a product: products are rounded where training is in bfloat16
        off = (state.unsqueeze(-2) * self.weight).sum(-1) + self.offset
        angles = [off * frequency for frequency in _HOLD_FREQUENCIES]
        every = [off, _share(off.square()), *(f(x) for x in angles for f in (torch.sin, torch.cos))]
        # of all things together: one is seen to at a time
        told = torch.stack(every, -2) * (goes @ self.holders).unsqueeze(-2)
        return goes, off, (told @ self.held).flatten(-2)


def _share(square: Tensor) -> Tensor:
    """A squared distance as a share of 1: 0 there, one half at `_THERE`."""
    return square / (square + _THERE**2)


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
    """`GoalFeatures` of many states [B, D] for one goal [B, G] each, in few operations."""

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

    def bind(self, goal: Tensor, asked: Asked) -> Callable[[Tensor], tuple[Tensor, ...]]:
        """State [B, D] -> the features of it and `goal`, in the parts that make them up.

        asked: that of the `GoalFeatures`.
        """
        # what the goal decides is taken once per plan
        of_goal = _angles(torch.zeros_like(goal), goal)

        def features(state: Tensor) -> tuple[Tensor, ...]:
            angles = torch.addmm(of_goal, state, self.angles)
            way = torch.addmm(goal, state, self.way)
            return goal, way, angles.sin(), angles.cos(), *asked(state, way)

        return features


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
