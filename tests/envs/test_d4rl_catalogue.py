"""D4RL's names, files and addresses, and what passes for an official file."""

from pathlib import Path

import pytest

from diffplan.envs.d4rl_catalogue import (
    CATALOGUE,
    canonical_name,
    d4rl_folder,
    is_official,
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


@pytest.mark.parametrize(
    ("filename", "steps", "official"),
    [
        ("halfcheetah_medium-v2.hdf5", 1_000_000, True),
        ("halfcheetah_medium-v2.hdf5", 999_999, False),  # known exactly
        ("hopper_medium-v2.hdf5", 999_906, True),  # known to be about a million
        ("hopper_medium-v2.hdf5", 900_000, False),
        ("hopper-medium.hdf5", 1_000_000, False),  # not the file's name
        ("hopper_medium-v0.hdf5", 1_000_000, False),
    ],
)
def test_official_files(filename: str, steps: int, official: bool) -> None:
    dims = (17, 6) if filename.startswith("half") else (11, 3)
    assert is_official(Path("x") / filename, steps, *dims, {}) == official
    assert not is_official(Path("x") / filename, steps, *dims, {"made_by": "me"})
    assert not is_official(Path("x") / filename, steps, 10, 3, {})
