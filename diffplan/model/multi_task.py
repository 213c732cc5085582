"""A denoiser whose features also give the other data of a trajectory (MT-Diffusion)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from diffplan.diffusion.forward import coefficients
from diffplan.diffusion.process import Process
from diffplan.diffusion.sampling import Denoise
from diffplan.model.conditions import ConditionEncoder, Drop
from diffplan.model.context import Context
from diffplan.model.denoiser import Denoiser, Inputs, Noising, Samples
from diffplan.model.heads import Heads, level_weight
from diffplan.model.modalities import Told
from diffplan.model.space import Path, PlanSpace
from diffplan.nn.network import Network


class MultiTaskDenoiser(Denoiser):
    """A denoiser with `heads.Heads` on its features.

    What heads say of a plan, or are given of it, can stand in the forward process as E; see
    `heads`.
    """

    def __init__(
        self, space: PlanSpace, network: Network, encoder: ConditionEncoder, **options: Any
    ) -> None:
        """options: of `Denoiser`."""
        super().__init__(network, encoder, **options)
        heads = space.config.heads
        self.heads = Heads(
            space,
            heads.modalities,
            network,
            width=heads.width,
        )

    def bind(
        self, process: Process, grid: tuple[int, ...], encoded: Tensor, inputs: Inputs | None = None
    ) -> Denoise:
        """As `Denoiser.bind`; heads are asked at the last level, and at all that E enters."""
        if inputs is None or inputs.telling is None:
            return super().bind(process, grid, encoded, inputs)
        telling, heads = inputs.telling, self.heads
        at = self._bound(process, grid, encoded, inputs)
        inside: dict[str, Tensor] = {}
        if process.c:
            inside = {name: heads.encode_known(name, x) for name, x in telling.known.items()}
        unknown = [name for name in heads.names if name not in telling.known]

        def denoise(x: Tensor, t: int) -> Tensor:
            seen = x + process.c[t] * heads.aggregate(inside) if inside else x
            h, x0 = at(x, seen, t)
            if process.c or t == grid[-2]:
                raw = heads.decode(h, telling.path(x0))
                if process.c:  # what nobody gave is in E as it was said last
                    inside.update({name: heads.encode_decoded(name, raw[name]) for name in unknown})
                telling.said.update(raw)
            return x0

        return denoise

    # --- Training --------------------------------------------------------------------------------

    def loss(self, samples: Samples, noising: Noising) -> dict[str, Tensor]:
        """As `Denoiser.loss`, with the losses of the heads by modality."""
        told = samples.told
        if told is None:
            return super().loss(samples, noising)
        aggregate = self._aggregate(told) if noising.main.c else None
        h, predicted, of_plan = self._pass(samples, noising, aggregate)
        held = noising.held
        x0_hat = predicted if held is None else torch.where(held, samples.x0, predicted)
        # heads learn to read what the network makes, not to make it easier to read
        said = self.heads.decode(h, told.path(x0_hat.detach()))
        t_main, t_plain = samples.indices(noising)
        (a, _, sigma), plain = (
            coefficients(process, t, samples.x0.dtype)
            for process, t in ((noising.main, t_main), (noising.plain, t_plain))
        )
        omega = level_weight(
            torch.where(samples.plain, plain[0].flatten(), a.flatten()),
            torch.where(samples.plain, plain[2].flatten(), sigma.flatten()),
        )
        return {"plan": of_plan, **self.heads.losses(said, told.values, told.weights, omega)}

    def telling_loss(
        self, process: Process, t: int, x: Tensor, context: Context, drop: Drop | None, told: Told
    ) -> dict[str, Tensor]:
        """Losses of the heads alone, every row [B], where x [B, H, D] is taken for x_t.

        x: without a proposal that is seen, for instance one as it is.
        """
        encoded = self.encode(context, drop)
        said = self.tell(process, t, x, encoded, told.path, tuple(told.values))
        return self.heads.losses(said, told.values, told.weights, x.new_ones(len(x)))

    def tell(
        self,
        process: Process,
        t: int,
        x: Tensor,
        encoded: Tensor,
        path: Path,
        names: tuple[str, ...],
    ) -> dict[str, Tensor]:
        """What some heads say, raw, where x [B, H, D] is taken for x_t, without a proposal.

        encoded: `encode(context)` [B, F].
        """
        level = torch.full((len(x),), t / process.T, device=x.device)
        features = self.time_features(level) + encoded
        h = self._features(x, None, self._mark_absent(features, None, None))
        return self.heads.decode(h, path(self.network.output(h).detach()), names)

    def _aggregate(self, told: Told) -> Tensor:
        """E [B, H, D] of what is known in training."""
        encode = self.heads.encode_known
        return self.heads.aggregate(
            {
                name: known.view(-1, 1, 1) * encode(name, told.values[name])
                for name, known in told.known.items()
            }
        )
