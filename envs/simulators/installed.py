"""The simulators behind environments: optional, with what to install for each."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
from pathlib import Path
from typing import Literal

import gymnasium as gym

from diffplan.errors import DiffplanError

Extra = Literal["mujoco", "robotics", "metaworld", "ogbench"]

# What each extra of the package brings: the module it is known by, and its name for people.
_SIMULATORS: dict[Extra, tuple[str, str]] = {
    "mujoco": ("mujoco", "MuJoCo"),
    "robotics": ("gymnasium_robotics", "gymnasium-robotics"),
    "metaworld": ("metaworld", "Meta-World"),
    "ogbench": ("ogbench", "OGBench"),
}
# First part of an entry point -> the extra behind it. The longer ones stand first.
_ENTRY_POINTS: dict[str, Extra] = {
    "diffplan.envs.simulators.kitchen:": "robotics",
    "diffplan.envs.simulators.metaworld:": "metaworld",
    "diffplan.envs.simulators.ogbench:": "ogbench",
    "diffplan.envs.simulators.": "mujoco",
    "gymnasium.envs.mujoco": "mujoco",
    "gymnasium_robotics.": "robotics",
}
# How ids begin that gymnasium-robotics would register.
_ROBOTICS_IDS = (
    "AdroitHand",
    "AntMaze_",
    "FetchPickAndPlace",
    "FetchPush",
    "FetchReach",
    "FetchSlide",
    "FrankaKitchen-",
    "HandManipulate",
    "HandReach",
    "PointMaze_",
)


def tell_glfw() -> None:
    """Tell GLFW, which Gymnasium imports with MuJoCo, where its library lies in its wheel.

    It finds out by a process otherwise, which prints a traceback where its parent is stopped.
    """
    spec = importlib.util.find_spec("glfw")
    if spec is None or spec.origin is None or "PYGLFW_LIBRARY" in os.environ:
        return
    session = os.environ.get("XDG_SESSION_TYPE", "")
    kind = os.environ.get("PYGLFW_LIBRARY_VARIANT", "").lower() or session
    library = Path(spec.origin).parent / ("wayland" if kind == "wayland" else "x11") / "libglfw.so"
    if library.is_file():
        os.environ["PYGLFW_LIBRARY"] = str(library)


def register_robotics() -> None:
    """Register the environments of gymnasium-robotics, where it is installed."""
    if not (_installed("mujoco") and _installed("robotics")):
        return
    # It prints a note about Adroit reward versions that misleads everyone who works on something
    # else.
    with contextlib.redirect_stderr(io.StringIO()):
        import gymnasium_robotics

    gym.register_envs(gymnasium_robotics)


def require_simulator(extra: Extra, what: str) -> None:
    """Raise DiffplanError unless the packages of an extra are installed.

    what: who needs them, the subject of the message; "environment Hopper-v5".
    """
    # The others bring MuJoCo along, so one command is enough for both.
    needed: tuple[Extra, ...] = (extra, "mujoco")
    for missing in needed:
        if not _installed(missing):
            raise DiffplanError(
                f"{what} needs {_SIMULATORS[missing][1]}, which is not installed; install it with: "
                f'pip install "diffplan[{extra}]"'
            )


def check_simulator(env_id: str) -> None:
    """Raise DiffplanError where the simulator of a Gymnasium environment is not installed.

    env_id: as `gymnasium.make` takes it, "module:ID" included. Nothing is known of environments
    of other packages, and nothing is raised for them.
    """
    module, _, name = env_id.rpartition(":")
    extra: Extra | None = None
    if name in gym.registry:
        # registered does not mean importable: Gymnasium registers MuJoCo's tasks without MuJoCo
        entry_point = gym.registry[name].entry_point
        if isinstance(entry_point, str):
            extra = next((e for s, e in _ENTRY_POINTS.items() if entry_point.startswith(s)), None)
    elif module == "gymnasium_robotics" or (not module and name.startswith(_ROBOTICS_IDS)):
        # Where it is installed, the name is merely wrong.
        extra = "robotics"
    if extra is not None:
        require_simulator(extra, f"environment {env_id}")


def _installed(extra: Extra) -> bool:
    return importlib.util.find_spec(_SIMULATORS[extra][0]) is not None
