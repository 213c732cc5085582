"""The Gaussian closed form: fitted, as a denoiser, and as a jump along its own reverse ODE."""

import pytest
import torch
from torch import Tensor

from diffplan.diffusion.ddim import ddim
from diffplan.diffusion.gaussian import Gaussian, fit_gaussian, jump
from diffplan.diffusion.processes import betas_cosine, ddpm
from diffplan.errors import DiffplanError

H, D, C = 3, 2, 4
N = H * D


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.fixture(scope="module")
def exact() -> Gaussian:
    root = normal(N, N, seed=1)
    variances, vectors = torch.linalg.eigh(root @ root.T / N)
    return Gaussian(normal(N), normal(C, seed=2), normal(C, N, seed=3), vectors, variances)


def drawn(exact: Gaussian, count: int) -> tuple[Tensor, Tensor]:
    c = exact.centre + normal(count, C, seed=4) @ normal(C, C, seed=5)
    rest = (normal(count, N, seed=6) * exact.variances.sqrt()) @ exact.vectors.T
    return exact.given(c) + rest, c


def test_it_is_found_again_in_its_own_samples(exact: Gaussian) -> None:
    x, c = drawn(exact, 40_000)
    found = fit_gaussian(x, c)
    torch.testing.assert_close(found.gain, exact.gain, rtol=0, atol=0.03)
    covariances = [(g.vectors * g.variances) @ g.vectors.T for g in (found, exact)]
    torch.testing.assert_close(*covariances, rtol=0, atol=0.05)
    torch.testing.assert_close(found.given(c), exact.given(c), rtol=0, atol=0.1)
    assert found.spread == pytest.approx(exact.spread, rel=0.02)
    # samples of weight 0 are not there; a column that says nothing changes nothing
    weights = torch.ones(len(x))
    weights[::2] = 0
    x[::2], blank = 100.0, torch.zeros(len(x), 1)
    again = fit_gaussian(x, torch.cat([c, blank], 1), weights)
    torch.testing.assert_close(again.gain[:C], exact.gain, rtol=0, atol=0.05)
    with pytest.raises(DiffplanError, match="needs more plans than these, got 10"):
        fit_gaussian(x[1:21:2], c[1:21:2])


def test_the_wiener_filter_has_the_least_error_there_is(exact: Gaussian) -> None:
    x, c = drawn(exact, 20_000)
    a, noise = 0.6, normal(20_000, N, seed=7)
    for sigma in (torch.tensor(0.8), torch.linspace(0.3, 1.5, N)):
        x0 = exact.denoise(a * x + sigma * noise, exact.given(c), a, sigma.double())
        covariance = (exact.vectors * exact.variances) @ exact.vectors.T
        precision = covariance.inverse() + a**2 * torch.diag(sigma.double().expand(N) ** -2)
        least = float(precision.inverse().trace())
        assert float((x0 - x).square().sum(1).mean()) == pytest.approx(least, rel=0.02)


def test_a_jump_lands_where_the_ode_of_gaussian_data_goes(exact: Gaussian) -> None:
    """All of it: against DDIM in a thousand steps with the exact denoiser, from the same noise."""
    process, (_, c) = ddpm(betas_cosine(1000)), drawn(exact, 16)
    eps, mean = normal(16, H, D, seed=8), exact.given(c)
    passed: dict[int, Tensor] = {}

    def denoise(x: Tensor, t: int) -> Tensor:
        passed[t] = x
        sigma = torch.tensor(process.sigma[t]).double()
        return exact.denoise(x.flatten(1), mean, process.a[t], sigma).view_as(x)

    ddim(denoise, process, tuple(range(1000, -1, -1)), process.sigma[-1] * eps)
    for level in (700, 400, 100):
        landed = jump(exact, process, level)(eps.float(), c.float())
        torch.testing.assert_close(landed.double(), passed[level], rtol=0, atol=0.02)
    assert (passed[100] - process.a[100] * mean.view(16, H, D)).abs().mean() > 0.2
