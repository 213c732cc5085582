"""`diffplan export RUN DIR`: a trained planner for a machine without PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from diffplan.engines import check_engine
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint
from diffplan.scripts.planning_options import PlanningOptions


@dataclass(frozen=True)
class Export:
    """Write what a robot needs of a trained planner: graphs, settings, and one file that runs them.

    The folder needs NumPy and ONNX Runtime, neither PyTorch nor diffplan; its README.md shows how.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    out: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR")]
    """A new folder."""
    batch_sizes: tuple[int, ...] = (1,)
    """Sizes of batches to make graphs for; others are split and filled up."""
    engine: str = "onnx"
    """Whose graphs: onnx, or onnx-int8 for a robot whose processor has 8-bit products."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of the run."""
    planning: Annotated[PlanningOptions, tyro.conf.arg(name="")] = field(
        default_factory=PlanningOptions
    )

    def run(self) -> None:
        """Export, compare with the agent and say so.

        Raises:
            DiffplanError: RUN is no run, DIR holds something, or decisions that are no graph.
        """
        check_engine(self.engine, "--engine")
        if min(self.batch_sizes, default=0) < 1:
            given = " ".join(map(str, self.batch_sizes)) or "empty"
            raise DiffplanError(f"--batch-sizes is {given}, expected numbers from 1 on")
        self.planning.check(find_checkpoint(self.folder, self.checkpoint))

        from diffplan.agents import export, load_agent

        agent = load_agent(
            self.folder, checkpoint=self.checkpoint, engine="eager", **self.planning.given
        )
        difference = export(agent, self.out, self.batch_sizes, self.engine)
        size = sum(file.stat().st_size for file in self.out.iterdir()) / 2**20
        print(
            f"wrote {self.out}, {size:.1f} MiB; largest difference from the agent's actions "
            f"{difference:.1e}\nnext: pip install numpy onnxruntime, and see {self.out}/README.md"
        )
