"""Samplers against closed forms: Gaussian data, whose best denoiser is known, and Bayes' rule."""

import math
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ancestral, ddim
from diffplan.diffusion.forward import STARTS, q_sample
from diffplan.diffusion.grids import consecutive_grid, time_grid
from diffplan.diffusion.process import Process
from diffplan.diffusion.processes import (
    betas_cosine,
    betas_linear,
    ddpm,
    diffuse_vae,
    interpolant,
    rddm,
    rectified_flow,
    resfusion,
)
from diffplan.errors import DiffplanError

SAMPLERS = {"ddim": ddim, "ancestral": ancestral}
H, D = 3, 2
COSINE, LINEAR, RDDM = ddpm(betas_cosine(20)), ddpm(betas_linear(100)), rddm(10)


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Gaussian:
    """Data x0 ~ N(mean [H, D], covariance [H*D, H*D]) and its exact denoiser."""

    mean: Tensor
    covariance: Tensor

    def denoiser(self, process: Process, proposal: Tensor | None, scale: Tensor | None):
        """E[x0 | x_t] = m + a C (a^2 C + sigma^2 S^2)^-1 (x_t - a m - r x̂)."""
        spread = torch.ones(H * D) if scale is None else scale.flatten()

        def denoise(x: Tensor, t: int) -> Tensor:
            a, r, sigma = process.a[t], process.r[t], process.sigma[t]
            total = a * a * self.covariance + torch.diag(sigma**2 * spread.double() ** 2)
            innovation = x - a * self.mean
            if proposal is not None:
                innovation = innovation - r * proposal
            gain = a * torch.linalg.solve(total, self.covariance)  # transposed gain
            return self.mean + (innovation.flatten(1) @ gain).view_as(x)

        return denoise


def dense_gaussian(seed: int = 0) -> Gaussian:
    root = normal(H * D, H * D, seed=seed)
    return Gaussian(normal(H, D, seed=seed + 1), root @ root.T / (H * D))


def diagonal_gaussian() -> Gaussian:
    return Gaussian(normal(H, D, seed=5), torch.diag(torch.linspace(0.01, 2.0, H * D).double()))


def observe_step(x0: Tensor, first: int):
    """A denoiser whose first answer is x0 and whose second one is the x it was given."""
    return lambda x, t: x0 if t == first else x


# --- Single steps against Bayes' rule ------------------------------------------------------------


def bayes(prior_mean, prior_var, k, shift, var, x_t) -> tuple[Tensor, Tensor]:
    """Mean and variance of x_s given x_t = k x_s + shift + N(0, var), x_s ~ N(prior)."""
    precision = 1 / prior_var + k * k / var
    return (prior_mean / prior_var + k * (x_t - shift) / var) / precision, 1 / precision


@pytest.mark.parametrize(("t", "s"), [(5, 4), (20, 19), (2, 1), (20, 3)])
def test_an_ancestral_ddpm_step_draws_from_the_posterior(t: int, s: int) -> None:
    x0, x_t, z = normal(4, H, D), normal(4, H, D, seed=1), normal(2, 4, H, D, seed=2)
    k = COSINE.a[t] / COSINE.a[s]
    mean, var = bayes(COSINE.a[s] * x0, COSINE.sigma[s] ** 2, k, 0.0, 1 - k * k, x_t)
    x_s = ancestral(observe_step(x0, t), COSINE, (t, s, 0), x_t, noise=z)
    torch.testing.assert_close(x_s, mean + math.sqrt(var) * z[0], rtol=1e-9, atol=1e-9)


def test_the_ddpm_posterior_has_the_textbook_form() -> None:
    """Ho et al. 2020, eq. 7, in betas."""
    t, betas = 7, betas_cosine(20)
    abar, before = COSINE.a[t] ** 2, COSINE.a[t - 1] ** 2
    beta = betas[t - 1]
    x0, x_t, z = normal(4, H, D), normal(4, H, D, seed=1), normal(2, 4, H, D, seed=2)
    mean = math.sqrt(before) * beta * x0 + math.sqrt(1 - beta) * (1 - before) * x_t
    expected = mean / (1 - abar) + math.sqrt(beta * (1 - before) / (1 - abar)) * z[0]
    x_s = ancestral(observe_step(x0, t), COSINE, (t, t - 1, 0), x_t, noise=z)
    torch.testing.assert_close(x_s, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("t", "s"), [(10, 9), (2, 1), (10, 4)])
def test_an_ancestral_rddm_step_draws_from_the_posterior(t: int, s: int) -> None:
    x0, x_t, proposal = (normal(4, H, D, seed=seed) for seed in range(3))
    z, scale = normal(2, 4, H, D, seed=3), normal(H, D, seed=4).abs() + 0.1
    residual = proposal - x0
    mean, var = bayes(
        x0 + RDDM.r[s] * residual,
        (RDDM.sigma[s] * scale) ** 2,
        1.0,
        (RDDM.r[t] - RDDM.r[s]) * residual,
        (RDDM.sigma[t] ** 2 - RDDM.sigma[s] ** 2) * scale**2,
        x_t,
    )
    x_s = ancestral(
        observe_step(x0, t), RDDM, (t, s, 0), x_t, proposal=proposal, scale=scale, noise=z
    )
    torch.testing.assert_close(x_s, mean + var.sqrt() * z[0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_every_eta_keeps_the_marginal_variance(eta: float) -> None:
    """Song et al. 2021, lemma 1: coefficients of eps and z in x_s have squares summing to sigma."""
    t, s = 12, 5
    x0, zero = torch.zeros(1, H, D).double(), torch.zeros(2, 1, H, D).double()
    one = torch.ones(1, H, D).double()
    step = observe_step(x0, t)
    from_eps = ddim(step, COSINE, (t, s, 0), COSINE.sigma[t] * one, noise=zero, eta=eta)
    from_z = ddim(step, COSINE, (t, s, 0), x0, noise=zero + 1, eta=eta)
    torch.testing.assert_close(from_eps**2 + from_z**2, COSINE.sigma[s] ** 2 * one)
    torch.testing.assert_close(from_z, eta * COSINE.posterior_std(t, s) * one)


# --- Whole chains --------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 3, 10])
@pytest.mark.parametrize("process", [COSINE, LINEAR, RDDM], ids=["cosine", "linear", "rddm"])
def test_a_perfect_predictor_walks_the_forward_path_back_to_x0(process, steps: int) -> None:
    x0, proposal, noise = (normal(4, H, D, seed=seed) for seed in range(3))
    scale = torch.tensor([[0.5, 0.1], [2.0, 0.0], [1.0, 0.3]]).double()  # one without any noise
    level = process.T
    start = q_sample(process, torch.full((4,), level), x0, proposal, noise, scale)

    def denoise(x: Tensor, t: int) -> Tensor:
        expected = q_sample(process, torch.full((4,), t), x0, proposal, noise, scale)
        torch.testing.assert_close(x, expected, rtol=1e-9, atol=1e-9)
        return x0

    end = ddim(denoise, process, time_grid(level, steps), start, proposal=proposal, scale=scale)
    assert torch.equal(end, x0)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("start", STARTS)
def test_every_start_ends_at_the_prediction_bit_by_bit(start: str, sampler: str) -> None:
    process = RDDM if start == "process" else COSINE
    x0, proposal, noise = (normal(4, H, D, seed=seed).float() for seed in range(3))
    scale, steps = torch.rand(H, D), normal(4, 4, H, D, seed=3).float()
    grid = time_grid(process.T, 4)
    x = STARTS[start](process, process.T, proposal, noise, scale)
    end = SAMPLERS[sampler](
        lambda x, t: x0, process, grid, x, proposal=proposal, scale=scale, noise=steps
    )
    assert torch.equal(end, x0)


@pytest.mark.parametrize("data", [dense_gaussian(), diagonal_gaussian()], ids=["dense", "diagonal"])
@pytest.mark.parametrize("family", ["ddpm", "rddm"])
def test_ddim_converges_with_order_one(family: str, data: Gaussian) -> None:
    """To the probability-flow ODE, whose solution for Gaussian data is a linear map."""
    T = 2048
    process = ddpm(betas_cosine(T)) if family == "ddpm" else rddm(T)
    scale = None if family == "ddpm" else torch.linspace(0.4, 1.6, H * D).view(H, D).double()
    proposal = None if family == "ddpm" else normal(4, H, D, seed=8)
    x, shift = normal(4, H, D, seed=9), process.r[T]
    start = x if proposal is None else shift * proposal + x * scale
    spread = torch.ones(H, D).double() if scale is None else scale
    # in units where the noise is white the flow scales every eigenvector by its standard deviation
    white = data.covariance / torch.outer(spread.flatten(), spread.flatten())
    values, vectors = torch.linalg.eigh(white)
    a, sigma = process.a[T], process.sigma[T]
    stretch = (values / (a * a * values + sigma**2)).sqrt()
    centred = (start - a * data.mean - (0 if proposal is None else shift * proposal)) / spread
    exact = (centred.flatten(1) @ vectors * stretch) @ vectors.T
    exact = data.mean + spread * exact.view(4, H, D)
    denoise = data.denoiser(process, proposal, scale)
    errors = []
    for steps in (64, 128, 256):
        end = ddim(denoise, process, time_grid(T, steps), start, proposal=proposal, scale=scale)
        errors.append(float((end - exact).norm()))
    assert errors[-1] < 0.05
    for coarse, fine in pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("family", ["ddpm", "rddm"])
def test_ancestral_sampling_reproduces_the_variance_of_the_data(family: str) -> None:
    """The sampler is affine in its random inputs: unit inputs, one a row, give the variance."""
    T, variance, mean, kappa = 400, 0.3, 1.5, 0.7
    process = ddpm(betas_cosine(T)) if family == "ddpm" else rddm(T)
    scale = torch.full((1, 1), kappa).double()
    spread = 1.0 if family == "ddpm" else kappa
    proposal = None if family == "ddpm" else torch.full((T + 1, 1, 1), 0.4).double()

    def denoise(x: Tensor, t: int) -> Tensor:
        a, r, sigma = process.a[t], process.r[t], process.sigma[t] * spread
        centre = a * mean + (0 if proposal is None else r * 0.4)
        return mean + a * variance / (a * a * variance + sigma**2) * (x - centre)

    # row 0: no randomness; row i: step i - 1 only; the start's own share is added below
    noise = torch.zeros(T, T + 1, 1, 1).double()
    noise[torch.arange(T), torch.arange(1, T + 1)] = 1.0
    start = torch.zeros(T + 1, 1, 1).double() if proposal is None else proposal.clone()
    grid = consecutive_grid(T)
    end = ancestral(denoise, process, grid, start, proposal=proposal, scale=scale, noise=noise)
    moved = ancestral(
        denoise, process, grid, start + spread, proposal=proposal, scale=scale, noise=noise
    )
    shares = end[1:] - end[0]
    total = float(shares.square().sum() + (moved[0] - end[0]).square().sum())
    assert total == pytest.approx(variance, rel=0.03)
    assert float(end[0]) == pytest.approx(mean, abs=0.02)


def test_residual_diffusion_without_proposal_is_ddim() -> None:
    """Liu et al. 2024: A = 1 - sqrt(abar), B = sqrt(1 - abar), x̂ = 0."""
    residual = Process(
        "rddm", COSINE.a, tuple(1 - a for a in COSINE.a), COSINE.sigma, (1.0,) * 21, True
    )
    data, x, grid = dense_gaussian(), normal(4, H, D, seed=3), time_grid(20, 7)
    denoise = data.denoiser(COSINE, None, None)
    expected = ddim(denoise, COSINE, grid, x)
    zero, one = torch.zeros(4, H, D).double(), torch.ones(H, D).double()
    end = ddim(denoise, residual, grid, x, proposal=zero, scale=one)
    torch.testing.assert_close(end, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("sampler", ["ddim", "ancestral"])
def test_more_published_steps_move_a_proposal_further_towards_the_mean(sampler: str) -> None:
    data = diagonal_gaussian()
    proposal = data.mean + normal(4, H, D, seed=3)
    denoise = data.denoiser(LINEAR, None, None)
    x = STARTS["raw"](LINEAR, 5, proposal, proposal, None)
    distances = []
    for steps in range(8):
        grid = consecutive_grid(steps)
        noise = torch.zeros(steps, 4, H, D).double()
        end = SAMPLERS[sampler](denoise, LINEAR, grid, x, noise=noise)
        distances.append((end - data.mean).flatten(1).norm(dim=1))
    assert torch.equal(distances[0], (proposal - data.mean).flatten(1).norm(dim=1))
    for before, after in pairwise(distances):
        assert (after < before).all()


def test_ancestral_is_ddim_at_eta_one_with_the_same_noise() -> None:
    data, x, noise = dense_gaussian(), normal(4, H, D, seed=3), normal(6, 4, H, D, seed=4)
    denoise, grid = data.denoiser(COSINE, None, None), time_grid(20, 6)
    end = ancestral(denoise, COSINE, grid, x, noise=noise)
    assert torch.equal(end, ddim(denoise, COSINE, grid, x, noise=noise, eta=1.0))
    assert not torch.allclose(end, ddim(denoise, COSINE, grid, x), atol=1e-2)
    last_changed = noise.clone()
    last_changed[-1] += 1.0
    assert torch.equal(end, ancestral(denoise, COSINE, grid, x, noise=last_changed))


# --- Contract ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("process", [COSINE, RDDM], ids=["ddpm", "rddm"])
def test_a_batch_is_its_rows(sampler: str, process: Process) -> None:
    data, grid = dense_gaussian(), time_grid(10, 4)
    x, proposal = normal(5, H, D, seed=3), normal(5, H, D, seed=4)
    noise, scale = normal(4, 5, H, D, seed=5), torch.rand(H, D).double() + 0.1

    def run(rows: slice) -> Tensor:
        given = None if process is COSINE else proposal[rows]
        spread = None if process is COSINE else scale
        return SAMPLERS[sampler](
            data.denoiser(process, given, spread),
            process,
            grid,
            x[rows],
            proposal=given,
            scale=spread,
            noise=noise[:, rows],
        )

    together = run(slice(None))
    for row in range(5):
        alone = run(slice(row, row + 1))
        torch.testing.assert_close(together[row : row + 1], alone, rtol=1e-10, atol=1e-10)


def test_a_row_of_scale_acts_on_its_own_entry_only() -> None:
    x0, x, proposal = (normal(4, H, D, seed=seed) for seed in range(3))
    noise, scale = normal(3, 4, H, D, seed=3), torch.ones(H, D).double()
    other = scale.clone()
    other[1, 0] = 3.0

    def run(spread: Tensor) -> Tensor:
        return ancestral(
            observe_step(x0, 10), RDDM, (10, 6, 0), x, proposal=proposal, scale=spread, noise=noise
        )

    changed = (run(scale) != run(other)).any(0)
    assert changed[1, 0]
    assert int(changed.sum()) == 1


def test_the_start_is_left_alone_and_a_grid_of_one_does_nothing() -> None:
    x, kept = normal(4, H, D), normal(4, H, D)
    ddim(lambda x, t: x.add(1), COSINE, time_grid(20, 5), x)
    assert torch.equal(x, kept)
    assert ddim(lambda x, t: x + 1, COSINE, (0,), x) is x


def test_misuse_gets_one_clear_line() -> None:
    x = normal(4, H, D)
    with pytest.raises(DiffplanError, match=r"descend from at most 20 to 0, got \(21, 0\)"):
        ddim(lambda x, t: x, COSINE, (21, 0), x)
    with pytest.raises(DiffplanError, match=r"got \(5, 5, 0\)"):
        ddim(lambda x, t: x, COSINE, (5, 5, 0), x)
    with pytest.raises(DiffplanError, match=r"got \(5, 1\)"):
        ddim(lambda x, t: x, COSINE, (5, 1), x)
    with pytest.raises(DiffplanError, match="needs a proposal"):
        ddim(lambda x, t: x, RDDM, (10, 0), x, scale=torch.ones(H, D))
    with pytest.raises(DiffplanError, match="needs a noise scale"):
        ancestral(lambda x, t: x, RDDM, (10, 0), x, proposal=x, noise=x[None])
    with pytest.raises(DiffplanError, match="2 random steps need as many noise entries, got 1"):
        ancestral(lambda x, t: x, COSINE, (5, 1, 0), x, noise=x[None])
    with pytest.raises(DiffplanError, match="got none"):
        ddim(lambda x, t: x, COSINE, (5, 1, 0), x, eta=0.5)
    with pytest.raises(DiffplanError, match=r"eta must lie between 0 and 1, got 1\.5"):
        ddim(lambda x, t: x, COSINE, (5, 0), x, eta=1.5)


# --- The whole family on Gaussian data -----------------------------------------------------------

PROPOSAL_MEAN, PROPOSAL_STD, LEFT_STD = 0.4, 0.8, 0.3
FAMILY = {
    "rddm": rddm(200),
    "resfusion": resfusion(betas_cosine(400)),
    "diffuse-vae": diffuse_vae(betas_cosine(200)),
    "interpolant": interpolant(200),
}


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0], ids=["ODE", "between", "SDE"])
@pytest.mark.parametrize("name", FAMILY)
def test_the_exact_denoiser_samples_data_given_their_proposal(name: str, eta: float) -> None:
    """x̂ ~ N, x0 | x̂ ~ N(0.9 x̂, 0.3^2): moments of what comes out, from the process's own start."""
    process, n = FAMILY[name], 20_000
    proposal = PROPOSAL_MEAN + PROPOSAL_STD * normal(n, 1, 1)
    scale = 0.5 * torch.ones(1, 1, dtype=torch.float64)
    spread = 0.5 if process.scaled else 1.0
    mean = 0.9 * proposal

    def denoise(x: Tensor, t: int) -> Tensor:
        a, noise = process.a[t], process.sigma[t] * spread
        gain = a * LEFT_STD**2 / (a * a * LEFT_STD**2 + noise * noise)
        return mean + gain * (x - a * mean - process.r[t] * proposal)

    x = STARTS["process"](process, process.T, proposal, normal(n, 1, 1, seed=1), scale)
    grid = time_grid(process.T, process.T)
    noise = normal(process.T, n, 1, 1, seed=2)
    end = ddim(denoise, process, grid, x, proposal=proposal, scale=scale, noise=noise, eta=eta)
    left = end - mean
    assert left.mean().item() == pytest.approx(0.0, abs=5 * LEFT_STD / math.sqrt(n) + 2e-3)
    # what x_1 holds of noise is averaged away by the last answer
    assert left.std().item() == pytest.approx(LEFT_STD, rel=0.06)
    assert torch.corrcoef(torch.stack([left.flatten(), proposal.flatten()]))[0, 1].abs() < 0.05


@pytest.mark.parametrize("process", [interpolant(20), rectified_flow(20)], ids=lambda p: p.name)
def test_an_interpolant_s_moments_at_every_time(process: Process) -> None:
    """Of x_u = u x0 + (1 - u) x̂ + gamma(u) eps, with x0 and x̂ jointly Gaussian."""
    n = 40_000
    proposal = PROPOSAL_MEAN + PROPOSAL_STD * normal(n, 1, 1)
    x0 = 0.9 * proposal + LEFT_STD * normal(n, 1, 1, seed=1)
    scale = torch.ones(1, 1, dtype=torch.float64)
    for level in (3, 10, 17):
        u = 1 - level / 20
        t = torch.full((n,), level)
        x = q_sample(process, t, x0, proposal, normal(n, 1, 1, seed=2), scale)
        share = 0.9 * u + 1 - u
        noise = u * (1 - u) if process.noisy else 0.0
        variance = (share * PROPOSAL_STD) ** 2 + (u * LEFT_STD) ** 2 + noise
        assert x.mean().item() == pytest.approx(share * PROPOSAL_MEAN, abs=0.03)
        assert x.var().item() == pytest.approx(variance, rel=0.04)
