"""Units of measurement and places of origin do not matter: what is learned from is the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from diffplan.data.episodes import Episodes
from diffplan.data.returns import returns_to_go
from diffplan.envs.formats.npz import load_npz
from diffplan.errors import DiffplanError
from diffplan.model.normaliser import Normaliser

DECADES = st.integers(-9, 9)
ONE_FOLDER = settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])


def arrays(steps: int = 120) -> dict[str, np.ndarray]:
    """Two episodes of a slow walk in three columns, with what follows each step."""
    rng = np.random.default_rng(0)
    states = 0.1 * rng.normal(size=(steps + 1, 3)).cumsum(0)
    ends = np.isin(np.arange(steps), (steps // 3, steps - 1))
    return {
        "observations": states[:-1],
        "next_observations": states[1:],
        "actions": rng.uniform(-1, 1, (steps, 2)),
        "rewards": rng.normal(size=steps),
        "terminations": np.zeros(steps, bool),
        "truncations": ends,
    }


def loaded(folder: Path, given: dict[str, Any]) -> Episodes:
    np.savez(folder / "units.npz", **given)
    return load_npz(folder / "units.npz", progress=False).validate()


def moved(scale: np.ndarray, offset: np.ndarray) -> dict[str, np.ndarray]:
    given = arrays()
    for key in ("observations", "next_observations"):
        given[key] = given[key] * scale + offset
    return given


def normalised(values: np.ndarray | torch.Tensor) -> torch.Tensor:
    found = torch.as_tensor(np.array(values)).reshape(len(values), -1)
    normaliser = Normaliser(found.shape[1])
    normaliser.fit(found)
    return normaliser(found)


@ONE_FOLDER
@given(common=DECADES, one=DECADES, away=st.integers(0, 9), sign=st.sampled_from([-1, 1]))
def test_columns_in_any_units_from_any_origin(
    tmp_path: Path, common: int, one: int, away: int, sign: int
) -> None:
    # all in one unit, a column in another, all far from zero: as far as float64 has digits left,
    # but for what varies far from zero by next to nothing beside the others: that is at rest
    one = max(one, -1 if away > 5 else -4) if away else one
    scale = np.array([10.0**common, 10.0**common, 10.0 ** (common + one)])
    offset = sign * scale * 10.0**away
    episodes = loaded(tmp_path, moved(scale, offset))
    plain = loaded(tmp_path, arrays())
    torch.testing.assert_close(
        normalised(episodes.states), normalised(plain.states), atol=5e-3, rtol=0
    )
    # the agent meets the same numbers in an observation as the data hold
    first = moved(scale, offset)["observations"][:1]
    np.testing.assert_array_equal(episodes.layout.split(first)[0], episodes.states[:1])


@ONE_FOLDER
@given(scale=DECADES)
def test_rewards_and_actions_in_any_units(tmp_path: Path, scale: int) -> None:
    plain, given = loaded(tmp_path, arrays()), arrays()
    given["rewards"] = given["rewards"] * 10.0**scale
    given["actions"] = given["actions"] * 10.0**scale
    episodes = loaded(tmp_path, given)
    torch.testing.assert_close(
        normalised(returns_to_go(episodes, 0.99)),
        normalised(returns_to_go(plain, 0.99)),
        atol=1e-3,
        rtol=0,
    )
    # within its bounds an action is as large as before, or at least a tenth of it
    room = np.array(episodes.info.action_high) - np.array(episodes.info.action_low)
    share = np.ptp(episodes.actions, axis=0) / room
    assert (share > 0.09).all()


@ONE_FOLDER
@given(scale=DECADES, away=st.integers(0, 6))
def test_shuffled_rows_and_unmarked_ends_are_found_in_any_units(
    tmp_path: Path, scale: int, away: int
) -> None:
    unit = 10.0**scale
    given = moved(np.full(3, unit), np.full(3, unit * 10.0**away))
    # a jump of half a column's span: an end that no flag marks
    given["next_observations"][20] += 0.5 * np.ptp(given["observations"], axis=0)
    with pytest.raises(DiffplanError, match=r"step 20 is not observations of step 21.*\(1 such"):
        loaded(tmp_path, given)


def test_rewards_and_actions_that_float32_cannot_tell_apart_are_refused(tmp_path: Path) -> None:
    given = arrays()
    given["actions"][:, 1] += 1e9
    with pytest.raises(DiffplanError, match=r"column 1 of actions goes from .*; subtract 999999"):
        loaded(tmp_path, given)
    given = arrays() | {"rewards": 1e9 + arrays()["rewards"]}
    with pytest.raises(DiffplanError, match="column 0 of rewards goes from 999"):
        loaded(tmp_path, given)
    given = arrays() | {"rewards": (1e6 + arrays()["rewards"]).astype(np.float32)}
    with pytest.raises(DiffplanError, match="float32 hardly tells their sums apart; subtract"):
        loaded(tmp_path, given)


def test_columns_that_hardly_move_beside_others_are_constant(tmp_path: Path) -> None:
    given = arrays()
    noise = np.random.default_rng(1).normal(size=120)
    given["observations"] = np.stack(
        [*given["observations"].T, 0.6 + 1e-15 * noise, 1 + 1e-8 * noise, 1e-17 * noise], axis=1
    )
    del given["next_observations"]
    episodes = loaded(tmp_path, given)
    assert episodes.layout.offset == ()
    assert episodes.info.details["resting"] == "4"
    assert normalised(episodes.states)[:, 3:].abs().max() < 1e-6


def test_what_float32_cannot_hold_is_refused(tmp_path: Path) -> None:
    for key in ("observations", "actions", "rewards"):
        given = arrays()
        given[key] = 1e-40 * given[key]
        given.pop("next_observations")
        with pytest.raises(DiffplanError, match=f"{key} reach only .* multiply"):
            loaded(tmp_path, given)


def test_an_offset_as_large_as_float64_bears_is_subtracted(tmp_path: Path) -> None:
    given = arrays()
    given["observations"] = given["observations"] + 1e12
    given.pop("next_observations")
    episodes = loaded(tmp_path, given)
    assert all(episodes.layout.offset)
    assert (np.asarray(episodes.states).std(axis=0) > 0.01).all()
