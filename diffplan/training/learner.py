"""What learns in a run: the model, its average, the optimiser, and where batches come from."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from diffplan.config.config import Config
from diffplan.config.sections import TrainingConfig
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes
from diffplan.data.placement import moved
from diffplan.data.windows import WindowSampler
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.model.planner_model import PlannerModel
from diffplan.model.spec import ModelSpec
from diffplan.planning.chains import chain_of
from diffplan.training.average import WeightAverage
from diffplan.training.flat import Weights
from diffplan.training.graph import CapturedUpdate, why_not
from diffplan.training.losses import Objective
from diffplan.training.residual import measure_residual
from diffplan.training.state import gather_generators, restore, training_state

_HEAD_BATCH = 256  # least of inverse dynamics and value: small networks, noisy targets
_WARMUP = 200  # updates in which the rate rises linearly: Adam's first moments are rough
_GRAD_CLIP = 1.0  # bound on the gradient norm of each part
_RESIDUAL_WINDOWS = 512
_RESIDUAL_RATE = 0.2


def learning_rate(config: TrainingConfig, step: int) -> float:
    """Rate of update `step` (from 0): linear warm-up, then constant, then ~ 1/sqrt(step)."""
    warm = min(1.0, (step + 1) / _WARMUP)
    return config.learning_rate * warm * min(1.0, math.sqrt(config.decay_after / (step + 1)))


def head_batch(model: PlannerModel, windows: int) -> int:
    """Pairs that inverse dynamics and value learn from in an update of so many windows."""
    published = model.value is not None and model.value.uses_action
    # as released: as many as the windows hold
    return max(windows * (model.rows if published else 1), _HEAD_BATCH)


class Learner:
    """What learns: the model, its average, the optimiser, and where batches come from."""

    def __init__(
        self, episodes: Episodes, config: Config, seed: int, accelerator: Accelerator
    ) -> None:
        """The order is that of the random numbers: sampler, networks, scales, then batches."""
        self.settings, self.accelerator = config.training, accelerator
        self.sampler = WindowSampler(episodes, config, seed=seed)
        found = self.sampler.landmarks, self.sampler.things
        self.model = PlannerModel(ModelSpec.of(episodes, config, *found), config)
        settings = self.model.config.planning
        calibrated = SAMPLERS[settings.sampler].takes_statistics or settings.start == "teleport"
        if not calibrated:  # which comes after training
            # refuses now what could not plan in the end
            chain_of(self.model, settings)
        info = episodes.info
        low, high = torch.tensor(info.action_low), torch.tensor(info.action_high)
        self.model.fit(self.sampler, low, high, seed)
        self.sampler.to(accelerator.device)
        self.weights = Weights(self.model.to(accelerator.device))
        self.average = WeightAverage(self.model, config.training.ema, self.weights.vector)
        device, rate = accelerator.device, config.training.learning_rate
        on_gpu = device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            [self.weights.vector],
            # a graph of the update reads it from the device
            lr=torch.tensor(rate, device=device) if on_gpu else rate,
            weight_decay=config.training.weight_decay,
            fused=True,
            capturable=on_gpu,
        )
        # far apart, so that no process of this run draws what one of a neighbouring seed does
        own = seed + 1_000_003 * accelerator.process_index
        self.generator = torch.Generator(self.sampler.device).manual_seed(own)
        torch.manual_seed(own)  # dropout draws from the global one
        self.objective = Objective(self.model)
        reason = why_not(device, self.sampler.device, accelerator.num_processes)
        self._captured: CapturedUpdate | None = None
        if reason is None:
            self._captured = CapturedUpdate(self._step, [self.generator], device)
        elif reason:
            warnings.warn(f"no CUDA graph of an update: {reason}", stacklevel=2)
        self._names: list[str] = []
        self._share = 1.0
        self.updates, self.drawing, self.learning = 0, 0.0, 0.0

    def resume(self, path: Path) -> None:
        """Stand where a checkpoint stood; before `prepare`."""
        parts = (self.model, self.average, self.optimiser, self.generator)
        restore(path, *parts, self.accelerator)

    def prepare(self) -> None:
        """Go to the devices."""
        # all of it is there: a GRU that is moved once more leaves the vector of weights
        self.wrapped = self.accelerator.prepare(self.objective, device_placement=[False])

    def state(self) -> dict[str, Tensor]:
        """All that resuming needs beside the averaged model."""
        states = gather_generators(self.accelerator, self.generator)
        return training_state(self.model, self.optimiser, states)

    def measure(self) -> float | None:
        """Free-running error of the proposer on held-out windows, None without one."""
        if self.model.proposer is None:
            return None
        drawn = self.sampler.sample(_RESIDUAL_WINDOWS, self.generator, "held-out")
        windows = moved(drawn, self.accelerator.device)
        return measure_residual(self.model, self.model.proposer, windows, _RESIDUAL_RATE)

    def update(self, step: int) -> dict[str, Tensor]:
        """One joint update, number `step` from 0; returns the losses."""
        begin = time.perf_counter()
        rate = learning_rate(self.settings, step)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self._share = self.average.weigh()
        # the next replay writes over what this one made
        losses = self._step() if self._captured is None else self._captured().clone()
        self.updates += 1
        self.learning += time.perf_counter() - begin
        return dict(zip(self._names, losses.unbind(), strict=True))

    def _step(self) -> Tensor:
        """Draw a batch, learn from it; the losses [n] in the order of their names."""
        accelerator, settings = self.accelerator, self.settings
        begin = time.perf_counter()
        batch = moved(self._draw(), accelerator.device)
        drawn = time.perf_counter() - begin
        self.drawing, self.learning = self.drawing + drawn, self.learning - drawn
        with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.bf16):
            losses: dict[str, Tensor] = self.wrapped(batch, self.generator)
        self.optimiser.zero_grad(set_to_none=False)
        self._names, each = list(losses), torch.stack(list(losses.values()))
        each.sum().backward()
        self.weights.clip(_GRAD_CLIP)
        self.optimiser.step()
        self.average.update(self._share)
        return each.detach()

    def split(self) -> dict[str, float]:
        """Mean milliseconds that an update drew its batch and learned from it, since last asked.

        Of this process; on a GPU they are the host's, which runs ahead, and all of a graph is
        learning.
        """
        count = max(self.updates, 1)
        found = {"time/draw_ms": self.drawing, "time/learn_ms": self.learning}
        self.updates, self.drawing, self.learning = 0, 0.0, 0.0
        return {name: 1000 * value / count for name, value in found.items()}

    def _draw(self) -> Batch:
        """What one update learns from; what no part needs is not drawn."""
        model, objective = self.model, self.objective
        sampler, generator = self.sampler, self.generator
        few = self.settings.batch_size
        many = head_batch(model, few)
        judged = model.value is not None or model.tells_of_states
        plain, follows = objective.plain_rows, objective.follows_proposals
        return Batch(
            sampler.sample(few, generator),
            sampler.transitions(many, generator) if model.inverse_dynamics is not None else None,
            sampler.valued(many, generator) if judged else None,
            sampler.sample(plain, generator) if plain else None,
            sampler.sample(many, generator, acted=True) if follows else None,
        )
