"""Schedules, grids, q_sample and start rules against published numbers and closed forms."""

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffplan.errors import DiffplanError
from diffplan.process import (
    STARTS,
    Process,
    betas_cosine,
    betas_linear,
    betas_vp,
    coefficients,
    consecutive_grid,
    ddpm,
    q_sample,
    rddm,
    time_grid,
)

DDPMS = {
    "linear": ddpm(betas_linear(100)),
    "cosine": ddpm(betas_cosine(20)),
    "vp": ddpm(betas_vp(10)),
}
PROCESSES = {**DDPMS, "rddm": rddm(7)}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


# --- Schedules -----------------------------------------------------------------------------------


def test_cosine_20_has_the_published_noise_levels() -> None:
    sigma = PROCESSES["cosine"].sigma
    assert [round(sigma[t], 3) for t in (1, 5, 10, 20)] == [0.089, 0.391, 0.711, 1.0]


def test_linear_100_stops_far_from_noise_and_starts_its_last_five_at_a_small_level() -> None:
    a = PROCESSES["linear"].a
    assert a[100] ** 2 == pytest.approx(0.347, abs=5e-4)
    assert a[5] ** 2 == pytest.approx(0.9931, abs=5e-5)
    assert betas_linear(100)[0] == 1e-3
    assert betas_linear(100)[-1] == pytest.approx(2e-2, rel=1e-15)


@pytest.mark.parametrize("T", [1, 10, 50])
def test_vp_reaches_the_sde_marginal_at_the_end_whatever_the_number_of_steps(T: int) -> None:
    # integral of beta(s) = 0.1 + 9.9 s over [0, 1]
    assert ddpm(betas_vp(T)).a[-1] ** 2 == pytest.approx(math.exp(-(0.1 + 9.9 / 2)), rel=1e-12)


@pytest.mark.parametrize("T", [1, 2, 20, 1000])
@pytest.mark.parametrize("schedule", [betas_linear, betas_cosine, betas_vp])
def test_betas_are_variances_and_noise_grows(schedule, T: int) -> None:
    betas = schedule(T)
    assert len(betas) == T
    assert all(0 < beta <= 0.9991 for beta in betas)
    process = ddpm(betas)
    assert process.T == T
    assert all(x > y for x, y in pairwise(process.a))
    assert all(x < y for x, y in pairwise(process.sigma))
    for t in range(T + 1):
        assert process.a[t] ** 2 + process.sigma[t] ** 2 == pytest.approx(1, abs=1e-14)


@pytest.mark.parametrize("T", [1, 2, 5, 100])
def test_rddm_moves_from_data_to_proposal_with_the_published_weights(T: int) -> None:
    process = rddm(T)
    assert (process.a[T], process.r[T], process.sigma[T]) == (0.0, 1.0, 1.0)
    shifts = [process.r[t] - process.r[t - 1] for t in range(1, T + 1)]
    variances = [process.sigma[t] ** 2 - process.sigma[t - 1] ** 2 for t in range(1, T + 1)]
    for i in range(T):
        assert shifts[i] / shifts[-1] == pytest.approx(T - i, rel=1e-9)
        assert variances[i] / variances[0] == pytest.approx(i + 1, rel=1e-9)
        assert process.a[i] + process.r[i] == pytest.approx(1, abs=1e-15)


def test_published_ancestral_noise() -> None:
    process = PROCESSES["linear"]
    stds = [process.posterior_std(t, t - 1) for t in range(5, 0, -1)]
    assert stds == pytest.approx([0.036, 0.033, 0.029, 0.023, 0.0], abs=6e-4)


def test_impossible_processes_are_refused() -> None:
    with pytest.raises(DiffplanError, match="at least 1 step, got T=0"):
        betas_cosine(0)
    with pytest.raises(DiffplanError, match=r"between 0 and 1, got 1\.5"):
        ddpm([0.1, 1.5])
    with pytest.raises(DiffplanError, match="clean at index 0"):
        Process("p", (0.9, 0.5), (0.0, 0.0), (0.0, 0.5))
    with pytest.raises(DiffplanError, match="one common length"):
        Process("p", (1.0, 0.5), (0.0,), (0.0, 0.5))
    with pytest.raises(DiffplanError, match="sigma must be positive"):
        Process("p", (1.0, 0.5), (0.0, 0.5), (0.0, 0.0))


# --- Grids ---------------------------------------------------------------------------------------


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_a_time_grid_descends_evenly_from_start_to_clean(case: tuple[int, int]) -> None:
    start, steps = case
    grid = time_grid(start, steps)
    gaps = [t - s for t, s in pairwise(grid)]
    assert (grid[0], grid[-1], len(gaps)) == (start, 0, steps)
    assert min(gaps) >= 1
    assert max(gaps) - min(gaps) <= 1


def test_grids_by_value() -> None:
    assert time_grid(10, 3) == (10, 7, 3, 0)
    assert time_grid(5, 5) == consecutive_grid(5) == (5, 4, 3, 2, 1, 0)
    assert consecutive_grid(0) == (0,)


@pytest.mark.parametrize(("start", "steps"), [(5, 6), (5, 0), (0, 1)])
def test_a_grid_that_does_not_fit_is_refused(start: int, steps: int) -> None:
    with pytest.raises(DiffplanError, match=f"{steps} sampling steps do not fit"):
        time_grid(start, steps)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(DiffplanError, match="cannot be negative, got -1"):
        consecutive_grid(-1)


# --- x_t -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_q_sample_follows_the_table_row_by_row(name: str) -> None:
    process = PROCESSES[name]
    x0, proposal, noise = (normal(3, 4, 2, seed=seed) for seed in range(3))
    scale = normal(4, 2, seed=3).abs()
    t = torch.tensor([1, 5, process.T])
    x_t = q_sample(process, t, x0, proposal, noise, scale)
    spread = scale if name == "rddm" else torch.ones(4, 2, dtype=torch.float64)
    for row, index in enumerate(t.tolist()):
        a, r, sigma = process.a[index], process.r[index], process.sigma[index]
        expected = a * x0[row] + r * proposal[row] + sigma * spread * noise[row]
        torch.testing.assert_close(x_t[row], expected, rtol=1e-14, atol=1e-14)


def test_coefficients_are_rounded_once() -> None:
    process = PROCESSES["cosine"]
    a, _, sigma = coefficients(process, torch.arange(process.T + 1), torch.float32)
    assert a.shape == (process.T + 1, 1, 1)
    assert torch.equal(a.flatten(), torch.tensor(process.a, dtype=torch.float64).float())
    assert torch.equal(sigma.flatten(), torch.tensor(process.sigma, dtype=torch.float64).float())


def test_what_a_process_needs_is_asked_for() -> None:
    x0 = normal(2, 4, 2)
    t = torch.tensor([1, 2])
    with pytest.raises(DiffplanError, match=r"'rddm' needs a proposal \[B, H, D\], got none"):
        q_sample(rddm(5), t, x0, None, x0, torch.ones(4, 2))
    with pytest.raises(DiffplanError, match=r"'rddm' needs a noise scale \[H, D\], got none"):
        q_sample(rddm(5), t, x0, x0, x0)


# --- Start rules ---------------------------------------------------------------------------------


@pytest.mark.parametrize("start", ["noise", "sdedit", "published", "rddm"])
def test_start_law(start: str) -> None:
    """Mean and standard deviation over the noise, by formula and by Monte Carlo."""
    process = PROCESSES["rddm"] if start == "rddm" else PROCESSES["cosine"]
    level = process.T if start == "rddm" else 5
    n = 20_000
    proposal, scale = normal(3, 2), normal(3, 2, seed=1).abs() + 0.1
    zero, one = torch.zeros(3, 2, dtype=torch.float64), torch.ones(3, 2, dtype=torch.float64)
    mean, std = {
        "noise": (zero, one),
        "sdedit": (process.a[level] * proposal, process.sigma[level] * one),
        "published": (proposal, zero),
        "rddm": (proposal, scale),
    }[start]
    noise = normal(n, 3, 2, seed=2)
    x = STARTS[start](process, level, proposal.expand(n, 3, 2), noise, scale)
    torch.testing.assert_close(x, mean + std * noise, rtol=1e-14, atol=1e-14)
    assert ((x.mean(0) - mean).abs() <= 5 * std / math.sqrt(n) + 1e-12).all()
    assert ((x.std(0) - std).abs() <= 5 * std / math.sqrt(2 * n) + 1e-12).all()


def test_the_rddm_start_is_exact_for_every_x0() -> None:
    process, scale = rddm(5), normal(4, 2).abs()
    proposal, noise = normal(3, 4, 2, seed=1), normal(3, 4, 2, seed=2)
    start = STARTS["rddm"](process, 5, proposal, noise, scale)
    t = torch.full((3,), 5)
    for seed in (3, 4):
        x_t = q_sample(process, t, normal(3, 4, 2, seed=seed), proposal, noise, scale)
        assert torch.equal(x_t, start)


def test_the_sdedit_start_is_the_forward_law_of_a_perfect_proposal() -> None:
    process = PROCESSES["vp"]
    x0, noise = normal(3, 4, 2), normal(3, 4, 2, seed=1)
    for level in (1, 4, 10):
        start = STARTS["sdedit"](process, level, x0, noise, None)
        x_t = q_sample(process, torch.full((3,), level), x0, None, noise)
        torch.testing.assert_close(start, x_t, rtol=1e-14, atol=1e-14)


def test_starts_ask_for_what_they_need() -> None:
    noise = normal(3, 4, 2)
    for start in ("sdedit", "published"):
        with pytest.raises(DiffplanError, match=f"'{start}' start needs a proposal"):
            STARTS[start](PROCESSES["cosine"], 5, None, noise, None)
    with pytest.raises(DiffplanError, match=r"needs the last level .* got level 4 of 7"):
        STARTS["rddm"](PROCESSES["rddm"], 4, noise, noise, torch.ones(4, 2))
    with pytest.raises(DiffplanError, match="got level 20 of 20 of 'ddpm'"):
        STARTS["rddm"](PROCESSES["cosine"], 20, noise, noise, None)
