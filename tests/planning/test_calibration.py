"""Statistics for DPM-Solver-v3: estimates against closed forms, a trained model's, their file."""

import dataclasses
import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffplan.config.config import replace_planning
from diffplan.config.sections import PlanningConfig
from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.dpm_solver_v3 import Statistics, dpm_solver_v3
from diffplan.diffusion.dpm_statistics import Part, estimate, last_level, rounds
from diffplan.diffusion.grids import time_grid
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import betas_cosine, betas_vp, ddpm, rddm
from diffplan.diffusion.sampling import Denoise, half_log_snrs
from diffplan.errors import DiffplanError
from diffplan.model.context import Context
from diffplan.model.planner_model import PlannerModel
from diffplan.planning.calibration import (
    FILE,
    calibrate,
    calibrated_process,
    check_conditions,
    load_statistics,
    save_statistics,
)
from diffplan.planning.chains import chain_of
from diffplan.planning.stages import Noise, optimise, propose

H, D = 3, 2
N = H * D
VP, RDDM = ddpm(betas_vp(120, 0.1, 10.0)), rddm(10)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


ROOT = normal(N, N, seed=1)
COVARIANCE = ROOT @ ROOT.T / N
MEAN = normal(H, D, seed=2)


def gain(process: Process, t: int, covariance: Tensor) -> Tensor:
    """d x0_hat / d y [N, N] of Gaussian data: a C (a^2 C + sigma^2)^-1."""
    total = process.a[t] ** 2 * covariance + process.sigma[t] ** 2 * torch.eye(N).double()
    return process.a[t] * torch.linalg.solve(total, covariance)


def gaussian(process: Process, covariance: Tensor, proposal: Tensor | None = None) -> Denoise:
    def denoise(x: Tensor, t: int) -> Tensor:
        y = x if proposal is None else x - process.r[t] * proposal
        centred = (y - process.a[t] * MEAN).flatten(1)
        return MEAN + (centred @ gain(process, t, covariance)).view_as(x)

    return denoise


def samples(count: int, covariance: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Clean plans and noise [count, H, D]."""
    root = torch.linalg.cholesky(covariance)
    x0 = MEAN + (normal(count, N, seed=seed) @ root.T).view(count, H, D)
    return x0, normal(count, H, D, seed=seed + 100)


def part(process: Process, covariance: Tensor, count: int = 200, seed: int = 0) -> Part:
    x0, noise = samples(count, covariance, seed)
    given = (torch.zeros(count, H, D).double(), torch.ones(H, D).double())
    return Part(gaussian(process, covariance), x0, noise, *(given if any(process.r) else ()))


# --- Against closed forms ------------------------------------------------------------------------


def test_independent_gaussian_data_give_the_exact_statistics() -> None:
    variance = torch.linspace(0.05, 2.0, N).double()
    found = estimate(VP, [part(VP, torch.diag(variance))])
    a, sigma = (torch.tensor(v, dtype=torch.float64)[1:, None] for v in (VP.a, VP.sigma))
    exact = sigma**2 / (a**2 * variance + sigma**2)
    # f = -l m is the same for all samples, its slope -dl/d lambda m
    drift = 2 * exact * (1 - exact) * MEAN.flatten()
    torch.testing.assert_close(found.l[1:].flatten(1), exact, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.s, torch.zeros_like(found.s), rtol=0, atol=1e-6)
    # differences of second order between levels 0.02 to 0.3 apart, of first order at the ends
    torch.testing.assert_close(found.b[5:-1].flatten(1), drift[4:-1], rtol=0, atol=0.01)
    torch.testing.assert_close(found.b[1:].flatten(1), drift, rtol=0, atol=0.2)
    assert found.b[1:].abs().max() > 0.3


def test_l_of_dependent_data_is_right_within_sampling_error() -> None:
    count = 4000
    found = estimate(VP, [part(VP, COVARIANCE, count // 2, seed) for seed in (0, 1)])
    assert found.details["samples"] == count
    for t in (1, 30, 80, 120):
        jacobian = VP.a[t] * gain(VP, t, COVARIANCE)
        # Rademacher signs: the variance is that of the entries beside the diagonal
        beside = jacobian - torch.diag(jacobian.diag())
        error = beside.square().sum(0).sqrt() / math.sqrt(count)
        off = (found.l[t].flatten() - (1 - jacobian.diag())).abs()
        assert (off <= 4.5 * error + 1e-12).all(), t
        assert float(error.max()) < 0.02


def test_s_is_the_regression_of_the_slope_on_f() -> None:
    """x0_hat = z exp(lambda) of samples z that never move: f = gain y - x0_hat with gain 0."""
    process = ddpm(betas_vp(400, 0.1, 10.0))
    lam = half_log_snrs(process)
    z, noise = samples(50, COVARIANCE)

    def denoise(x: Tensor, t: int) -> Tensor:
        return z * math.exp(0.7 * lam[t]) + 0.2

    found = estimate(process, [Part(denoise, z, noise)])
    torch.testing.assert_close(found.l, torch.ones_like(found.l))
    inside = found.s[10:-1]  # f = -(z e^{0.7 lambda} + 0.2), f' = 0.7 f + 0.14
    torch.testing.assert_close(inside, torch.full_like(inside, 0.7), rtol=0, atol=2e-3)
    torch.testing.assert_close(found.b[10:-1], torch.full_like(inside, 0.14), rtol=0, atol=2e-3)


def test_slopes_between_uneven_levels_are_those_of_a_parabola() -> None:
    """x0_hat = z + lambda + lambda^2: f' = -1 - 2 lambda, whatever z and the gaps."""
    process = ddpm(betas_cosine(12))
    lam = half_log_snrs(process)
    z, noise = samples(50, COVARIANCE)
    found = estimate(process, [Part(lambda x, t: z + lam[t] + lam[t] ** 2, z, noise)])
    inside = range(2, last_level(process))
    for t in inside:
        expected = torch.full((H, D), -1 - 2 * lam[t], dtype=torch.float64)
        torch.testing.assert_close(found.b[t], expected, rtol=0, atol=1e-6)
    assert found.s[list(inside)].abs().max() < 1e-6


def test_neighbours_are_reached_along_the_ode() -> None:
    """x0_hat = k y / sigma: y / sigma and f grow like exp(k a / sigma)."""
    process = ddpm([0.4, 0.3])
    lam = half_log_snrs(process)
    k = 0.3 / (math.exp(lam[1]) - math.exp(lam[2]))
    x0, noise = samples(50, COVARIANCE)
    # detached, as if it had no slope of its own: l is 1 and f is -x0_hat
    found = estimate(process, [Part(lambda x, t: k * x.detach() / process.sigma[t], x0, noise)])
    for t, grown in ((1, -0.3), (2, 0.3)):
        expected = math.expm1(grown) / float(lam[3 - t] - lam[t])
        torch.testing.assert_close(
            found.s[t], torch.full((H, D), expected, dtype=torch.float64), rtol=0.03, atol=0
        )


def test_steep_slopes_are_clamped_and_still_ones_ridged() -> None:
    process = ddpm(betas_cosine(40))
    lam = half_log_snrs(process)
    z, noise = samples(50, COVARIANCE)
    steep = estimate(process, [Part(lambda x, t: z * math.exp(5 * lam[t]), z, noise)])
    assert steep.s.abs().max() == 2.0
    still = estimate(process, [Part(lambda x, t: 1e-6 * z * math.exp(lam[t]), z, noise)])
    assert still.s.abs().max() < 1e-2


def test_averaged_over_the_horizon_all_rows_agree() -> None:
    parts = [part(RDDM, COVARIANCE)]
    rows, whole = estimate(RDDM, parts), estimate(RDDM, parts, over_horizon=True)
    assert whole.l.shape == rows.l.shape == (RDDM.T + 1, H, D)
    for name in ("l", "s", "b"):
        table = getattr(whole, name)
        assert torch.equal(table, table[:, :1].expand_as(table))
    torch.testing.assert_close(whole.l[:, 0], rows.l.mean(1))
    assert whole.details["averaged"] == "batch and horizon"


def test_with_a_proposal_the_statistics_are_those_of_y() -> None:
    """Of x - r x̂, whatever x̂ is; a level with a = 0 has none."""
    x0, noise = samples(100, COVARIANCE)
    bare = Process("bare", RDDM.a, (0.0,) * 11, RDDM.sigma, RDDM.memory)
    expected = estimate(bare, [Part(gaussian(bare, COVARIANCE), x0, noise)])
    proposal, scale = normal(100, H, D, seed=9), torch.ones(H, D).double()
    denoise = gaussian(RDDM, COVARIANCE, proposal)
    found = estimate(RDDM, [Part(denoise, x0, noise, proposal, scale)])
    for name in ("l", "s", "b"):
        torch.testing.assert_close(
            getattr(found, name), getattr(expected, name), rtol=1e-6, atol=1e-6
        )
    assert last_level(RDDM) == 9
    assert (found.l[10] == 1).all() and (found.s[10] == 0).all() and (found.b[10] == 0).all()


def test_the_seed_decides() -> None:
    parts = [part(RDDM, COVARIANCE)]
    first, again, other = (estimate(RDDM, parts, seed=seed) for seed in (3, 3, 4))
    for name in ("l", "s", "b"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_progress_and_refusals() -> None:
    calls: list[int] = []
    estimate(RDDM, [part(RDDM, COVARIANCE)], progress=lambda: calls.append(1))
    assert len(calls) == rounds(RDDM) == 18
    with pytest.raises(DiffplanError, match="at least 2 samples, got 1"):
        estimate(VP, [part(VP, COVARIANCE, 1)])
    blind = Process("blind", (1.0, 0.0), (0.0, 1.0), (0.0, 1.0), (1.0, 1.0))
    with pytest.raises(DiffplanError, match="'blind' has no level with both signal and noise"):
        estimate(blind, [part(VP, COVARIANCE)])


# --- What they are good for ----------------------------------------------------------------------


def even(levels: int) -> Process:
    """Variance preserving, from lambda = 3 to -3 in equal steps."""
    lam = torch.linspace(3.0, -3.0, levels + 1).double()
    a, sigma = lam.mul(2).sigmoid().sqrt().tolist(), lam.mul(-2).sigmoid().sqrt().tolist()
    return Process("even", (1.0, *a), (0.0,) * (levels + 2), (0.0, *sigma), (1.0, *a))


def clusters(process: Process) -> Denoise:
    """Exact denoiser of two narrow clusters at +-1 in every entry."""

    def denoise(x: Tensor, t: int) -> Tensor:
        a, v = process.a[t], 0.09
        total = a * a * v + process.sigma[t] ** 2
        return torch.tanh(a * x / total) * process.sigma[t] ** 2 / total + a * v / total * x

    return denoise


def end_of(denoise: Denoise, sampler: Callable[..., Tensor], *args, **options) -> Tensor:
    """x at the level before 0."""
    seen = []

    def watched(x: Tensor, t: int) -> Tensor:
        seen.append(x)
        return denoise(x, t)

    sampler(watched, *args, **options)
    return seen[-1]


def test_estimated_statistics_keep_the_order_of_convergence() -> None:
    levels = 240
    process = even(levels)
    denoise = clusters(process)
    x0 = normal(500, H, D, seed=3).sign() + 0.3 * normal(500, H, D, seed=4)
    found = estimate(process, [Part(denoise, x0, normal(500, H, D, seed=5))])
    x = normal(64, H, D, seed=6)

    def end(steps: int, corrector: bool) -> Tensor:
        grid = (*range(levels + 1, 0, -levels // steps), 0)
        options = {"statistics": found, "corrector": corrector}
        return end_of(denoise, dpm_solver_v3, process, grid, x, **options)

    truth = end(240, True)
    for corrector in (False, True):
        errors = [float((end(steps, corrector) - truth).norm()) for steps in (15, 30, 60)]
        for coarse, fine in pairwise(errors):
            assert math.log2(coarse / fine) > 1.8, errors


def test_estimated_statistics_solve_a_gaussian_in_few_steps() -> None:
    variance = torch.linspace(0.05, 2.0, N).double()
    process = ddpm(betas_cosine(100))
    found = estimate(process, [part(process, torch.diag(variance))])
    denoise, x, grid = gaussian(process, torch.diag(variance)), normal(8, H, D), (90, 40, 5, 0)
    before, after = (
        (process.a[t] ** 2 * variance + process.sigma[t] ** 2).sqrt().view(H, D) for t in (90, 5)
    )
    truth = process.a[5] * MEAN + after / before * (x - process.a[90] * MEAN)
    off = float((end_of(denoise, ddim, process, grid, x) - truth).norm())
    for order in (1, 2):
        end = end_of(denoise, dpm_solver_v3, process, grid, x, statistics=found, order=order)
        assert float((end - truth).norm()) < 0.02 * off


# --- Models --------------------------------------------------------------------------------------


def settings_of(model: PlannerModel, **changes) -> PlanningConfig:
    return replace_planning(model.config, **changes).planning


def contexts_of(model: PlannerModel, plan_inputs, count: int = 24) -> Context:
    settings = dataclasses.replace(model.config.planning, candidates=1)
    return plan_inputs(model, settings, rows=count)[0]


@pytest.mark.parametrize("network", ["mlp", "unet", "dit"])
def test_every_network_is_calibrated(network: str, models, plan_inputs) -> None:
    sizes = {
        "denoiser__network": network,
        "denoiser__levels": 6,
        "planning__denoising_steps": 5,
    }
    model = models("from-noise", **sizes)
    contexts = contexts_of(model, plan_inputs)
    settings, x0 = settings_of(model), normal(24, model.rows, 4).float()
    found, again = (calibrate(model, contexts, settings, x0=x0) for _ in range(2))
    assert found.l.shape == (model.plain_process.T + 1, model.rows, 4)
    assert torch.equal(found.l, again.l) and torch.equal(found.b, again.b)
    assert found.l[2:5].std() > 1e-3  # an untrained network still has a Jacobian
    assert found.conditions == {
        "start": "noise",
        "guidance_weight": 1.0,
        "clip": 5.0,
    }


def test_the_denoiser_is_the_one_that_planning_uses(
    models, plan_inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guidance, the clip and the pinned state count; plans can be made with the statistics."""
    model = models(
        "trajectory-diffuser-published",
        rewards=True,
        denoiser__network="mlp",
        denoiser__levels=10,
    )
    contexts = contexts_of(model, plan_inputs)
    settings = settings_of(model, candidates=1, denoising_steps=4, start_level=8)
    found = calibrate(model, contexts, settings)
    assert found.a == model.plain_process.a
    # the pinned state does not move: x0_hat is constant
    assert (found.l[1:, 0] == 1).all() and (found.l[1:, 1:] != 1).all()
    torch.testing.assert_close(found.b[1:, 0], torch.zeros_like(found.b[1:, 0]))
    weighted = calibrate(model, contexts, settings_of(model, guidance_weight=2.0, start_level=8))
    assert weighted.conditions["guidance_weight"] == 2.0
    assert not torch.allclose(weighted.l, found.l, atol=1e-4)
    shut = calibrate(model, contexts, settings_of(model, clip=1e-9, start_level=8))
    assert (shut.l[1:] == 1).all()

    context, noise = plan_inputs(model, settings)
    proposal = propose(model, context, noise.propose, settings)
    monkeypatch.setattr(model, "statistics", found)
    settings = dataclasses.replace(settings, sampler="dpm-solver-v3")
    plans, _ = optimise(model, context, proposal, noise, settings, chain_of(model, settings))
    assert plans.isfinite().all() and torch.equal(plans[:, 0], context.state)


def test_without_data_the_plans_are_the_models_own(models, plan_inputs) -> None:
    model = models("from-noise")
    contexts = contexts_of(model, plan_inputs)
    settings = settings_of(model, denoising_steps=5)
    noise = torch.zeros(24, 1, model.rows, 4)
    own_noise = Noise(noise, noise, None, noise)
    plans, _ = optimise(model, contexts, None, own_noise, settings, chain_of(model, settings))
    assert plans.shape == (24, model.rows, 4)
    own = calibrate(model, contexts, settings, seed=2)
    given = calibrate(model, contexts, settings, x0=plans + 3.0, seed=2)
    assert not torch.allclose(own.b, given.b, atol=1e-3)


def test_more_samples_than_a_batch(models, plan_inputs) -> None:
    model = models("from-noise")
    contexts = contexts_of(model, plan_inputs, 300)
    found = calibrate(model, contexts, settings_of(model), x0=torch.zeros(300, model.rows, 4))
    assert found.details["samples"] == 300


def test_starts_that_the_solver_cannot_take_are_refused(models, plan_inputs) -> None:
    model = models()
    contexts = contexts_of(model, plan_inputs)
    with pytest.raises(DiffplanError, match=r"level 10 of 'rddm'.*give --start noise or sdedit"):
        calibrate(model, contexts, settings_of(model, start="process"))
    with pytest.raises(DiffplanError, match=r"start is 'none' with .* refines nothing"):
        calibrated_process(model, settings_of(model, start="none", denoising_steps=0))
    assert calibrated_process(model, settings_of(model, start="noise")) is model.plain_process
    found = calibrate(model, contexts, settings_of(model, start="sdedit", start_level=6))
    assert found.a == model.plain_process.a


def test_other_settings_than_calibrated_are_refused(models, plan_inputs) -> None:
    model = models("from-noise")
    found = calibrate(model, contexts_of(model, plan_inputs), settings_of(model))
    check_conditions(found, settings_of(model, denoising_steps=3))
    with pytest.raises(DiffplanError, match=r"guidance_weight .* is 1\.5, .* with 1\.0"):
        check_conditions(found, settings_of(model, guidance_weight=1.5))
    with pytest.raises(DiffplanError, match=r"clip of the .* is None, .* with 5\.0; plan"):
        check_conditions(found, settings_of(model, clip=None))


# --- Files ---------------------------------------------------------------------------------------


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Path, Statistics]:
    """A checkpoint folder with statistics, and these."""
    conditions = {"start": "noise", "guidance_weight": 2.2, "clip": None}
    found = estimate(RDDM, [part(RDDM, COVARIANCE, 20)], conditions=conditions)
    folder = tmp_path / "checkpoint-00000001"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    assert save_statistics(found, folder) == folder / FILE
    return folder, found


def test_statistics_come_back_as_they_were(kept: tuple[Path, Statistics]) -> None:
    folder, found = kept
    for where in (folder, folder.parent):  # a checkpoint, a run
        loaded = load_statistics(where)
        for name in ("l", "s", "b"):
            assert torch.equal(getattr(loaded, name), getattr(found, name))
        for name in ("a", "r", "sigma", "conditions", "details"):
            assert getattr(loaded, name) == getattr(found, name)
    assert {p.name for p in folder.iterdir()} == {"config.json", FILE}
    x, denoise = normal(3, H, D), gaussian(RDDM, COVARIANCE)
    options = {"proposal": torch.zeros(3, H, D).double()}
    ends = [
        dpm_solver_v3(denoise, RDDM, time_grid(9, 4), x, statistics=given, **options)
        for given in (found, loaded)
    ]
    assert torch.equal(*ends)


def test_missing_and_damaged_files_are_named(kept: tuple[Path, Statistics]) -> None:
    folder, _ = kept
    whole, file = (folder / FILE).read_bytes(), folder / FILE
    tensors = load_file(file)
    file.write_bytes(whole[:-40])
    with pytest.raises(DiffplanError, match=r"is damaged .*; run `diffplan calibrate .*` anew"):
        load_statistics(folder)
    save_file(tensors, file)  # without what says where they come from
    with pytest.raises(DiffplanError, match="is damaged"):
        load_statistics(folder)
    save_file(tensors, file, {"diffplan_calibration": "7"})
    with pytest.raises(DiffplanError, match="has format 7, this version reads 1"):
        load_statistics(folder)
    file.unlink()
    with pytest.raises(DiffplanError, match=f"needs; run `diffplan calibrate {folder}` first"):
        load_statistics(folder)
