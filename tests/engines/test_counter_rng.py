"""Random numbers by counting: right laws, and a function of seed and count alone."""

import importlib
import math
import sys

import pytest
import torch
from torch import Tensor

from diffplan.engines import counter_rng
from diffplan.engines.counter_rng import standard_normal, uniform

SEEDS = torch.tensor([0, 1, 2, 2**62, -5])
COUNTS = torch.tensor([0, 7, 0, 3, 1])


@pytest.fixture(params=["host", "device"])
def library(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both arithmetics: NumPy's, and PyTorch's as on a GPU."""
    if request.param == "device":
        monkeypatch.setattr(counter_rng, "_own", lambda x: x)


def test_host_and_device_draw_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    host = [draw(SEEDS, COUNTS, 1001) for draw in (standard_normal, uniform)]
    monkeypatch.setattr(counter_rng, "_own", lambda x: x)
    device = [draw(SEEDS, COUNTS, 1001) for draw in (standard_normal, uniform)]
    for a, b in zip(host, device, strict=True):
        assert a.shape == b.shape == (5, 1001) and a.dtype == b.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-6)


def test_one_launch_draws_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's interpreter in place of a GPU; bits alike, logarithm and cosine up to rounding."""
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.delitem(sys.modules, "diffplan.engines.fused_rng", raising=False)
    fused = importlib.import_module("diffplan.engines.fused_rng")
    for n in (1, 2, 601):
        assert torch.equal(fused.uniform(SEEDS, COUNTS, n), uniform(SEEDS, COUNTS, n))
        found, expected = (
            draw(SEEDS, COUNTS, n) for draw in (fused.standard_normal, standard_normal)
        )
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)
    monkeypatch.delitem(sys.modules, "diffplan.engines.fused_rng")


@pytest.mark.cuda
def test_a_gpu_draws_in_one_launch_what_the_host_draws() -> None:
    pytest.importorskip("triton")
    gpu = torch.device("cuda", torch.cuda.current_device())
    assert counter_rng._tried(gpu) is not None
    for draw in (uniform, standard_normal):
        found = draw(SEEDS.to(gpu), COUNTS.to(gpu), 1001).cpu()
        expected = draw(SEEDS, COUNTS, 1001)
        torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-6)


def test_seeds_go_on_meaning_the_same_plans(library: None) -> None:
    found = standard_normal(torch.tensor([3]), torch.tensor([1]), 4)[0]
    torch.testing.assert_close(
        found, torch.tensor([-0.644718, 0.449133, 0.867352, -0.045214]), atol=2e-6, rtol=1e-5
    )


def test_a_row_follows_from_its_own_seed_and_count(library: None) -> None:
    for draw in (standard_normal, uniform):
        together = draw(SEEDS, COUNTS, 8)
        for row in range(5):
            alone = draw(SEEDS[row : row + 1], COUNTS[row : row + 1], 8)
            assert torch.equal(together[row : row + 1], alone)
        assert len(together.unique(dim=0)) == 5
        assert not torch.equal(draw(SEEDS, COUNTS + 1, 8), together)


def test_none_are_drawn_where_none_are_asked_for(library: None) -> None:
    assert standard_normal(SEEDS, COUNTS, 0).shape == (5, 0)


def test_normal_numbers_have_the_normal_law(library: None) -> None:
    x = standard_normal(torch.arange(400), torch.zeros(400, dtype=torch.long), 1000).double()
    n = x.numel()
    assert x.mean().abs() < 4 / math.sqrt(n)
    assert (x.var() - 1).abs() < 4 * math.sqrt(2 / n)
    assert x.pow(3).mean().abs() < 4 * math.sqrt(15 / n)
    for edge in (0.5, 1.0, 2.0, 3.0):
        p = math.erfc(edge / math.sqrt(2))
        assert abs(float((x.abs() > edge).double().mean()) - p) < 4 * math.sqrt(p / n)
    assert x.abs().max() < 5.9


def test_uniform_numbers_fill_the_open_interval(library: None) -> None:
    x = uniform(torch.arange(300), torch.ones(300, dtype=torch.long), 1000)
    assert 0 < x.min() < 1e-4 and 1 - 1e-4 < x.max() < 1
    shares = torch.histc(x, 20, 0, 1) / x.numel()
    assert (shares - 0.05).abs().max() < 4 * math.sqrt(0.05 * 0.95 / x.numel())


def correlation(x: Tensor, y: Tensor) -> float:
    return float(torch.corrcoef(torch.stack([x.flatten(), y.flatten()]))[0, 1])


def test_neighbours_are_not_alike(library: None) -> None:
    seeds, zero = torch.arange(200), torch.zeros(200, dtype=torch.long)
    x = standard_normal(seeds, zero, 1000)
    limit = 4 / math.sqrt(x.numel())
    assert abs(correlation(x[:-1], x[1:])) < limit  # seeds that follow each other
    assert abs(correlation(x, standard_normal(seeds, zero + 1, 1000))) < limit  # plans
    assert abs(correlation(x[:, :-1], x[:, 1:])) < limit  # numbers
    assert abs(correlation(x[:, :500], x[:, 500:])) < limit  # halves of one pair
    assert abs(correlation(x[:, :500].square(), x[:, 500:].square())) < limit
