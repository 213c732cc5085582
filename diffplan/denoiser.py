"""Denoisers: a network of any parametrisation and its conditions behind one contract, x0_hat."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.guidance import DenoisePair
from diffplan.nn.embeddings import mlp, sinusoidal
from diffplan.nn.network import Network
from diffplan.process import Process, coefficients, noise_scale, q_sample
from diffplan.samplers import Denoise

Prediction = Literal["x0", "eps", "v"]
Drop = Mapping[str, Tensor]
"""Condition name -> bool [B]: the rows that must not see it."""


@dataclass(frozen=True)
class Condition:
    """What a plan is conditioned on, in plan units; None where the model has no such input."""

    state: Tensor | None = None
    """Current state [B, D]."""
    goal: Tensor | None = None
    """Goal [B, G]."""
    returns: Tensor | None = None
    """Return-to-go [B]."""

    def repeat(self, k: int) -> "Condition":
        """Every row k times: row b becomes rows b * k ... b * k + k - 1."""

        def rows(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.repeat_interleave(k, dim=0)

        return Condition(rows(self.state), rows(self.goal), rows(self.returns))


class ConditionEncoder(nn.Module):
    """One embedding per condition, summed, and an MLP over the sum, which sees them together.

    A dropped condition becomes a learned null vector, row by row and independently of the others,
    as classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598).
    """

    def __init__(
        self,
        features: int,
        state_dim: int = 0,
        goal_dim: int = 0,
        use_returns: bool = True,
        hidden: int = 256,
    ) -> None:
        super().__init__()
        self.features = features
        sizes = {"state": state_dim, "goal": goal_dim, "returns": int(use_returns)}
        self.sizes = {name: size for name, size in sizes.items() if size}
        self.embeddings = nn.ModuleDict(
            {name: nn.Linear(size, hidden) for name, size in self.sizes.items()}
        )
        self.nulls = nn.ParameterDict(
            {name: nn.Parameter(0.02 * torch.randn(hidden)) for name in self.sizes}
        )
        self.trunk = nn.Sequential(nn.SiLU(), mlp(hidden, (hidden,), features))
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros(1, features), persistent=False)

    def forward(self, condition: Condition, drop: Drop | None = None) -> Tensor:
        """Features [B, F]; zeros [1, F] for a model without conditions.

        Conditions the model was built without are ignored; a missing one is an error.
        """
        parts = [self._embed(name, condition, drop) for name in self.sizes]
        if not parts:
            return self.nothing
        result: Tensor = self.trunk(sum(parts[1:], parts[0]))
        return result

    def _embed(self, name: str, condition: Condition, drop: Drop | None) -> Tensor:
        value: Tensor | None = getattr(condition, name)
        if value is None:
            raise DiffplanError(f"the model is conditioned on {name!r}, but none was given")
        if name == "returns":
            value = value.unsqueeze(-1)
        if value.shape[-1] != self.sizes[name]:
            raise DiffplanError(
                f"condition {name!r} needs {self.sizes[name]} columns, got {value.shape[-1]}"
            )
        embedded: Tensor = self.embeddings[name](value)
        if drop is not None and name in drop:
            embedded = torch.where(drop[name].unsqueeze(-1), self.nulls[name], embedded)
        return embedded


class Denoiser(nn.Module):
    """A network that sees x_t, proposal, level and conditions, read as x0_hat.

    `network` predicts x0, eps or v (Salimans & Ho 2022, arXiv 2202.00512). With `use_proposal` it
    has the proposal x̂ as a second input, may be asked to plan without one, and an x0 prediction is
    the proposal plus the network's output: untrained, it returns the proposal.
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
        if prediction not in ("x0", "eps", "v"):
            raise DiffplanError(f"prediction must be 'x0', 'eps' or 'v', got {prediction!r}")
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
        return self.time_features(torch.tensor(levels, dtype=torch.float32, device=device))

    def encode(self, condition: Condition, drop: Drop | None = None) -> Tensor:
        """Features [B, F] of the conditions: the same at every level, so once per plan."""
        return self.encoder(condition, drop)

    # --- One prediction --------------------------------------------------------------------------

    def forward(
        self,
        x_t: Tensor,
        level: Tensor | None,
        a: Tensor | float,
        r: Tensor | float,
        sigma: Tensor | float,
        proposal: Tensor | None = None,
        present: Tensor | None = None,
        condition: Condition | None = None,
        drop: Drop | None = None,
        *,
        encoded: Tensor | None = None,
        time_features: Tensor | None = None,
    ) -> Tensor:
        """x0_hat [B, H, D].

        x_t: [B, H, D]. level: t / T [B]; unused when `time_features` ([F] or [B, F]) is given.
        a, r, sigma: coefficients of x_t, floats or [B, 1, 1] (sigma may be [B, H, D] with a scale).
        proposal: x̂ [B, H, D]; present: rows [B] that have one (None: all, if given at all).
        condition, drop: see `encode`; unused when `encoded` [B, F] is given.
        """
        proposal = _masked(proposal, present)
        features = self._features(level, condition, drop, encoded, time_features)
        out = self._network(x_t, proposal, self._mark_absent(features, proposal, present))
        return self._x0(out, x_t, a, r, sigma, proposal)

    def _features(
        self,
        level: Tensor | None,
        condition: Condition | None,
        drop: Drop | None,
        encoded: Tensor | None,
        time_features: Tensor | None,
    ) -> Tensor:
        if time_features is None:
            if level is None:
                raise DiffplanError("a denoiser needs `level` or `time_features`, got neither")
            time_features = self.time_features(level)
        if encoded is None:
            encoded = self.encode(condition or Condition(), drop)
        return time_features + encoded

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

    def _network(self, x_t: Tensor, proposal: Tensor | None, features: Tensor) -> Tensor:
        """Raw output [B, H, D] of the network."""
        if not self.use_proposal:
            proposal = None
        elif proposal is None:
            proposal = torch.zeros_like(x_t)
        return self.network(x_t, proposal, features.expand(x_t.shape[0], -1))

    def _x0(
        self,
        out: Tensor,
        x_t: Tensor,
        a: Tensor | float,
        r: Tensor | float,
        sigma: Tensor | float,
        proposal: Tensor | None,
    ) -> Tensor:
        """Read the network's output [B, H, D] as x0_hat."""
        if self.prediction == "x0":
            return out + proposal if self.use_proposal and proposal is not None else out
        if self.prediction == "v":
            return a * x_t - sigma * out
        mean = x_t - sigma * out
        if proposal is not None:
            mean = mean - r * proposal
        return mean / a

    # --- Planning --------------------------------------------------------------------------------

    def check_process(self, process: Process, levels: tuple[int, ...] | None = None) -> None:
        """Raise DiffplanError if x0 cannot be read off at `levels` (None: all after 0)."""
        for t in range(1, process.T + 1) if levels is None else levels:
            a, r, sigma = process.a[t], process.r[t], process.sigma[t]
            if self.prediction == "eps" and a == 0.0:
                raise DiffplanError(
                    f"an eps prediction cannot give x0 at level {t} of {process.name!r}, "
                    "where x_t holds nothing of x0: use prediction 'x0'"
                )
            if self.prediction == "v" and (r != 0.0 or abs(a * a + sigma * sigma - 1) > 1e-9):
                raise DiffplanError(
                    f"a v prediction needs a variance-preserving process without proposal, "
                    f"which {process.name!r} is not: use prediction 'x0'"
                )

    def bind(
        self,
        process: Process,
        grid: tuple[int, ...],
        encoded: Tensor,
        *,
        proposal: Tensor | None = None,
        scale: Tensor | None = None,
        time: Tensor | None = None,
    ) -> Denoise:
        """The denoiser of one plan: everything that does not depend on x_t computed here, once.

        grid: the table indices it will be called at. encoded: `encode(condition)` [B, F].
        proposal: x̂ [B, H, D] or None, for all rows. scale: noise scale [H, D]. time: the
        `time_table` of the grid, which no plan changes, where it is at hand.
        """
        if time is None:
            self.check_process(process, grid[:-1])
            time = self.time_table(tuple(t / process.T for t in grid[:-1]))
        features = self._mark_absent(time.unsqueeze(1) + encoded, proposal, None)
        networks = self.network.bind(proposal if self.use_proposal else None, features)
        network_at = dict(zip(grid[:-1], networks, strict=True))
        # x0 is read off an x0 prediction without coefficients
        spread = 1.0 if self.prediction == "x0" else noise_scale(process, scale)

        def denoise(x: Tensor, t: int) -> Tensor:
            a, r, sigma = process.a[t], process.r[t], process.sigma[t] * spread
            return self._x0(network_at[t](x), x, a, r, sigma, proposal)

        return denoise

    def pair(
        self,
        process: Process,
        grid: tuple[int, ...],
        conditional: Tensor,
        unconditional: Tensor,
        *,
        proposal: Tensor | None = None,
        scale: Tensor | None = None,
        time: Tensor | None = None,
    ) -> DenoisePair:
        """As `bind`, for two encodings [B, F] at once, in one forward of 2B rows.

        Returns (x_t [B, H, D], t) -> (x0_hat under `conditional`, under `unconditional`).
        """
        if not self.encoder.sizes:
            raise DiffplanError("classifier-free guidance needs a model that has conditions")
        twice = None if proposal is None else torch.cat([proposal, proposal])
        encoded = torch.cat([conditional, unconditional])
        denoise = self.bind(process, grid, encoded, proposal=twice, scale=scale, time=time)

        def both(x: Tensor, t: int) -> tuple[Tensor, Tensor]:
            first, second = denoise(torch.cat([x, x]), t).chunk(2)
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
        pin_first: bool = False,
    ) -> Tensor:
        """Denoising loss of every row [B]: mean squared error of what the network predicts.

        x0, noise: [B, H, D]; proposal: x̂ [B, H, D] or None. plain: bool [B], rows that use
        `plain_process` (r = 0, no scale) with the proposal absent; the others use `main`.
        levels_u: uniform [B] in [0, 1); row b is noised to t = 1 + floor(u T) of its process.
        mask: weights [B, H] of the plan states (None: all 1). pin_first: the first state stays
        clean in x_t and has no weight, as at planning under `guidance.pin`.
        """
        rows = plain.view(-1, 1, 1)
        t_main, t_plain = _indices(main, levels_u), _indices(plain_process, levels_u)
        level = torch.where(plain, t_plain / plain_process.T, t_main / main.T)
        x_t = torch.where(
            rows,
            q_sample(plain_process, t_plain, x0, None, noise),
            q_sample(main, t_main, x0, proposal, noise, scale),
        )
        weights = torch.ones_like(x0[..., 0]) if mask is None else mask
        if pin_first:
            x_t = torch.select_scatter(x_t, x0[:, 0], 1, 0)
            weights = torch.select_scatter(weights, torch.zeros_like(weights[:, 0]), 1, 0)
        present = None if proposal is None else ~plain
        proposal = _masked(proposal, present)
        features = self._features(level.to(x0.dtype), condition, drop, None, None)
        out = self._network(x_t, proposal, self._mark_absent(features, proposal, present))
        if self.prediction == "x0":
            out, target = self._x0(out, x_t, 1.0, 0.0, 0.0, proposal), x0
        elif self.prediction == "eps":
            target = noise
        else:
            target = torch.where(
                rows,
                _velocity(plain_process, t_plain, x0, noise),
                _velocity(main, t_main, x0, noise),
            )
        error = (out - target).square().mean(-1)
        return (weights * error).sum(-1) / weights.sum(-1).clamp_min(1e-8)


def _indices(process: Process, u: Tensor) -> Tensor:
    """Table index t = 1 + floor(u T) of uniform `u` [B], safe where u T rounds up to T."""
    return (u * process.T).long().add_(1).clamp_(max=process.T)


def _velocity(process: Process, t: Tensor, x0: Tensor, noise: Tensor) -> Tensor:
    """v = a eps - sigma x0 (Salimans & Ho 2022, appendix D), [B, H, D]."""
    a, _, sigma = coefficients(process, t, x0.dtype)
    return a * noise - sigma * x0


def _masked(proposal: Tensor | None, present: Tensor | None) -> Tensor | None:
    """The proposal with zeros in the rows that have none."""
    if proposal is None or present is None:
        return proposal
    return torch.where(present.view(-1, 1, 1), proposal, 0.0)
