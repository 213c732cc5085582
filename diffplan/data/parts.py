"""Which states windows start from, and which episodes are held out."""

from __future__ import annotations

import torch
from torch import Tensor

from diffplan.data.drawing import held_out_of
from diffplan.data.info import DatasetInfo
from diffplan.data.rows import TaskRows
from diffplan.errors import DiffplanError


def of_tasks(tasks: Tensor | None, episodes: int) -> list[Tensor]:
    """The episodes [n] of each task [E] that has some; all of them without tasks."""
    if tasks is None:
        return [torch.arange(episodes)]
    return [(tasks == task).nonzero().flatten() for task in tasks.unique().tolist()]


# many arguments: what is known of the episodes
def held_out(
    counts: Tensor, tasks: Tensor | None, share: float, stride: int, seed: int, info: DatasetInfo
) -> Tensor:
    """Which episodes [E] are held out; none of a task if its others are all too short.

    counts: [E] their states. tasks: [E], None without. DiffplanError for a task whose episodes are
    all too short.
    """
    held = torch.zeros(len(counts), dtype=torch.bool)
    usable = counts > stride
    generator = torch.Generator().manual_seed(seed)
    for own in of_tasks(tasks, len(counts)):
        if tasks is not None and not usable[own].any():
            raise DiffplanError(
                f"task {info.tasks[int(tasks[own[0]])].name} of {info.id} has no episode of more "
                f"than {stride} states, the stride of the plans; leave it out or lower "
                "--plan.stride"
            )
        if len(own) > 1:
            order = own[torch.randperm(len(own), generator=generator)]
            held[order[: held_out_of(len(own), share)]] = True
        if not (usable & ~held)[own].any():
            held[own] = False
    return held


def split(
    starts: Tensor, counts: Tensor, held: Tensor, tasks: Tensor | None, stride: int
) -> dict[str, TaskRows]:
    """States from which at least one plan state follows, by held-out episodes.

    starts: [E+1] offsets of the episodes. "valued" holds all states of the training episodes,
    "starts" the first of each.
    """
    usable = counts - stride
    sizes = {
        "train": usable * ~held,
        "held-out": usable * held,
        "valued": counts * ~held,
        "starts": (~held).long(),
    }
    parts = {key: TaskRows(starts[:-1], size, tasks) for key, size in sizes.items()}
    if not len(parts["held-out"]):
        parts["held-out"] = parts["train"]
    return parts
