"""A denoiser whose features also give the other data of a trajectory (MT-Diffusion)."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
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

    What is known beside a plan can stand in the forward process as E; see `heads`.
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
            # half of a network of its own: features are worked out already
            width=max(1, heads.width // 2),
        )

    def bind(
        self, process: Process, grid: tuple[int, ...], encoded: Tensor, inputs: Inputs | None = None
    ) -> Denoise:
        """As `Denoiser.bind`; at the last level heads are asked.

        And what the head of actions keeps of the plans is taken down.
        """
        if inputs is None or inputs.telling is None:
            return super().bind(process, grid, encoded, inputs)
        telling, heads = inputs.telling, self.heads
        at = self.bound(process, grid, encoded, inputs)
        inside: Tensor | None = None
        if process.c and telling.known:
            inside = heads.aggregate(
                {name: heads.encode(name, x) for name, x in telling.known.items()}
            )
            inside = F.pad(inside, (0, 0, 0, 0, 0, telling.blind))

        def denoise(x: Tensor, t: int) -> Tensor:
            h, x0 = at(x, x if inside is None else x + process.c[t] * inside, t)
            if t == grid[-2]:
                telling.said.update(heads.decode(h, telling.path(x0), telling.asked))
                if heads.acting is not None:
                    telling.said["kept"] = heads.acting.keep(h)
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
        states = told.path(x0_hat.detach())
        t_main, t_plain = samples.indices(noising)
        (a, _, sigma), plain = (
            coefficients(process, t, samples.x0.dtype)
            for process, t in ((noising.main, t_main), (noising.plain, t_plain))
        )
        omega = level_weight(
            torch.where(samples.plain, plain[0].flatten(), a.flatten()),
            torch.where(samples.plain, plain[2].flatten(), sigma.flatten()),
        )
        return {"plan": of_plan, **self._telling(h, states, told, omega)}

    def _telling(self, h: Tensor, states: Tensor, told: Told, omega: Tensor) -> dict[str, Tensor]:
        """Losses of the heads by modality, every row [B], of features h and states [B, H+1, S].

        omega: weights [B] of the levels.
        """
        names = [name for name in told.values if name != "actions"]
        said = self.heads.decode(h, states, names)
        values = {name: told.values[name] for name in names}
        weights = {name: told.weights[name] for name in names}
        if (taken := told.taken) is not None and (acting := self.heads.acting) is not None:
            # plans are off by more, the more noise there was: read off these, actions would be
            # those of any plan
            along = states if taken.towards is None else taken.towards
            said["actions"] = acting.at(acting.keep(h), along, taken.states, taken.step)
            values["actions"], weights["actions"] = taken.actions, taken.weight
        return self.heads.losses(said, values, weights, omega)

    def telling_loss(
        self, process: Process, t: int, x: Tensor, context: Context, drop: Drop | None, told: Told
    ) -> dict[str, Tensor]:
        """Losses of the heads alone, every row [B], where x [B, H, D] is taken for x_t.

        x: without a proposal that is seen, for instance one as it is.
        """
        h, states = self._seen(process, t, x, self.encode(context, drop), told.path)
        return self._telling(h, states, told, x.new_ones(len(x)))

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
        return self.heads.decode(*self._seen(process, t, x, encoded, path), names)

    def _seen(
        self, process: Process, t: int, x: Tensor, encoded: Tensor, path: Path
    ) -> tuple[Tensor, Tensor]:
        """Features and denoised states [B, H+1, S] of x, see `tell`."""
        level = torch.full((len(x),), t / process.T, device=x.device)
        features = self.time_features(level) + encoded
        h = self._features(x, None, self._mark_absent(features, None, None))
        return h, path(self.network.output(h).detach())

    def _aggregate(self, told: Told) -> Tensor:
        """E [B, H, D] of what is known in training."""
        encode = self.heads.encode
        return self.heads.aggregate(
            {
                name: known.view(-1, 1, 1) * encode(name, told.values[name])
                for name, known in told.known.items()
            }
        )
