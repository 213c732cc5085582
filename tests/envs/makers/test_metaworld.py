"""Meta-World: what a seed decides, where episodes end, and the data of the scripted policies."""

import json
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from minari.storage import get_dataset_path

from diffplan.data.episodes import Episodes
from diffplan.data.info import DatasetInfo, Task
from diffplan.envs.datasets import load_dataset, load_datasets
from diffplan.envs.makers.catalogue import METAWORLD, MT10
from diffplan.envs.makers.metaworld_data import make_metaworld, metaworld_id
from diffplan.envs.simulators.environments import make_env
from diffplan.envs.simulators.tasks import make_task_env, task_infos
from diffplan.errors import DiffplanError
from diffplan.scripts.cli import main

pytest.importorskip("metaworld", reason="needs the extra metaworld")


def make(env_name: str, **options: Any) -> gym.Env:
    kwargs = {"env_name": env_name, **options}
    return make_env(DatasetInfo("x", "arrays", "diffplan/metaworld-v3", kwargs, (), (), {}))


def policy_of(task: str) -> Any:
    from metaworld.policies import ENV_POLICY_MAP

    kind: Any = ENV_POLICY_MAP[task]
    return kind()


def run(env: gym.Env, seed: int, steps: int, task: str = "drawer-open-v3") -> np.ndarray:
    """Observations of a scripted episode."""
    policy = policy_of(task)
    observations = [env.reset(seed=seed)[0]]
    for _ in range(steps):
        action = np.clip(policy.get_action(observations[-1]), -1, 1)
        observations.append(env.step(action)[0])
    return np.stack(observations)


def test_the_ten_are_the_benchmark_s() -> None:
    from metaworld.env_dict import MT10_V3

    assert tuple(MT10_V3) == MT10


# `gymnasium.make` wraps the simulator in its checkers, whose warnings are not the point here.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_the_seed_decides_everything() -> None:
    env, other = make("drawer-open-v3"), make("drawer-open-v3")
    first = run(env, 3, 20)
    run(env, 4, 11)  # whatever came before
    assert np.array_equal(run(env, 3, 20), first)
    assert np.array_equal(run(other, 3, 20), first)


@pytest.mark.parametrize("task", ["reach-v3", "push-v3", "window-open-v3"])
def test_places_vary_and_stand_in_the_observation(task: str) -> None:
    env = make(task)
    seen = np.stack([env.reset(seed=seed)[0] for seed in range(8)])
    objects, goals = seen[:, 4:7], seen[:, -3:]
    assert (objects.std(axis=0) > 0.01).any() and (goals.std(axis=0) > 0.01).any()
    assert len(np.unique(goals, axis=0)) == 8
    assert (np.abs(goals) > 0.01).any(axis=1).all()
    observation, _, _, _, _ = env.step(np.zeros(4, np.float32))
    assert np.array_equal(observation[-3:], goals[-1])  # not clipped away
    # the reset observes the objects where they are, not where they were drawn at first
    assert np.abs(observation[:18] - seen[-1, :18]).max() < 2e-3
    assert np.array_equal(observation[18:36], seen[-1, :18])


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("after", [0, 10])
def test_an_episode_is_cut_some_steps_after_its_first_success(after: int) -> None:
    env, policy = make("reach-v3", after_success=after), policy_of("reach-v3")
    observation, _ = env.reset(seed=0)
    success: list[bool] = []
    terminated = truncated = False
    while not (terminated or truncated):
        action = np.clip(policy.get_action(observation), -1, 1)
        observation, reward, terminated, truncated, info = env.step(action)
        success.append(bool(info["success"]))
        assert 0 <= float(reward) <= 10
    assert truncated and not terminated
    assert len(success) - 1 - success.index(True) == after


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(DiffplanError, match="Meta-World has no task 'reach'; there are"):
        make("reach")


# ------------------------------------------------------------------------------------------ data


def metaworld(name: str = "metaworld-reach", **options: Any) -> Episodes:
    settings = {"episodes_per_task": 2, "steps": 12, "workers": 1, "progress": False, **options}
    make_metaworld(name, **settings)
    return load_dataset(name, progress=False)


@pytest.fixture(scope="module")
def ten(tmp_path_factory: pytest.TempPathFactory) -> Episodes:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(tmp_path_factory.mktemp("minari")))
        return metaworld("metaworld-mt10", episodes_per_task=1, steps=3)


def test_ten_tasks_in_one_minari_dataset(ten: Episodes) -> None:
    assert ten.info.id == "metaworld/mt10-v0" and ten.info.env_id is None
    assert ten.info.tasks == tuple(
        Task(name.removesuffix("-v3"), "diffplan/metaworld-v3", {"env_name": name}, 39)
        for name in MT10
    )
    assert ten.tasks is not None and ten.tasks.tolist() == list(range(10))
    assert ten.states.shape == (40, 39) and ten.actions.shape == (30, 4)
    assert ten.truncations.tolist() == [False, False, True] * 10 and not ten.terminations.any()
    assert (ten.info.action_low, ten.info.action_high) == ((-1.0,) * 4, (1.0,) * 4)
    assert "tasks" not in ten.info.details and ten.info.details["steps"] == 3


def test_each_task_is_evaluated_in_its_own_environment(ten: Episodes) -> None:
    infos = task_infos(ten.info)
    assert [info.env_kwargs["env_name"] for info in infos] == list(MT10)
    env = make_task_env(infos[4], ten.layout)
    assert env.spec is not None and env.spec.max_episode_steps == 500
    assert env.reset(seed=0)[0].shape == (39,)
    assert "DrawerOpen" in type(env.unwrapped.sim).__name__  # type: ignore[attr-defined]


def test_the_same_seed_gives_the_same_data_and_another_other_data(minari_root: Path) -> None:
    first = metaworld()
    again = metaworld(seed=0, overwrite=True, episodes_per_task=3)
    # whoever makes more gets the same ones first
    assert np.array_equal(again.states[: len(first.states)], first.states)
    assert np.array_equal(again.actions[: len(first.actions)], first.actions)
    other = metaworld(seed=1, overwrite=True)
    assert not np.array_equal(other.states[0], first.states[0])
    places = first.states[first.state_starts[:-1], -3:]
    assert not np.array_equal(places[0], places[1])


def test_what_is_kept_is_what_was_executed(minari_root: Path) -> None:
    calm = metaworld(episodes_per_task=1)
    noisy = metaworld(episodes_per_task=1, action_noise=0.5, overwrite=True)
    assert np.array_equal(noisy.states[0], calm.states[0])  # noise leaves the places alone
    difference = (noisy.actions - calm.actions)[0]
    assert np.abs(difference).max() > 0.05 and np.abs(noisy.actions).max() == 1
    env = make("reach-v3")
    meta = json.loads((get_dataset_path("metaworld/reach-v0") / "data/metadata.json").read_text())
    assert meta["diffplan"]["action_noise"] == 0.5
    import minari

    storage = minari.load_dataset("metaworld/reach-v0").storage
    (about,) = storage.get_episode_metadata([0])
    observation, _ = env.reset(seed=about["seed"])
    for t, action in enumerate(noisy.actions):
        assert np.array_equal(noisy.layout.split(observation)[0], noisy.states[t])
        observation, reward, _, _, _ = env.step(action)
        assert np.float32(reward) == noisy.rewards[t]


def test_processes_make_the_same_data(minari_root: Path) -> None:
    alone = metaworld(episodes_per_task=6, steps=2)
    shared = metaworld(episodes_per_task=6, steps=2, workers=2, overwrite=True)
    assert np.array_equal(alone.states, shared.states)


def test_the_same_is_kept_and_another_is_not_replaced(minari_root: Path) -> None:
    metaworld(episodes_per_task=1, steps=2)
    made = get_dataset_path("metaworld/reach-v0") / "data/metadata.json"
    before = made.stat().st_mtime_ns
    metaworld(episodes_per_task=1, steps=2)
    assert made.stat().st_mtime_ns == before
    with pytest.raises(DiffplanError, match=r"1 episodes per task of 2 steps.*give --overwrite"):
        metaworld(episodes_per_task=1, steps=3)


def test_an_episode_of_no_task_is_named(minari_root: Path) -> None:
    import h5py

    make_metaworld("metaworld-reach", episodes_per_task=2, steps=2, workers=1, progress=False)
    folder = get_dataset_path("metaworld/reach-v0") / "data"
    with h5py.File(folder / "main_data.hdf5", "a") as file:
        file["episode_1"].attrs["task"] = "push"
    with pytest.raises(DiffplanError, match="episode 1 is of task 'push', expected one of reach"):
        load_dataset("metaworld-reach", progress=False)


def test_single_tasks_combine(minari_root: Path) -> None:
    for name in ("metaworld-reach", "metaworld-push"):
        make_metaworld(name, episodes_per_task=1, steps=2, workers=1, progress=False)
    both = load_datasets(["metaworld-push", "metaworld-reach"], progress=False)
    assert [task.name for task in both.info.tasks] == ["push", "reach"]
    assert both.info.id == "metaworld-push + metaworld-reach"


def test_the_command_makes_shows_and_lists(
    minari_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        "datasets",
        "make",
        "metaworld-reach",
        "--episodes",
        "1",
        "--env-steps",
        "2",
    ]
    assert main([*command, "--workers", "1"]) == 0
    out = capsys.readouterr().out
    assert "reach                  success 0%" in out
    assert main(["datasets", "show", "metaworld-reach"]) == 0
    out = capsys.readouterr().out
    assert "task 0            reach: 1 episodes, return min" in out
    assert "evaluation        diffplan/metaworld-v3, at most 500 steps, env_name=reach-v3" in out
    assert main(["datasets", "list", "metaworld"]) == 0
    out = capsys.readouterr().out
    assert "metaworld/reach-v0" in out and "diffplan datasets make metaworld-mt10" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["metaworld-reach", "--path-rule", "shortest"], "data of pointmaze and maze2d, not"),
        (
            ["pointmaze-umaze", "--action-noise", "0.1"],
            "goes with data of metaworld",
        ),
        (["metaworld-reach", "--action-noise", "-1"], "action noise -1"),
        (["metaworld-reach", "--env-steps", "501"], "at most 501 steps"),
        (["metaworld-reach", "--workers", "0"], "--workers is 0, expected at least 1"),
        (["metaworld-soccer"], "cannot make 'metaworld-soccer'"),
    ],
)
def test_wrong_options_are_refused(
    words: list[str], message: str, minari_root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["datasets", "make", *words]) == 2
    assert message in capsys.readouterr().err
    assert not list(minari_root.iterdir())


def test_names_and_ids() -> None:
    assert metaworld_id("metaworld-mt10") == "metaworld/mt10-v0"
    assert METAWORLD["metaworld-peg-insert-side"] == ("peg-insert-side-v3",)
