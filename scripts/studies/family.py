"""`diffplan family DIR`: one proposal, refined by every process that a study trained, drawn."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.studies.rows import OURS, PROCESSES, Row

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from diffplan.agents import PlannerAgent


_PROPOSES = PROCESSES["RDDM"]  # its network makes the proposal of all


@dataclass(frozen=True)
class Family:
    """Draw one proposal and what each forward process makes of it, step by step.

    All processes get the proposal and the noise of the first one's network. The runs are those of
    `diffplan study DATA --rows processes --out DIR` on maze data.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="DIR/DATASET")]
    """Folder of a dataset in the study."""
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: DIR/DATASET/family.png)"),
    ] = None
    """Where the picture goes."""
    seed: int = 1000
    """Of the episode whose first plan is drawn."""
    train_seed: int = 1
    """Which of the trained networks."""
    draws: int = 4
    """Plans of each process, from as many draws of the start noise."""

    def run(self) -> Path:
        """Draw; returns the picture's path. DiffplanError where runs or a maze are missing."""
        if self.draws < 1:
            raise DiffplanError(f"--draws must be at least 1, got {self.draws}")
        runs = {
            label: self._run(row)
            for label, row in PROCESSES.items()
            if row.planning["denoising_steps"]
        }
        there = {label: run for label, run in runs.items() if run.is_dir()}
        if not self._run(_PROPOSES).is_dir():
            raise DiffplanError(
                f"{self.folder} holds no run of {OURS}; make them with: diffplan study DATA "
                "--rows processes --out DIR"
            )
        target = self.out or self.folder / "family.png"
        _draw(self, there, target)
        print(f"wrote {target}")
        return target

    def _run(self, row: Row) -> Path:
        return self.folder / row.trained / f"seed-{self.train_seed}"


def _draw(options: Family, runs: dict[str, Path], target: Path) -> None:
    """One panel per process: proposal, x_t at each level, and the plans."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from diffplan.agents import load_agent
    from diffplan.envs.simulators.mazes import maze_of
    from diffplan.scripts.report import pictures
    from diffplan.scripts.report.files import check_writable

    check_writable(target, "picture")
    # one network proposes for all: only what is made of the proposal differs
    agent = load_agent(options._run(_PROPOSES), candidates=1)
    maze = maze_of(agent.info.env_id, agent.info.env_kwargs)
    if maze is None:
        raise DiffplanError(f"{options.folder} holds no maze data ({agent.info.env_id})")
    start, proposed = _first_plan(agent, options.seed, options.draws)
    found = {
        label: _refined(run, PROCESSES[label].planning, start, proposed, options)
        for label, run in runs.items()
    }
    layout = agent.layout
    proposal = pictures.positions(_states(agent, proposed[0].states), layout)[0]
    drawn = (pictures.positions(s, layout) for _, plans in found.values() for s in plans)
    everything = [proposal, *drawn]
    columns = 4
    rows = -(-len(found) // columns)
    # later states darker: the eye follows the order
    shades = colormaps["Greys"]
    with pictures.style():
        figure = Figure(figsize=(3.2 * columns, 0.8 + 3.2 * rows), layout="constrained")
        panels = figure.subplots(rows, columns, squeeze=False).flatten()
        for axes in panels[len(found) :]:
            axes.set_axis_off()
        for axes, (label, (levels, plans)) in zip(panels, found.items(), strict=False):
            pictures.draw_maze(axes, maze)
            for place, states in enumerate(levels):
                xy = pictures.positions(states, layout)[0]
                shade = shades(0.35 + 0.5 * place / max(1, len(levels) - 1))
                axes.plot(*xy.T, "-", color=shade, linewidth=0.8, zorder=3)
            axes.plot(*proposal.T, "--", color=pictures.PROPOSAL, linewidth=2, zorder=4)
            for states in plans:
                xy = pictures.positions(states, layout)
                axes.plot(*xy.T, "-", color=pictures.PLAN, linewidth=1.2, zorder=5)
            axes.plot(*proposal[0], "o", color=pictures.START, markersize=6, zorder=6)
            _frame(axes, everything)
            axes.set_title(label, fontsize=10)
        entries = [
            Line2D([], [], color=pictures.START, marker="o", linestyle="", label="start"),
            Line2D([], [], color=pictures.PROPOSAL, linestyle="--", label="the proposal"),
            Line2D([], [], color="0.45", linewidth=0.8, label="x_t of one draw, darker later"),
            Line2D([], [], color=pictures.PLAN, label=f"plans from {options.draws} draws of noise"),
        ]
        figure.legend(handles=entries, loc="outside lower center", ncols=4, fontsize=9)
        pictures.save(figure, target)


def _first_plan(agent: PlannerAgent, seed: int, draws: int) -> Any:
    """Context of an episode's first state, `draws` times, and (proposal, start noise)."""
    import torch

    from diffplan.envs.simulators.environments import evaluation_env_factory
    from diffplan.planning.stages import propose

    env = evaluation_env_factory(agent.info)()
    observation, _ = env.reset(seed=seed)
    env.close()
    model = agent.model
    given = agent.context({k: v[None] for k, v in observation.items()})
    context = model.normalised_context(given).repeat(draws)
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(draws, 1, model.rows, model.plan_dim, generator=generator)
    with torch.no_grad():
        proposal = propose(model, context, torch.empty(0), agent.settings)
    return context, (proposal, noise)


def _refined(
    run: Path, planning: dict[str, Any], context: Any, proposed: Any, options: Family
) -> tuple[list[np.ndarray], np.ndarray]:
    """x_t of the first draw before each step, and every draw's plan, as states."""
    import torch

    from diffplan.agents import load_agent
    from diffplan.planning.chains import Chain, chain_of
    from diffplan.planning.stages import Noise, guide, walk_back

    agent = load_agent(run, **planning)
    model, (proposal, start) = agent.model, proposed
    settings = agent.settings
    # noise of the steps apart from that of the start, which all processes share
    generator = torch.Generator().manual_seed(options.seed + 1)
    steps = torch.randn(settings.denoising_steps, *start.shape, generator=generator)
    levels: list[np.ndarray] = []

    # no candidates are proposed or chosen: their noise is not drawn
    noise = Noise(torch.empty(0), start, steps, torch.empty(0))
    # from noise the proposal has no place in the chain
    given = dataclasses.replace(proposal) if settings.proposes else None
    chain = chain_of(model, settings)
    assert isinstance(chain, Chain)  # all that is drawn takes reverse steps
    with torch.no_grad():
        guided = guide(model, context, given, settings, chain)

        # keeps every x_t that the network is asked about
        def shown(x: Tensor, t: int) -> Tensor:
            levels.append(_states(agent, model.from_plan(context.state, x)[:, 1:]))
            return guided.denoise(x, t)

        watched = dataclasses.replace(guided, denoise=shown)
        x = walk_back(model, watched, noise, settings, chain)
    return levels, _states(agent, model.from_plan(context.state, x))


def _states(agent: PlannerAgent, states: Tensor) -> np.ndarray:
    found: np.ndarray = agent.model.states.inverse(states).numpy()
    return found


def _frame(axes: Any, drawn: list[np.ndarray]) -> None:
    """Show where the plans are, with a margin."""
    import numpy as np

    points = np.concatenate([xy.reshape(-1, 2) for xy in drawn])
    middle = (points.min(0) + points.max(0)) / 2
    # never so close that a cell fills the panel
    half = max(0.8, 0.65 * float(np.ptp(points, axis=0).max()))
    axes.set(xlim=(middle[0] - half, middle[0] + half), ylim=(middle[1] - half, middle[1] + half))
