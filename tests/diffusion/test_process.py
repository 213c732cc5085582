"""Schedules, grids, q_sample and start rules against published numbers and closed forms."""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import get_args, get_type_hints

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from diffplan.config.sections import DenoiserConfig
from diffplan.diffusion.forward import STARTS, coefficients, q_sample, targets_at
from diffplan.diffusion.process import Process, readout, target_row
from diffplan.diffusion.processes import (
    betas_cosine,
    betas_linear,
    betas_vp,
    build_process,
    ddpm,
    diffuse_vae,
    interpolant,
    rddm,
    rectified_flow,
    resfusion,
)
from diffplan.errors import DiffplanError

DDPMS = {
    "linear": ddpm(betas_linear(100)),
    "cosine": ddpm(betas_cosine(20)),
    "vp": ddpm(betas_vp(10)),
}
PROCESSES = {
    **DDPMS,
    "rddm": rddm(7),
    "resfusion": resfusion(betas_cosine(20)),
    "diffuse-vae": diffuse_vae(betas_cosine(20)),
    "interpolant": interpolant(8),
    "rectified-flow": rectified_flow(8),
}
FAR = [name for name, process in PROCESSES.items() if process.a[-1] < 0.05]


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
        Process("p", (0.9, 0.5), (0.0, 0.0), (0.0, 0.5), (1.0, 0.5))
    with pytest.raises(DiffplanError, match="one common length"):
        Process("p", (1.0, 0.5), (0.0,), (0.0, 0.5), (1.0, 0.5))
    with pytest.raises(DiffplanError, match="sigma must be positive"):
        Process("p", (1.0, 0.5, 0.0), (0.0, 0.5, 1.0), (0.0, 0.0, 0.5), (1.0, 1.0, 1.0))


# --- x_t -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
def test_q_sample_follows_the_table_row_by_row(name: str) -> None:
    process = PROCESSES[name]
    x0, proposal, noise = (normal(3, 4, 2, seed=seed) for seed in range(3))
    scale = normal(4, 2, seed=3).abs()
    t = torch.tensor([1, 5, process.T])
    x_t = q_sample(process, t, x0, proposal, noise, scale)
    spread = scale if process.scaled else torch.ones(4, 2, dtype=torch.float64)
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


@pytest.mark.parametrize("start", ["process", "sdedit", "raw"])
@pytest.mark.parametrize("name", ["cosine", "rddm", "resfusion", "diffuse-vae", "interpolant"])
def test_start_law(start: str, name: str) -> None:
    """Mean and standard deviation over the noise, by formula and by Monte Carlo."""
    process = PROCESSES[name]
    level = process.T if start == "process" else 5
    n = 20_000
    proposal, scale = normal(3, 2), normal(3, 2, seed=1).abs() + 0.1
    zero, spread = torch.zeros(3, 2, dtype=torch.float64), scale if process.scaled else 1.0
    std = process.sigma[level] * spread * torch.ones_like(zero)
    share = process.r[level] + process.a[level] if process.r[level] else 0.0
    mean, std = {
        "process": (share * proposal, std),
        "sdedit": ((process.a[level] + process.r[level]) * proposal, std),
        "raw": (proposal, zero),
    }[start]
    noise = normal(n, 3, 2, seed=2)
    x = STARTS[start](process, level, proposal.expand(n, 3, 2), noise, scale)
    torch.testing.assert_close(x, mean + std * noise, rtol=1e-14, atol=1e-14)
    assert ((x.mean(0) - mean).abs() <= 5 * std / math.sqrt(n) + 1e-12).all()
    assert ((x.std(0) - std).abs() <= 5 * std / math.sqrt(2 * n) + 1e-12).all()


def test_raw_start_values() -> None:
    """N(0, I) for DDPM, x̂ + scale eps for RDDM, x̂ / 2 + sqrt(3/4) eps for Resfusion."""
    ends = {name: (p.r[-1], p.sigma[-1]) for name, p in PROCESSES.items()}
    assert ends["cosine"] == pytest.approx((0.0, 1.0), abs=1e-5)
    assert ends["rddm"] == (1.0, 1.0)
    assert ends["resfusion"] == pytest.approx((0.5, math.sqrt(0.75)), abs=1e-15)
    assert ends["diffuse-vae"] == pytest.approx((1.0, 1.0), abs=1e-5)
    assert ends["interpolant"] == pytest.approx((0.999, math.sqrt(0.001 * 0.999)), abs=1e-12)


@pytest.mark.parametrize("name", FAR)
def test_the_process_start_does_not_depend_on_x0(name: str) -> None:
    process, scale = PROCESSES[name], normal(4, 2).abs()
    proposal, noise = normal(3, 4, 2, seed=1), normal(3, 4, 2, seed=2)
    start = STARTS["process"](process, process.T, proposal, noise, scale)
    t = torch.full((3,), process.T)
    for seed in (3, 4):
        x0 = normal(3, 4, 2, seed=seed)
        x_t = q_sample(process, t, x0, proposal, noise, scale)
        stands_in = proposal if process.r[-1] else 0.0
        expected = process.a[-1] * (x0 - stands_in)
        torch.testing.assert_close(x_t - start, expected, rtol=1e-9, atol=1e-12)
    assert process.a[-1] <= (0.0 if name in ("rddm", "resfusion") else 3e-3)


def test_the_sdedit_start_is_the_forward_law_of_a_perfect_proposal() -> None:
    process = PROCESSES["vp"]
    x0, noise = normal(3, 4, 2), normal(3, 4, 2, seed=1)
    for level in (1, 4, 10):
        start = STARTS["sdedit"](process, level, x0, noise, None)
        x_t = q_sample(process, torch.full((3,), level), x0, None, noise)
        torch.testing.assert_close(start, x_t, rtol=1e-14, atol=1e-14)


def test_starts_ask_for_what_they_need() -> None:
    noise = normal(3, 4, 2)
    for start in ("sdedit", "raw"):
        with pytest.raises(DiffplanError, match=f"'{start}' start needs a proposal"):
            STARTS[start](PROCESSES["cosine"], 5, None, noise, None)
    with pytest.raises(DiffplanError, match=r"needs the last level .* got level 4 of 7"):
        STARTS["process"](PROCESSES["rddm"], 4, noise, noise, torch.ones(4, 2))
    with pytest.raises(DiffplanError, match=r"got level 100 of 100 of 'ddpm' with a = 0\.59"):
        STARTS["process"](PROCESSES["linear"], 100, noise, noise, None)
    with pytest.raises(DiffplanError, match="'resfusion' needs a proposal"):
        STARTS["process"](PROCESSES["resfusion"], 14, None, noise, None)


# --- The rows ------------------------------------------------------------------------------------


def published_betas(T: int) -> list[float]:
    """Linear betas scaled by 1000 / T, of which Resfusion uses the first few."""
    return [beta * 1000 / T for beta in betas_linear(T, 1e-4, 2e-2)]


def test_resfusion_ends_where_nothing_of_x0_is_left() -> None:
    """Published lengths: 12 linear levels give 5, and the square roots of abar there."""
    process = resfusion(published_betas(12))
    signal = [(1 + a) / 2 for a in process.a]
    assert process.T == 5
    assert signal[1:] == pytest.approx([0.996, 0.913, 0.759, 0.557, 0.5], abs=1e-3)
    lengths = {T: resfusion(published_betas(T)).T for T in (20, 50, 100)}
    assert lengths == {20: 8, 50: 19, 100: 37}
    assert {T: resfusion(betas_cosine(T)).T for T in (12, 20)} == {12: 8, 20: 14}
    for T in (12, 20, 100):
        assert resfusion(betas_cosine(T)).a[-1] == 0.0
    with pytest.raises(DiffplanError, match=r"ends at 0\.589: use a cosine schedule"):
        resfusion(betas_linear(100))
    with pytest.raises(DiffplanError, match=r"between 0 and 1, got 1\.2"):
        resfusion([0.1, 1.2])


@pytest.mark.parametrize(("last", "length"), [(0.505, 2), (0.515, 3)])
def test_resfusion_takes_no_last_step_of_next_to_nothing(last: float, length: int) -> None:
    signal = [1.0, 0.8, last, 0.4]
    process = resfusion([1 - (after / before) ** 2 for before, after in pairwise(signal)])
    assert len(process.a) == length + 1
    assert process.a == pytest.approx((*(1.0, 0.6, 2 * last - 1)[:length], 0.0))


def test_resfusion_is_ddpm_of_what_lies_beyond_the_residual() -> None:
    """y = x - (x̂ - x0) is DDPM of 2 x0 - x̂."""
    process = PROCESSES["resfusion"]
    x0, proposal, noise = (normal(14, 4, 2, seed=seed) for seed in range(3))
    t = torch.arange(1, 15)
    y = q_sample(process, t, x0, proposal, noise) - (proposal - x0)
    signal = (1 + torch.tensor(process.a[1:], dtype=torch.float64).view(-1, 1, 1)) / 2
    expected = signal * (2 * x0 - proposal) + (1 - signal**2).sqrt() * noise
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)


def test_rddm_without_a_proposal_is_ddim_in_other_words() -> None:
    """A = 1 - sqrt(abar) and B = sqrt(1 - abar) with x̂ = 0 are DDPM's rows."""
    cosine = PROCESSES["cosine"]
    residual = Process(
        "rddm", cosine.a, tuple(1 - a for a in cosine.a), cosine.sigma, cosine.memory
    )
    t, x0, noise = torch.arange(1, 21), normal(20, 4, 2), normal(20, 4, 2, seed=1)
    assert torch.equal(
        q_sample(residual, t, x0, torch.zeros_like(x0), noise),
        q_sample(cosine, t, x0, None, noise),
    )


@pytest.mark.parametrize("make", [interpolant, rectified_flow])
def test_an_interpolant_s_velocity_is_the_derivative_of_its_path(
    make: Callable[[int], Process],
) -> None:
    """Central differences in u = 1 - t / T of a fine table."""
    T = 2000
    process = make(T)
    for t in (200, 1000, 1800):
        rates = target_row(process, "velocity", t)
        for table, rate in zip((process.a, process.r, process.sigma), rates, strict=True):
            assert (table[t - 1] - table[t + 1]) * T / 2 == pytest.approx(rate, rel=1e-5, abs=1e-5)


def test_diffuse_vae_shifts_ddpm_by_the_proposal() -> None:
    process, cosine = PROCESSES["diffuse-vae"], PROCESSES["cosine"]
    x0, proposal, noise = (normal(3, 4, 2, seed=seed) for seed in range(3))
    t = torch.tensor([1, 9, 20])
    shifted = q_sample(process, t, x0, proposal, noise)
    torch.testing.assert_close(shifted - proposal, q_sample(cosine, t, x0, None, noise))


def test_every_name_builds_its_process() -> None:
    kinds = get_args(get_type_hints(DenoiserConfig)["process"])
    found = {kind: build_process(kind, betas_cosine(20)) for kind in kinds}
    # half as many levels as the schedule
    assert found["rddm"] == rddm(10)
    assert found["interpolant"] == interpolant(10)
    assert found["rectified-flow"] == rectified_flow(10)
    assert found["ddpm"] == PROCESSES["cosine"]
    assert found["resfusion"] == PROCESSES["resfusion"]
    assert found["diffuse-vae"] == PROCESSES["diffuse-vae"]


# --- Predictions ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PROCESSES)
@pytest.mark.parametrize("prediction", ["x0", "eps", "v", "velocity", "resnoise"])
def test_the_true_target_gives_back_x0_at_every_level(name: str, prediction: str) -> None:
    process = PROCESSES[name]
    if prediction not in ("x0", "eps", "v") and prediction not in process.targets:
        with pytest.raises(
            DiffplanError, match=f"has no prediction '{prediction}'; it has x0, eps"
        ):
            readout(process, prediction, 1)
        return
    T = process.T
    x0, proposal, noise = (normal(T, 4, 2, seed=seed) for seed in range(3))
    scale, t = normal(4, 2, seed=3).abs() + 0.1, torch.arange(1, T + 1)
    x = q_sample(process, t, x0, proposal, noise, scale)
    y = targets_at(process, prediction, t, x0, proposal, noise, scale)
    for level in range(1, T + 1):
        if process.a[level] == 0.0 and prediction == "eps":
            with pytest.raises(DiffplanError, match=f"cannot give x0 at level {level}"):
                readout(process, prediction, level)
            continue
        if not process.noisy and prediction in ("eps", "v"):
            with pytest.raises(DiffplanError, match="has no noise, of which prediction"):
                readout(process, prediction, level)
            continue
        i, j, k = readout(process, prediction, level)
        row = level - 1
        found = i * x[row] + j * proposal[row] + k * y[row]
        torch.testing.assert_close(found, x0[row], rtol=1e-7, atol=1e-7)


def test_v_and_eps_by_their_formulas() -> None:
    process, t = PROCESSES["cosine"], torch.tensor([3, 7])
    x0, noise = normal(2, 4, 2), normal(2, 4, 2, seed=1)
    a, _, sigma = coefficients(process, t, x0.dtype)
    torch.testing.assert_close(targets_at(process, "v", t, x0, None, noise), a * noise - sigma * x0)
    torch.testing.assert_close(targets_at(process, "eps", t, x0, None, noise), noise)
    # beside other processes' own targets, the same network learns these
    for name, same in (("velocity", "v"), ("resnoise", "eps")):
        torch.testing.assert_close(
            targets_at(process, name, t, x0, None, noise),
            targets_at(process, same, t, x0, None, noise),
        )


def test_resnoise_steps_like_ddpm() -> None:
    """Resfusion's reverse mean is (x_t - beta / sqrt(1 - abar) target) / sqrt(alpha)."""
    process = PROCESSES["resfusion"]
    x0, proposal, noise = (normal(14, 4, 2, seed=seed) for seed in range(3))
    t = torch.arange(1, 15)
    x = q_sample(process, t, x0, proposal, noise)
    target = targets_at(process, "resnoise", t, x0, proposal, noise)
    signal = [(1 + a) / 2 for a in process.a]
    for level in range(2, 15):
        row, alpha = level - 1, (signal[level] / signal[level - 1]) ** 2
        mean = (x[row] - (1 - alpha) / process.sigma[level] * target[row]) / math.sqrt(alpha)
        std = process.posterior_std(level, level - 1)
        keep = math.sqrt(process.sigma[level - 1] ** 2 - std**2)
        expected = (
            process.a[level - 1] * x0[row] + process.r[level - 1] * proposal[row]
        ) + keep * noise[row]
        torch.testing.assert_close(mean, expected, rtol=1e-9, atol=1e-9)


@given(
    st.sampled_from(["cosine", "rddm", "resfusion", "diffuse-vae", "interpolant"]),
    st.data(),
)
def test_posteriors_are_bayes_rule_along_the_process_s_own_chain(name: str, data) -> None:
    """x_t = k x_s + shift + noise of variance sigma_t^2 - k^2 sigma_s^2, k the memory kept."""
    process = PROCESSES[name]
    t = data.draw(st.integers(2, process.T))
    s = data.draw(st.integers(1, t - 1))
    k = process.memory[t] / process.memory[s]
    added = process.sigma[t] ** 2 - k * k * process.sigma[s] ** 2
    assert added >= -1e-12
    variance = 1 / (1 / process.sigma[s] ** 2 + k * k / max(added, 1e-300))
    assert process.posterior_std(t, s) ** 2 == pytest.approx(variance, rel=1e-6, abs=1e-9)


@given(st.integers(3, 40), st.data())
def test_the_linear_brownian_interpolant_steps_along_brownian_bridges(T: int, data) -> None:
    """From x_u to x0 at u = 1: variance (u' - u)(1 - u') / (1 - u)."""
    process = interpolant(T)
    t = data.draw(st.integers(2, T))
    s = data.draw(st.integers(1, t - 1))
    u, later = process.a[t], process.a[s]
    variance = (later - u) * (1 - later) / (1 - u)
    assert process.posterior_std(t, s) ** 2 == pytest.approx(variance, rel=1e-9, abs=1e-12)


def test_both_signs_of_noise_cancel_the_growth_of_a_velocity() -> None:
    """Near u = 0 and 1 gamma' grows; the mean of the two targets is x0 - x̂ all the same."""
    process = interpolant(10)
    x0, proposal, noise = (normal(10, 4, 2, seed=seed) for seed in range(3))
    scale, t = torch.ones(4, 2, dtype=torch.float64), torch.arange(1, 11)
    one, other = (
        targets_at(process, "velocity", t, x0, proposal, sign * noise, scale) for sign in (1, -1)
    )
    torch.testing.assert_close((one + other) / 2, x0 - proposal)
    assert (one - (x0 - proposal))[-1].std() > 10  # gamma' is 16 at u = 0.001
