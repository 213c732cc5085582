"""Multi-task heads: every kind of data in a trajectory, read off one denoiser's features.

MT-Diffusion (Chen et al. 2024, arXiv 2407.17571): the data x_i of several tasks are encoded into
one diffusion space, where their weighted sum E = sum_i omega_i E_i(x_i) moves the forward process,

    z_t = a_t z_0 + r_t x̂ + c_t E + sigma_t eps,

and decoded again from the features of the one network that denoises it. Here z_0 is the plan.
Every kind of data is one entry of `modalities.MODALITIES`; adding one is adding an entry.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.model.acting_head import ActingHead
from diffplan.model.modalities import MODALITIES, Values
from diffplan.model.space import PlanSpace
from diffplan.nn.embeddings import mlp
from diffplan.nn.network import Network

_SNR_CAP = 5.0
_BINS = 51  # of the return-to-go: two per cent of its range each
_LEAST = 0.1  # weight of the noisiest levels, where a policy and the rest are asked without a plan


class RowHead(nn.Module):
    """Tells something of every step of a plan from features, and from the step itself.

    The step is what the network has just denoised, from state to state.
    """

    step_scale: Tensor

    def __init__(self, rows: int, inputs: int, state_dim: int, width: int, outputs: int) -> None:
        super().__init__()
        self.of_plan = nn.Linear(inputs, width)
        self.of_step = nn.Linear(2 * state_dim, width)
        self.position = nn.Parameter(torch.zeros(rows, width))
        self.rest = nn.Sequential(nn.SiLU(), mlp(width, [width], outputs))
        self.register_buffer("step_scale", torch.ones(state_dim))

    def forward(self, h: Tensor, states: Tensor) -> Tensor:
        """h: [B, C] or [B, rows, C]; states: [B, H+1, S] -> [B, rows, outputs]."""
        moved = (states[:, 1:] - states[:, :-1]) / self.step_scale  # ONNX has no diff
        step = torch.cat([states[:, :-1], moved], -1)
        if len(self.position) == states.shape[1]:  # a row of the current state, which none leads to
            step = F.pad(step, (0, 0, 1, 0))
        plan = self.of_plan(h)
        if plan.ndim == 2:
            plan = plan.unsqueeze(1)
        result: Tensor = self.rest(plan + self.of_step(step) + self.position)
        return result


class Heads(nn.Module):
    """Encoders into the diffusion space and decoders from the denoiser's features.

    An encoder's outcome has unit mean square over the plan, and the squares of the omega_i sum to
    one: learned encoders without bounds would grow until every level of noise gives them away.
    """

    bins: Tensor
    share: Tensor

    def __init__(
        self,
        space: PlanSpace,
        names: tuple[str, ...],
        network: Network,
        *,
        width: int,
    ) -> None:
        """names: of `MODALITIES`. network: whose features are read. width: of the heads."""
        super().__init__()
        for name, ok, needed in (
            ("goal", space.spec.goal_dim > 0, "a dataset with goals"),
            ("task", space.spec.tasks > 1, "a dataset of several tasks"),
        ):
            if name in names and not ok:
                raise DiffplanError(
                    f"heads.modalities has {name!r}, which needs {needed}; leave it out"
                )
        self.names = names
        self.rows, self.dim = space.rows, space.plan_dim
        self.by_row = network.by_row
        self.columns = {name: MODALITIES[name].columns(space) for name in names}
        self.decoders = nn.ModuleDict()
        self.encoders = nn.ModuleDict()
        for name in names:
            modality, columns = MODALITIES[name], self.columns[name]
            outputs = _BINS if modality.likelihood == "bins" else columns
            if name == "actions":
                plan = space.config.plan
                self.decoders[name] = ActingHead(
                    (plan.horizon, plan.stride, space.config.heads.lookahead),
                    (network.width, network.by_row),
                    space.spec.state_dim,
                    space.spec.action_dim,
                    width,
                )
            elif modality.by_row:
                state_dim = space.spec.state_dim
                self.decoders[name] = RowHead(self.rows, network.width, state_dim, width, outputs)
            else:
                self.decoders[name] = mlp(network.width, [width], outputs)
            if space.config.heads.aggregation:
                spread = self.dim if modality.by_row else self.rows * self.dim
                self.encoders[name] = nn.Linear(outputs, spread)
        self.register_buffer("bins", torch.linspace(-1, 1, _BINS))
        # the first row of an absolute plan is pinned and stays clean
        share = torch.full((self.rows, 1), len(names) ** -0.5)
        share[: int(space.absolute)] = 0.0
        self.register_buffer("share", share, persistent=False)

    def fit(self, returns: Tensor, plan_scale: Tensor) -> None:
        """Spread the bins over normalised returns [n]; plan_scale: [H, S], sizes of plan states."""
        for head in self.decoders.values():
            if isinstance(head, RowHead):
                head.step_scale.copy_(plan_scale[0])
        if (acting := self.acting) is not None:
            acting.step_scale.copy_(plan_scale[acting.lookahead - 1])
        low, high = float(returns.min()), float(returns.max())
        self.bins.copy_(torch.linspace(low, max(high, low + 1e-3), len(self.bins)))

    @property
    def acting(self) -> ActingHead | None:
        """The head of actions, if there is one."""
        found = self.decoders["actions"] if "actions" in self.names else None
        assert found is None or isinstance(found, ActingHead)
        return found

    # --- Decoding --------------------------------------------------------------------------------

    def decode(
        self, h: Tensor, states: Tensor, names: Iterable[str] | None = None
    ) -> dict[str, Tensor]:
        """Raw outputs: means, or logits of bins and classes.

        h: the network's features. states: [B, H+1, S] normalised, of the plan it denoised. names:
        heads that are asked, None for all.
        """
        # what is told of a whole plan is read off the mean of its rows
        pooled = h.mean(1) if self.by_row else h
        raw = {}
        for name in self.names if names is None else names:
            head = self.decoders[name]
            if isinstance(head, ActingHead):
                told = head.along(head.keep(h), states).flatten(2)
                # a row of the current state, which none leads to
                raw[name] = F.pad(told, (0, 0, self.rows - told.shape[1], 0))
            elif isinstance(head, RowHead):
                raw[name] = head(h, states)
            else:
                raw[name] = head(pooled)
        return raw

    def value(self, name: str, raw: Tensor) -> Tensor:
        """What a raw output says: mean [B, ...] or, of classes, probabilities [B, classes]."""
        likelihood = MODALITIES[name].likelihood
        if likelihood == "bins":
            return (raw.softmax(-1) * self.bins).sum(-1, keepdim=True)
        return raw.softmax(-1) if likelihood == "classes" else raw

    # --- Encoding --------------------------------------------------------------------------------

    def encode(self, name: str, value: Tensor) -> Tensor:
        """E_i(x_i) [B, rows, D], of unit mean square, of values as `Modality.columns` has them."""
        likelihood = MODALITIES[name].likelihood
        if likelihood == "bins":
            value = two_hot(value.squeeze(-1), self.bins)
        elif likelihood == "classes":
            value = F.one_hot(value, self.columns[name]).to(self.bins.dtype)
        e: Tensor = self.encoders[name](value)
        # of unit size, or training would make it louder than any noise
        if e.ndim == 2:
            e = e.unflatten(1, (self.rows, self.dim))
        return e * e.square().mean((1, 2), keepdim=True).add(1e-6).rsqrt()

    def aggregate(self, encoded: Mapping[str, Tensor]) -> Tensor:
        """E = sum_i omega_i E_i(x_i) [B, rows, D], omega_i equal and their squares summing to one.

        A modality that is missing counts as zero, so that the others keep their weight.
        """
        total = sum(encoded.values())
        assert isinstance(total, Tensor)
        return total * self.share

    # --- Training --------------------------------------------------------------------------------

    def losses(
        self, raw: Values, values: Values, weights: Mapping[str, Tensor], level_weight: Tensor
    ) -> dict[str, Tensor]:
        """Loss of every row [B] and modality, lambda_i and omega(t) included.

        raw: of `decode`. values: true ones, of those modalities that are to be learned. weights:
        [B, rows] or [B]. level_weight: omega(t) [B].
        """
        result = {}
        for name in values:
            loss = level_weight * self._loss(name, raw[name], values[name], weights[name])
            result[name] = MODALITIES[name].weight * loss
        return result

    def _loss(self, name: str, raw: Tensor, value: Tensor, weight: Tensor) -> Tensor:
        likelihood = MODALITIES[name].likelihood
        if likelihood == "classes":
            return weight * F.cross_entropy(raw, value, reduction="none")
        if likelihood == "bins":
            target = two_hot(value.squeeze(-1), self.bins)
            return -weight * (target * raw.log_softmax(-1)).sum(-1)
        error = (raw - value).square().mean(-1)
        if error.ndim == 1:
            return weight * error
        return (weight * error).sum(1) / weight.sum(1).clamp(min=1e-8)


def two_hot(values: Tensor, bins: Tensor) -> Tensor:
    """Weights [..., n] of the two bins [n], evenly spaced, on both sides of values [...].

    Their mean is the value, which is clipped to the bins.
    """
    step = bins[1] - bins[0]
    place = ((values - bins[0]) / step).clamp(0, len(bins) - 1)
    index = torch.arange(len(bins), device=bins.device, dtype=bins.dtype)
    return (1 - (place.unsqueeze(-1) - index).abs()).clamp(min=0)


def level_weight(a: Tensor, sigma: Tensor) -> Tensor:
    """omega(t) = min(SNR_t, 5) / 5, at least 0.1, where SNR_t = (a_t / sigma_t)^2; a and sigma [B].

    Of the process's table, without a scale of its noise: more weight costs the plan. A head learns
    little where noise hides what it should tell. The cap is that of Hang et al. 2023 (arXiv
    2303.09556).
    """
    snr = (a / sigma.clamp(min=1e-8)).square()
    return (snr / _SNR_CAP).clamp(_LEAST, 1.0)
