"""What a denoiser with heads says about given plans: one pass where there is hardly any noise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from diffplan.streams import schedule

if TYPE_CHECKING:
    from diffplan.model import PlannerModel
    from diffplan.selection import Context


def read_return(model: PlannerModel, context: Context, x: Tensor) -> Tensor:
    """Mean return-to-go [B] of plan tensors x [B, rows, D] of streams, given states and actions.

    What x holds of a return is not looked at.
    """
    streams, process = model.streams, model.plain_process
    assert streams is not None
    levels = schedule(process, 1, states=0, actions=0, returns=(process.T, 0))
    told = streams.columns.returns
    x = torch.cat([x[..., : told.start], torch.zeros_like(x[..., told])], -1)
    encoded = streams.encoder(model.condition(context.state, context.goal, None))
    time = streams.schedule_features(process, levels)
    found = streams.sample(process, levels, x, encoded, time, None)
    return found[..., told].mean((1, 2))


_LEVEL = 1  # of the plain process: the least noise that the network knows


def read_plans(
    model: PlannerModel, context: Context, x: Tensor, known: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Raw outputs of the heads for plan tensors x [B, rows, D], whatever return was asked for.

    known: data of modalities that are given, see `heads.Modality`; they count where the model
    aggregates them.
    """
    denoiser, process = model.denoiser, model.plain_process
    assert denoiser is not None and denoiser.heads is not None
    condition = model.condition(context.state, context.goal, context.returns)
    everything = torch.ones(len(x), dtype=torch.bool, device=x.device)
    encoded = denoiser.encode(condition, {"returns": everything})
    told: dict[str, Tensor] = {}
    denoise = denoiser.bind(process, (_LEVEL, 0), encoded, known=known, decoded=told)
    denoise(process.a[_LEVEL] * x, _LEVEL)
    return told
