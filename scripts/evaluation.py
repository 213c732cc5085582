"""The work behind `diffplan evaluate`: rollouts on common seeds, results, pictures, a video."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from diffplan.agents import PlannerAgent, load_agent
from diffplan.data.episodes import DatasetInfo
from diffplan.envs.controllers import RandomPolicy, pointmaze_controllers
from diffplan.envs.datasets import load_dataset
from diffplan.envs.environments import evaluation_env_factory
from diffplan.envs.mazes import maze_of
from diffplan.envs.references import reference_key
from diffplan.envs.rollout import Policy, rollout, time_decisions
from diffplan.envs.traces import Trace
from diffplan.errors import DiffplanError
from diffplan.scripts import pictures
from diffplan.scripts.evaluate import Evaluate
from diffplan.scripts.results import (
    PROTOCOL,
    Score,
    check_writable,
    machine,
    speed_line,
    table,
    write_json,
)
from diffplan.scripts.video import check_rendering, maze_video, rendered_video

_PANELS = 4
_VIDEO_EPISODES = 3


def evaluate(options: Evaluate) -> dict[str, Any]:
    """Do what `Evaluate.run` says."""
    # other ways of planning do not overwrite what the run's own way left
    ways = "".join(f"-{key}-{value}" for key, value in options.planning.given.items())
    target = options.json or options.folder / f"results{ways}.json"
    folder = options.folder / f"pictures{ways}"
    with _torch_threads(options.threads):
        agent = load_agent(
            options.folder,
            checkpoint=options.checkpoint,
            device=options.device,
            **options.planning.given,
        )
        check_writable(target, "results file")
        if options.pictures or options.video:
            check_writable(folder / "plans.png", "picture")
        info = agent.info
        if options.env is not None:
            info = dataclasses.replace(info, env_id=options.env, env_kwargs={})
        maze = maze_of(info.env_id, info.env_kwargs)
        drawn = evaluation_env_factory(info, render_mode="rgb_array")
        if options.video and maze is None:
            check_rendering(drawn)
        planner, traces = _score(options, "planner", agent, info, record=_PANELS)
        scores = {"planner": planner}
        if options.baselines:
            scores |= _baselines(options, info)
        results = _results(options, agent, info, scores)
        _print(options, agent, info, scores)
        write_json(target, results)
        written = [target]
        if options.pictures:
            written += _draw(folder, agent, info, traces, scores)
        if options.video and maze is not None:
            episodes = traces[:_VIDEO_EPISODES]
            written.append(maze_video(folder / "video", episodes, agent.layout, maze))
        elif options.video:
            written += rendered_video(
                folder, agent, drawn, episodes=_VIDEO_EPISODES, seed=options.seed
            )
    print("\n".join(f"wrote {path}" for path in written))
    return results


def _score(
    options: Evaluate, name: str, policy: Policy, info: DatasetInfo, record: int = 0
) -> tuple[Score, tuple[Trace, ...]]:
    factory = evaluation_env_factory(info)
    result = rollout(
        policy,
        factory,
        episodes=options.episodes,
        num_envs=options.num_envs,
        seed=options.seed,
        record=record,
        description=name,
    )
    times = time_decisions(policy, factory, seed=options.seed)
    return Score.of(name, result, times), result.traces


def _baselines(options: Evaluate, info: DatasetInfo) -> dict[str, Score]:
    """Scores of the controllers (PointMaze) or of the data's own episodes, and of chance."""
    scores = {}
    controllers = pointmaze_controllers(info, seed=options.seed)
    for key, controller in controllers.items():
        if key != "controller" and controller.path_rule == controllers["controller"].path_rule:
            continue
        kind = {"shortest": "shortest-path"}.get(controller.path_rule, controller.path_rule)
        made = " (made the data)" if key == "controller" else ""
        scores[key], _ = _score(options, f"{kind} controller{made}", controller, info)
    if not controllers and (data := _data_score(info)):
        scores["data"] = data
    chance = RandomPolicy.of(info, seed=options.seed)
    scores["random"], _ = _score(options, "random actions", chance, info)
    return scores


def _data_score(info: DatasetInfo) -> Score | None:
    """The returns of the dataset's own episodes, None with a note where it is not at hand."""
    try:
        episodes = load_dataset(info.id)
    except DiffplanError as error:
        tqdm.write(f"the returns in the data are left out: {error}")
        return None
    return Score("episodes of the data", episodes.returns, episodes.lengths, success=None)


def _results(
    options: Evaluate, agent: PlannerAgent, info: DatasetInfo, scores: Mapping[str, Score]
) -> dict[str, Any]:
    reference = reference_key(info)
    policies = {key: score.summary(reference) for key, score in scores.items()}
    planner = policies["planner"]
    none: dict[str, Any] = {}
    controller = policies.get("controller", none)
    # Data made on shortest paths: their controller is both.
    shortest = policies.get("shortest_path", controller)
    return {
        **{key: planner[key] for key in planner if key not in ("returns", "lengths", "success")},
        "train_seconds": agent.train_seconds,
        "controller_return_mean": controller.get("return_mean"),
        "controller_success_rate": controller.get("success_rate"),
        "shortest_path_return_mean": shortest.get("return_mean"),
        "data_return_mean": policies.get("data", none).get("return_mean"),
        "random_return_mean": policies.get("random", none).get("return_mean"),
        "command": options.command,
        "config": agent.config_name,
        "checkpoint": options.checkpoint,
        "planning": agent.planning,
        "overrides": options.planning.given,
        "dataset": info.id,
        "env_id": info.env_id,
        "seed": options.seed,
        "num_envs": options.num_envs,
        "reference": reference and f"D4RL {reference}",
        "protocol": PROTOCOL,
        "machine": machine(options.device, options.threads),
        "policies": policies,
    }


def _print(
    options: Evaluate, agent: PlannerAgent, info: DatasetInfo, scores: Mapping[str, Score]
) -> None:
    last = options.seed + options.episodes - 1
    print(
        f"{agent.config_name} trained on {info.id}, evaluated in {info.env_id}: "
        f"{options.episodes} episodes each, seeds {options.seed} to {last}\n"
    )
    print(table(list(scores.values()), reference_key(info)))
    print(f"\n{speed_line(scores['planner'], min(options.num_envs, options.episodes))}")


def _draw(
    folder: Path,
    agent: PlannerAgent,
    info: DatasetInfo,
    traces: tuple[Trace, ...],
    scores: Mapping[str, Score],
) -> list[Path]:
    """Plans, returns and training curves as PNG files; returns what was written."""
    plans, returns, training = (folder / f"{name}.png" for name in ("plans", "returns", "training"))
    written = [plans, returns]
    maze = maze_of(info.env_id, info.env_kwargs)
    if maze is not None:
        pictures.plans_in_maze(plans, traces, agent.layout, maze)
    else:
        pictures.plans_over_time(plans, traces, agent.layout, agent.stride)
    pictures.returns_picture(returns, {score.name: score.returns for score in scores.values()})
    metrics = folder.parent / "metrics.jsonl"
    if metrics.is_file() and (curves := pictures.read_metrics(metrics)):
        pictures.training_curves(training, curves)
        written.append(training)
    return written


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
