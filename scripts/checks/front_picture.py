"""The README's picture: an episode in a maze, and what a plan costs beside other planners.

python -m diffplan.scripts.checks.front_picture RUN    (a run of a point maze)
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from diffplan.agents import load_agent
from diffplan.envs.rollouts.serial import rollout
from diffplan.envs.simulators.environments import evaluation_env_factory
from diffplan.envs.simulators.mazes import maze_of
from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main
from diffplan.scripts.report import pictures

_FOLDER = Path("docs/results")
_PLANNERS = {
    "diffplan": "ours",
    "Diffusion Veteran": "diffusion-veteran",
    "Diffuser": "diffuser",
    "Decision Diffuser": "decision-diffuser",
}


@dataclass(frozen=True)
class FrontPicture:
    """Draw an episode in a maze beside the time of one plan."""

    run_folder: Annotated[Path, tyro.conf.Positional]
    """A run of a point maze."""
    seed: int = 1000
    """Of the episode."""
    out: Path = _FOLDER / "front.png"
    """The picture."""

    def run(self) -> None:
        """Play, draw and write."""
        agent = load_agent(self.run_folder)
        info = agent.info.public
        maze = maze_of(info.env_id, info.env_kwargs)
        if maze is None:
            raise DiffplanError(f"{self.run_folder}: {info.env_id} is no maze; give a run of one")
        found = rollout(
            agent,
            evaluation_env_factory(agent.info),
            episodes=1,
            num_envs=1,
            seed=self.seed,
            record=1,
            description="episode",
        )
        with pictures.style():
            figure = Figure(figsize=(11, 4.1), layout="constrained")
            drawn, times = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.45, 1]})
            pictures.draw_episode(drawn, found.traces[0], agent.layout, maze)
            drawn.set_title("an episode: every plan (orange), the way taken (blue)")
            _bars(times)
            pictures.save(figure, self.out)
        print(f"wrote {self.out}")


def _bars(axes: Axes) -> None:
    """Milliseconds of one plan of each planner, as `benchmark-sizes-*.json` have them."""
    milliseconds = [
        json.loads((_FOLDER / f"benchmark-sizes-{name}.json").read_text())["replan_ms_median"]
        for name in _PLANNERS.values()
    ]
    colours = [pictures.PLAN] + [pictures.WALL] * (len(_PLANNERS) - 1)
    bars = axes.barh(list(_PLANNERS), milliseconds, color=colours, height=0.6)
    texts = [f"{ms / 1000:.0f} s" if ms >= 1e4 else f"{ms:.3g} ms" for ms in milliseconds]
    axes.bar_label(bars, texts, padding=4)
    axes.set(
        xscale="log", xlim=(0.3, 2e5), xlabel="milliseconds, one core, PyTorch, sizes of Hopper"
    )
    axes.set_title("time of one plan")
    axes.invert_yaxis()


if __name__ == "__main__":
    sys.exit(main(FrontPicture, "diffplan.scripts.checks.front_picture", sys.argv[1:]))
