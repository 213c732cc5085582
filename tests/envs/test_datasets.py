"""The one door to data, and reference scores."""

import functools
import http.server
import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import minari
import numpy as np
import pytest

from diffplan.data.info import DatasetInfo
from diffplan.envs.datasets import fetch_dataset, list_datasets, load_dataset, made_d4rl
from diffplan.envs.formats import minari_remote
from diffplan.envs.formats.d4rl_catalogue import CATALOGUE
from diffplan.envs.formats.d4rl_hdf5 import check_d4rl_file
from diffplan.envs.makers.pointmaze_data import make_pointmaze
from diffplan.envs.rollouts.references import normalised_score, reference_key
from diffplan.envs.simulators.mazes import maze_of
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


@pytest.fixture
def d4rl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty D4RL folder."""
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "d4rl"))
    (tmp_path / "d4rl").mkdir()
    return tmp_path / "d4rl"


def write_hopper(path: Path, width: int = 11) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        file["observations"] = np.zeros((6, width), np.float32)
        file["actions"] = np.zeros((6, 3), np.float32)
        file["rewards"] = np.ones(6, np.float32)
        file["terminals"] = np.arange(6) == 5
    return path


def test_files_in_the_d4rl_folder_are_found_by_name(d4rl: Path) -> None:
    with pytest.raises(DiffplanError, match="no file hopper"):
        load_dataset("hopper_medium-v0.hdf5")
    for name in ("hopper_medium-v0.hdf5", "hopper_medium-v2.hdf5"):
        (d4rl / name).write_text("found")
        with pytest.raises(DiffplanError, match="no readable HDF5 file"):
            load_dataset(name)
    listed = {e.name: e for e in list_datasets()}
    assert listed["hopper_medium-v0.hdf5"].domain == "other files"
    assert "hopper_medium-v2.hdf5" not in listed
    assert listed["hopper-medium-v2"].where == "local"
    assert listed["hopper-expert-v2"].where == "remote"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server on this machine shows instead of D4RL's."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        monkeypatch.setenv("DIFFPLAN_D4RL_URL", f"http://127.0.0.1:{server.server_address[1]}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder
        server.shutdown()
        thread.join()


def test_d4rl_names_are_downloaded_once(d4rl: Path, mirror: Path) -> None:
    there = write_hopper(mirror / "gym_mujoco_v2" / "hopper_medium-v2.hdf5")
    episodes = load_dataset("hopper-medium-v2", progress=False)
    assert episodes.info.id == episodes.info.details["d4rl_name"] == "hopper-medium-v2"
    assert episodes.num_steps == 6
    there.unlink()
    assert load_dataset("hopper-medium-v2", progress=False).num_steps == 6
    assert fetch_dataset("hopper-medium-v2") == str(d4rl / "hopper_medium-v2.hdf5")


@pytest.mark.parametrize("damage", ["columns", "cut", "missing"])
def test_wrong_downloads_are_refused(d4rl: Path, mirror: Path, damage: str) -> None:
    there = mirror / "gym_mujoco_v2" / "hopper_medium-v2.hdf5"
    message = "the server answers 404"
    if damage != "missing":
        write_hopper(there, width=12)
        message = "observations has 12 columns, expected 11"
    if damage == "cut":
        there.write_bytes(there.read_bytes()[:1500])
        message = "is no readable HDF5 file"
    with pytest.raises(DiffplanError, match=message) as caught:
        load_dataset("hopper-medium-v2", progress=False)
    assert str(caught.value).endswith(f"put it at {d4rl / 'hopper_medium-v2.hdf5'}")
    assert "\n" not in str(caught.value)
    assert not (d4rl / "hopper_medium-v2.hdf5").exists()


def test_damage_inside_an_array_is_found(tmp_path: Path) -> None:
    """The compressed pieces carry a checksum; the file itself opens."""
    path = tmp_path / "file.hdf5"
    with h5py.File(write_hopper(path), "a") as file:
        noise = np.random.default_rng(0).normal(size=(50_000, 9))
        array = file.create_dataset("infos/qpos", data=noise, compression="gzip")
        place = array.id.get_chunk_info(0).byte_offset + 5_000
    check_d4rl_file(path, CATALOGUE["hopper-medium-v2"])
    content = bytearray(path.read_bytes())
    content[place : place + 50] = bytes(50)
    path.write_bytes(content)
    with pytest.raises(DiffplanError, match="no readable HDF5 file"):
        check_d4rl_file(path, CATALOGUE["hopper-medium-v2"])


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pointmaze-mediun", "did you mean pointmaze-medium"),
        ("hopper-medum-v2", "did you mean hopper-medium-v2"),
        ("walker2d-medium", "make walker2d-medium .*; D4RL's own is walker2d-medium-v2"),
        ("pointmaze-large", "diffplan datasets make pointmaze-large"),
        ("maze2d-large", "diffplan datasets make maze2d-large"),
        ("nothing", "unknown dataset 'nothing'"),
        ("", "unknown dataset ''"),
        ("nowhere/data.h5", "no file nowhere/data.h5"),
    ],
)
def test_unknown_names_get_one_helpful_line(
    minari_root: Path, d4rl: Path, name: str, message: str
) -> None:
    with pytest.raises(DiffplanError, match=message) as caught:
        load_dataset(name)
    assert "\n" not in str(caught.value)


def download_of(minari_root: Path, error: Exception | None) -> Callable[..., None]:
    """Stands in for Minari's download, which stops halfway with an error, or copies a dataset."""

    def run(dataset_id: str, force_download: bool) -> None:
        assert force_download
        data = minari_root / dataset_id / "data"
        shutil.copytree(minari_root / "pointmaze/umaze-v0/data", data, dirs_exist_ok=True)
        metadata = json.loads((data / "metadata.json").read_text())
        metadata["dataset_id"] = dataset_id
        (data / "metadata.json").write_text(json.dumps(metadata))
        if error is not None:
            raise error

    return run


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("huggingface_hub is not installed"), r"pip install 'minari\[hf\]'"),
        (
            ValueError("Couldn't find any version.\nMore"),
            "any version; see: diffplan datasets list",
        ),
        (OSError("Name or service not known"), "minari download D4RL/door/human-v2, or put its"),
    ],
)
def test_minari_ids_are_downloaded(
    minari_root: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    name = "D4RL/door/human-v2"
    monkeypatch.setattr(minari_remote, "obstacle", lambda: "")
    monkeypatch.setattr(minari, "download_dataset", download_of(minari_root, error))
    for _ in range(2):  # what an error left behind is no dataset
        with pytest.raises(DiffplanError, match=message) as caught:
            load_dataset(name, progress=False)
        assert "\n" not in str(caught.value)
    monkeypatch.setattr(minari, "download_dataset", download_of(minari_root, None))
    assert load_dataset(name, progress=False).num_steps == 300
    monkeypatch.delattr(minari, "download_dataset")
    assert fetch_dataset(name) == f"the Minari dataset {name}"


def test_made_mazes_are_no_official_files(d4rl: Path) -> None:
    path = made_d4rl("maze2d-umaze")
    assert path is not None
    path.parent.mkdir()
    with h5py.File(path, "w") as file:
        file["observations"] = np.arange(24, dtype=np.float32).reshape(6, 4)
        file["actions"] = np.zeros((6, 2), np.float32)
        file["rewards"] = np.ones(6, np.float32)
        file["terminals"] = np.zeros(6, np.bool_)
        file["timeouts"] = np.arange(6) == 2
        file.attrs.update(name="maze2d-umaze-v1", made_by="diffplan", seed=0)
    info = load_dataset("maze2d-umaze", progress=False).info
    assert info.id == "maze2d-umaze"
    assert info.details["data_source"] == "not D4RL's file"
    assert {e.name: e.where for e in list_datasets("maze2d-u")} == {
        "maze2d-umaze-v1": "remote",
        "maze2d-umaze-dense-v1": "remote",
        "maze2d-umaze": "local",
        "maze2d-umaze-dense": "can be made",
    }
    assert made_d4rl("maze2d-umaze-v1") is None


def test_bad_data_are_refused_and_can_still_be_looked_at(tmp_path: Path) -> None:
    path = str(write_archive(tmp_path / "a.npz", np.nan))
    with pytest.raises(DiffplanError, match="states hold nan in episode 0, step 2, column 4"):
        load_dataset(path)
    assert np.isnan(load_dataset(path, validate=False).states).sum() == 1


def test_the_list_says_what_is_made(minari_root: Path) -> None:
    before = {entry.name: entry for entry in list_datasets("pointmaze")}
    assert before["pointmaze-umaze"].note == "diffplan datasets make pointmaze-umaze"
    assert before["pointmaze-umaze"].where == "can be made"
    make_pointmaze("pointmaze-umaze", 300, 0, progress=False)
    after = {entry.name: entry for entry in list_datasets("POINTMAZE")}
    assert after["pointmaze-umaze"].note == "made: pointmaze/umaze-v0"
    assert after["pointmaze/umaze-v0"].domain == "Minari"
    assert "300 steps" in after["pointmaze/umaze-v0"].note
    assert list_datasets("minari") == [after["pointmaze/umaze-v0"]]
    assert not list_datasets("nothing of the kind")


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
    assert [e.name for e in list_datasets("minari")] == ["pointmaze/umaze-v0"]
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
