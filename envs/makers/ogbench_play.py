"""Episodes of OGBench's data of an arm at play, by its public procedure.

The package's own oracles are told a target that the environment draws (a cube's place, a button,
a drawer or window to open or close), follow a plan of key frames with noise, and are told the next
one when they are done, whether or not they succeeded.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from diffplan.envs.makers.catalogue import PlaySet
from diffplan.envs.simulators.ogbench import make_simulator, seeded

_NOISE = {"noise": 0.1, "noise_smoothing": 0.5}
# A scene's cube in sight, in metres: not far to the right, nor to the left but in the drawer.
_RIGHT, _LEFT, _DRAWER = 0.29, -0.3, (0.06, 0.08)


def play_episode(made: PlaySet, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """One episode of a play dataset: observations [T, D] and actions [T, A], float32.

    An episode in which a scene's cube is lost to sight is drawn again.
    """
    sim, oracles = _equipment(made.env_name)
    while True:
        stack = rng.uniform(*made.stack)
        with seeded(sim, int(rng.integers(2**31))) as own:
            found = _roll_out(sim, oracles, made.steps, stack, own)
        if found is not None:
            return found


@functools.cache
def _equipment(env_name: str) -> tuple[Any, dict[str, Any]]:
    """The simulator, and the oracle of every kind of target."""
    sim = make_simulator(env_name, terminate_at_goal=False, mode="data_collection")
    from ogbench.manipspace.oracles.plan import button_plan, cube_plan, drawer_plan, window_plan

    return sim, {
        "cube": cube_plan.CubePlanOracle(env=sim, **_NOISE),
        "button": button_plan.ButtonPlanOracle(
            env=sim, gripper_always_closed=env_name.startswith("puzzle"), **_NOISE
        ),
        "drawer": drawer_plan.DrawerPlanOracle(env=sim, **_NOISE),
        "window": window_plan.WindowPlanOracle(env=sim, **_NOISE),
    }


def _roll_out(
    sim: Any, oracles: dict[str, Any], steps: int, stack: float, seed: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """See `play_episode`; None where the cube is lost to sight."""
    observation, info = sim.reset(seed=seed)
    oracle = oracles[info["privileged/target_task"]]
    oracle.reset(observation, info)
    observations, actions = [], []
    for _ in range(steps):
        if "privileged/drawer_pos" in info and cube_lost(info["privileged/block_0_pos"]):
            return None
        action = np.clip(oracle.select_action(observation, info), -1.0, 1.0)
        observations.append(observation.astype(np.float32))
        actions.append(action.astype(np.float32))
        observation, _, _, _, info = sim.step(action)
        if oracle.done:
            target, told = sim.set_new_target(p_stack=stack)
            oracle = oracles[told["privileged/target_task"]]
            oracle.reset(target, told)
    return np.stack(observations), np.stack(actions)


def cube_lost(cube: np.ndarray) -> bool:
    """Whether a scene's cube, at [3] metres, is out of sight."""
    in_drawer = _DRAWER[0] <= cube[2] <= _DRAWER[1]
    return bool(cube[1] >= _RIGHT or (cube[1] <= _LEFT and not in_drawer))
