"""`diffplan analyse RUN`: one page on what decides a run's plans and what could be changed."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from diffplan.errors import DiffplanError
from diffplan.model.run_folder import find_checkpoint, read_header

if TYPE_CHECKING:
    from diffplan.scripts.analyse.conclusions import Findings
    from diffplan.scripts.analyse.subject import Subject
    from diffplan.scripts.report.intervals import Estimate

_PARTS = 6
_TRAINING = 4096  # windows that the linear planner is fitted to


@dataclass(frozen=True)
class Analyse:
    """Look into a trained run: what decides its plans, what its denoiser knows, what to change.

    On held-out windows, without an environment, in about 15 seconds of a core (larger networks
    take longer). Prints a page and writes it as RUN/analysis.md, with RUN/analysis.json and
    RUN/pictures/analysis.png; what-if.png beside it shows a window as it would have been for other
    goals or returns, and from other starts.
    """

    folder: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Folder that `diffplan train --out` wrote."""
    windows: int = 512
    """Held-out windows that are looked at."""
    seed: int = 0
    """Of the windows and the noise."""
    checkpoint: Annotated[str, tyro.conf.arg(metavar="last|best|UPDATES")] = "last"
    """Which checkpoint of the run."""
    json: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE", help_behavior_hint="(default: RUN/analysis.json)"),
    ] = None
    """Where the numbers go; page and picture lie beside them if it is not RUN's own."""

    def run(self) -> dict[str, Any]:
        """Measure, conclude, write and draw.

        Raises:
            DiffplanError: RUN is no run or has no denoiser, its data are missing, a number is out
                of range, or a file cannot be written.
        """
        for name, least in (("windows", 64), ("seed", 0)):
            if (value := getattr(self, name)) < least:
                raise DiffplanError(f"--{name} must be at least {least}, got {value}")
        return _analyse(self)

    @property
    def command(self) -> str:
        """The command line that does the same."""
        words = ["diffplan", "analyse", str(self.folder)]
        words += ["--windows", str(self.windows), "--seed", str(self.seed)]
        if self.checkpoint != "last":
            words += ["--checkpoint", self.checkpoint]
        return shlex.join(words)

    @property
    def files(self) -> tuple[Path, Path, Path, Path]:
        """Numbers, page, and the pictures of the analysis and of what would have been."""
        target = self.json or self.folder / "analysis.json"
        page, own = target.with_suffix(".md"), self.folder / "pictures"
        if self.json is None:
            return target, page, own / "analysis.png", own / "what-if.png"
        return (
            target,
            page,
            target.with_suffix(".png"),
            target.with_name(f"{target.stem}-what-if.png"),
        )


def _analyse(options: Analyse) -> dict[str, Any]:
    import torch

    from diffplan.agents import load_agent
    from diffplan.data.windows import WindowSampler
    from diffplan.envs.datasets import training_data
    from diffplan.scripts.analyse.conclusions import conclusions
    from diffplan.scripts.analyse.pictures import draw_analysis
    from diffplan.scripts.analyse.subject import Subject, draw
    from diffplan.scripts.analyse.what_if import draw_what_if, what_if
    from diffplan.scripts.report.files import check_writable, write_json, written_whole
    from diffplan.scripts.report.results import machine

    torch.set_num_threads(1)
    agent = load_agent(options.folder, checkpoint=options.checkpoint, engine="eager")
    subject = Subject(agent)
    target, page, picture, asked = options.files
    for path, what in (
        *((target, "numbers"), (page, "page")),
        *((picture, "picture"), (asked, "picture")),
    ):
        check_writable(path, what)
    header = read_header(find_checkpoint(options.folder, options.checkpoint))
    episodes = training_data(header.info, header.fingerprint)
    if isinstance(episodes, str):
        raise DiffplanError(f"an analysis looks at held-out windows, but {episodes}")
    sampler = WindowSampler(episodes, header.config, seed=header.seed)
    with torch.no_grad():
        sample = draw(subject.model, sampler, options.windows, options.seed, "held-out")
        training = draw(subject.model, sampler, _TRAINING, options.seed + 1, "train")
        found = _measured(subject, sample, training, options.seed)
    lines = conclusions(subject, found)
    title = f"{agent.config_name} on {header.info.id}, {agent.updates} updates"
    results = {
        "command": options.command,
        "config": agent.config_name,
        "dataset": header.info.id,
        "updates": agent.updates,
        "levels": subject.levels,
        "left_out": subject.missing,
        **asdict(found),
        "conclusions": lines,
        "machine": machine("cpu", 1),
    }
    write_json(target, results)
    draw_analysis(picture, subject, found, title)
    shown = [f"![{title}]({_beside(picture, page)})"]
    written = [target, page, picture]
    try:
        other = what_if(agent, sampler, options.seed)
    except DiffplanError as error:
        shown.append(f"{error}.")
    else:
        draw_what_if(asked, agent, other, title)
        shown.append(f"![What would have been]({_beside(asked, page)})")
        written.append(asked)
    text = _page(subject, found, lines, title, options.windows)
    with written_whole(page) as partial:
        partial.write_text("\n\n".join([text, *shown, f"Command: `{options.command}`"]) + "\n")
    print(text + "\n\n" + "\n".join(f"wrote {path}" for path in written))
    return results


def _beside(picture: Path, page: Path) -> Path:
    """The picture as the page calls it."""
    return picture.relative_to(page.parent) if page.parent in picture.parents else picture


def _measured(subject: Subject, sample: Any, training: Any, seed: int) -> Findings:
    """All figures, with a bar over the parts."""
    from tqdm import tqdm

    from diffplan.scripts.analyse import denoiser, plans
    from diffplan.scripts.analyse.conclusions import Findings

    with tqdm(total=_PARTS, desc="analysing", unit="part") as bar:

        def told(part: Any) -> Any:
            bar.update()
            return part

        maker = plans.Maker(subject, sample, seed + 2)
        return Findings(
            told(plans.decides(maker)),
            told(plans.steps(maker)),
            told(denoiser.known(subject, sample)),
            told(denoiser.errors(subject, sample, training)),
            told(denoiser.inside(subject, sample)),
            told(plans.diversity(maker)),
        )


# --- The page ------------------------------------------------------------------------------------


def _page(subject: Subject, found: Findings, lines: list[str], title: str, windows: int) -> str:
    from diffplan.scripts.analyse.conclusions import bears_shares, number, percent
    from diffplan.scripts.report.markdown import markdown

    settings = subject.settings
    parts = [
        f"# {title}",
        f"{windows} held-out windows; plans as the run makes them (start {settings.start}, "
        f"{settings.denoising_steps} steps); levels are those of {subject.process.name}, "
        f"{subject.levels[0]} is all noise. Intervals are 95 %, of features both halves.",
        "\n".join(f"- {line}" for line in lines),
    ]
    rows = []
    for name, share in found.decides.denoiser.items():
        both = found.decides.everywhere.get(name)
        known = None
        if found.known is not None and bears_shares(found.known):
            known = found.known.parts.get(name)
        told = [percent(known[k]) for k in ("unique", "redundant", "synergistic")] if known else []
        rows.append(
            [name, percent(share), "–" if both is None else percent(both), *(told or ["–"] * 3)]
        )
    header = ["input", "decides", "with the proposer", "unique", "redundant", "synergistic"]
    parts.append(markdown(header, rows))
    chosen = _shown(len(subject.levels))

    def row(name: str, values: list[Estimate], digits: int) -> list[str]:
        return [name, *(number(values[i], digits) for i in chosen)]

    errors, inside = found.errors, found.inside
    levels = [f"{subject.levels[i]}" for i in chosen]
    table = [
        row("squared error: denoiser", errors.network, 3),
        row("linear planner", errors.linear, 3),
        row("Wiener", errors.wiener, 3),
        row(f"rank of the Jacobian, of {inside.of}", inside.rank, 0),
        row("gain of the Jacobian", inside.gain, 2),
        row("entropy of features, bits", inside.entropy, 1),
        row("bits of x_t", inside.of_input, 2),
        row("bits of the plan", inside.of_plan, 2),
    ]
    parts.append(markdown(["noise level", *levels], table))
    for name, reason in subject.missing.items():
        parts.append(f"{name}: not left out, {reason}.")
    return "\n\n".join(parts)


def _shown(levels: int) -> list[int]:
    """At most five levels, the first and the last among them."""
    many = min(5, levels)
    return sorted({round(i * (levels - 1) / max(1, many - 1)) for i in range(many)})
