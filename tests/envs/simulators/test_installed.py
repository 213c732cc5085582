"""Simulators are extras: what works without them, and what a missing one is reported as."""

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from diffplan.envs.simulators.environments import check_env_id
from diffplan.errors import DiffplanError

# Python as it is where the packages named on the command line are not installed.
_WITHOUT = """
import importlib.machinery, sys

finder, missing = importlib.machinery.PathFinder, sys.argv[1].split(",")
find_module, find_package = finder.find_spec, finder.find_distributions


def find_spec(name, path=None, target=None):
    return None if name.partition(".")[0] in missing else find_module(name, path, target)


def find_distributions(context):
    return iter(()) if (context.name or "").replace("-", "_") in missing else find_package(context)


finder.find_spec, finder.find_distributions = find_spec, find_distributions
"""


def run_without(missing: str, code: str, folder: Path) -> str:
    """Run `code` in a Python of its own without the modules `missing`; returns what it prints."""
    command = [sys.executable, "-c", _WITHOUT + textwrap.dedent(code), missing]
    done = subprocess.run(command, check=False, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_module_imports_without_simulators(tmp_path: Path) -> None:
    code = """
    import importlib, pkgutil, diffplan

    for module in pkgutil.walk_packages(diffplan.__path__, "diffplan."):
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            assert error.name == "triton"  # comes with PyTorch for CUDA
    print(sorted({"mujoco", "gymnasium_robotics", "metaworld"} & set(sys.modules)))
    """
    assert run_without("mujoco,gymnasium_robotics,metaworld", code, tmp_path) == "[]\n"


def test_training_on_a_file_without_simulators(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ends = np.arange(1, 401) % 50 == 0
    np.savez(
        tmp_path / "mine.npz",
        observations=rng.normal(size=(400, 3)),
        actions=rng.uniform(-1, 1, (400, 2)),
        rewards=np.ones(400),
        terminations=np.zeros(400, np.bool_),
        truncations=ends,
    )
    code = """
    from diffplan.scripts.cli import main

    assert main(["--help"]) == 0
    assert main(["datasets", "show", "mine.npz"]) == 0
    small = "--steps 3 --proposer.width 16 --denoiser.width 16 --heads.width 16".split()
    train = ["train", "trajectory-diffuser", "--dataset", "mine.npz", "--out", "run", *small]
    assert main(train) == 0
    assert main([*train[:-1], "17", "--env", "Hopper-v5"]) == 2
    """
    run_without("mujoco,gymnasium_robotics", code, tmp_path)
    assert list((tmp_path / "run").glob("checkpoint-*"))


def test_a_missing_simulator_is_one_line_with_the_command(tmp_path: Path) -> None:
    code = """
    import contextlib

    import diffplan.envs.simulators.environments
    import gymnasium as gym
    from diffplan.data.info import DatasetInfo
    from diffplan.envs.simulators.environments import check_env_id, make_env
    from diffplan.envs.makers.maze2d_data import make_maze2d
    from diffplan.envs.makers.metaworld_data import make_metaworld
    from diffplan.envs.makers.pointmaze_data import make_pointmaze
    from diffplan.errors import DiffplanError
    from pathlib import Path

    for env_id in (
        "Hopper-v5",
        "diffplan/hopper-v2",
        "diffplan/maze2d-umaze-v1",
        "diffplan/antmaze-umaze-v2",
        "diffplan/ant-v2",
        "diffplan/kitchen-mixed-v0",
        "PointMaze_UMaze-v3",
        "AdroitHandPen-v1",
        "gymnasium_robotics:AntMaze_UMaze-v5",
        "diffplan/metaworld-v3",
    ):
        info = DatasetInfo("mine", "arrays", env_id, {}, (), (), {})
        for ask in (lambda: make_env(info), lambda: check_env_id(env_id)):
            try:
                ask()
            except DiffplanError as error:
                print(error)
    for make in (
        lambda: gym.make("diffplan/maze2d-umaze-v1"),
        lambda: make_maze2d("maze2d-umaze", 100, 0, Path("made.hdf5")),
        lambda: make_pointmaze("pointmaze-umaze", 100, 0),
        lambda: make_metaworld("metaworld-mt10"),
    ):
        try:
            make()
        except DiffplanError as error:
            print(error)
    """
    mujoco, robotics, metaworld = "MuJoCo", "gymnasium-robotics", "Meta-World"
    environments = {
        "Hopper-v5": mujoco,
        "diffplan/hopper-v2": mujoco,
        "diffplan/maze2d-umaze-v1": mujoco,
        "diffplan/antmaze-umaze-v2": mujoco,
        "diffplan/ant-v2": mujoco,
        "diffplan/kitchen-mixed-v0": robotics,
        "PointMaze_UMaze-v3": robotics,
        "AdroitHandPen-v1": robotics,
        "gymnasium_robotics:AntMaze_UMaze-v5": robotics,
        "diffplan/metaworld-v3": metaworld,
    }
    twice = [(f"environment {name}", who) for name, who in environments.items() for _ in range(2)]
    made = [("maze2d", mujoco), ("making data", mujoco), ("making pointmaze-umaze", robotics)]
    made.append(("making metaworld-mt10", metaworld))
    extras = {mujoco: "mujoco", robotics: "robotics", metaworld: "metaworld"}
    command = {who: f"diffplan[{extra}]" for who, extra in extras.items()}
    assert run_without("mujoco,gymnasium_robotics,metaworld", code, tmp_path).splitlines() == [
        f'{what} needs {who}, which is not installed; install it with: pip install "{command[who]}"'
        for what, who in (*twice, *made)
    ]
    assert not (tmp_path / "made.hdf5").exists()


def test_mujoco_alone_is_enough_for_locomotion_and_maze2d(tmp_path: Path) -> None:
    code = """
    from pathlib import Path

    from diffplan.data.info import DatasetInfo
    from diffplan.envs.simulators.environments import make_env
    from diffplan.envs.makers.maze2d_data import make_maze2d
    from diffplan.scripts.report.results import machine

    for name in ("hopper-v2", "ant-v2", "maze2d-umaze-v1", "antmaze-umaze-v2"):
        env = make_env(DatasetInfo(name, "arrays", f"diffplan/{name}", {}, (), (), {}))
        env.reset(seed=0)
        env.step(env.action_space.sample())
    make_maze2d("maze2d-umaze", 50, 0, Path("made.hdf5"), progress=False)
    print(*machine("cpu", 1)["versions"])
    """
    versions = run_without("gymnasium_robotics", code, tmp_path).split()
    assert "mujoco" in versions
    assert "gymnasium-robotics" not in versions


def test_wrong_names_are_not_blamed_on_a_simulator_that_is_there() -> None:
    with pytest.raises(DiffplanError, match="knows no environment PointMaze_Huge-v3"):
        check_env_id("PointMaze_Huge-v3")


def test_no_process_looks_for_the_library_of_windows() -> None:
    """It would complain aloud where whoever makes an environment is stopped."""
    pytest.importorskip("mujoco")
    code = """
import subprocess, sys

def refused(words, **_):
    raise AssertionError(words)

subprocess.Popen = refused
import diffplan.envs.simulators.environments
import gymnasium

gymnasium.make("Hopper-v5")
assert "glfw" in sys.modules
"""
    words = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
