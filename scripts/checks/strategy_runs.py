"""Runs that differ in how the denoiser is trained, in one process from the same numbers.

A denoiser learns from batches, proposals and noise that it does not change: proposer and inverse
dynamics are trained once for all runs, and each is, to the bit, what `diffplan train` makes of its
settings. What differs between them is then what a setting does.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from diffplan.config.config import Config, with_settings
from diffplan.config.planners import get_config
from diffplan.data.batches import Batch
from diffplan.data.episodes import Episodes, fingerprint
from diffplan.diffusion.shortest_path import spectrum
from diffplan.model.checkpoint import save_checkpoint
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import Header
from diffplan.training import loop
from diffplan.training.average import WeightAverage
from diffplan.training.defaults import decide
from diffplan.training.denoising import denoiser_losses
from diffplan.training.flat import Weights
from diffplan.training.learner import Learner, learning_rate
from diffplan.training.run import RunOptions
from diffplan.training.strategies import strategies_of

_CLIP = 1.0  # as in `diffplan.training.learner`
_MEASURED = 100  # updates between measurements of the proposals' error, as in the loop


class Variant:
    """One denoiser with settings of its own, which learns beside that of a learner."""

    def __init__(self, learner: Learner, config: Config, seed: int) -> None:
        self.config, trained = config, learner.model
        self.model = PlannerModel(trained.spec, config)
        self.model.load_state_dict(trained.state_dict(), strict=False)
        if config.denoiser.shortest_path:
            windows = learner.sampler.sample(8192, torch.Generator().manual_seed(seed))
            self.model.spectrum.copy_(spectrum(self.model.whole_plans(windows)))
        self.model.proposer = trained.proposer
        parts = {"denoiser": self.model.denoiser, "projector": self.model.projector}
        self.learns = nn.ModuleDict({k: part for k, part in parts.items() if part is not None})
        self.weights = Weights(self.learns)
        self.average = WeightAverage(self.learns, config.training.ema, self.weights.vector)
        decay = config.training.weight_decay
        self.optimiser = torch.optim.AdamW([self.weights.vector], weight_decay=decay, fused=True)
        self.strategies = strategies_of(self.model)
        self.seconds = 0.0

    def update(self, batch: Batch, proposed: Tensor, step: int, generator: torch.Generator) -> None:
        """One update, from what the learner learns from in it. batch: in plan units."""
        began, model = time.thread_time(), self.model
        self.optimiser.param_groups[0]["lr"] = learning_rate(self.config.training, step)
        context = model.context_of(batch.windows, generator)
        assert model.denoiser is not None
        losses = denoiser_losses(
            *(model, model.denoiser, batch.windows, context, proposed, batch.plain, generator),
            self.strategies,
        )
        self.optimiser.zero_grad(set_to_none=False)
        torch.stack(list(losses.values())).sum().backward()
        self.weights.clip(_CLIP)
        self.optimiser.step()
        self.average.update()
        self.seconds += time.thread_time() - began

    def averaged(self, others: nn.Module) -> dict[str, Tensor]:
        """Averaged weights of the whole model; others: the learner's, for all but the denoiser."""
        whole = copy.deepcopy(self.model).state_dict()
        whole |= {k: v for k, v in others.state_dict().items() if not k.startswith("denoiser.")}
        return whole | self.average.module.state_dict()


def train_together(
    episodes: Episodes,
    settings: Mapping[Path, Mapping[str, Any]],
    seed: int,
    marks: Sequence[int],
) -> dict[Path, float]:
    """Train one run per folder, with checkpoints at the marks, which do not resume.

    settings: folder -> "section.key" -> value in place of trajectory-diffuser's. Returns the CPU
    seconds of the denoisers that learned beside it.
    """
    config, decisions = decide(get_config("trajectory-diffuser"), episodes)
    torch.manual_seed(seed)
    options = RunOptions(next(iter(settings)), max(marks), device="cpu")
    learner = Learner(episodes, config, seed, loop._accelerator(options))
    configs = {run: with_settings(config, changes) for run, changes in settings.items()}
    # without changes the learner's own denoiser is the run's
    variants = {
        run: Variant(learner, each, seed) for run, each in configs.items() if each != config
    }
    learner.prepare()
    forward, proposer, at, kept = learner.wrapped, learner.model.proposer, [0], [torch.empty(0)]
    assert proposer is not None
    propose = proposer.loss

    def keeping(*given: Any) -> Any:
        loss, proposal = propose(*given)
        kept[0] = proposal.states
        return loss, proposal

    def with_all(batch: Batch, generator: torch.Generator) -> Any:
        state = generator.get_state()
        losses = forward(batch, generator)
        after, seen = generator.get_state(), learner.model.normalised_batch(batch)
        for variant in variants.values():
            generator.set_state(state)
            variant.model.residual_rms.copy_(learner.model.residual_rms)
            variant.update(seen, kept[0], at[0], generator)
        generator.set_state(after)
        return losses

    proposer.loss, learner.wrapped = keeping, with_all  # type: ignore[assignment, method-assign]
    for step in tqdm(range(max(marks)), desc=f"training {len(variants)} runs", unit="update"):
        at[0] = step
        if step % _MEASURED == 0:
            learner.measure()
        learner.update(step)
        if step + 1 in marks:
            average = learner.average.module
            about = (learner.model.spec, episodes.layout, episodes.info, fingerprint(episodes))
            for run, own in configs.items():
                header = Header(
                    *(own, *about, step + 1, seed, 0.0),
                    command="diffplan.scripts.checks.strategies",
                    decisions=decisions,
                )
                variant = variants.get(run)
                whole = average.state_dict() if variant is None else variant.averaged(average)
                save_checkpoint(run, header, whole, {})
    return {run: variant.seconds for run, variant in variants.items()}
