"""Denoisers: a network of any parametrisation and its conditions behind one contract, x0_hat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffplan.diffusion.forward import coefficients, q_sample, targets_at
from diffplan.diffusion.guidance import DenoisePair
from diffplan.diffusion.process import Process, readout
from diffplan.diffusion.sampling import Denoise
from diffplan.errors import DiffplanError
from diffplan.model.conditions import Condition, ConditionEncoder, Drop
from diffplan.model.heads import Heads, Values, level_weight
from diffplan.model.space import Path
from diffplan.nn.embeddings import constant, mlp, sinusoidal
from diffplan.nn.network import Network

Prediction = Literal["x0", "eps", "v", "velocity", "resnoise"]


@dataclass(frozen=True)
class Told:
    """What the heads' data are in training: values and weights by modality (`modalities.Modality`).

    known: bool [B] by modality: whether E holds it; a plan knows little of this. path: from plan
    tensor to states.
    """

    values: Values
    weights: Mapping[str, Tensor]
    known: Mapping[str, Tensor]
    path: Path


class Denoiser(nn.Module):
    """A network that sees x_t, proposal, level and conditions, read as x0_hat.

    `network` predicts one of the targets of `process.target_row`. With `use_proposal` it has the
    proposal x̂ as a second input, may be asked to plan without one, and an x0 prediction is the
    proposal plus the network's output, which is then the negative residual x0 - x̂ of RDDM (Liu et
    al. 2024, arXiv 2308.13712): untrained, it returns the proposal.

    With `heads` the same features also give the other data of a trajectory, see `heads`.
    """

    def __init__(
        self,
        network: Network,
        encoder: ConditionEncoder,
        *,
        horizon: int,
        dim: int,
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
        self.horizon = horizon
        self.dim = dim
        self.features = features
        self.prediction: Prediction = prediction
        self.use_proposal = use_proposal
        self.heads: Heads | None = None
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

    def encode(self, condition: Condition, drop: Drop | None = None) -> Tensor:
        """Features [B, F] of the conditions: the same at every level, so once per plan."""
        return self.encoder(condition, drop)

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
        skips = self.prediction == "x0" and self.use_proposal and proposal is not None
        return out + proposal if skips and proposal is not None else out

    # --- Planning --------------------------------------------------------------------------------

    def check_process(self, process: Process, levels: tuple[int, ...] | None = None) -> None:
        """Raise DiffplanError if x0 cannot be read off at `levels` (None: all after 0)."""
        for t in range(1, process.T + 1) if levels is None else levels:
            readout(process, self.prediction, t)

    def bind(
        self,
        process: Process,
        grid: tuple[int, ...],
        encoded: Tensor,
        *,
        proposal: Tensor | None = None,
        shift: Tensor | None = None,
        time: Tensor | None = None,
        known: Values | None = None,
        decoded: dict[str, Tensor] | None = None,
        path: Path | None = None,
    ) -> Denoise:
        """The denoiser of one plan: everything that does not depend on x_t computed here, once.

        grid: the table indices it will be called at. encoded: `encode(condition)` [B, F].
        proposal: x̂ [B, H, D] that the network sees, None for all rows. shift: the x̂ of x_t
        where the process has r != 0, whether seen or not. time: the `time_table` of the grid, which
        no plan changes, where it is at hand. known: data of the heads' modalities that are given,
        in E; the others are in E as the heads say. decoded: takes what the heads say at the
        last level. path: from plan tensor to states, needed with heads.
        """
        rows = {t: readout(process, self.prediction, t) for t in grid[:-1]}
        if shift is None and any(j for _, j, _ in rows.values()):
            raise DiffplanError(f"process {process.name!r} needs a proposal [B, H, D], got none")
        if time is None:
            time = self.time_table(tuple(t / process.T for t in grid[:-1]))
        features = self._mark_absent(time.unsqueeze(1) + encoded, proposal, None)
        bodies = self.network.bind_features(proposal if self.use_proposal else None, features)
        body_at = dict(zip(grid[:-1], bodies, strict=True))
        heads = self.heads
        aggregates = heads is not None and bool(process.c)
        parts: dict[str, Tensor] = {}
        if heads is not None and aggregates:
            parts = {name: heads.encode_known(name, x) for name, x in (known or {}).items()}

        def denoise(x: Tensor, t: int) -> Tensor:
            z = x
            if heads is not None and parts:
                z = x + process.c[t] * heads.aggregate(parts)
            h = body_at[t](z)
            x0 = self._predicted(self.network.output(h), proposal)
            i, j, k = rows[t]
            if k != 1.0:
                x0 = k * x0
            if i:
                x0 = x0 + i * x
            if j and shift is not None:
                x0 = x0 + j * shift
            if heads is not None and (aggregates or (decoded is not None and t == grid[-2])):
                assert path is not None
                raw = heads.decode(h, path(x0))
                if aggregates:
                    unknown = [name for name in heads.names if name not in (known or {})]
                    parts.update({n: heads.encode_decoded(n, raw[n]) for n in unknown})
                if decoded is not None:
                    decoded.update(raw)
            return x0

        return denoise

    def pair(
        self,
        process: Process,
        grid: tuple[int, ...],
        conditional: Tensor,
        unconditional: Tensor,
        *,
        proposal: Tensor | None = None,
        shift: Tensor | None = None,
        time: Tensor | None = None,
        known: Values | None = None,
        decoded: dict[str, Tensor] | None = None,
        path: Path | None = None,
    ) -> DenoisePair:
        """As `bind`, for two encodings [B, F] at once, in one forward of 2B rows.

        Returns (x_t [B, H, D], t) -> (x0_hat under `conditional`, under `unconditional`). decoded
        takes what the heads say under `conditional`.
        """
        if not self.encoder.sizes:
            raise DiffplanError("classifier-free guidance needs a model that has conditions")
        seen, shifted = (None if x is None else torch.cat([x, x]) for x in (proposal, shift))
        encoded = torch.cat([conditional, unconditional])
        twice = {name: torch.cat([x, x]) for name, x in (known or {}).items()}
        said: dict[str, Tensor] = {}
        denoise = self.bind(
            process,
            grid,
            encoded,
            proposal=seen,
            shift=shifted,
            time=time,
            known=twice,
            decoded=None if decoded is None else said,
            path=None if path is None else lambda x: torch.cat([path(part) for part in x.chunk(2)]),
        )

        def both(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            first, second = denoise(torch.cat([x, x]), t).chunk(2)
            if decoded is not None:
                decoded.update({name: raw.chunk(2)[0] for name, raw in said.items()})
            return first, second

        return both

    # --- Training --------------------------------------------------------------------------------

    def loss(
        self,
        x0: Tensor,
        proposal: Tensor | None,
        plain: Tensor,
        main: Process,
        plain_process: Process,
        levels_u: Tensor,
        noise: Tensor,
        scale: Tensor | None,
        condition: Condition,
        drop: Drop | None = None,
        mask: Tensor | None = None,
        held: Tensor | None = None,
        told: Told | None = None,
    ) -> dict[str, Tensor]:
        """Losses of every row [B] by name; "plan": mean squared error of what is predicted.

        x0, noise: [B, H, D]; proposal: x̂ [B, H, D] or None. plain: bool [B], rows that use
        `plain_process` (r = 0, no scale) with the proposal absent; the others use `main`.
        levels_u: uniform [B] in [0, 1); row b is noised to t = 1 + floor(u T) of its process.
        mask: weights [B, H] of the plan states (None: all 1). held: bool [H, D], entries that stay
        clean in x_t and have no weight, as at planning under `guidance.pin`. told: the data of the
        heads, which it needs where there are any.
        """
        rows = plain.view(-1, 1, 1)
        t_main, t_plain = _indices(main, levels_u), _indices(plain_process, levels_u)
        level = torch.where(plain, t_plain / plain_process.T, t_main / main.T)
        e = self._aggregate(told) if main.c else None
        x_t = torch.where(
            rows,
            q_sample(plain_process, t_plain, x0, None, noise, aggregate=e),
            q_sample(main, t_main, x0, proposal, noise, scale, e),
        )
        weights = torch.ones_like(x0) if mask is None else mask.unsqueeze(-1).expand_as(x0)
        if held is not None:
            x_t = torch.where(held, x0, x_t)
            weights = weights * ~held
        present = None if proposal is None else ~plain
        seen = _masked(proposal, present)
        features = self.time_features(level.to(x0.dtype)) + self.encode(condition, drop)
        h = self._features(x_t, seen, self._mark_absent(features, seen, present))
        target = torch.where(
            rows,
            targets_at(plain_process, self.prediction, t_plain, x0, None, noise),
            targets_at(main, self.prediction, t_main, x0, proposal, noise, scale),
        )
        predicted = self._predicted(self.network.output(h), seen)
        error = (predicted - target).square()
        plan = (weights * error).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-8)
        if self.heads is None or told is None:
            return {"plan": plan}
        a, _, sigma = (
            torch.where(plain, ours.flatten(), theirs.flatten())
            for ours, theirs in zip(
                coefficients(plain_process, t_plain, x0.dtype),
                coefficients(main, t_main, x0.dtype),
                strict=True,
            )
        )
        x0_hat = predicted if held is None else torch.where(held, x0, predicted)
        said = self.heads.decode(h, told.path(x0_hat.detach()))
        omega = level_weight(a, sigma)
        return {"plan": plan, **self.heads.losses(said, told.values, told.weights, omega)}

    def telling_loss(
        self,
        process: Process,
        t: int,
        x: Tensor,
        condition: Condition,
        drop: Drop | None,
        told: Told,
    ) -> dict[str, Tensor]:
        """Losses of the heads alone, every row [B], where x [B, H, D] is taken for x_t.

        x: without a proposal that is seen, for instance one as it is.
        """
        assert self.heads is not None
        said = self.tell(process, t, x, condition, drop, told.path, tuple(told.values))
        return self.heads.losses(said, told.values, told.weights, x.new_ones(len(x)))

    def tell(
        self,
        process: Process,
        t: int,
        x: Tensor,
        condition: Condition,
        drop: Drop | None,
        path: Path,
        names: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """What some heads say, raw, where x [B, H, D] is taken for x_t, without a proposal."""
        assert self.heads is not None
        level = torch.full((len(x),), t / process.T, device=x.device)
        features = self.time_features(level) + self.encode(condition, drop)
        h = self._features(x, None, self._mark_absent(features, None, None))
        return self.heads.decode(h, path(self.network.output(h).detach()), names)

    def _aggregate(self, told: Told | None) -> Tensor | None:
        """E [B, H, D] of what is known in training."""
        if self.heads is None or told is None:
            return None
        encode = self.heads.encode_known
        return self.heads.aggregate(
            {
                name: known.view(-1, 1, 1) * encode(name, told.values[name])
                for name, known in told.known.items()
            }
        )


def _indices(process: Process, u: Tensor) -> Tensor:
    """Table index t = 1 + floor(u T) of uniform `u` [B], safe where u T rounds up to T."""
    return (u * process.T).long().add_(1).clamp_(max=process.T)


def _masked(proposal: Tensor | None, present: Tensor | None) -> Tensor | None:
    """The proposal with zeros in the rows that have none."""
    if proposal is None or present is None:
        return proposal
    return torch.where(present.view(-1, 1, 1), proposal, 0.0)
