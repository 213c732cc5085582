"""Forward processes on tensors: what is drawn, what is to be predicted, where chains start."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from diffplan.diffusion.process import FAR, Process, noise_scale, target_row
from diffplan.errors import DiffplanError


@cache
def table(rows: tuple[tuple[float, ...], ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows of floats on the device, copied there once: a CUDA graph may hold no such copy.

    And kept: it reads them for as long as it lives.
    """
    with torch.inference_mode(False):
        return torch.tensor(rows, dtype=dtype).to(device)


def targets_at(
    process: Process,
    prediction: str,
    t: Tensor,
    x0: Tensor,
    proposal: Tensor | None,
    noise: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """What the network should give [B, H, D] at the levels t [B]; arguments as for `q_sample`."""
    if prediction == "x0":
        return x0
    # a table of all levels, indexed by row: rows of a batch have levels of their own
    rows = tuple(target_row(process, prediction, level) for level in range(process.T + 1))
    p, q, w = table(rows, x0.dtype, t.device)[t].reshape(-1, 3, 1, 1).unbind(1)
    target = p * x0 + w * noise_scale(process, scale) * noise
    if any(row[1] for row in rows):
        target = target + q * _required(proposal, f"prediction {prediction!r}")
    return target


# --- Drawing x_t ---------------------------------------------------------------------------------


def coefficients(process: Process, t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """(a, r, sigma) of the table indices `t` [B] (long), each [B, 1, 1] in `dtype`."""
    levels = table((process.a, process.r, process.sigma), dtype, t.device)
    a, r, sigma = levels[:, t].reshape(3, -1, 1, 1).unbind(0)
    return a, r, sigma


def q_sample(
    process: Process,
    t: Tensor,
    x0: Tensor,
    proposal: Tensor | None,
    noise: Tensor,
    scale: Tensor | None = None,
    aggregate: Tensor | None = None,
) -> Tensor:
    """Draw x_t given x0: [B, H, D] for one table index `t` [B] (long) per row.

    `proposal` [B, H, D] may be None where r = 0; `scale` is [H, D], used by scaled processes;
    `aggregate` is E [B, H, D], None where nothing is known.
    """
    a, r, sigma = coefficients(process, t, x0.dtype)
    x_t = a * x0 + sigma * noise_scale(process, scale) * noise
    if any(process.r):
        x_t = x_t + r * _required(proposal, f"process {process.name!r}")
    if process.c and aggregate is not None:
        c = table((process.c,), x0.dtype, t.device)[0, t].view(-1, 1, 1)
        x_t = x_t + c * aggregate
    return x_t


# --- Where the reverse chain starts --------------------------------------------------------------

Start = Callable[[Process, int, Tensor | None, Tensor, Tensor | None], Tensor]
"""(process, level, proposal [B, H, D] or None, noise [B, H, D], scale [H, D] or None) -> x."""


def start_process(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """The far end of the process, r_T x̂ + sigma_T scale eps: exact for every x0, as a_T = 0.

    Pure noise for DDPM (Ho et al. 2020, algorithm 2), x̂ plus scaled noise for RDDM (Liu et al.
    2024) and interpolants, x̂ / 2 plus noise for Resfusion, x̂ plus noise for DiffuseVAE.
    """
    if level != process.T or abs(process.a[level]) > FAR:
        raise DiffplanError(
            f"the 'process' start needs the last level of a process that ends with nothing of x0 "
            f"(a of at most {FAR}), got level {level} of {process.T} of {process.name!r} with "
            f"a = {process.a[level]:.2f}"
        )
    x = process.sigma[level] * noise_scale(process, scale) * noise
    if process.r[level]:
        # x̂ also stands for x0 in the little that an interpolant has of it
        mean = _required(proposal, f"process {process.name!r}")
        x = x + (process.r[level] + process.a[level]) * mean
    return x


def start_sdedit(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """The proposal noised to `level` (Meng et al. 2022, arXiv 2108.01073, section 3).

    For DDPM sqrt(abar) x̂ + sigma eps: exact if x̂ were x0, biased by sqrt(abar) (x̂ - x0) otherwise.
    """
    mean = _required(proposal, "the 'sdedit' start") * (process.a[level] + process.r[level])
    return mean + process.sigma[level] * noise_scale(process, scale) * noise


def start_raw(
    process: Process, level: int, proposal: Tensor | None, noise: Tensor, scale: Tensor | None
) -> Tensor:
    """The proposal itself, neither scaled nor noised: Trajectory Diffuser's released code.

    arXiv 2407.16142; the chain then sees less noise than its level announces.
    """
    return _required(proposal, "the 'raw' start")


STARTS: dict[str, Start] = {
    "process": start_process,
    "sdedit": start_sdedit,
    "raw": start_raw,
}
"""Where a chain begins, by the name used in `planning.start`.

(process, level, proposal, noise, scale) -> x_t [B, H, D].
"""


def _required(proposal: Tensor | None, what: str) -> Tensor:
    if proposal is None:
        raise DiffplanError(f"{what} needs a proposal [B, H, D], got none")
    return proposal
