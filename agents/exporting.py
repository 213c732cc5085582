"""All that a planner needs where there is no PyTorch: graphs, settings, `diffplan.runtime`."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from diffplan import runtime
from diffplan.agents.aims import detours_of, errands_of
from diffplan.agents.card import model_card
from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.task_memory import REMEMBERED
from diffplan.agents.variants import refuse_constraints
from diffplan.data.drawing import DRAWING
from diffplan.engines.decision import PlanStep
from diffplan.engines.int8 import Int8Engine
from diffplan.engines.onnx import OnnxEngine, exported
from diffplan.engines.quantised import largest_product
from diffplan.engines.table import make_engine
from diffplan.errors import DiffplanError
from diffplan.model.acting_head import FEATURES
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import own_version

RUNTIME = "diffplan_runtime.py"
_ERRANDS = ("things", "scale", "after")  # the moves have a file of their own
_CHECKED = 64  # decisions by which an export is compared with its agent


def export(
    agent: PlannerAgent,
    folder: str | Path,
    batch_sizes: Sequence[int] = (1,),
    engine: str = "onnx",
) -> float:
    """Write the agent as it plans into a new folder, whole or not at all.

    batch_sizes: of the graphs; batches of other sizes are split and filled up. engine: whose graphs
    they are. Returns the largest difference between actions of the agent and of what was written,
    in action units, over a few decisions.
    Raises DiffplanError for sizes below 1, a folder that holds something, and an engine that makes
    no graphs or cannot run these settings.
    """
    target, sizes = Path(folder), sorted(set(batch_sizes))
    if not sizes or sizes[0] < 1:
        raise DiffplanError(f"batch sizes are {list(batch_sizes)}, expected numbers from 1 on")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise DiffplanError(f"{target} exists; give the name of a new folder")
    refuse_constraints(agent)
    agent = agent.to("cpu", "eager")
    made = make_engine(engine, agent.model, agent.settings)
    if not isinstance(made, OnnxEngine):
        raise DiffplanError(f"engine {engine} makes no graphs that can be exported; give onnx")
    writing = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        writing.mkdir(parents=True)
        settings = _settings(agent, made, sizes)
        for key, each in settings["graphs"].items():
            for size in each:
                graph = _task_graph(agent.model) if key == "task" else made.graph(key, size)
                (writing / f"{key}-{size}.onnx").write_bytes(graph)
        if agent.model.moves is not None:
            moves: Any = {key: each.numpy() for key, each in agent.model.moves.named_buffers()}
            np.savez_compressed(writing / runtime.MOVES, **moves)
        if isinstance(made, Int8Engine):
            (writing / runtime.LARGEST_PRODUCT).write_bytes(largest_product())
        (writing / "settings.json").write_text(json.dumps(settings, indent=1) + "\n")
        shutil.copyfile(runtime.__file__, writing / RUNTIME)
        _write_manifest(writing)
        difference = largest_difference(agent, runtime.load(writing, seed=agent.seed))
        (writing / "README.md").write_text(_card(agent, settings, engine, difference))
        _write_manifest(writing)
        if target.exists():
            target.rmdir()
        writing.rename(target)
    except OSError as error:
        raise DiffplanError(f"{target} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(writing, ignore_errors=True)
    return difference


def _settings(agent: PlannerAgent, engine: OnnxEngine, sizes: list[int]) -> dict[str, Any]:
    """All that decisions need beside graphs; JSON-able."""
    model, planning = agent.model, agent.settings
    keys = dict.fromkeys(engine.keys, sizes)
    if model.tasks is not None and model.tasks.given == "prompt":
        keys["task"] = [1]  # codes are asked for row by row
    targets, errands = agent._targets, errands_of(model)
    by_step, width = targets.by_step
    tolerance = agent.goal_tolerance
    return {
        "name": agent.config_name,
        "data": agent.info.public.id,
        "env_id": agent.info.env_id,
        "layout": asdict(agent.layout),
        "action_low": list(agent.info.action_low),
        "action_high": list(agent.info.action_high),
        "normalisation": {
            "mean": model.observed.mean.tolist(),
            "std": model.observed.std.tolist(),
        },
        "horizon": agent.horizon,
        "stride": agent.stride,
        "lookahead": model.config.heads.lookahead,
        "planning": agent.planning,
        "plans_act": model.config.actions_in_plan,
        "features": FEATURES if model.config.has_head("actions") else 0,
        "returns": agent.uses_returns,
        "discount": model.config.data.discount,
        "goal_tolerance": tolerance.tolist() if isinstance(tolerance, np.ndarray) else tolerance,
        "detours": detours_of(model, planning),
        "errands": None if errands is None else {key: errands[key] for key in _ERRANDS},
        "target": {
            "first": targets.first,
            "least": targets.least,
            "by_step": by_step,
            "width": width,
        },
        "tasks": _tasks(agent),
        "graphs": keys,
        "draws": {
            key: list(PlanStep(model, planning, reuse=key == "again").sizes)
            for key in ("plan", *(["again"] if planning.reuse else []))
        },
        "gumbel": planning.candidates if planning.select == "softmax" else 0,
    }


def _tasks(agent: PlannerAgent) -> dict[str, Any]:
    """What the agent is told of its task, and how it can be told of another."""
    encoder, memory = agent.model.tasks, agent._memory
    codes = None
    if encoder is not None and encoder.given == "id":
        codes = encoder.table.weight.tolist()
    return {
        "given": None if encoder is None else encoder.given,
        "names": [task.name for task in agent.info.public.tasks],
        "unknown": None if encoder is None else encoder.unknown.tolist(),
        "codes": codes,
        "told": None if memory.told is None else memory.told.tolist(),
        "remembers": memory.remembers,
        "prompt": DRAWING.prompt,
        "remembered": REMEMBERED,
    }


class _Code(nn.Module):
    """The code [1, F] of the task that states [1, P, D], in environment units, are from."""

    def __init__(self, model: PlannerModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor) -> Tensor:
        assert self.model.tasks is not None
        return self.model.tasks.from_states(self.model.states(states))


def _task_graph(model: PlannerModel) -> bytes:
    return exported(_Code(model), [torch.zeros(1, DRAWING.prompt, model.spec.state_dim)])


def _write_manifest(folder: Path) -> None:
    """The checksums of all files in the folder."""
    files = sorted(path for path in folder.iterdir() if path.name != "manifest.json")
    manifest = {
        "diffplan_export": runtime.FORMAT,
        "versions": {
            "diffplan": own_version(),
            **{name: version(name) for name in ("torch", "onnx", "onnxruntime")},
        },
        "files": {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")


def largest_difference(agent: PlannerAgent, other: runtime.Agent, rows: int = 2) -> float:
    """Between the actions of an agent and of its export, at states like the data's."""
    rng, found = np.random.default_rng(0), 0.0
    model, layout, states = agent.model, agent.layout, None
    mean, std = model.observed.mean.numpy(), model.observed.std.numpy()
    offset = np.asarray(layout.offset or np.zeros_like(mean))
    goal = list(layout.goal_columns) or list(range(layout.goal_dim))
    mine = its = None
    for step in range(_CHECKED // rows):
        # states of their own, close to each other: goals stay, so that plans are kept
        drift = 0.1 * rng.normal(size=(rows, len(mean)))
        states = rng.normal(size=(rows, len(mean))) if states is None else states + drift
        at = mean + std * states + offset
        observation: Any = at
        if layout.dict_keys:
            # their widths are not known: the first holds all columns
            observation = dict.fromkeys(layout.dict_keys, at[:, :0]) | {layout.dict_keys[0]: at}
            observation["desired_goal"] = np.tile((mean + std + offset)[goal], (rows, 1))
        start = np.full(rows, step == 0)
        action, mine = agent.predict(observation, mine, start)
        again, its = other.predict(observation, its, start)
        found = max(found, float(np.abs(action - again).max()))
    return found


def _card(agent: PlannerAgent, settings: dict[str, Any], engine: str, difference: float) -> str:
    first = ", ".join(map(str, settings["graphs"]["plan"]))
    use = (
        "To run it: this folder on `PYTHONPATH`, Python, `pip install numpy onnxruntime`.",
        f"```python\nfrom {RUNTIME.removesuffix('.py')} import load\n\n"
        'agent = load("this folder")\naction, state = agent.predict(observation)\n'
        "action, state = agent.predict(observation, state)  # it remembers nothing itself\n```",
        "`print(agent)` says what an observation is, `settings.json` all about observations and "
        "actions (layout, bounds, normalisation), `manifest.json` the checksums that `load` "
        "compares.",
    )
    return model_card(
        agent,
        use=use,
        engine=engine,
        more={
            "engine": f"{engine}, batch sizes {first}",
            "export": f"largest difference from the agent's actions {difference:.1e}, "
            f"in {_CHECKED} decisions",
        },
    )
