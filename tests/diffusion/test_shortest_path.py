"""Plain DDPM by the spectrum of the data."""

import pytest
import torch

from diffplan.diffusion.shortest_path import ShortestPath, cosines, spectrum

H, D, T = 8, 2, 20


@pytest.fixture(scope="module")
def variances() -> torch.Tensor:
    v = torch.logspace(1, -3, H, dtype=torch.float64)[:, None].repeat(1, D)
    v[3, 1] = 1.0  # where the formula divides zero by zero
    return v


def test_variances_change_by_equal_factors(variances: torch.Tensor) -> None:
    path = ShortestPath(variances, T)
    assert torch.equal(path.a[0], torch.ones(H, D).double())
    found = path.a.square() * variances + path.sigma.square()
    left = torch.arange(T, -1, -1, dtype=torch.float64).view(-1, 1, 1) / T
    # the last step forgets nearly, not quite, all
    torch.testing.assert_close(found[:-1], variances ** left[:-1])
    assert (path.a[-1] < 0.04 * path.a[-2]).all()


def test_what_is_drawn_has_them(variances: torch.Tensor) -> None:
    generator = torch.Generator().manual_seed(0)

    def normal() -> torch.Tensor:
        return torch.randn(40_000, H, D, generator=generator, dtype=torch.float64)

    x0 = cosines(H).T @ (variances.sqrt() * normal())
    torch.testing.assert_close(spectrum(x0), variances, rtol=0.05, atol=0)
    x_t = ShortestPath(variances, T).sample(torch.full((len(x0),), 10), x0, normal())
    torch.testing.assert_close(spectrum(x_t), variances.sqrt(), rtol=0.05, atol=0)


def test_a_walk_keeps_the_noise_it_began_with(variances: torch.Tensor) -> None:
    path, seen = ShortestPath(variances, T), {}
    x0, noise = torch.randn(2, 3, H, D, generator=torch.Generator().manual_seed(1)).double()

    def exact(x: torch.Tensor, t: int) -> torch.Tensor:
        seen[t] = x
        return x0

    assert torch.equal(path.walk(exact, (15, 6, 2, 0), path.noised(15, x0, noise)), x0)
    for t, x in seen.items():
        torch.testing.assert_close(x, path.noised(t, x0, noise))
