"""`diffplan queries RUN`: what a model of several heads or streams knows, measured and drawn."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diffplan.config.config import Config
from diffplan.config.kinds import HEADS
from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint, read_header

if TYPE_CHECKING:
    from diffplan.agents import PlannerAgent
    from diffplan.scripts.queries.measures import Answer

_UPDATE, _WINDOW = 0.012, 0.002  # CPU seconds on a core of an Intel Xeon
_PROTOCOL = (
    "On {windows} windows of episodes that were held out in training. Inverse dynamics gets true "
    "plan states and is asked for the action that leaves each of them; the policy and whole plans "
    "get the state with the goal or the return of the window; a plan's steps are held against the "
    "99.9 % quantile of those in training windows, in standard deviations of the states; the "
    "forward model gets the first state and the true actions, and is judged as far as these are "
    "known; evaluations are compared with the data's return-to-go. The separate forward model is "
    "an MLP trained here, {mlp_updates} updates of 256 windows. Tasks are told from the noised "
    "plan and its first state, which alone may tell more than chance: a label that leaks from the "
    "process shows as a lead over the plan alone at the most noise. Intervals are 95 %, by a "
    "bootstrap over windows (tasks told: Wilson), for one trained model."
)


@dataclass(frozen=True)
class Queries:
    """Measure what a model answers beside planning, on held-out episodes, and draw it.

    RUN is of config multi-task or streams. Prints a table and writes RUN/queries.json and
    RUN/pictures/queries.png.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    against: Annotated[
        Path | None, tyro.conf.arg(metavar="RUN", help_behavior_hint="(default: none)")
    ] = None
    """A run of the same data with separate networks, to compare with."""
    windows: int = 2000
    """Held-out windows that are asked about."""
    mlp_updates: int = 3000
    """Updates of the MLP that the forward model is compared with."""
    seed: int = 0
    """Of the windows, the noise and the MLP."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of the run."""
    json: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/queries.json)"),
    ] = None
    """Where the results go; the picture lies beside it if it is not RUN's own."""

    def run(self) -> dict[str, Any]:
        """Measure, write and draw.

        Raises:
            DiffplanError: RUN has separate networks or is no run, its data are missing, a number
                is out of range, or a file cannot be written.
        """
        for name, least in (("windows", 2), ("mlp_updates", 1), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise DiffplanError(
                    f"--{name.replace('_', '-')} must be at least {least}, got {value}"
                )
        self._check_config(read_header(find_checkpoint(self.folder, self.checkpoint)).config)
        return _measure(self)

    def _check_config(self, config: Config) -> None:
        kind = HEADS[config.heads.kind]
        if not (kind.on_features or kind.streams):
            raise DiffplanError(
                f"{self.folder} has separate networks (heads.kind {config.heads.kind}) and answers "
                "no queries; train config multi-task or streams"
            )
        # four of the five questions are about actions
        if not config.learns_actions:
            raise DiffplanError(
                "this model tells no actions; train with --heads.modalities that have actions"
            )

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "queries", str(self.folder)]
        if self.against is not None:
            words += ["--against", str(self.against)]
        for name in ("windows", "mlp_updates", "seed"):
            words += [f"--{name.replace('_', '-')}", str(getattr(self, name))]
        if self.checkpoint != "last":
            words += ["--checkpoint", self.checkpoint]
        return shlex.join(words)


def _measure(options: Queries) -> dict[str, Any]:
    import torch
    from tqdm import tqdm

    from diffplan.agents import Queries as Asked
    from diffplan.agents import load_agent
    from diffplan.data.windows import WindowSampler
    from diffplan.envs.datasets import training_data
    from diffplan.scripts.queries import measures
    from diffplan.scripts.queries.pictures import draw_queries
    from diffplan.scripts.queries.plans import plans
    from diffplan.scripts.report.files import check_writable, write_json
    from diffplan.scripts.report.markdown import duration
    from diffplan.scripts.report.results import machine

    # networks this small gain nothing from more, and sums keep their order
    torch.set_num_threads(1)
    agent = load_agent(options.folder, checkpoint=options.checkpoint)
    asked = Asked(agent)
    against = None if options.against is None else _separate(options.against, agent)
    target = options.json or options.folder / "queries.json"
    picture = (
        target.with_suffix(".png") if options.json else options.folder / "pictures" / "queries.png"
    )
    # before the work: what cannot be kept is not measured
    check_writable(target, "results")
    check_writable(picture, "picture")
    header = read_header(find_checkpoint(options.folder, options.checkpoint))
    episodes = training_data(header.info, header.fingerprint)
    if isinstance(episodes, str):
        raise DiffplanError(f"the questions are asked about held-out episodes, but {episodes}")
    model = agent.model
    seconds = _UPDATE * options.mlp_updates + _WINDOW * options.windows
    print(
        f"asking {agent.config_name}, {options.folder} at {agent.updates} updates, about "
        f"{options.windows} held-out windows of {header.info.id}; first an MLP to compare with "
        f"learns in {options.mlp_updates} updates: about {duration(seconds)} of a core",
        flush=True,
    )
    sampler = WindowSampler(episodes, header.config, seed=header.seed)
    with tqdm(total=options.mlp_updates, desc="learning a forward model", unit="update") as bar:
        learned = measures.learned_forward_model(
            agent, sampler, options.mlp_updates, options.seed, bar.update
        )
    with torch.no_grad():
        sample = measures.draw(agent, sampler, options.windows, options.seed + 1, "held-out")
        seen = measures.draw(agent, sampler, options.windows, options.seed + 2, "train")
        # the simple guess is the mean of the training windows, not of those asked about
        weights = seen.acting[..., None, None].expand_as(seen.actions)
        mean = (seen.actions * weights).sum((0, 1, 2)) / weights.sum((0, 1, 2))
        answers = [
            measures.inverse_dynamics(model, sample, against, mean),
            measures.policy(model, sample, mean),
            *plans(agent, sample, seen, against, mean),
            measures.forward_model(model, sample, agent.settings.denoising_steps, learned),
            *measures.evaluation(model, sample, against),
        ]
        task = measures.task(model, sample) if model.config.has_head("task") else None
        results = {
            "command": options.command,
            "config": agent.config_name,
            "dataset": header.info.id,
            "updates": agent.updates,
            "queries": [asdict(answer) for answer in answers],
            "task": task,
            "protocol": _PROTOCOL.format(**asdict(options)),
            "machine": machine("cpu", 1),
        }
        write_json(target, results)
        draw_queries(picture, asked, sample, learned, task, options.seed)
    print(_table(answers))
    if task is not None:
        print("\n" + _task_lines(task))
    print(f"\nwrote {target}\nwrote {picture}")
    return results


def _separate(folder: Path, agent: PlannerAgent) -> PlannerAgent:
    from diffplan.agents import load_agent

    other = load_agent(folder)
    if other.model.inverse_dynamics is None or other.info.id != agent.info.id:
        raise DiffplanError(
            f"--against {folder} is {other.config_name} on {other.info.id}; expected a run with "
            f"separate networks on {agent.info.id}"
        )
    # states of both are compared one by one
    if other.stride != agent.stride:
        raise DiffplanError(
            f"--against {folder} has plan.stride {other.stride}, expected that of RUN, "
            f"{agent.stride}"
        )
    # windows are drawn as RUN needs them: with prompts only where it is shown some
    own, told = agent.model.config.data.tasks, other.model.config.data.tasks
    if other.model.tasks is not None and told == "prompt" and own != "prompt":
        raise DiffplanError(
            f"--against {folder} is shown its task by a prompt; expected a run whose data.tasks is "
            f"{own}, as of RUN, or id"
        )
    return other


def _table(answers: list[Answer]) -> str:
    from diffplan.scripts.report.results import aligned, interval

    lines: list[tuple[str, ...]] = [
        ("question", "better", "this model", "separate network", "simple guess", "n")
    ]
    for answer in answers:
        figures = [
            "–" if found is None else interval(found)
            for found in (answer.model, answer.separate, answer.simple)
        ]
        if answer.simple is not None:
            figures[2] += f" ({answer.simple_name})"
        found = answer.model or answer.simple
        assert found is not None
        name = f"{answer.question}: {answer.unit}"
        lines.append((name, answer.better, *figures, str(found.n)))
    # under the table: a reason is too long for a cell
    notes = [f"{a.question}: {a.note}" for a in answers if a.note]
    return "\n".join([aligned(lines), *notes])


def _task_lines(task: dict[str, Any]) -> str:
    from diffplan.scripts.report.results import aligned

    def row(name: str, found: list[dict[str, float]]) -> tuple[str, ...]:
        return (name, *(f"{100 * each['mean']:.1f} %" for each in found))

    lines = [("task told at level", *map(str, task["levels"])), row("plan alone", task["accuracy"])]
    if "label_inside" in task:
        lines.append(row("label in the process", task["label_inside"]))
    return aligned(lines) + f"\nchance: {100 * task['chance']:.1f} %"
