"""Which levels are visited: every grid descends from its start to clean, each by its own rule."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffplan.diffusion.grids import GRIDS, consecutive_grid, logsnr_grid, time_grid
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
from diffplan.diffusion.sampling import half_log_snr
from diffplan.errors import DiffplanError

PROCESSES = [
    ddpm(betas_cosine(20)),
    ddpm(betas_cosine(150)),
    ddpm(betas_linear(100)),
    rddm(10),
    rddm(90),
    resfusion(betas_cosine(60)),
    diffuse_vae(betas_cosine(20)),
    interpolant(30),
]
FITTING = st.sampled_from(PROCESSES).flatmap(
    lambda process: st.integers(1, process.T).flatmap(
        lambda start: st.tuples(st.just(process), st.just(start), st.integers(1, start))
    )
)


@given(FITTING)
@pytest.mark.parametrize("name", GRIDS)
def test_a_grid_descends_from_start_to_clean(name: str, case: tuple[Process, int, int]) -> None:
    process, start, steps = case
    grid = GRIDS[name](process, start, steps)
    assert (grid[0], grid[-1], len(grid)) == (start, 0, steps + 1)
    assert all(t > s for t, s in pairwise(grid))
    assert all(type(t) is int for t in grid)


@pytest.mark.parametrize("name", GRIDS)
def test_as_many_steps_as_levels_visit_every_level(name: str) -> None:
    for process in PROCESSES:
        every = consecutive_grid(process.T)
        assert GRIDS[name](process, process.T, process.T) == every


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))))
def test_gaps_of_a_time_grid_differ_by_one_at_most(case: tuple[int, int]) -> None:
    gaps = [t - s for t, s in pairwise(time_grid(*case))]
    assert max(gaps) - min(gaps) <= 1


def test_grids_by_value() -> None:
    assert time_grid(10, 3) == (10, 7, 3, 0)
    assert time_grid(5, 5) == consecutive_grid(5) == (5, 4, 3, 2, 1, 0)
    assert consecutive_grid(0) == (0,)


def even(process: Process, grid: tuple[int, ...]) -> list[float]:
    """Steps of a grid in log(a / sigma), the last one to clean left out."""
    ratios = [half_log_snr(process, t) for t in grid[:-1]]
    return [after - before for before, after in pairwise(ratios)]


def test_a_logsnr_grid_is_even_in_log_snr_and_ends_at_level_one() -> None:
    process = ddpm(betas_linear(4000, 1e-5, 3e-3))
    grid = logsnr_grid(process, 4000, 12)
    assert grid[-2:] == (1, 0)
    steps = even(process, grid)
    total = half_log_snr(process, 1) - half_log_snr(process, 4000)
    # the levels next to clean lie far apart
    assert steps[:8] == pytest.approx([total / 11] * 8, rel=0.02)
    # each level is the nearest one there is
    for place, t in enumerate(grid[1:-2], 1):
        wanted = half_log_snr(process, 4000) + total * place / 11
        off = [abs(half_log_snr(process, level) - wanted) for level in (t - 1, t, t + 1) if level]
        assert abs(half_log_snr(process, t) - wanted) == min(off)


@pytest.mark.parametrize(
    ("process", "counts_as"),
    [
        (rddm(10), half_log_snr(rddm(10), 9)),  # at -inf: the level after it
        (rddm(4000), -5.1),  # at -inf, and so is nearly the level after it
        (ddpm(betas_cosine(4000)), -5.1),  # at -10
    ],
    ids=["rddm", "fine rddm", "ddpm"],
)
def test_a_start_far_out_costs_one_step(process: Process, counts_as: float) -> None:
    grid, n = logsnr_grid(process, process.T, 5), 4
    assert grid[0] == process.T
    wanted = counts_as + (half_log_snr(process, 1) - counts_as) / n
    nearest = min(range(1, process.T), key=lambda t: abs(half_log_snr(process, t) - wanted))
    assert grid[1] == nearest


def test_a_short_logsnr_grid_of_rddm_is_spent_between_its_ends() -> None:
    assert logsnr_grid(rddm(10), 10, 1) == (10, 0)
    assert logsnr_grid(rddm(10), 10, 3) == (10, 6, 1, 0)
    assert logsnr_grid(rddm(10), 10, 4) == (10, 7, 4, 1, 0)


@pytest.mark.parametrize("name", GRIDS)
@pytest.mark.parametrize(("start", "steps"), [(5, 6), (5, 0), (0, 1), (5, -1)])
def test_a_grid_that_does_not_fit_is_refused(name: str, start: int, steps: int) -> None:
    message = f"{steps} sampling steps do not fit from level {start} to 0: use 1 to {start}"
    with pytest.raises(DiffplanError, match=message):
        GRIDS[name](rddm(10), start, steps)


def test_what_no_grid_can_be_made_of_is_refused() -> None:
    with pytest.raises(DiffplanError, match="cannot be negative, got -1"):
        consecutive_grid(-1)
    with pytest.raises(DiffplanError, match=r"grid logsnr needs noise, .* has none: use uniform"):
        logsnr_grid(rectified_flow(10), 10, 4)
