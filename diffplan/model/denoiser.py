"""Denoisers: a network of any parametrisation and its conditions behind one contract, x0_hat."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.diffusion.forward import q_sample, targets_at
from diffplan.diffusion.guidance import DenoisePair
from diffplan.diffusion.process import Process, readout
from diffplan.diffusion.sampling import Denoise
from diffplan.errors import DiffplanError
from diffplan.model.conditions import ConditionEncoder, Drop
from diffplan.model.context import Context
from diffplan.model.modalities import Telling, Told
from diffplan.nn.embeddings import constant, mlp, sinusoidal
from diffplan.nn.network import Network

Prediction = Literal["x0", "eps", "v", "velocity", "resnoise"]


@dataclass(frozen=True)
class Inputs:
    """What the denoiser of some plans is given beside x_t, its level and the conditions.

    proposal: x̂ [B, H, D] that the network sees, None for all rows. shift: the x̂ of x_t where the
    process has r != 0, whether seen or not. time: the `time_table` of the grid, which no plan
    changes, where it is at hand. telling: what heads are given and say, for a denoiser that has
    any.
    """

    proposal: Tensor | None = None
    shift: Tensor | None = None
    time: Tensor | None = None
    telling: Telling | None = None

    def twice(self, rows: int) -> Inputs:
        """For 2B rows, the second half like the first but for what heads are given.

        What they say is taken down apart.
        """
        proposal, shift = (
            None if x is None else torch.cat([x, x]) for x in (self.proposal, self.shift)
        )
        telling = None if self.telling is None else self.telling.halved(rows)
        return Inputs(proposal, shift, self.time, telling)


@dataclass(frozen=True)
class Noising:
    """How plans are noised in training.

    main, plain: the two forward processes; of plain samples r = 0, without a scale and with the
    proposal absent. scale: noise [H, D] of the main process, None if it takes none. held: bool
    [H, D], entries that stay clean in x_t and have no weight, as at planning under `guidance.pin`.
    weights: [H, D] of the entries in the loss, None where they are alike.
    """

    main: Process
    plain: Process
    scale: Tensor | None = None
    held: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class Samples:
    """B plans to learn from.

    x0, noise: [B, H, D]. proposal: x̂ [B, H, D] or None. plain: bool [B], rows of the plain process.
    levels: uniform [B] in [0, 1); row b is noised to t = 1 + floor(u T) of its process. mask:
    weights [B, H] of the plan states (None: all 1). told: the data of the heads, if any.
    """

    x0: Tensor
    proposal: Tensor | None
    plain: Tensor
    levels: Tensor
    noise: Tensor
    context: Context
    drop: Drop | None = None
    mask: Tensor | None = None
    told: Told | None = None

    def indices(self, noising: Noising) -> tuple[Tensor, Tensor]:
        """Table indices [B] of every row in the main and in the plain process."""
        return _indices(noising.main, self.levels), _indices(noising.plain, self.levels)


class Denoiser(nn.Module):
    """A network that sees x_t, proposal, level and conditions, read as x0_hat.

    `network` predicts one of the targets of `process.target_row`. With `use_proposal` it has the
    proposal x̂ as a second input, may be asked to plan without one, and an x0 prediction is the
    proposal plus the network's output, which is then the negative residual x0 - x̂ of RDDM (Liu et
    al. 2024, arXiv 2308.13712): untrained, it returns the proposal.
    """

    def __init__(
        self,
        network: Network,
        encoder: ConditionEncoder,
        *,
        features: int,
        prediction: Prediction,
        use_proposal: bool,
    ) -> None:
        super().__init__()
        if encoder.features != features:
            raise DiffplanError(
                f"the condition encoder gives {encoder.features} features, expected {features}"
            )
        self.network = network
        self.encoder = encoder
        self.features = features
        self.prediction: Prediction = prediction
        self.use_proposal = use_proposal
        self.time = mlp(features, (2 * features,), features)
        if use_proposal:
            self.absent = nn.Parameter(0.02 * torch.randn(features))

    # --- Features --------------------------------------------------------------------------------

    def time_features(self, level: Tensor) -> Tensor:
        """Features [B, F] of the relative level t / T [B] in (0, 1]."""
        dtype = next(self.time.parameters()).dtype
        return self.time(sinusoidal(1000.0 * level, self.features).to(dtype))

    def time_table(self, levels: tuple[float, ...]) -> Tensor:
        """Features [n, F] of n levels, for a plan whose rows all share one level per step."""
        device = next(self.time.parameters()).device
        return self.time_features(constant(levels, device))

    def encode(self, context: Context, drop: Drop | None = None) -> Tensor:
        """Features [B, F] of the conditions: the same at every level, so once per plan."""
        return self.encoder(context, drop)

    def encode_nothing(self, context: Context) -> Tensor:
        """Features [B, F] of neither goal nor return; tasks stay."""
        everything = torch.ones(len(context), dtype=torch.bool, device=context.state.device)
        return self.encode(context, {"goal": everything, "target_return": everything})

    # --- One prediction --------------------------------------------------------------------------

    def _mark_absent(
        self, features: Tensor, proposal: Tensor | None, present: Tensor | None
    ) -> Tensor:
        if not self.use_proposal:
            return features
        if proposal is None:
            return features + self.absent
        if present is None:
            return features
        return features + torch.where(present.unsqueeze(-1), 0.0, self.absent)

    def _features(self, x_t: Tensor, proposal: Tensor | None, features: Tensor) -> Tensor:
        """The network's features before its output."""
        if not self.use_proposal:
            proposal = None
        elif proposal is None:
            proposal = torch.zeros_like(x_t)
        level = features.expand(x_t.shape[0], -1).unsqueeze(0)
        return self.network.bind_features(proposal, level)[0](x_t)

    def _predicted(self, out: Tensor, proposal: Tensor | None) -> Tensor:
        """The prediction [B, H, D] that the network's output stands for."""
        if self.prediction != "x0" or not self.use_proposal or proposal is None:
            return out
        return out + proposal

    # --- Planning --------------------------------------------------------------------------------

    def check_process(self, process: Process, levels: tuple[int, ...] | None = None) -> None:
        """Raise DiffplanError if x0 cannot be read off at `levels` (None: all after 0)."""
        for t in range(1, process.T + 1) if levels is None else levels:
            readout(process, self.prediction, t)

    def bind(
        self, process: Process, grid: tuple[int, ...], encoded: Tensor, inputs: Inputs | None = None
    ) -> Denoise:
        """The denoiser of some plans: all that does not depend on x_t computed here, once.

        grid: the table indices it will be called at. encoded: `encode(context)` [B, F].
        """
        at = self.bound(process, grid, encoded, Inputs() if inputs is None else inputs)

        def denoise(x: Tensor, t: int) -> Tensor:
            return at(x, x, t)[1]

        return denoise

    def bound(
        self, process: Process, grid: tuple[int, ...], encoded: Tensor, inputs: Inputs
    ) -> Callable[[Tensor, Tensor, int], tuple[Tensor, Tensor]]:
        """(x_t, what the network sees of it, t) -> the network's features and x0_hat."""
        proposal, shift, time = inputs.proposal, inputs.shift, inputs.time
        # floats, so that engines find them as constants in their graphs
        rows = {t: readout(process, self.prediction, t) for t in grid[:-1]}
        if shift is None and any(j for _, j, _ in rows.values()):
            raise DiffplanError(f"process {process.name!r} needs a proposal [B, H, D], got none")
        if time is None:
            time = self.time_table(tuple(t / process.T for t in grid[:-1]))
        features = self._mark_absent(time.unsqueeze(1) + encoded, proposal, None)
        # one body per level: the network folds the level's features into its own weights
        bodies = self.network.bind_features(proposal if self.use_proposal else None, features)
        body_at = dict(zip(grid[:-1], bodies, strict=True))

        def at(x: Tensor, seen: Tensor, t: int) -> tuple[Tensor, Tensor]:
            h = body_at[t](seen)
            x0 = self._predicted(self.network.output(h), proposal)
            # x0 = i x_t + j x̂ + k target; terms that are not there cost nothing
            i, j, k = rows[t]
            if k != 1.0:
                x0 = k * x0
            if i:
                x0 = x0 + i * x
            if j and shift is not None:
                x0 = x0 + j * shift
            return h, x0

        return at

    def pair(
        self,
        process: Process,
        grid: tuple[int, ...],
        conditional: Tensor,
        unconditional: Tensor,
        inputs: Inputs | None = None,
    ) -> DenoisePair:
        """As `bind`, for two encodings [B, F] at once, in one forward of 2B rows.

        Returns (x_t [B, H, D], t) -> (x0_hat under `conditional`, under `unconditional`). What
        heads say under `conditional` is kept; under `unconditional` they are given nothing.
        """
        if not self.encoder.sizes:
            raise DiffplanError("classifier-free guidance needs a model that has conditions")
        inputs = Inputs() if inputs is None else inputs
        doubled = inputs.twice(len(conditional))
        denoise = self.bind(process, grid, torch.cat([conditional, unconditional]), doubled)

        def both(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            first, second = denoise(torch.cat([x, x]), t).chunk(2)
            if inputs.telling is not None and doubled.telling is not None:
                inputs.telling.keep_first_half(doubled.telling)
            return first, second

        return both

    # --- Training --------------------------------------------------------------------------------

    def loss(self, samples: Samples, noising: Noising) -> dict[str, Tensor]:
        """Losses of every row [B] by name; "plan": mean squared error of what is predicted."""
        _, _, plan = self._pass(samples, noising, None)
        return {"plan": plan}

    def _time_by_row(
        self, is_plain: Tensor, t_main: Tensor, t_plain: Tensor, noising: Noising
    ) -> Tensor:
        """Time features [B, F] of every row's level in its process."""
        main, plain = noising.main.T, noising.plain.T
        if len(is_plain) < main + plain:
            level = torch.where(is_plain, t_plain / plain, t_main / main)
            return self.time_features(level)
        # levels are fewer than rows: those of both processes, one after the other
        levels = [t / main for t in range(1, main + 1)] + [t / plain for t in range(1, plain + 1)]
        index = torch.where(is_plain, main + t_plain, t_main) - 1
        return F.embedding(index, self.time_table(tuple(levels)))

    def _pass(
        self, samples: Samples, noising: Noising, aggregate: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Features, prediction [B, H, D] and loss [B] of noised plans.

        aggregate: E [B, H, D] of what is known beside the plan, see `process`.
        """
        main, plain, held = noising.main, noising.plain, noising.held
        x0, proposal, noise = samples.x0, samples.proposal, samples.noise
        t_main, t_plain = samples.indices(noising)
        rows = samples.plain.view(-1, 1, 1)
        # both for all rows and one chosen: cheaper than splitting the batch and joining it again
        x_t = torch.where(
            rows,
            q_sample(plain, t_plain, x0, None, noise, aggregate=aggregate),
            q_sample(main, t_main, x0, proposal, noise, noising.scale, aggregate),
        )
        mask = samples.mask
        weights = torch.ones_like(x0) if mask is None else mask.unsqueeze(-1).expand_as(x0)
        if noising.weights is not None:
            weights = weights * noising.weights
        if held is not None:
            x_t = torch.where(held, x0, x_t)
            weights = weights * ~held
        # a plain row has its own data there (see `denoiser_losses`): it must not see them
        present = None if proposal is None else ~samples.plain
        seen = _masked(proposal, present)
        encoded = self.encode(samples.context, samples.drop)
        features = self._time_by_row(samples.plain, t_main, t_plain, noising) + encoded
        h = self._features(x_t, seen, self._mark_absent(features, seen, present))
        target = x0
        if self.prediction != "x0":
            target = torch.where(
                rows,
                targets_at(plain, self.prediction, t_plain, x0, None, noise),
                targets_at(main, self.prediction, t_main, x0, proposal, noise, noising.scale),
            )
        predicted = self._predicted(self.network.output(h), seen)
        error = (predicted - target).square()
        loss = (weights * error).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-8)
        return h, predicted, loss


def _indices(process: Process, u: Tensor) -> Tensor:
    """Table index t = 1 + floor(u T) of uniform `u` [B], safe where u T rounds up to T."""
    return (u * process.T).long().add_(1).clamp_(max=process.T)


def _masked(proposal: Tensor | None, present: Tensor | None) -> Tensor | None:
    """The proposal with zeros in the rows that have none."""
    if proposal is None or present is None:
        return proposal
    return torch.where(present.view(-1, 1, 1), proposal, 0.0)
