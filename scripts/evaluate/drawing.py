"""The pictures and the video of an evaluation."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from diffplan.agents import PlannerAgent
from diffplan.agents.aims import errands_of
from diffplan.data.things import members
from diffplan.envs.rollouts.traces import Trace
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import Maze, maze_of
from diffplan.runtime import Errands
from diffplan.scripts.evaluate.options import EvaluateOptions
from diffplan.scripts.evaluate.scores import Evaluation, Place
from diffplan.scripts.evaluate.video import check_rendering, maze_video, rendered_video
from diffplan.scripts.report import pictures

_VIDEO_EPISODES = 3


def _maze(place: Place) -> Maze | None:
    return maze_of(place.used.env_id, place.used.env_kwargs)


def draw_plans(folder: Path, found: Evaluation) -> list[Path]:
    """Plans of every task as PNG files; returns what was written."""
    agent, one = found.agent, len(found.tasks) == 1
    written = []
    for task in found.tasks:
        # every recorded episode may have failed
        if not task.traces:
            continue
        name = "" if one else "-" + re.sub(r"[^\w.+-]", "_", str(task.place.task))
        if (several := errands_of(agent.model)) is not None:
            written.append(folder / f"errands{name}.png")
            _draw_errands(written[-1], agent, task.traces, Errands(**several))
        written.append(folder / f"plans{name}.png")
        maze = _maze(task.place)
        if maze is not None:
            aims = [_aims(agent, trace) for trace in task.traces]
            pictures.plans_in_maze(written[-1], task.traces, agent.layout, maze, aims)
        else:
            pictures.plans_over_time(written[-1], task.traces, agent.layout, agent.stride)
    return written


def draw(folder: Path, found: Evaluation) -> list[Path]:
    """Plans of every task, returns and training curves as PNG files; returns what was written."""
    written = draw_plans(folder, found)
    returns = {str(task.place.task): task.planner.returns for task in found.tasks}
    if len(found.tasks) == 1:
        # of one task every policy has its strip, of several every task
        (task,) = found.tasks
        scores = [*task.by_run, *([task.planner] if len(found.runs) > 1 else [])]
        returns = {score.name: score.returns for score in (*scores, *task.others.values())}
    written.append(folder / "returns.png")
    pictures.returns_picture(written[-1], returns)
    metrics = folder.parent / "metrics.jsonl"
    if metrics.is_file() and (curves := pictures.read_metrics(metrics)):
        written.append(folder / "training.png")
        pictures.training_curves(written[-1], curves)
    return written


def _aims(agent: PlannerAgent, trace: Trace) -> np.ndarray:
    """The subgoals [N, 2] of an episode's plans, those that aimed at the goal itself left out."""
    subgoals, reach = agent.model.subgoals, agent.settings.subgoal_steps
    states, goals = agent.layout.split(trace.observations)
    if subgoals is None or not reach or goals is None:
        return np.zeros((0, 2))
    made = list(trace.plans)
    here = torch.from_numpy(states[made][:, list(agent.layout.goal_columns)])
    goal = torch.from_numpy(goals[made])
    aims = subgoals(here.to(agent.device), goal.to(agent.device), float(reach)).numpy(force=True)
    return aims[(aims != goals[made]).any(1), :2]


def _draw_errands(
    path: Path, agent: PlannerAgent, traces: Sequence[Trace], errands: Errands
) -> None:
    """What was being moved, which the states say: errands draw no random numbers."""
    distances, now = [], []
    for trace in traces:
        states, goals = agent.layout.split(trace.observations)
        assert goals is not None
        places, state, moving = states[:, list(agent.layout.goal_columns)], None, []
        for here, goal in zip(places, goals, strict=True):
            begins = np.array([state is None])
            state = errands.follow(state, begins, here[None], goal[None])[0]
            moving.append(int(state.now[0]))
        distances.append(errands.distances(places, goals))
        now.append(np.array(moving))
    names = ["goal " + " ".join(map(str, places)) for places in members(agent.model.spec.things)]
    pictures.errands_over_time(path, traces, distances, now, names)


def check_video(place: Place) -> None:
    """DiffplanError where no frame of the environment can be drawn; mazes are drawn here."""
    if _maze(place) is None:
        check_rendering(evaluation_env_factory(place.used, render_mode="rgb_array"))


def film(options: EvaluateOptions, folder: Path, found: Evaluation) -> list[Path]:
    """A few episodes of the first run in the first task; returns the files written."""
    task, agent = found.tasks[0], found.agent
    maze = _maze(task.place)
    if maze is not None:
        return [maze_video(folder / "video", task.traces[:_VIDEO_EPISODES], agent.layout, maze)]
    # other environments draw themselves, so the episodes are played again for their frames
    drawn = evaluation_env_factory(task.place.used, render_mode="rgb_array")
    return rendered_video(folder, agent, drawn, episodes=_VIDEO_EPISODES, seed=options.first)
