"""D4RL's names, files and addresses, and what passes for an official file."""

from pathlib import Path
from typing import Any

import pytest

from diffplan.envs.formats.d4rl_catalogue import (
    CATALOGUE,
    D4RL_FILE,
    NOT_D4RL_FILE,
    UNVERIFIED_FILE,
    canonical_name,
    d4rl_folder,
    data_source,
    plain_stem,
)


def test_every_dataset_is_there() -> None:
    counts: dict[str, int] = {}
    for dataset in CATALOGUE.values():
        counts[dataset.domain] = counts.get(dataset.domain, 0) + 1
    gym = dict.fromkeys(("hopper", "halfcheetah", "walker2d", "ant"), 6)
    assert counts == gym | {"maze2d": 8, "antmaze": 6, "kitchen": 3, "adroit": 12}
    assert len({dataset.url for dataset in CATALOGUE.values()}) == len(CATALOGUE)
    assert all(name == dataset.name for name, dataset in CATALOGUE.items())


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("hopper-medium-replay-v2", "gym_mujoco_v2/hopper_medium_replay-v2.hdf5"),
        ("maze2d-umaze-v1", "maze2d/maze2d-umaze-sparse-v1.hdf5"),
        ("maze2d-large-dense-v1", "maze2d/maze2d-large-dense-v1.hdf5"),
        ("maze2d-open-v0", "maze2d/maze2d-open-sparse.hdf5"),
        ("maze2d-open-dense-v0", "maze2d/maze2d-open-dense.hdf5"),
        (
            "antmaze-umaze-v2",
            "ant_maze_v2/Ant_maze_u-maze_noisy_multistart_False_multigoal_False_sparse_fixed.hdf5",
        ),
        (
            "antmaze-large-play-v2",
            "ant_maze_v2/"
            "Ant_maze_hardest-maze_noisy_multistart_True_multigoal_False_sparse_fixed.hdf5",
        ),
        ("kitchen-complete-v0", "kitchen/mini_kitchen_microwave_kettle_light_slider-v0.hdf5"),
        ("pen-human-v1", "hand_dapg_v1/pen-human-v1.hdf5"),
    ],
)
def test_addresses_and_places(monkeypatch: pytest.MonkeyPatch, name: str, rest: str) -> None:
    monkeypatch.delenv("DIFFPLAN_D4RL_URL", raising=False)
    dataset = CATALOGUE[name]
    assert dataset.url == f"http://rail.eecs.berkeley.edu/datasets/offline_rl/{rest}"
    assert dataset.path == d4rl_folder() / rest.split("/")[1]
    monkeypatch.setenv("DIFFPLAN_D4RL_URL", "http://mirror/d4rl/")
    assert dataset.url == f"http://mirror/d4rl/{rest}"


def test_names_and_files_mean_their_dataset() -> None:
    for name, dataset in CATALOGUE.items():
        assert canonical_name(name) == name
        assert canonical_name(Path(dataset.filename).stem) == name
        assert canonical_name(name.rsplit("-", 1)[0]) == name


@pytest.mark.parametrize(
    ("stem", "name", "plain"),
    [
        ("hopper_medium", "hopper-medium-v2", "hopper-medium"),
        ("hopper_medium-v0", None, "hopper-medium-v0"),
        ("maze2d-umaze-sparse-v1", "maze2d-umaze-v1", "maze2d-umaze-v1"),
        ("Ant_maze_mine", None, "antmaze-mine"),
        ("mini_kitchen_other-v0", None, "kitchen-other-v0"),
        ("my data", None, "my-data"),
    ],
)
def test_other_stems(stem: str, name: str | None, plain: str) -> None:
    assert canonical_name(stem) == name
    assert plain_stem(stem) == plain


GYM = {"timeouts", "next_observations", "infos/action_log_probs", "infos/qpos", "infos/qvel"}


def source(filename: str, **changes: Any) -> str:
    """The label of a file that is as D4RL's in everything but the changes."""
    dataset = next(d for d in CATALOGUE.values() if d.filename == filename)
    facts: dict[str, Any] = {
        "steps": dataset.nominal_steps or 1_000,
        "episodes": 25,
        "observation_dim": dataset.observation_dim,
        "action_dim": dataset.action_dim,
        "keys": {"timeouts"} if dataset.has_timeouts else {"rewards"},
        "attributes": {},
    }
    if dataset.folder == "gym_mujoco_v2":
        facts["keys"] = GYM | {"metadata"}
    if dataset.domain == "maze2d":
        facts["keys"] |= {"infos/goal"}
    return data_source(Path("x") / filename, **(facts | changes))


def test_files_as_d4rl_s_are_its_own_where_their_size_is_known() -> None:
    for dataset in CATALOGUE.values():
        expected = UNVERIFIED_FILE if dataset.steps is None else D4RL_FILE
        assert source(dataset.filename) == expected
        for wrong in (
            {"attributes": {"made_by": "me"}},
            {"observation_dim": dataset.observation_dim + 1},
            {"action_dim": 1},
            {"keys": {"timeouts"} if not dataset.has_timeouts else set()},
        ):
            assert source(dataset.filename, **wrong) == NOT_D4RL_FILE


@pytest.mark.parametrize(
    ("filename", "changes", "expected"),
    [
        ("halfcheetah_medium-v2.hdf5", {"steps": 999_999}, NOT_D4RL_FILE),  # known exactly
        ("hopper_medium-v2.hdf5", {"steps": 999_906}, UNVERIFIED_FILE),  # about a million
        ("hopper_medium-v2.hdf5", {"steps": 900_000}, NOT_D4RL_FILE),
        ("halfcheetah_medium-v2.hdf5", {"keys": GYM}, NOT_D4RL_FILE),  # the policy is missing
        ("halfcheetah_random-v2.hdf5", {"keys": GYM}, D4RL_FILE),
        ("halfcheetah_medium_expert-v2.hdf5", {"keys": GYM}, D4RL_FILE),
        ("maze2d-umaze-sparse-v1.hdf5", {"keys": {"timeouts"}}, NOT_D4RL_FILE),
        ("pen-human-v1.hdf5", {"episodes": 50}, NOT_D4RL_FILE),
        ("pen-cloned-v1.hdf5", {"episodes": 50}, UNVERIFIED_FILE),
        ("maze2d-open-sparse.hdf5", {"steps": 77}, UNVERIFIED_FILE),  # nothing is known
    ],
)
def test_what_passes_for_a_file_of_d4rl(
    filename: str, changes: dict[str, Any], expected: str
) -> None:
    assert source(filename, **changes) == expected


def test_other_names_are_not_d4rl_s() -> None:
    facts: dict[str, Any] = {"observation_dim": 17, "action_dim": 6, "keys": GYM | {"metadata"}}
    facts |= {"steps": 1_000_000, "episodes": 1000, "attributes": {}}
    assert data_source(Path("halfcheetah_medium-v2.hdf5"), **facts) == D4RL_FILE
    assert data_source(Path("halfcheetah-medium.hdf5"), **facts) == NOT_D4RL_FILE
    assert data_source(Path("halfcheetah_medium-v0.hdf5"), **facts) == NOT_D4RL_FILE
