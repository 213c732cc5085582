"""Estimators of an analysis against closed forms."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from diffplan.scripts.analyse.estimators import (
    bootstrapped,
    directions,
    energy_rank,
    information,
    jacobian,
    median_distance,
    partial,
    sign_cells,
    spectral_entropy,
    spectral_information,
)

N = 3


def normal(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_gaps_give_the_information_that_gaussian_data_have() -> None:
    """x = A g + B p + noise: every denoiser, information and partial information in closed form."""
    of_g, of_p = normal(N, 2, seed=1), normal(N, 2, seed=2)
    rest = 0.05 * torch.eye(N, dtype=torch.float64)
    left = {"": of_g @ of_g.T + of_p @ of_p.T + rest}
    left |= {"g": of_p @ of_p.T + rest, "p": of_g @ of_g.T + rest, "gp": rest}
    snr = np.geomspace(1e-3, 100, 60).tolist()
    g, p, eps = normal(8000, 2, seed=3), normal(8000, 2, seed=4), normal(8000, N, seed=5)
    x = g @ of_g.T + p @ of_p.T + math.sqrt(0.05) * normal(8000, N, seed=6)

    def answer(known: str, gamma: float) -> Tensor:
        mean = ("g" in known) * g @ of_g.T + ("p" in known) * p @ of_p.T
        y, a = math.sqrt(gamma) * x + eps, math.sqrt(gamma)
        total = gamma * left[known] + torch.eye(N)
        return mean + a * (y - a * mean) @ torch.linalg.solve(total, left[known])

    nothing = [answer("", gamma) for gamma in snr]

    def told(known: str) -> float:
        pairs = zip((answer(known, gamma) for gamma in snr), nothing, strict=True)
        gaps = torch.stack([(some - none).square().sum(1) for some, none in pairs])
        return float(information(gaps, snr).mean())

    def exact(known: str) -> float:
        eye = torch.eye(N, dtype=torch.float64)
        whole, less = (torch.logdet(eye + snr[-1] * left[key]) for key in ("", known))
        return 0.5 * float(whole - less)

    for known in ("g", "p", "gp"):
        assert told(known) == pytest.approx(exact(known), rel=0.03)
    found = partial(told("g"), told("p"), told("gp"))
    best = partial(exact("g"), exact("p"), exact("gp"))
    for name in ("unique", "redundant", "synergistic", "alone", "lost"):
        assert getattr(found, name) == pytest.approx(getattr(best, name), abs=0.03)
    assert best.redundant == pytest.approx(min(exact("g"), exact("p")) / exact("gp"))
    assert best.synergistic > 0.01  # independent causes of one effect explain each other away


def test_parts_of_copies_are_redundant_and_of_a_key_synergistic() -> None:
    copies, key = partial(1.0, 1.0, 1.0), partial(0.0, 0.0, 1.0)
    assert (copies.unique, copies.redundant, copies.lost) == (0, 1, 0)
    assert (key.alone, key.synergistic, key.lost) == (0, 1, 1)
    only = partial(2.0, 0.5, 2.0)
    assert only.unique == 0.75 and only.lost == 0.75 and only.alone == 1


def test_a_bootstrap_has_the_width_that_the_data_have() -> None:
    values = normal(2, 2000).numpy() + np.array([[1.0], [2.0]])
    (ratio,) = bootstrapped(lambda m: (m[0] / m[1])[None], values)
    # by the delta method: sqrt(1 / 4 + 1 / 16) / sqrt(2000), twice 1.96 of it
    assert ratio.high - ratio.low == pytest.approx(
        3.92 * math.sqrt((1 / 4 + 1 / 16) / 2000), rel=0.1
    )
    assert ratio.low < ratio.mean < ratio.high and ratio.n == 2000


def test_entropy_counts_what_can_be_told_apart() -> None:
    assert spectral_entropy(torch.ones(32, 5), 1.0) == pytest.approx(0, abs=1e-6)
    apart = 100 * torch.eye(32)
    assert spectral_entropy(apart, 1.0) == pytest.approx(5)
    assert spectral_entropy(apart, 1e4) == pytest.approx(0, abs=1e-2)
    groups = apart[:4].repeat(8, 1)
    assert spectral_entropy(groups, 1.0) == pytest.approx(2)
    assert median_distance(apart) == pytest.approx(100 * math.sqrt(2))


def test_information_of_features_is_that_of_the_groups_they_make() -> None:
    cells = torch.arange(64) % 2
    features = 100.0 * cells[:, None]
    assert spectral_information(features, cells, 1.0) == pytest.approx(1)
    other = torch.arange(64) // 32
    assert spectral_information(features, other, 1.0) == pytest.approx(0, abs=1e-6)
    x = normal(256, 4) * torch.tensor([8.0, 4, 2, 1])
    found = sign_cells(x)
    assert found.unique().tolist() == list(range(8))
    sides = x[:, 0] > x[:, 0].median()
    assert float(((found % 2 == 1) == sides).double().mean()) in (
        pytest.approx(1, abs=0.05),
        pytest.approx(0, abs=0.05),
    )


@pytest.mark.parametrize(("rows", "rank"), [(4, 3), (40, 5)])
def test_the_rank_of_a_linear_map(rows: int, rank: int) -> None:
    size = rows * 4
    basis = torch.linalg.qr(normal(size, rank))[0]
    m = directions(size)
    assert m == min(size, 128)
    x = normal(2, rows, 4, seed=1).repeat_interleave(m, 0)
    found = jacobian(lambda x: (x.flatten(1) @ basis @ basis.T).view_as(x), x)
    assert found.shape == (2, size, m)
    assert energy_rank(found).tolist() == [rank, rank]
    if m == size:
        torch.testing.assert_close(found[0], basis @ basis.T)
    scaled = torch.diag(torch.tensor([10.0, 1.0, 0.1]))[None]
    assert energy_rank(scaled).tolist() == [1 + (1 / 101.01 > 0.01)]
