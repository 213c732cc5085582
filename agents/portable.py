"""How an agent goes elsewhere: to another device, into a folder, to the Hugging Face Hub."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, Self

import torch

from diffplan.agents.origin import Origin
from diffplan.agents.targets import Targets
from diffplan.agents.task_memory import TaskMemory
from diffplan.config.sections import PlanningConfig
from diffplan.engines.table import Engine, make_engine
from diffplan.lazy import late
from diffplan.model.planner_model import PlannerModel
from diffplan.nn.device import find_device

# the hub's client takes half a second to import
_save = late("diffplan.agents.hub:save")
_push = late("diffplan.agents.hub:push")
_read = late("diffplan.agents.hub:read")


class Portable:
    """The part of `PlannerAgent` that does not plan.

    origin: the checkpoint that it was loaded from, None for one made in memory.
    """

    model: PlannerModel
    settings: PlanningConfig
    device: torch.device
    engine: Engine
    origin: Origin | None = None
    _targets: Targets
    _memory: TaskMemory
    _made: tuple[str, bool, Path | None]  # how the engine was asked for

    def to(self, device: str | torch.device, engine: str | None = None) -> Self:
        """This agent on another device: "cpu", "cuda", "cuda:1", "mps" or "auto".

        engine: what runs its decisions there; where None the one that was asked for, "auto" the
        fastest there. States that either of them returned can be handed to the other.
        Raises DiffplanError for a device that is not here, or that the engine cannot run on.
        """
        found = find_device(device)
        asked, detailed, graphs = self._made
        here = (found.type, found.index or 0) == (self.device.type, self.device.index or 0)
        if here and engine in (None, asked):
            return self
        twin = copy.copy(self)
        twin.model = self.model if here else copy.deepcopy(self.model).to(found)
        twin.device = twin.model.plan_scale.device
        twin._made = engine or asked, detailed, graphs
        twin.engine = make_engine(twin._made[0], twin.model, self.settings, detailed, graphs)
        twin._targets = Targets(twin.model, self.settings)
        told = self._memory.told
        twin._memory = dataclasses.replace(
            self._memory, model=twin.model, told=None if told is None else told.to(found)
        )
        return twin

    def save_pretrained(self, folder: str | Path, **options: Any) -> str | None:
        """Write weights, settings and a model card into a folder that `load_agent` reads.

        options: those of `huggingface_hub.ModelHubMixin.save_pretrained`.
        Raises DiffplanError for an agent that was not loaded from a checkpoint.
        """
        url: str | None = _save(self, folder, **options)
        return url

    def push_to_hub(self, repo_id: str, **options: Any) -> str:
        """Upload the same to the hub as "user/model"; returns the address of the commit.

        options: those of `huggingface_hub.ModelHubMixin.push_to_hub`.
        """
        url: str = _push(self, repo_id, **options)
        return url

    @classmethod
    def from_pretrained(cls, name: str | Path, **options: Any) -> Any:
        """The agent in a folder, or of the hub's "user/model".

        options: those of `huggingface_hub.ModelHubMixin.from_pretrained` (revision, token,
        cache_dir, ...) and of `load_agent`. No code is loaded, weights and JSON alone.
        """
        return _read(name, **options)
