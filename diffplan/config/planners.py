"""Every planner as a configuration: what the papers' planners choose at the four stages."""

from __future__ import annotations

from typing import Any

from diffplan.config.config import Config, by_kind
from diffplan.config.sections import (
    DataConfig,
    DenoiserConfig,
    HeadsConfig,
    PlanningConfig,
    PlanSpaceConfig,
    ProposerConfig,
    TrainingConfig,
)
from diffplan.errors import DiffplanError, nearest


def _of_paper(**settings: Any) -> Config:
    """Another's planner: nothing of it is left for the data to decide."""
    return by_kind(Config(**settings), has_goal=True)


_PUBLISHED = _of_paper(
    name="trajectory-diffuser-published",
    # 16 plan states with the current one first; released settings, methods of arXiv 2407.16142
    plan=PlanSpaceConfig(horizon=15, stride=1, space="absolute"),
    data=DataConfig(discount=1.0, relabel="hindsight", condition_on_returns=True),
    proposer=ProposerConfig(kind="transformer", training="teacher-forced", width=512, depth=4),
    denoiser=DenoiserConfig(
        network="unet",
        width=64,
        prediction="eps",
        condition_on_proposal=False,
        process="ddpm",
        schedule="linear",
        levels=100,
        drop_condition=0.5,
    ),
    heads=HeadsConfig(expectile=0.5, value="critic"),
    planning=PlanningConfig(
        start="raw",
        denoising_steps=5,
        sampler="ancestral",
        clip=None,
        candidates=32,
        temperature=0.0,
        select="softmax",
        guidance_weight=1.2,
        replan_every=1,
        target_quantile=0.75,
    ),
    training=TrainingConfig(
        batch_size=32,
        learning_rate=2e-4,
        decay_after=100_000,
        weight_decay=1e-4,
        ema=0.9975,  # 0.995 every second update
    ),
)

# Not the papers' network sizes: those of ours, so that the ideas are compared and not the budgets.

_FALLING = -100.0  # all three add it to a reward that ends an episode

_DIFFUSER = _of_paper(
    name="diffuser",
    # Janner et al. 2022, arXiv 2205.09991: released locomotion settings, but for the network
    plan=PlanSpaceConfig(horizon=31, stride=1, space="absolute"),
    data=DataConfig(
        discount=0.997,
        relabel="hindsight",
        condition_on_returns=False,
        termination_penalty=_FALLING,
    ),
    denoiser=DenoiserConfig(process="ddpm", condition_on_proposal=False, drop_condition=0.0),
    heads=HeadsConfig(kind="in-plan", expectile=0.5),
    planning=PlanningConfig(
        start="noise",
        denoising_steps=20,
        sampler="ancestral",
        candidates=64,
        replan_every=1,
        value_guidance=0.2,  # two guide steps of 0.1
    ),
    training=TrainingConfig(batch_size=256),
)

_DECISION_DIFFUSER = _of_paper(
    name="decision-diffuser",
    # Ajay et al. 2023, arXiv 2211.15657: released settings, but for the network, its 200 levels
    # and its prediction of eps, which this network does not learn in this many columns
    plan=PlanSpaceConfig(horizon=99, stride=1, space="absolute"),
    data=DataConfig(
        discount=0.99,
        relabel="hindsight",
        condition_on_returns=True,
        termination_penalty=_FALLING,
    ),
    denoiser=DenoiserConfig(
        process="ddpm",
        condition_on_proposal=False,
        drop_condition=0.25,
    ),
    heads=HeadsConfig(expectile=0.5),
    planning=PlanningConfig(
        start="noise",
        denoising_steps=20,
        sampler="ancestral",
        noise_scale=0.5,
        candidates=1,
        guidance_weight=1.2,
        replan_every=1,
        target_quantile=0.9,
    ),
    training=TrainingConfig(batch_size=256),
)

_DIFFUSION_VETERAN = _of_paper(
    name="diffusion-veteran",
    # Lu et al. 2025, arXiv 2503.00535: jump steps, unguided, the critic selects among 50; here
    # too the network predicts x0 where theirs predicts eps
    plan=PlanSpaceConfig(horizon=4, stride=1, space="absolute"),
    data=DataConfig(
        discount=0.997,
        relabel="hindsight",
        condition_on_returns=False,
        termination_penalty=_FALLING,
    ),
    denoiser=DenoiserConfig(process="ddpm", condition_on_proposal=False),
    heads=HeadsConfig(expectile=0.5),
    planning=PlanningConfig(start="noise", denoising_steps=20, candidates=50, replan_every=1),
    training=TrainingConfig(batch_size=256),
)

_TRANSFORMER_PROPOSER = _of_paper(
    name="transformer-proposer",
    # in the spirit of the Decision Transformer (Chen et al. 2021, arXiv 2106.01345), whose width,
    # depth and target it has; it proposes states and sees the current one alone
    plan=PlanSpaceConfig(horizon=8, stride=1),
    data=DataConfig(discount=1.0, relabel="hindsight", condition_on_returns=True),
    proposer=ProposerConfig(kind="transformer", training="teacher-forced", width=128, depth=3),
    heads=HeadsConfig(expectile=0.5),
    planning=PlanningConfig(
        start="none",
        denoising_steps=0,
        candidates=1,
        replan_every=1,
        target="decremented",
        target_quantile=0.95,
    ),
)


def _ours(name: str, **denoiser: Any) -> Config:
    """Ours with another forward process."""
    planning = PlanningConfig(start="process")
    return Config(name=name, denoiser=DenoiserConfig(**denoiser), planning=planning)


CONFIGS: dict[str, tuple[str, Config]] = {
    "trajectory-diffuser": (
        "autoregressive proposal, refined by a residual diffusion model (ours)",
        Config(),
    ),
    "trajectory-diffuser-published": (
        "the released settings: 5 of 100 DDPM steps from the raw proposal, 32 copies",
        _PUBLISHED,
    ),
    "proposer-only": (
        "the autoregressive proposal, not refined",
        Config(name="proposer-only", planning=PlanningConfig(start="none", denoising_steps=0)),
    ),
    "from-noise": (
        "diffusion from pure noise, no proposal",
        Config(
            name="from-noise",
            denoiser=DenoiserConfig(process="ddpm", condition_on_proposal=False),
            planning=PlanningConfig(start="noise", denoising_steps=10),
            training=TrainingConfig(batch_size=256),
        ),
    ),
    "resfusion": (
        "ours, with noise and residual that grow together up to where x0 is gone",
        _ours("resfusion", process="resfusion"),
    ),
    "interpolant": (
        "ours, with a stochastic interpolant between proposal and data",
        _ours("interpolant", process="interpolant"),
    ),
    "rectified-flow": (
        "ours, with an interpolant without noise",
        _ours("rectified-flow", process="rectified-flow"),
    ),
    "diffuse-vae": (
        "ours, with DDPM around the proposal",
        _ours("diffuse-vae", process="diffuse-vae"),
    ),
    "conditioned": (
        "ours, with plain DDPM that sees the proposal as an input: the control experiment",
        _ours("conditioned", process="ddpm"),
    ),
    "multi-task": (
        "ours, with actions and values from heads of the denoiser (MT-Diffusion)",
        Config(
            name="multi-task",
            heads=HeadsConfig(kind="shared"),
        ),
    ),
    "streams": (
        "states, actions and return, each at its own level: for questions (UniDiffuser's idea)",
        Config(
            name="streams",
            # proposals hold no actions
            heads=HeadsConfig(kind="streams", train_on_proposals=False),
            denoiser=DenoiserConfig(process="ddpm", condition_on_proposal=False),
            planning=PlanningConfig(start="noise", denoising_steps=5, replan_every=4),
            training=TrainingConfig(batch_size=256),
        ),
    ),
    "transformer-proposer": (
        "a transformer proposes states by the return, nothing refines",
        _TRANSFORMER_PROPOSER,
    ),
    "diffuser": (
        "states and actions from noise, guided by a value's gradient (Janner et al. 2022)",
        _DIFFUSER,
    ),
    "decision-diffuser": (
        "states from noise, classifier-free guidance (Ajay et al. 2023)",
        _DECISION_DIFFUSER,
    ),
    "diffusion-veteran": (
        "states from noise in jumps, unguided; a critic selects among 50 (Lu et al. 2025)",
        _DIFFUSION_VETERAN,
    ),
}
"""Name -> (a line that says what it is, its settings)."""


def get_config(name: str) -> Config:
    """The named configuration. DiffplanError lists the known names."""
    if name not in CONFIGS:
        raise DiffplanError(
            f"unknown config {name!r}; {nearest(name, CONFIGS)}known: {', '.join(CONFIGS)}"
        )
    return CONFIGS[name][1]
