"""Reference scores: which row a dataset has, and how returns become scores."""

from typing import Any

import numpy as np
import pytest

from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.references import REFERENCE_SCORES, normalised_score, reference_key


def info(env_id: str | None, name: str = "x", source: str = "d4rl", **details: Any) -> DatasetInfo:
    return DatasetInfo(name, source, env_id, {}, (), (), details)


@pytest.mark.parametrize(
    ("env_id", "key"),
    [
        ("diffplan/hopper-v2", "hopper"),
        ("diffplan/ant-v2", "ant"),
        ("diffplan/maze2d-open-v0", "maze2d-open"),
        ("diffplan/maze2d-large-dense-v1", "maze2d-large-dense"),
        ("diffplan/antmaze-medium-play-v2", "antmaze"),
        ("diffplan/kitchen-mixed-v0", "kitchen"),
        ("Walker2d-v4", "walker2d"),
        ("FrankaKitchen-v1", "kitchen"),
        ("PointMaze_Large-v3", None),
        ("AntMaze_Large-v4", None),
        ("mine:Hopper-v5", "hopper"),
    ],
)
def test_keys_of_environments(env_id: str, key: str | None) -> None:
    assert reference_key(info(env_id)) == key
    assert reference_key(info(env_id, source="arrays")) == key


def test_keys_of_files_without_an_environment() -> None:
    assert reference_key(info(None, d4rl_name="pen-cloned-v1")) == "pen"
    assert reference_key(info(None, "/data/maze2d-umaze-sparse-v1.hdf5")) == "maze2d-umaze"
    assert reference_key(info(None, "/data/maze2d-huge.hdf5")) is None
    assert reference_key(info(None, "/data/hopper.npz", source="arrays")) is None


def test_scores_of_returns() -> None:
    for key, reference in REFERENCE_SCORES.items():
        scores = normalised_score(key, np.array([reference.minimum, reference.maximum]))
        np.testing.assert_allclose(scores, [0.0, 100.0], atol=1e-9)
        assert reference.source
    above = normalised_score("maze2d-umaze", np.array([[223.6]]))
    np.testing.assert_allclose(above, [[100 * 199.75 / 138.01]])


def test_antmaze_scores_success() -> None:
    """However many steps at the goal a return counts."""
    np.testing.assert_array_equal(
        normalised_score("antmaze", np.array([0.0, 1.0, 37.0])), [0.0, 100.0, 100.0]
    )
    np.testing.assert_array_equal(
        normalised_score("kitchen", np.array([0.0, 1.0, 3.0])), [0.0, 25.0, 75.0]
    )
    assert {key for key, row in REFERENCE_SCORES.items() if row.measure != "return"} == {
        "antmaze",
        "kitchen",
    }
