"""What `diffplan benchmark` measures: a trained run, or a configuration with random weights."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from diffplan.agents import PlannerAgent
from diffplan.config.config import Config
from diffplan.config.planners import CONFIGS
from diffplan.data.info import DatasetInfo, ObservationLayout
from diffplan.engines import DIRECT, ENGINES
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_model
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import find_checkpoint, read_header
from diffplan.model.spec import ModelSpec
from diffplan.scripts.benchmark.settings import SIZES, default_config


@dataclass(frozen=True)
class Subject:
    """Networks of any horizon, and observations that fit them.

    label: one line for the reader. trained: whether the weights of the own horizon are trained.
    score: what results.json says of the run, None without it.
    """

    label: str
    config: Config
    spec: ModelSpec
    layout: ObservationLayout
    info: DatasetInfo
    folder: Path | None = None
    score: dict[str, Any] | None = None
    seed: int = 0
    _models: dict[tuple[int, str], PlannerModel] = field(default_factory=dict, repr=False)

    @property
    def trained(self) -> bool:
        return self.folder is not None

    @property
    def warning(self) -> str:
        """What stands behind the times, in one line."""
        if not self.trained:
            return "random weights: no score stands behind these times"
        if self.score is None:
            return f"no results.json in {self.folder}: run `diffplan evaluate` for the score"
        found = self.score
        # the numbers are the run's own way of planning; other settings score otherwise
        return f"score of the run, planned its own way: {_score_line(found)}"

    def agent(self, engine: str, device: str, horizon: int, **planning: Any) -> PlannerAgent:
        """An agent for these settings; other horizons than the own one get random weights.

        Raises DiffplanError for settings that do not go together.
        """
        own = dataclasses.asdict(self.config.planning)
        # a shorter horizon cannot be kept for as long
        own["replan_every"] = min(own["replan_every"], horizon * self.config.plan.stride)
        return PlannerAgent(
            self.load(device, horizon),
            self.layout,
            self.info,
            config_name=self.config.name,
            seed=self.seed,
            engine=engine,
            **(own | planning),
        )

    def load(self, device: str, horizon: int) -> PlannerModel:
        """The networks for a horizon, made or read once."""
        key = (horizon, device)
        if key not in self._models:
            self._models[key] = self._model(horizon, device)
        return self._models[key]

    def observation(self, batch: int) -> Any:
        """Observations of `batch` environments, standard normal."""
        rng = np.random.default_rng(self.seed)
        layout = self.layout
        states = rng.standard_normal((batch, layout.state_dim), np.float32)
        if not layout.dict_keys:
            return states
        parts: dict[str, np.ndarray] = {layout.dict_keys[0]: states}
        if layout.goal_dim:
            parts["desired_goal"] = rng.standard_normal((batch, layout.goal_dim), np.float32)
        return parts

    def _model(self, horizon: int, device: str) -> PlannerModel:
        if self.folder is not None and horizon == self.config.plan.horizon:
            # trained weights fit one horizon: time does not depend on them, so others are random
            return load_model(self.folder, device)[0]
        plan = dataclasses.replace(self.config.plan, horizon=horizon)
        every = min(self.config.planning.replan_every, horizon * plan.stride)
        planning = dataclasses.replace(self.config.planning, replan_every=every)
        config = dataclasses.replace(self.config, plan=plan, planning=planning)
        # numbers of candidates are swept, also where the own planning chooses among none
        if config.heads.value == "auto":
            heads = dataclasses.replace(config.heads, value="returns")
            config = dataclasses.replace(config, heads=heads)
        # the same random weights in every process, whatever was drawn before
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            model = PlannerModel(self.spec, config)
        # as a loaded model is: gradients would be kept for nothing
        return model.to(device).eval().requires_grad_(False)


def engines_for(asked: tuple[str, ...], subject: Subject, device: str) -> dict[str, str]:
    """Engine -> why it cannot run on a device, "" if it can: those asked for, or all there are.

    Eager is always among them: the stages are timed in it. Raises DiffplanError for one that is
    asked for and cannot run.
    """
    found = {DIRECT: ""}
    for name in asked or ENGINES:
        try:
            subject.agent(name, device, subject.config.plan.horizon)
        except DiffplanError as error:
            if asked:
                raise
            # not asked for by name: what cannot run here is left out with the reason
            found[name] = str(error)
        else:
            found[name] = ""
    return found


def find_subject(name: str, like: str, config: Config, seed: int) -> Subject:
    """The run folder or named configuration `name`; `like` sizes a configuration.

    config: what `default_config` gave, with changes; of a run the planning settings alone count.
    Raises DiffplanError where a run's networks would be others.
    """
    if name in CONFIGS:
        return _from_sizes(name, like, config, seed)
    folder = Path(name)
    header = read_header(find_checkpoint(folder))
    if dataclasses.replace(config, planning=header.config.planning) != header.config:
        raise DiffplanError(
            f"the networks of {name} are trained; only --planning.* can be changed, or give a "
            f"configuration in place of the run: {', '.join(CONFIGS)}"
        )
    # one part of the full width costs what several do
    layout = dataclasses.replace(header.layout, dict_keys=header.layout.dict_keys[:1])
    return Subject(
        f"{name}: {config.name} trained on {header.info.id}, {header.step} updates",
        config,
        header.spec,
        layout,
        header.info,
        folder,
        _score(folder),
        seed,
    )


def _from_sizes(name: str, like: str, config: Config, seed: int) -> Subject:
    sizes = SIZES[like]
    layout = sizes.layout
    bound = (1.0,) * sizes.action_dim
    low = tuple(-value for value in bound)
    goal = f", goal {layout.goal_dim}" if layout.goal_dim else ""
    changed = "" if config == default_config(name, like) else ", with changes"
    return Subject(
        f"{name}{changed} at the sizes of {like} (state {layout.state_dim}{goal}, "
        f"action {sizes.action_dim})",
        config,
        ModelSpec(layout.state_dim, sizes.action_dim, layout.goal_columns),
        layout,
        DatasetInfo(like, "sizes", None, {}, low, bound, {}),
        seed=seed,
    )


def _score(folder: Path) -> dict[str, Any] | None:
    """Score and interval of the planner in the run's results.json, None if it has none."""
    try:
        found = json.loads((folder / "results.json").read_text())
        # of several tasks the mean over them stands on top
        row = found.get("policies", {}).get("planner", found)
        kept = ("return_mean", "return_ci95", "normalised_score", "normalised_ci95", "episodes")
        return {key: row[key] for key in kept if key in row} | {"planning": found.get("planning")}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _score_line(found: dict[str, Any]) -> str:
    text = f"return {found['return_mean']:.1f}"
    if "normalised_score" in found:
        text += f", on D4RL's scale {found['normalised_score']:.1f}"
        low, high = found["normalised_ci95"]
    else:
        low, high = found["return_ci95"]
    bounds = "" if low is None or high is None else f" [{low:.1f}, {high:.1f}]"
    return f"{text}{bounds} over {found['episodes']} episodes"
