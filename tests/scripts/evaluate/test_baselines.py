"""What stands beside a planner: the controllers of its data where there are some, and chance."""

from typing import Any

import pytest

from diffplan.data.info import DatasetInfo
from diffplan.scripts.evaluate.baselines import baselines


def info(env_id: str, **details: Any) -> DatasetInfo:
    return DatasetInfo("x", "d4rl", env_id, {}, (-1.0,) * 2, (1.0,) * 2, details)


@pytest.mark.parametrize(
    ("dataset", "expected"),
    [
        (info("Hopper-v5"), [("random", None)]),
        (
            info("PointMaze_UMaze-v3", path_rule="depth-first"),
            [("controller", None), ("shortest_path", None), ("random", None)],
        ),
        (
            info("PointMaze_UMaze-v3", path_rule="shortest"),  # the same controller twice
            [("controller", None), ("random", None)],
        ),
        (
            info("diffplan/maze2d-umaze-v1"),  # D4RL's reference plans once in each environment
            [("controller", None), ("reference_controller", 1), ("random", None)],
        ),
    ],
)
def test_baselines_of_a_dataset(
    dataset: DatasetInfo, expected: list[tuple[str, int | None]]
) -> None:
    found = baselines(dataset, seed=3)
    assert [(baseline.key, baseline.rows) for baseline in found] == expected
    assert len({baseline.name for baseline in found}) == len(found)
