"""OGBench: remade data, the environment with goals and seeds, five tasks to evaluate in."""

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytest.importorskip("ogbench")

from diffplan.envs.datasets import load_dataset
from diffplan.envs.formats import ogbench as files
from diffplan.envs.makers import ogbench_data
from diffplan.envs.makers.catalogue import OGBENCH, PlaySet
from diffplan.envs.makers.ogbench_data import made_with, make_ogbench
from diffplan.envs.makers.ogbench_play import cube_lost, play_episode
from diffplan.envs.simulators.environments import make_env
from diffplan.envs.simulators.mazes import maze_of
from diffplan.envs.simulators.ogbench import environment_of, make_simulator
from diffplan.envs.simulators.tasks import task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.cli import main

TELEPORT = "pointmaze-teleport-v0"
STITCH, NAVIGATE = "pointmaze-medium-stitch-v0", "pointmaze-medium-navigate-v0"
make = partial(make_ogbench, workers=1, progress=False)


def made(name: str, path: Path, **options: Any) -> dict[str, np.ndarray]:
    make(name, path, **options)
    with np.load(path) as file:
        return {key: file[key] for key in ("observations", "actions", "terminals")}


def cells(name: str, xy: np.ndarray) -> set[tuple[int, int]]:
    sim = make_simulator(name)
    return {sim.xy_to_ij(point) for point in xy}


def test_stitch_goes_to_a_goal_four_cells_away_and_stays(tmp_path: Path) -> None:
    data = made(STITCH, tmp_path / "a.npz", episodes=12)
    assert data["observations"].shape == (12 * 201, 2) and data["actions"].shape == (12 * 201, 2)
    assert np.flatnonzero(data["terminals"]).tolist() == list(range(200, 12 * 201, 201))
    episodes = data["observations"].reshape(12, 201, 2)
    steps = np.abs(np.diff(episodes, axis=1)).max()
    assert 0.15 < steps < 0.35  # a unit action moves the ball by 0.2
    for episode in episodes:
        # four cells of side 4 with noise of 1 at both ends; corners are cut
        assert np.linalg.norm(episode[-1] - episode[0]) < 4 * 4 + 3
        assert np.ptp(episode[-30:], axis=0).max() < 3.5
        assert 2 <= len(cells("pointmaze-medium-v0", episode)) <= 8


def test_what_was_made_before_an_interruption_is_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = made(STITCH, tmp_path / "whole.npz", episodes=12)
    run, ran = ogbench_data._run, list[Any]()

    def stopped_at_the_third(job: Any) -> Any:
        ran.append(job)
        if len(ran) == 3:
            raise KeyboardInterrupt
        return run(job)

    monkeypatch.setattr(ogbench_data, "_run", stopped_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        make(STITCH, tmp_path / "a.npz", episodes=12)
    assert not (tmp_path / "a.npz").exists()
    (folder,) = (file for file in tmp_path.iterdir() if file.is_dir())
    made(STITCH, tmp_path / "a.npz", episodes=5)  # a shorter call leaves the rest of it
    assert [file.name for file in folder.iterdir()] == ["5-10.npz"] and len(ran) == 3
    (folder / "5-10.npz").write_bytes(b"no archive")
    half = folder / ".0-5.0123abcd.npz"  # of a call that was killed while it wrote
    half.touch()
    again = made(STITCH, tmp_path / "a.npz", episodes=12, overwrite=True)
    assert len(ran) == 6 and list(folder.iterdir()) == [half]
    half.unlink()
    folder.rmdir()
    assert {file.name for file in tmp_path.iterdir()} == {"whole.npz", "a.npz"}
    for key, array in whole.items():
        np.testing.assert_array_equal(again[key], array)


def test_navigate_goes_on_to_new_goals(tmp_path: Path) -> None:
    data = made(NAVIGATE, tmp_path / "a.npz", episodes=1)
    assert data["observations"].shape == (1001, 2)
    assert len(cells("pointmaze-medium-v0", data["observations"])) > 8


def test_the_ant_walks(tmp_path: Path) -> None:
    data = made("antmaze-medium-stitch-v0", tmp_path / "a.npz", episodes=3)
    episodes = data["observations"].reshape(3, 201, 29)
    gone = np.linalg.norm(episodes[:, -1, :2] - episodes[:, 0, :2], axis=1)
    assert gone.min() > 4.0
    assert episodes[..., 2].min() > 0.2  # the torso's height: it has not fallen over


def test_an_arm_at_play_moves_a_cube() -> None:
    short = PlaySet("cube-single-v0", (0.0, 0.0), steps=75)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    observations, actions = play_episode(short, np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    assert observations.shape == (75, 28) and np.abs(actions).max() <= 1.0
    x, y, height = observations[:, 19:22].T
    # lifted, and laid down elsewhere; a cube's half is 0.2 of these units
    assert height[0] < 0.25 < 0.8 < height.max() and height[-1] < 0.25
    assert np.hypot(x[-1] - x[0], y[-1] - y[0]) > 0.5
    shorter = dataclasses.replace(short, steps=5)
    again, other = (play_episode(shorter, np.random.default_rng(seed))[0] for seed in (0, 1))
    np.testing.assert_array_equal(again, observations[:5])
    assert (other[0] != again[0]).any()


def test_a_scenes_cube_out_of_sight_is_drawn_again() -> None:
    seen = [(0.4, 0.1, 0.02), (0.33, -0.35, 0.07)]  # on the table, in the drawer
    lost = [(0.4, 0.3, 0.02), (0.33, -0.35, 0.02), (0.33, -0.31, 0.1)]
    assert [cube_lost(np.array(place)) for place in (*seen, *lost)] == [False] * 2 + [True] * 3


def test_goals_of_the_arm_are_what_is_judged() -> None:
    env: Any = gym.make("diffplan/ogbench-v0", env_name="scene-v0", task=3, max_episode_steps=2)
    first, _ = env.reset(seed=4)
    env.step(env.action_space.sample())
    again, other = env.reset(seed=4)[0], env.reset(seed=5)[0]
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
    assert (first["observation"] != other["observation"]).any()
    task = env.unwrapped.sim.task_infos[2]
    for key, when in (("achieved_goal", "init"), ("desired_goal", "goal")):
        told = task[when]
        cube = (told["block_xyzs"][0] - [0.425, 0.0, 0.0]) * 10
        slides = [told["drawer_pos"] * 18, told["window_pos"] * 15]
        expected = np.concatenate([cube, told["button_states"], slides])
        np.testing.assert_allclose(first[key], expected, atol=0.25)


def test_a_seed_decides_and_the_first_episodes_stay(tmp_path: Path) -> None:
    few = made(STITCH, tmp_path / "few.npz", episodes=2, seed=3)
    np.random.seed(5)  # noqa: NPY002 - OGBench draws from this generator
    more = made(STITCH, tmp_path / "more.npz", episodes=3, seed=3)
    other = made(STITCH, tmp_path / "other.npz", episodes=2, seed=4)
    np.testing.assert_array_equal(more["actions"][: 2 * 201], few["actions"])
    assert (other["actions"] != few["actions"]).any()
    # kept where it was made the same way, and never replaced unasked
    before = (tmp_path / "few.npz").stat().st_mtime_ns
    make(STITCH, tmp_path / "few.npz", episodes=2, seed=3)
    assert (tmp_path / "few.npz").stat().st_mtime_ns == before
    with pytest.raises(DiffplanError, match=r"made otherwise \(episodes 2.*asked for episodes 4"):
        make(STITCH, tmp_path / "few.npz", episodes=4, seed=3)
    assert made_with(tmp_path / "few.npz")["episodes"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["few.npz", "more.npz", "other.npz"]


def test_the_published_sizes() -> None:
    assert len(OGBENCH) == 4 * 2 * 2 + 3 + 4
    giant, explore = OGBENCH["pointmaze-giant-navigate-v0"], "antmaze-large-explore-v0"
    assert (giant.episodes, giant.steps, giant.noise) == (500, 2001, 0.5)
    assert (OGBENCH[explore].episodes, OGBENCH[explore].steps) == (10_000, 501)
    assert OGBENCH["cube-double-play-v0"] == PlaySet("cube-double-v0", (0.0, 0.25), 1000, 1001)


@pytest.fixture
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DIFFPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OGBENCH_DATASET_DIR", str(tmp_path / "official"))
    return tmp_path


def test_a_name_is_made_shown_and_loaded(
    data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["datasets", "make", STITCH, "--episodes", "3", "--workers", "1"]
    assert main(words) == 0
    episodes = load_dataset(STITCH)
    assert (episodes.num_episodes, episodes.num_steps) == (3, 600)
    assert len(episodes.states) == 603 and not episodes.terminations.any()
    assert np.flatnonzero(episodes.truncations).tolist() == [199, 399, 599]
    with np.load(files.remade_file(STITCH)) as file:
        np.testing.assert_array_equal(episodes.states, file["observations"])
        # the action of a trajectory's last row leads nowhere
        kept = np.delete(file["actions"], [200, 401, 602], axis=0)
    np.testing.assert_array_equal(episodes.actions, kept)
    assert episodes.layout.goal_columns == (0, 1)
    assert main(["datasets", "show", STITCH]) == 0
    out = capsys.readouterr().out
    assert "remade by OGBench's public procedure (3 episodes, seed 0)" in out
    assert "its 5 tasks" in out
    # an official file goes before one remade
    official = files.official_file(STITCH)
    official.parent.mkdir(exist_ok=True)
    np.savez(official, **{k: np.asarray(v) for k, v in _toy().items()})
    again = load_dataset(STITCH)
    assert again.num_steps == 4 and again.info.details["data_source"] == files.OFFICIAL


def _toy() -> dict[str, Any]:
    ends = np.array([0, 0, 1, 0, 0, 1], bool)
    return {"observations": np.eye(6, 2), "actions": np.zeros((6, 2)), "terminals": ends}


@pytest.mark.parametrize(
    ("name", "width", "goal", "limit"),
    [
        ("antmaze-giant-stitch-v0", 29, (0, 1), 1000),
        ("cube-double-play-v0", 37, (19, 20, 21, 28, 29, 30), 500),
        ("scene-play-v0", 40, (19, 20, 21, 29, 33, 36, 38), 750),
        ("puzzle-3x3-play-v0", 55, tuple(range(20, 55, 4)), 500),
    ],
)
def test_an_official_file_brings_its_goals_and_tasks(
    name: str, width: int, goal: tuple[int, ...], limit: int, data_folder: Path
) -> None:
    path = files.official_file(name)
    path.parent.mkdir()
    rows = _toy() | {"observations": np.eye(6, width), "qpos": np.zeros((6, 3))}
    np.savez(path, **rows)
    np.savez(path.with_name(f"{name}-val.npz"), **rows)
    info, layout = (episodes := load_dataset(name)).info, episodes.layout
    assert layout.goal_columns == goal
    np.testing.assert_array_equal(episodes.goals, episodes.states[:, list(goal)])
    told = {"env_name": environment_of(name), "max_episode_steps": limit}
    assert [task.env_kwargs for task in info.evaluation_tasks] == [
        told | {"task": task} for task in range(1, 6)
    ]


def test_five_tasks_with_starts_and_goals_of_their_own(data_folder: Path) -> None:
    make(STITCH, files.remade_file(STITCH), episodes=2)
    episodes = load_dataset(STITCH)
    assert episodes.tasks is None  # the model is told of no task
    infos = task_infos(episodes.info)
    assert [info.tasks[0].name for info in infos] == [f"task{n}" for n in range(1, 6)]
    sim = make_simulator("pointmaze-medium-v0")
    for info, task in zip(infos, sim.task_infos, strict=True):
        env = make_env(info)
        observation, _ = env.reset(seed=0)
        assert sim.xy_to_ij(observation["observation"]) == task["init_ij"]
        assert sim.xy_to_ij(observation["desired_goal"]) == task["goal_ij"]
        assert env.spec is not None and env.spec.max_episode_steps == 1000


def test_resets_follow_the_seed_and_leave_the_global_generator_alone() -> None:
    env: Any = gym.make("diffplan/ogbench-v0", env_name="antmaze-medium-v0", task=2)
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first = env.reset(seed=4)[0]
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    again = env.reset(seed=4)[0]
    other = env.reset(seed=5)[0]
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
        assert (first[key] != other[key]).any()
    np.testing.assert_array_equal(first["achieved_goal"], first["observation"][:2])
    assert env.observation_space.contains(first)


def test_mazes_are_drawn_as_they_are_simulated() -> None:
    drawn, sim = maze_of("diffplan/ogbench-v0", {"env_name": TELEPORT}), make_simulator(TELEPORT)
    assert drawn is not None and drawn.scale == 4.0
    for ij, wall in np.ndenumerate(sim.maze_map):
        cell = drawn.cell(np.array(sim.ij_to_xy(ij)))
        assert drawn.centre(cell) == tuple(sim.ij_to_xy(ij)) and drawn.is_free(cell) != wall


def test_success_ends_the_episode_with_reward_one() -> None:
    env: Any = gym.make("diffplan/ogbench-v0", env_name="pointmaze-medium-v0", task=3)
    observation, _ = env.reset(seed=0)
    env.unwrapped.sim.set_xy(observation["desired_goal"])
    _, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (reward, terminated, truncated, info["success"]) == (1.0, True, False, True)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: make("pointmaze-tiny-stitch-v0", p), "can be made: pointmaze-medium-navigate"),
        (lambda p: make(STITCH, p, episodes=0), "at least one episode"),
        (lambda p: gym.make("diffplan/ogbench-v0", env_name="maze-v0"), "'maze-v0' is not known"),
        (
            lambda p: gym.make("diffplan/ogbench-v0", env_name="pointmaze-medium-v0", task=6),
            "tasks 1 to 5, got 6",
        ),
    ],
)
def test_what_does_not_exist_is_refused(call: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DiffplanError, match=message):
        call(tmp_path / "a.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("spoilt", ["key", "flags", "cut"])
def test_damaged_files_are_named(spoilt: str, data_folder: Path) -> None:
    path, rows = files.official_file(STITCH), _toy()
    path.parent.mkdir()
    if spoilt == "key":
        del rows["terminals"]
    elif spoilt == "flags":
        rows["terminals"] &= False
    np.savez(path, **rows)
    if spoilt == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DiffplanError, match=path.name):
        load_dataset(STITCH)
