"""Agents on the Hugging Face Hub: weights and JSON with a model card, and no code."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Self

from huggingface_hub import ModelCard, ModelHubMixin, constants, snapshot_download
from huggingface_hub.errors import HFValidationError

from diffplan.agents.card import model_card
from diffplan.agents.loading import load_agent
from diffplan.agents.planner_agent import PlannerAgent
from diffplan.agents.variants import refuse_constraints
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import write_model
from diffplan.model.tuned import TUNING, with_settings
from diffplan.planning.calibration import FILE, save_statistics

_HELD = ["config.json", "model.safetensors", FILE, TUNING]  # all that is ever downloaded


class HubAgent(ModelHubMixin):
    """An agent as the hub's client saves, uploads and loads it; what it keeps is a checkpoint."""

    def __init__(self, agent: PlannerAgent) -> None:
        self.agent = agent

    def _save_pretrained(self, save_directory: Path) -> None:
        agent = self.agent
        if agent.origin is None:
            raise DiffplanError(
                "this agent was not loaded from a run, so that nothing is known of its training; "
                "save one that load_agent gave"
            )
        # as in a run: the configuration says which networks there are, and settings lie beside it
        given = {name: agent.planning[name] for name in agent.origin.given}
        if (settings := with_settings(agent.origin.tuning, given)) is not None:
            (save_directory / TUNING).write_text(json.dumps(settings, indent=1) + "\n")
        write_model(save_directory, agent.origin.header.public, agent.model.state_dict())
        if agent.model.statistics is not None:
            save_statistics(agent.model.statistics, save_directory)

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """What data, which protocol, which score, how trained."""
        use = (
            "With `pip install diffplan`:",
            "```python\nfrom diffplan import load_agent\n\n"
            'agent = load_agent("user/model")  # or a folder\n'
            "action, state = agent.predict(observation)\n```",
        )
        return ModelCard(model_card(self.agent, use=use, more={}))

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **options: Any,
    ) -> Self:
        path = model_id
        if not Path(model_id).is_dir():
            path = snapshot_download(
                model_id,
                revision=revision,
                cache_dir=cache_dir,
                force_download=force_download,
                local_files_only=local_files_only,
                token=token,
                allow_patterns=_HELD,
            )
        return cls(load_agent(path, **options))


def save(agent: PlannerAgent, folder: str | Path, **options: Any) -> str | None:
    """See `Portable.save_pretrained`."""
    refuse_constraints(agent)
    return HubAgent(agent).save_pretrained(folder, **options)


def push(agent: PlannerAgent, repo_id: str, **options: Any) -> str:
    """See `Portable.push_to_hub`."""
    refuse_constraints(agent)
    return HubAgent(agent).push_to_hub(repo_id, **options)


def read(name: str | Path, **options: Any) -> PlannerAgent:
    """See `Portable.from_pretrained`."""
    return HubAgent.from_pretrained(name, **options).agent


def downloaded(name: str) -> Path:
    """The folder of the hub's "user/model", which is downloaded where the cache lacks it.

    Raises DiffplanError where the hub does not know it, or cannot be asked.
    """
    if not constants.HF_HUB_OFFLINE:
        print(f"no folder {name} here: asking the Hugging Face Hub for it", file=sys.stderr)
    try:
        return Path(snapshot_download(name, allow_patterns=_HELD))
    except (OSError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        if constants.HF_HUB_OFFLINE:
            reason = "HF_HUB_OFFLINE is set and the hub's cache lacks it; unset it to download"
        raise DiffplanError(
            f"{name} is no folder here, and the Hugging Face Hub did not give it: {reason}"
        ) from None
