"""Evaluation environments: from what a dataset says about itself to a Gymnasium environment."""

from __future__ import annotations

import difflib
import functools
import importlib
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym

from diffplan.data.info import DatasetInfo
from diffplan.envs.rollouts.reading import said
from diffplan.envs.simulators.installed import check_simulator, register_robotics, tell_glfw
from diffplan.envs.simulators.registration import register_environments
from diffplan.envs.simulators.trust import check_arguments, check_named, name_module
from diffplan.envs.simulators.wrappers import WRAPPERS, recorded_wrappers, wrapped_spec
from diffplan.errors import DiffplanError

# at import: an id must be known to whoever makes an environment, in a new process too
tell_glfw()
register_robotics()
register_environments()


def make_env(info: DatasetInfo, **overrides: Any) -> gym.Env:
    """Make the evaluation environment of a dataset.

    overrides: keyword arguments of `gymnasium.make` that replace those of the dataset, for
    example render_mode="rgb_array" or max_episode_steps=100.
    PointMaze gives reward 1 for every step within 0.45 of the goal and runs to its time limit;
    `info["success"]` says whether the goal is reached at this step.
    Raises DiffplanError when the dataset names no environment or none that can be made here, with
    the command that installs a missing simulator; for arguments that are refused, see
    `trust.check_arguments`.
    """
    if info.env_id is None:
        if refused := info.details.get("environment_refused"):
            raise DiffplanError(f"dataset {info.id}: {refused}")
        raise DiffplanError(
            f"dataset {info.id} does not say in which environment to evaluate; "
            f"name one with --env, e.g. --env Hopper-v5"
        )
    check_env_id(info.env_id)
    check_arguments(info.env_id, info.env_kwargs)
    try:
        given = {**info.env_kwargs, **overrides}
        wrappers = given.pop(WRAPPERS, ())
        made = wrapped_spec(info.env_id, wrappers) if wrappers else info.env_id
        with warnings.catch_warnings():
            # data name the version that they were made in
            warnings.simplefilter("ignore", DeprecationWarning)
            env = gym.make(made, **given)
    except DiffplanError:
        raise
    # unknown arguments, missing packages, whatever the simulator raises
    except (Exception, SystemExit) as error:
        raise DiffplanError(f"environment {info.env_id} cannot be made: {said(error)}") from error
    # gymnasium-robotics leaves the file of every maze behind that it has loaded
    if written := getattr(env.unwrapped, "tmp_xml_file_path", None):
        Path(written).unlink(missing_ok=True)
    return env


def evaluation_env_factory(info: DatasetInfo, **overrides: Any) -> Callable[[], gym.Env]:
    """A function without arguments that makes one evaluation environment, as `rollout` calls it.

    overrides: as for `make_env`. An id that Gymnasium does not know, or whose simulator is not
    installed, is reported here already.
    """
    # here, where one line can still be written, and not in the first of many processes
    if info.env_id is not None:
        check_env_id(info.env_id)
    return functools.partial(make_env, info, **overrides)


def check_env_id(env_id: str, *, named: bool = False) -> None:
    """Raise DiffplanError, with the nearest names, unless Gymnasium knows `env_id`.

    Also where its simulator is not installed, with the command that installs it.
    "module:ID" imports the module first, which is to register the environment. A module that is
    not installed may lie in the current folder.
    named: by the user and not by data, whose modules are imported only if the user named them
    before; see `trust`.
    """
    check_simulator(env_id)
    module, colon, name = env_id.rpartition(":")
    if colon:
        if not named:
            check_named(module, env_id)
        _import_module(module, env_id)
        if named:
            name_module(module)
    try:
        gym.spec(name)
    except gym.error.Error:
        if colon:
            raise DiffplanError(
                f"importing {module} registers no environment {name}; call gymnasium.register("
                f'id="{name}", ...) at the top of the module, with the version in the id'
            ) from None
        near = difflib.get_close_matches(env_id, list(gym.registry), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "see gymnasium.pprint_registry()"
        hint += "; one of your own is module:ID, e.g. my_module:MyEnv-v0" if not colon else ""
        raise DiffplanError(f"Gymnasium knows no environment {env_id}; {hint}") from None


def _import_module(module: str, env_id: str) -> None:
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # the command does not look there by itself
    try:
        importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise DiffplanError(
            f"environment {env_id}: module {module!r} cannot be imported ({said(error)}); install "
            "it or run from the folder it lies in"
        ) from error


def env_from_spec(spec: gym.envs.registration.EnvSpec) -> tuple[str, dict[str, Any]]:
    """Id and JSON-able keyword arguments with which `make_env` remakes a spec and its wrappers.

    Raises DiffplanError for what `recorded_wrappers` refuses.
    """
    # how it was watched says nothing about the environment
    kwargs = {key: value for key, value in spec.kwargs.items() if key != "render_mode"}
    if spec.max_episode_steps is not None:
        kwargs["max_episode_steps"] = int(spec.max_episode_steps)
    if wrappers := recorded_wrappers(spec):
        kwargs[WRAPPERS] = wrappers
    return spec.id, kwargs
