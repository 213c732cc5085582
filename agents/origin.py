"""Where an agent comes from, and how its checkpoint scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from diffplan.engines.table import ENGINES
from diffplan.model.run_folder import Header
from diffplan.model.tuned import Tuning

_EXACT = {name for name, kind in ENGINES.items() if kind.exact}


@dataclass(frozen=True)
class Origin:
    """The checkpoint that an agent was loaded from.

    header: its config.json. folder: of the checkpoint; results are in the one that holds it.
    tuning: what was tuned for it, None where it was not, or is not planned with. given: settings
    that were given over those.
    """

    header: Header
    folder: Path
    tuning: Tuning | None = None
    given: Mapping[str, Any] = field(default_factory=dict)

    def results(self, planning: Mapping[str, Any], engine: str) -> dict[str, Any] | None:
        """What `diffplan evaluate` wrote of this checkpoint alone, planning so; else None.

        Engines that make the same plans may stand in for each other.
        """
        asked = {engine} if not ENGINES[engine].exact else _EXACT
        for file in sorted(self.folder.parent.glob("results*.json"), key=lambda p: len(p.name)):
            try:
                found = json.loads(file.read_text())
                updates = [run["updates"] for run in found["runs"]]
                same = updates == [self.header.step] and found["planning"] == planning
                if same and found["engine"] in asked:
                    return dict(found)
            except (OSError, ValueError, KeyError, TypeError):
                continue  # a file of someone else
        return None
