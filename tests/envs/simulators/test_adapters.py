"""The antmaze and kitchen that D4RL has: frames, columns, rewards, ends."""

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.ant_v4 import AntEnv
from gymnasium.utils.env_checker import check_env

from diffplan.envs.simulators import antmaze
from diffplan.envs.simulators.antmaze import AntMaze
from diffplan.envs.simulators.kitchen import Kitchen
from diffplan.envs.simulators.mazes import maze_of
from diffplan.errors import DiffplanError


def test_antmaze_is_a_gymnasium_environment() -> None:
    check_env(AntMaze("umaze"), skip_render_check=True)
    with pytest.raises(DiffplanError, match="unknown maze 'open'; antmaze has umaze, medium"):
        AntMaze("open")


@pytest.mark.parametrize(
    ("maze", "goal"), [("umaze", (0, 8)), ("medium", (20, 20)), ("large", (32, 24))]
)
def test_antmaze_starts_at_the_origin_and_draws_goals_beside_their_cell(
    maze: str, goal: tuple[int, int]
) -> None:
    env = AntMaze(maze)
    observations = [env.reset(seed=seed)[0] for seed in range(200)]
    starts = np.array([observation["observation"] for observation in observations])
    goals = np.array([observation["desired_goal"] for observation in observations])
    assert np.abs(starts[:, :2]).max() <= 0.1
    assert starts[:, 2].mean() == pytest.approx(0.75, abs=0.02)
    assert starts[:, 15:].std() == pytest.approx(0.1, rel=0.1)
    offsets = goals - goal
    assert offsets.min() >= 0.0
    assert 1.2 < offsets.max() <= 1.5
    assert np.unique(goals, axis=0).shape == (200, 2)  # anew at every reset, as in v2


@pytest.mark.parametrize("maze", sorted(antmaze.LAYOUTS))
def test_antmaze_walls_drawn_are_the_walls_simulated(maze: str) -> None:
    kind = "-play" if maze != "umaze" else ""
    drawn = maze_of(f"diffplan/antmaze-{maze}{kind}-v2", {})
    assert drawn is not None
    assert drawn.scale == 4.0
    model = AntMaze(maze).model
    boxes = model.geom_pos[model.geom_type == 6][:, :2]
    cells = [(i, j) for i in range(len(drawn.rows)) for j in range(len(drawn.rows[0]))]
    walls = np.array([drawn.centre(cell) for cell in cells if not drawn.is_free(cell)])
    assert sorted(boxes.tolist()) == sorted(walls.tolist())
    assert drawn.centre(drawn.cell(np.zeros(2))) == (0.0, 0.0)
    assert drawn.is_free(drawn.cell(antmaze.cell_position(maze, "G")))


def test_antmaze_ends_with_one_reward_within_half_a_metre_of_the_goal() -> None:
    env = gym.make("diffplan/antmaze-umaze-v2")
    observation, details = env.reset(seed=0)
    assert not details["success"]
    state, goal = observation["observation"], observation["desired_goal"]
    inner: AntMaze = env.unwrapped  # type: ignore[assignment]
    for distance, reached in ((0.7, False), (0.3, True)):
        state[:2], state[15:] = goal + np.array([0.0, distance]), 0.0
        inner.set_state(state)
        _, reward, terminated, _, details = env.step(np.zeros(8, np.float32))
        assert (reward, terminated, details["success"]) == (float(reached), reached, reached)


def test_antmaze_has_d4rl_ant() -> None:
    """Same bodies as today's Ant, a step of 0.1 s, motors of 30 instead of 150."""
    ours, theirs = AntMaze("umaze").model, AntEnv().model
    assert ours.opt.timestep == 0.02
    np.testing.assert_allclose(ours.actuator_gear[:, 0], 30.0)
    np.testing.assert_array_equal(ours.body_mass[-13:], theirs.body_mass[-13:])
    np.testing.assert_array_equal(ours.jnt_range, theirs.jnt_range)
    np.testing.assert_allclose(ours.geom_solimp[:, :3], [[0.8, 0.8, 0.01]] * ours.ngeom)


def test_the_ant_stands_still_without_actions_and_walls_hold_it() -> None:
    env = AntMaze("umaze")
    observation, _ = env.reset(seed=1)
    for _ in range(30):
        observation, *_ = env.step(np.zeros(8))
    assert np.abs(observation["achieved_goal"]).max() < 0.5
    state = observation["observation"]
    state[15:] = 0.0
    state[16] = -20.0  # thrown at the wall below the start, y = -2
    env.set_state(state)
    for _ in range(30):
        observation, *_ = env.step(np.zeros(8))
    assert observation["achieved_goal"][1] > -2.0


@pytest.fixture(scope="module")
def kitchen() -> Kitchen:
    return Kitchen("mixed")


def test_kitchen_columns(kitchen: Kitchen) -> None:
    observation, _ = kitchen.reset(seed=0)
    positions = kitchen.kitchen.data.qpos
    assert observation.shape == (60,)
    noise = observation[:30] - positions
    assert 0.005 < np.abs(noise[:9]).max() <= 0.01
    assert np.abs(noise[11:17]).max() <= 5e-5
    assert 0.0 < np.abs(noise[26:29]).max() <= 0.01
    goal = observation[30:]
    assert goal[22] == -0.75  # microwave
    assert goal[11:13].tolist() == [-0.88, -0.01]  # bottom burner
    assert goal[19] == 0.0  # the slide cabinet is no task of "mixed"
    assert Kitchen.metadata["render_modes"]
    again, _ = kitchen.reset(seed=0)
    np.testing.assert_array_equal(again, observation)


def test_kitchen_counts_each_task_once_and_ends_with_the_last(kitchen: Kitchen) -> None:
    kitchen.reset(seed=0)
    simulation = kitchen.kitchen.robot_env
    solved = {"microwave": (22, [-0.75]), "light switch": (17, [-0.69, -0.05])}
    solved |= {"bottom burner": (11, [-0.88, -0.01])}
    rewards = []
    for first, goal in solved.values():
        for _ in range(2):
            positions = simulation.data.qpos.copy()
            positions[first : first + len(goal)] = goal
            simulation.set_state(positions, np.zeros_like(simulation.data.qvel))
            _, reward, terminated, _, details = kitchen.step(np.zeros(9))
            rewards.append(reward)
            assert not (terminated or details["success"])
    assert rewards == [1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    assert sorted(details["completed"]) == sorted(solved)
    positions = simulation.data.qpos.copy()
    positions[23:30] = [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]
    simulation.set_state(positions, np.zeros_like(simulation.data.qvel))
    _, reward, terminated, _, details = kitchen.step(np.zeros(9))
    assert (reward, terminated, details["success"]) == (1.0, True, True)
    kitchen.reset(seed=1)
    _, reward, _, _, details = kitchen.step(np.zeros(9))
    assert (reward, details["completed"]) == (0.0, [])


def test_unknown_kitchen_tasks() -> None:
    with pytest.raises(DiffplanError, match="unknown kitchen tasks 'all'"):
        Kitchen("all")
