"""Locomotion data by actors of our own: D4RL's layout, seeds, ends, and what is said of them."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

pytest.importorskip("mujoco")

from diffplan.envs.datasets import load_dataset, made_d4rl
from diffplan.envs.makers.actors import load_actor, save_actor
from diffplan.envs.makers.catalogue import LOCOMOTION, LOCOMOTION_TASKS
from diffplan.envs.makers.locomotion_data import actor_file, make_locomotion
from diffplan.errors import DiffplanError
from diffplan.scripts.datasets.summary import summary

make = partial(make_locomotion, workers=1, progress=False)


def made(name: str, steps: int, path: Path, **options: Any) -> dict[str, np.ndarray]:
    make(name, steps, options.pop("seed", 0), path, **options)
    with h5py.File(path) as file:
        return {key: file[key][()] for key in file}


@pytest.mark.parametrize("task", LOCOMOTION_TASKS)
def test_ends_are_falls_or_the_time_limit(tmp_path: Path, task: str) -> None:
    kind = "medium" if task == "halfcheetah" else "medium-replay"  # the first actors fall
    data = made(f"{task}-{kind}", 1100, tmp_path / "a.hdf5")
    assert data["observations"].shape == (1100, {"hopper": 11}.get(task, 17))
    ends = data["terminals"] | data["timeouts"]
    assert ends[-1] and not (data["terminals"] & data["timeouts"]).any()
    if task == "halfcheetah":
        assert not data["terminals"].any()
        assert np.flatnonzero(ends).tolist() == [999, 1099]
    else:
        assert data["terminals"].any()
    follows = (data["next_observations"][:-1] == data["observations"][1:]).all(axis=1)
    np.testing.assert_array_equal(follows, ~ends[:-1])
    assert np.abs(data["actions"]).max() <= 1.0


def test_a_seed_decides_whatever_the_processes(tmp_path: Path) -> None:
    name = "walker2d-medium-expert"
    one = made(name, 700, tmp_path / "one.hdf5", seed=3)
    two = made(name, 700, tmp_path / "two.hdf5", seed=3, workers=2)
    assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "two.hdf5").read_bytes()
    assert one["rewards"][360:].mean() > 1.5  # the expert walks: a body that stands has 1
    # its first half is how the medium data begin
    medium = made("walker2d-medium", 350, tmp_path / "medium.hdf5", seed=3)
    np.testing.assert_array_equal(one["actions"][:350], medium["actions"])
    other = made("walker2d-medium", 350, tmp_path / "other.hdf5", seed=4)
    assert (other["actions"] != medium["actions"]).any() and len(two["actions"]) == 700
    # kept where it was made the same way, and never replaced unasked
    before = (tmp_path / "medium.hdf5").stat().st_mtime_ns
    make("walker2d-medium", 350, 3, tmp_path / "medium.hdf5")
    assert (tmp_path / "medium.hdf5").stat().st_mtime_ns == before
    with pytest.raises(DiffplanError, match=r"steps 350.*asked for .*steps 300"):
        make("walker2d-medium", 300, 3, tmp_path / "medium.hdf5")
    assert len(list(tmp_path.iterdir())) == 4  # nothing half written


def test_a_replay_has_the_snapshots_in_proportion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path))
    path = made_d4rl("walker2d-medium-replay")
    assert path is not None
    made("walker2d-medium-replay", 800, path)
    episodes = load_dataset("walker2d-medium-replay", progress=False)
    assert (episodes.info.env_id, episodes.num_steps) == ("Walker2d-v5", 800)
    actors = LOCOMOTION_TASKS["walker2d"].until_medium
    assert episodes.info.details["actors"] == ", ".join(f"walker2d-{steps}" for steps in actors)
    lines = dict(summary(episodes))
    assert lines["origin"] == "not D4RL's file"
    share = 800 * int(actors[0][:-1]) // int(actors[-1][:-1])
    assert lines["policy"].startswith(f"{share:,} steps by PPO")
    assert share in episodes.step_starts


def test_every_set_has_its_actors_and_they_are_small() -> None:
    assert {"hopper-medium-expert", "halfcheetah-medium-replay"} < set(LOCOMOTION)
    for task, known in LOCOMOTION_TASKS.items():
        scores = []
        for steps in known.actors:
            file = actor_file(f"{task}-{steps}")
            meta = load_actor(file).meta
            assert meta["env"] == known.env_id and file.stat().st_size < 150_000
            assert meta["steps"] == pytest.approx(1000 * int(steps[:-1]), rel=0.01)
            scores.append(meta["return"])
        assert scores[-2] < 0.6 * scores[-1] or not known.expert
        assert max(scores) == scores[-1]


def test_an_actor_acts_as_its_arrays_say(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    layers = [(rng.normal(size=(5, 3)), rng.normal(size=5)), (rng.normal(size=(2, 5)), np.zeros(2))]
    head = (np.zeros((2, 5)), np.array([-30.0, -1.0]))  # the first is held at -20
    meta = {"activation": "relu", "squash": True}
    save_actor(tmp_path / "a.npz", layers, head, meta)
    actor, seen = load_actor(tmp_path / "a.npz"), np.array([0.5, -1.0, 2.0])
    (w0, b0), (w1, _) = [(w.astype(np.float16), b.astype(np.float16)) for w, b in layers]
    mean = w1 @ np.maximum(w0 @ seen + b0, 0.0)
    drawn = np.array([actor(seen, np.random.default_rng(i)) for i in range(2000)])
    np.testing.assert_allclose(drawn[:, 0], np.tanh(mean[0]), atol=1e-5)
    spread = np.arctanh(drawn[:, 1].astype(np.float64)).std()
    assert spread == pytest.approx(np.exp(-1.0), rel=0.06)
    assert json.dumps(actor.meta) == json.dumps(meta)
    # one that was trained without squashing is clipped
    flat = Path(tmp_path / "b.npz")
    save_actor(flat, layers, (np.array([-20.0, -20.0]),), meta | {"squash": False})
    np.testing.assert_allclose(load_actor(flat)(seen, rng), np.clip(mean, -1.0, 1.0), atol=1e-5)
