"""The one door to data, and reference scores."""

from pathlib import Path

import numpy as np
import pytest

from diffplan.data.episodes import DatasetInfo
from diffplan.envs.datasets import list_datasets, load_dataset
from diffplan.envs.mazes import maze_of
from diffplan.envs.pointmaze import make_pointmaze
from diffplan.envs.references import normalised_score, reference_key
from diffplan.errors import DiffplanError


def write_archive(path: Path, bad: float | None = None) -> Path:
    flags = np.arange(6) == 5
    actions = np.zeros((6, 3))
    observations = np.zeros((6, 11))
    observations[2, 4] = 0.0 if bad is None else bad
    np.savez(
        path,
        observations=observations,
        actions=actions,
        rewards=np.ones(6),
        terminations=flags,
        truncations=np.zeros(6, np.bool_),
    )
    return path


def test_every_way_to_name_a_dataset(minari_root: Path, tmp_path: Path) -> None:
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    by_name = load_dataset("pointmaze-umaze", progress=False)
    by_id = load_dataset("pointmaze/umaze-v0", progress=False)
    by_id.save(tmp_path / "copy")
    by_folder = load_dataset(str(tmp_path / "copy"))
    for other in (by_id, by_folder):
        np.testing.assert_array_equal(by_name.states, other.states)
        assert by_name.info.env_kwargs == other.info.env_kwargs
    archive = load_dataset(str(write_archive(tmp_path / "a.npz")), "Hopper-v5")
    assert archive.num_steps == 6
    assert archive.info.env_id == "Hopper-v5"


def test_another_environment_replaces_that_of_the_data(minari_root: Path) -> None:
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    info = load_dataset("pointmaze-umaze", "PointMaze_Medium-v3", progress=False).info
    assert info.env_id == "PointMaze_Medium-v3"
    assert info.env_kwargs == {}
    with pytest.raises(DiffplanError, match="did you mean"):
        load_dataset("pointmaze-umaze", "PointMaze_Medum-v3")


def test_files_in_the_d4rl_folder_are_found_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    with pytest.raises(DiffplanError, match="no file hopper"):
        load_dataset("hopper_medium-v2.hdf5")
    (tmp_path / "hopper_medium-v2.hdf5").write_text("found")
    with pytest.raises(DiffplanError, match="no readable HDF5 file"):
        load_dataset("hopper_medium-v2.hdf5")
    assert [e.name for e in list_datasets() if e.kind == "d4rl"] == ["hopper_medium-v2.hdf5"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pointmaze-mediun", "did you mean pointmaze-medium"),
        ("pointmaze-large", "diffplan datasets make pointmaze-large"),
        ("D4RL/door/human-v2", "minari download D4RL/door/human-v2"),
        ("nothing", "unknown dataset 'nothing'"),
        ("", "unknown dataset ''"),
        ("nowhere/data.h5", "no file nowhere/data.h5"),
    ],
)
def test_unknown_names_get_one_helpful_line(minari_root: Path, name: str, message: str) -> None:
    with pytest.raises(DiffplanError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def test_bad_data_are_refused_and_can_still_be_looked_at(tmp_path: Path) -> None:
    path = str(write_archive(tmp_path / "a.npz", np.nan))
    with pytest.raises(DiffplanError, match="states hold nan in episode 0, step 2, column 4"):
        load_dataset(path)
    assert np.isnan(load_dataset(path, validate=False).states).sum() == 1


def test_the_list_says_what_is_made(minari_root: Path) -> None:
    before = {entry.name: entry for entry in list_datasets()}
    assert before["pointmaze-umaze"].note == "diffplan datasets make pointmaze-umaze"
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    after = {entry.name: entry for entry in list_datasets()}
    assert after["pointmaze-umaze"].note == "made: pointmaze/umaze-v0"
    assert after["pointmaze/umaze-v0"].kind == "minari"
    assert "300 steps" in after["pointmaze/umaze-v0"].note


@pytest.mark.parametrize(
    ("folder", "metadata"),
    [("notes", None), ("mine/set-v0", "{"), ("mine/set-v0", '{"dataset_id": "mine/other-v0"}')],
)
def test_a_malformed_minari_folder_is_left_out_in_one_line(
    minari_root: Path, folder: str, metadata: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    (minari_root / folder / "data").mkdir(parents=True)
    if metadata is not None:
        (minari_root / folder / "data" / "metadata.json").write_text(metadata)
    capsys.readouterr()
    assert [e.name for e in list_datasets() if e.kind == "minari"] == ["pointmaze/umaze-v0"]
    (line,) = capsys.readouterr().err.splitlines()
    assert str(minari_root / folder) in line
    with pytest.raises(DiffplanError, match="unknown dataset"):
        load_dataset("nothing")


def info(name: str, source: str, env_id: str | None) -> DatasetInfo:
    return DatasetInfo(name, source, env_id, {}, (), (), {})


@pytest.mark.parametrize(
    ("name", "source", "env_id", "key"),
    [
        ("x", "d4rl", "Hopper-v5", "hopper"),
        ("mujoco/ant/medium-v0", "minari", "Ant-v5", "ant"),
        ("x", "d4rl", "AdroitHandDoor-v1", "door"),
        ("D4RL/pointmaze/umaze-v2", "minari", "PointMaze_UMaze-v3", None),
        ("D4RL/antmaze/umaze-v1", "minari", "AntMaze_UMaze-v4", None),
        ("/data/maze2d-umaze-sparse-v1.hdf5", "d4rl", None, "maze2d-umaze"),
        ("/data/maze2d-large-dense-v1.hdf5", "d4rl", None, "maze2d-large-dense"),
        ("/data/mini_kitchen_microwave_kettle_light_slider-v0.hdf5", "d4rl", None, "kitchen"),
        ("/data/Ant_maze_u-maze_noisy_multistart_True.hdf5", "d4rl", None, "antmaze"),
        ("/data/mine.npz", "arrays", None, None),
    ],
)
def test_reference_keys(name: str, source: str, env_id: str | None, key: str | None) -> None:
    assert reference_key(info(name, source, env_id)) == key


def test_normalised_scores() -> None:
    scores = normalised_score("hopper", np.array([-20.272305, 3234.3]))
    assert scores is not None
    np.testing.assert_allclose(scores, [0.0, 100.0])
    door = normalised_score("door", np.array(794.100652534553))  # the human demonstrations
    assert door == pytest.approx(28.961174, abs=1e-5)
    assert normalised_score(None, np.zeros(3)) is None
    with pytest.raises(DiffplanError, match="no reference score 'pointmaze'"):
        normalised_score("pointmaze", np.zeros(3))


def test_mazes_of_environments() -> None:
    maze = maze_of("PointMaze_UMaze-v3", {})
    assert maze is not None
    assert len(maze.rows) == 5
    own = maze_of("PointMaze_UMaze-v3", {"maze_map": [[1] * 4, [1, 0, 0, 1], [1] * 4]})
    assert own is not None
    assert len(own.rows) == 3
    ant = maze_of("AntMaze_UMaze-v4", {})
    assert ant is not None
    assert ant.scale == 4.0
    assert maze_of("Hopper-v5", {}) is None
    assert maze_of(None, {}) is None
