"""Wrappers that a dataset's environment was recorded in: remade with it, or refused by name."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec, WrapperSpec

from diffplan.errors import DiffplanError

WRAPPERS = "additional_wrappers"
"""Among the keyword arguments of an environment: its wrappers, the innermost first."""
# they watch an environment and change nothing of it
_WATCHING = {
    "DataCollector",
    "HumanRendering",
    "OrderEnforcing",
    "PassiveEnvChecker",
    "RecordEpisodeStatistics",
    "RecordVideo",
    "RenderCollection",
}
# what they do depends on all that they have seen, which is not recorded
_RUNNING = {"NormalizeObservation", "NormalizeReward"}
_KNOWN_PACKAGES = ("gymnasium.wrappers.", "gymnasium_robotics.")


def recorded_wrappers(spec: EnvSpec) -> list[dict[str, Any]]:
    """What `spec` adds to the environment that is registered here, as plain dictionaries.

    Raises DiffplanError for a wrapper that cannot be remade from what was recorded of it: one of
    the user's own, whose code no dataset may name, or one that kept no arguments.
    """
    registered = gym.registry.get(spec.id)
    own = registered.additional_wrappers if registered is not None else ()
    given = spec.additional_wrappers
    # those that making it adds anyway
    if given[: len(own)] == own:
        given = given[len(own) :]
    found = []
    for wrapper in given:
        module, _, kind = str(wrapper.entry_point).partition(":")
        # by the class that would be made, not by what data call it
        if kind in _WATCHING:
            continue
        known = f"{module}.".startswith(_KNOWN_PACKAGES)
        running = kind in _RUNNING
        if not known or running or wrapper.kwargs is None:
            why = "kept no arguments" if known else f"is code of {module}"
            why = "has running statistics that were not kept" if running else why
            raise DiffplanError(
                f"the data were recorded in {spec.id} inside the wrapper {wrapper.name}, which "
                f"{why} and is not remade; register an environment with it under an id of its own "
                "and name that with --env"
            )
        found.append(
            {"name": wrapper.name, "entry_point": wrapper.entry_point, "kwargs": wrapper.kwargs}
        )
    return found


def wrapped_spec(env_id: str, wrappers: Sequence[dict[str, Any]]) -> EnvSpec:
    """The registered spec of an environment with wrappers around it, for `gymnasium.make`.

    Raises DiffplanError for wrappers other than `recorded_wrappers` gives.
    """
    spec = copy.deepcopy(gym.spec(env_id))
    try:
        more = tuple(WrapperSpec(**wrapper) for wrapper in wrappers)
    except TypeError:
        raise DiffplanError(f"environment {env_id}: {wrappers} are no wrappers") from None
    own = spec.additional_wrappers
    spec.additional_wrappers = (*own, *more)
    kept = recorded_wrappers(spec)
    spec.additional_wrappers = (*own, *(WrapperSpec(**wrapper) for wrapper in kept))
    return spec


def wrappers_line(wrappers: Sequence[dict[str, Any]]) -> str:
    """Wrappers in words."""
    return ", ".join(
        f"{each['name']}({', '.join(f'{k}={v}' for k, v in each['kwargs'].items())})"
        for each in wrappers
    )
