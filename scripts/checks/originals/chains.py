"""Forward processes with their own chains, guided chains, the U-Net."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from diffplan.diffusion.processes import ddpm
from diffplan.scripts.checks.originals.clones import (
    NOISE,
    PROPOSAL,
    SHAPE,
    START,
    Nothing,
    Shown,
    answer,
    imported,
    waves,
)

_IMAGES = (
    *("Augmentor", "cv2", "datasets", "ema_pytorch", "torchvision"),
    *("pytorch_lightning", "torchmetrics"),
)

_CONTROL = tuple(f"diffuser.{name}" for name in ("utils", "datasets", "environments"))


def rddm(clones: Path, steps: int = 10) -> Tensor:
    """Its posterior, or in fewer steps its ODE."""
    levels, shown = 10, list[Tensor]()
    names = ("src.residual_denoising_diffusion_pytorch",)
    experiment = clones / "RDDM" / "experiments" / "2_Image_Restoration_deraing_raindrop_noise1"

    def model(x: Tensor, t: Tensor, _: Any) -> list[Tensor]:
        plan = x[:, :1]
        shown.append(plan.squeeze(1))
        return [PROPOSAL.unsqueeze(1) - answer(plan, (int(t[0]) + 1) / levels)]

    model.channels = model.out_dim = 1  # type: ignore[attr-defined]
    model.self_condition = model.random_or_learned_sinusoidal_cond = False  # type: ignore[attr-defined]
    with imported(experiment, *names, without=_IMAGES) as theirs:
        theirs.tqdm = lambda steps, **_: steps
        chain = theirs.ResidualDiffusion(
            model,
            image_size=1,
            timesteps=levels,
            sampling_timesteps=steps,
            objective="pred_res",
            condition=True,
            sum_scale=0.04,
        )
        loop = chain.ddim_sample if steps < levels else chain.p_sample_loop
        loop([PROPOSAL.unsqueeze(1)], PROPOSAL.unsqueeze(1).shape)
    return shown[-1]


def resfusion(clones: Path) -> Tensor:
    """The whole chain from a proposal."""
    shown, proposal = list[Tensor](), PROPOSAL.unsqueeze(1)
    names = ("model.resfusion_restore", "variance_scheduler.linear_pro")
    with imported(clones / "Resfusion", *names, without=_IMAGES) as (theirs, schedules):

        def network(x: Tensor, time: Tensor, input_cond: Tensor) -> Tensor:
            t = int(time[0])
            alpha, whole = chain.alphas[t], chain.alphas_hat[t]
            x0 = answer(x, (t + 1) / chain.T_acc)
            residual, signal, spread = input_cond - x0, whole.sqrt(), (1 - whole).sqrt()
            noise = (x - signal * x0 - (1 - signal) * residual) / spread
            shown.append(x.squeeze(1))
            return noise + (1 - alpha.sqrt()) * spread / chain.betas[t] * residual

        schedule = schedules.LinearProScheduler(20)
        chain = theirs.GaussianResfusion_Restore(network, schedule)
        chain.generate(proposal)
    return shown[-1]


def diffuse_vae(clones: Path) -> Tensor:
    """Formulation 2, all steps."""
    shown, levels = list[Tensor](), 20
    folder, names = clones / "DiffuseVAE" / "main", ("models.diffusion.ddpm_form2",)
    with imported(folder, *names, without=_IMAGES) as theirs:

        def network(x: Tensor, t: Tensor, low_res: Tensor, z: Any) -> Tensor:
            level = int(t[0])
            x0 = answer(x, (level + 1) / levels)
            signal, spread = chain.sqrt_alpha_bar[level], chain.minus_sqrt_alpha_bar[level]
            shown.append(x.squeeze(1))
            return (x - low_res - signal * x0) / spread

        chain = theirs.DDPMv2(network, 0.01, 0.3, levels, "fixedsmall")
        chain.sample((PROPOSAL + NOISE[2]).unsqueeze(1), cond=PROPOSAL.unsqueeze(1))
    return shown[-1]


def interpolant(clones: Path) -> Tensor:
    """x and the target of the velocity at times 1/4, 1/2 and 3/4: [6, B, H, D]."""
    found = []
    with imported(clones / "stochastic-interpolants", "interflow.fabrics") as theirs:
        gamma, rate, _ = theirs.make_gamma("brownian")
        (between, moving), rest = theirs.make_It("linear")[:2], NOISE[0]
        for time in torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64):
            found.append(between(time, PROPOSAL, START) + gamma(time) * rest)
            found.append(moving(time, PROPOSAL, START) + rate(time) * rest)
    return torch.stack(found)


def wave_weights(parameters: list[nn.Parameter]) -> None:
    """Other weights for every parameter, the same everywhere."""
    for i, parameter in enumerate(parameters):
        steps = torch.arange(parameter.numel(), dtype=parameter.dtype)
        parameter.data.copy_(0.3 * torch.cos((1.1 + 0.3 * i) * steps + i).view(parameter.shape))


def temporal_unet(clones: Path) -> Tensor:
    """A small one with weights of formulas, its answer to `START`."""
    with imported(clones / "TrajectoryDiffuser", "temporal", without=("diffuser",)) as theirs:
        unet = theirs.TemporalUnet(SHAPE[1], SHAPE[2], None, dim=8, dim_mults=(1, 2, 4)).double()
        downs = [[*level[:2], level[3]] for level in unet.downs]
        ups = [[*level[:2], level[3]] for level in unet.ups]
        middle = [unet.mid_block1, unet.mid_block2]
        parts = [*downs, middle, *ups, [unet.final_conv]]
        wave_weights([p for part in parts for module in part for p in module.parameters()])
        features = waves(0.7).reshape(-1)[:16].expand(SHAPE[0], -1)
        unet.time_mlp = unet.cond_r_emb = nn.Identity()  # features are given
        result: Tensor = unet(START, features[:, 8:], features[:, :8], use_dropout=False)
    return result


def trajectory_diffuser(clones: Path) -> Tensor:
    """Five of 100 steps from a raw proposal, guidance 1.3, the first state held."""
    shown = Shown(ddpm([1e-3 + 1.9e-2 * i / 99 for i in range(100)]))

    def model(
        x: Tensor, condition: Any, t: Tensor, force_dropout: bool = False, **_: Any
    ) -> Tensor:
        level = int(t[0]) + 1
        told = shown.eps(x.unsqueeze(1), level).squeeze(1)
        if not force_dropout:
            return told
        a, sigma = shown.process.a[level], shown.process.sigma[level]
        return (x - a * 0.5 * answer(x, level / 100)) / sigma

    with imported(clones / "TrajectoryDiffuser", "diffusion", without=("diffuser",)) as theirs:
        network = Nothing()
        network.forward = model
        chain = theirs.Diffusion(SHAPE[2], network, None, SHAPE[1], n_timesteps=5, w=1.3).double()
        chain.sample(PROPOSAL.clone(), {0: START[:, 0]}, None)
    return shown.last


def diffuser(clones: Path) -> Tensor:
    """Two guided steps of 0.1 a level down to level 3, the first column an action."""
    shown = list[Tensor]()

    def model(x: Tensor, condition: Any, t: Tensor) -> Tensor:
        shown.append(x)
        return answer(x, (int(t[0]) + 1) / 20)

    names = ("diffuser.models.diffusion", "diffuser.sampling.functions")
    with imported(clones / "diffuser", *names, without=_CONTROL) as (chains, steps):
        network = Nothing()
        network.forward = model
        options = {"n_timesteps": 20, "predict_epsilon": False, "clip_denoised": False}
        chain = chains.GaussianDiffusion(network, SHAPE[1], 2, 1, **options).double()
        guide = SimpleNamespace(gradients=lambda x, condition, t: (x.sum((1, 2)), 2 * torch.cos(x)))
        chain.p_sample_loop(
            SHAPE,
            {0: START[:, 0, 1:]},
            verbose=False,
            sample_fn=steps.n_step_guided_p_sample,
            **{"guide": guide, "scale": 0.1, "t_stopgrad": 2, "n_guide_steps": 2},
        )
    return shown[-1]
