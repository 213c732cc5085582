"""`diffplan benchmark RUN|CONFIG`: what a decision costs, stage by stage, and why.

diffplan benchmark runs/hopper
diffplan benchmark trajectory-diffuser --like pointmaze --sweep batch --json speed.json
diffplan benchmark trajectory-diffuser --proposer.kind transformer --denoiser.network dit
"""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from diffplan.config.config import Config
from diffplan.config.planners import CONFIGS
from diffplan.engines import DIRECT, ENGINES
from diffplan.errors import DiffplanError
from diffplan.nn.device import check_device
from diffplan.scripts.benchmark.settings import default_config
from diffplan.scripts.parser import read_options
from diffplan.scripts.planning_options import TURNED_SETTINGS

if TYPE_CHECKING:
    from diffplan.scripts.benchmark.ceiling import Ceiling
    from diffplan.scripts.benchmark.measure import Case, Timed
    from diffplan.scripts.benchmark.subject import Subject

Sweep = Literal["batch", "candidates", "denoising-steps", "horizon"]
_PROTOCOL = (
    "Calls of `predict`, numpy arrays in and out, in whole sequences from plan to plan: ms a plan "
    "is the first call, with a plan due in every row, ms between one that follows the plan, ms a "
    "decision the mean of a sequence. On one thread of a CPU its own time counts. Cases run in "
    "turn over {rounds} rounds; medians and p95 of the round with the lowest median. Share: the "
    "longer of the times that operations and bytes alone would take, over the time measured. "
    "Operations are those of matrix products, convolutions and attention, bytes their inputs and "
    "outputs with the weights once per network call, at the rate at which as many bytes are read "
    "over and over as were touched since they were used last. Convolutions may need fewer "
    "multiplications than are counted, hence shares above 100 %."
)


@dataclass(frozen=True)
class Benchmark:
    """Time decisions of a trained RUN, or of a CONFIG with random weights.

    Prints the latency and throughput of whole decisions and of each stage, the operations and
    bytes they need beside what this machine can do, and where cost stops being a straight line;
    writes the same as JSON and a picture of where the time goes. Every setting of a CONFIG can be
    changed, of a RUN only how it plans (--planning.*); the sweeps go out from there.
    """

    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|CONFIG")]
    """Folder that `diffplan train --out` wrote, or a configuration: no score stands behind that."""
    like: Annotated[
        str, tyro.conf.arg(metavar="{hopper,walker2d,halfcheetah,pointmaze,maze2d-large}")
    ] = "hopper"
    """Sizes and preset of a CONFIG."""
    sweep: tuple[Sweep, ...] = ("batch", "candidates", "denoising-steps", "horizon")
    """What is varied, one at a time from the own settings."""
    batch: tuple[int, ...] = (1, 8, 64, 256)
    """Environments planned for in one call; the first one is used in the other sweeps."""
    candidates: tuple[int, ...] = (1, 8, 32)
    """Plans per decision, beside the own number."""
    denoising_steps: tuple[int, ...] = (1, 2, 5, 10)
    """Reverse steps, beside the own number."""
    horizon: tuple[int, ...] = (8, 16, 32, 64, 128, 256, 512)
    """Plan states, beside the own number; those of a RUN's other horizons have random weights."""
    engines: Annotated[
        tuple[str, ...], tyro.conf.arg(metavar="NAME...", help_behavior_hint="(default: all here)")
    ] = ()
    """How decisions are computed; eager is always among them, as the stages are timed in it."""
    device: tuple[str, ...] = ("cpu",)
    """cpu, cuda, cuda:1, ..."""
    threads: tuple[int, ...] = (1,)
    """PyTorch threads on the CPU."""
    rounds: int = 5
    """Times every case is visited."""
    seconds: float = 0.25
    """Spent on a case in each round."""
    longest: float = 3.0
    """Cases whose call is expected to take more seconds are left out."""
    longest_start: float = 15.0
    """The same for the start-up of their engine."""
    seed: int = 0
    """Of random weights and observations."""
    json: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help_behavior_hint="(default: RUN/benchmark.json or benchmark-CONFIG.json)",
        ),
    ] = None
    """Where the results go; the picture lies beside it."""
    config: Annotated[Config, tyro.conf.arg(name="")] = field(default_factory=Config)
    given: Annotated[tuple[str, ...], tyro.conf.Fixed, tyro.conf.Suppress] = ()
    """What was typed, for the report."""

    @classmethod
    def parse(cls, args: Sequence[str]) -> Benchmark:
        """Read `RUN|CONFIG [OPTIONS]`: the first word gives the defaults of the settings."""
        helps = not args or args[0] in ("-h", "--help", "--help-all")
        if not args:
            raise DiffplanError(
                "diffplan benchmark needs a RUN folder or a configuration: "
                f"{', '.join(CONFIGS)}; see diffplan benchmark --help"
            )
        if args[0].startswith("-") and not helps:
            raise DiffplanError(
                f"the first word after `diffplan benchmark` is {args[0]!r}, expected a RUN folder "
                f"or a configuration: {', '.join(CONFIGS)}"
            )
        name = next(iter(CONFIGS)) if helps else args[0]
        # --like changes the defaults of all other options, so it is read before them
        config = default_config(name, _value(args, "--like") or cls.like)
        parsed: Benchmark = read_options(
            cls,
            args[:1] if helps else args,
            "diffplan benchmark",
            turned={each.name for each in dataclasses.fields(cls)} | {*TURNED_SETTINGS},
            default=cls(tyro.MISSING, config=config),
        )
        return dataclasses.replace(parsed, given=tuple(args))

    def run(self) -> dict[str, Any]:
        """Measure, print and write; returns what the JSON file holds.

        Raises:
            DiffplanError: Neither RUN nor CONFIG, a number out of range, a device or engine that
                is not here, or a file that cannot be written.
        """
        self._check()
        from diffplan.scripts.benchmark.beside import Beside
        from diffplan.scripts.benchmark.measure import measure_all
        from diffplan.scripts.benchmark.picture import draw
        from diffplan.scripts.benchmark.report import benchmark_table, headline
        from diffplan.scripts.benchmark.subject import find_subject
        from diffplan.scripts.report.files import check_writable, write_json

        subject = find_subject(self.subject, self.like, self.config, self.seed)
        target = self.json or self._default_target(subject)
        check_writable(target, "--json")
        print(f"{subject.label}\n{subject.warning}")
        timed, left_out = self._prepare(subject)
        # one case that fails leaves the others; none at all is an error
        if not timed:
            raise DiffplanError(f"nothing could be measured: {left_out[0]}")
        beside = Beside(subject, timed)
        reference, ceilings = measure_all(timed, self.rounds, self.seconds, beside.measure)
        report = self._report(subject, timed, reference, ceilings)
        report |= {"beside": beside.report(), "left_out": left_out}
        write_json(target, report)
        picture = target.with_suffix(".png")
        draw(report, picture)
        print(f"\n{benchmark_table(report)}\n\n{headline(report)}\n{subject.warning}")
        print(f"wrote {target}\nwrote {picture}")
        return report

    def _default_target(self, subject: Subject) -> Path:
        if subject.folder is not None:
            return subject.folder / "benchmark.json"
        return Path(f"benchmark-{self.subject}.json")

    def _check(self) -> None:
        for name in ("batch", "candidates", "denoising-steps", "horizon", "device", "threads"):
            values = getattr(self, name.replace("-", "_"))
            if not values:
                raise DiffplanError(f"--{name} is given without a value, expected at least one")
            if name != "device" and (bad := min(values)) < 1:
                raise DiffplanError(f"--{name} must be at least 1, got {bad}")
        if self.rounds < 1:
            raise DiffplanError(f"--rounds must be at least 1, got {self.rounds}")
        for name in ("seconds", "longest", "longest_start"):
            if not (value := getattr(self, name)) > 0:
                raise DiffplanError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
        if self.seed < 0:
            raise DiffplanError(f"--seed must not be negative, got {self.seed}")
        for name in self.device:
            check_device(name, "--device")
        for name in self.engines:
            if name not in ENGINES:  # "auto" would say nothing of which one was measured
                raise DiffplanError(
                    f"--engines has {name!r}, expected some of {', '.join(ENGINES)}"
                )
        # names are refused before PyTorch is imported, which says what is here
        from diffplan.nn.device import find_device

        for name in self.device:
            find_device(name)

    # --- Cases -----------------------------------------------------------------------------------

    def _prepare(self, subject: Subject) -> tuple[list[Timed], list[str]]:
        """Every case ready to run, the own settings first; those left out and why."""
        from tqdm import tqdm

        from diffplan.scripts.benchmark.measure import Case, prepare

        places, left_out = self._places(subject)
        # of the engine that runs whatever the settings are: what K and denoising steps are
        horizon = subject.config.plan.horizon
        settings = subject.agent(DIRECT, self.device[0], horizon).settings
        plans: list[tuple[Case, dict[str, list[Case]]]] = []
        for device, threads, engine in places:
            own = Case(
                *(device, threads, engine, self.batch[0]),
                *(settings.candidates, settings.denoising_steps, horizon),
            )
            plans.append(
                (own, {n: self._sweep(n, own) for n in (s.replace("-", "_") for s in self.sweep)})
            )
        timed: dict[Case, Timed] = {}
        refused: dict[Case, str] = {}

        def ready(case: Case) -> bool:
            if case not in timed and case not in refused:
                bar.update()
                try:
                    timed[case] = prepare(subject, case)
                except DiffplanError as error:
                    refused[case] = str(error)
            return case in timed

        asked = {own for own, _ in plans}
        asked.update(case for _, sweeps in plans for cases in sweeps.values() for case in cases)
        with tqdm(total=len(asked), desc="preparing", unit="case") as bar:
            for own, sweeps in plans:
                if not ready(own):
                    continue  # nor can its sweeps
                for name, cases in sweeps.items():
                    previous: Timed | None = None
                    for case in cases:
                        if case not in timed and (why := self._too_long(name, previous, case)):
                            refused[case] = why
                            bar.update()
                        elif ready(case):
                            previous = timed[case]
        left_out += [f"{case}: {why}" for case, why in refused.items()]
        return list(timed.values()), left_out

    def _places(self, subject: Subject) -> tuple[list[tuple[str, int, str]], list[str]]:
        """Device, threads and engine of all that can run here; why the others cannot."""
        from diffplan.scripts.benchmark.subject import engines_for

        places, obstacles = [], []
        for device in self.device:
            for engine, obstacle in engines_for(self.engines, subject, device).items():
                if obstacle:
                    obstacles.append(obstacle)
                    continue
                # threads of the CPU change nothing on a GPU
                many = self.threads if device == "cpu" else self.threads[:1]
                places += [(device, threads, engine) for threads in many]
        return places, obstacles

    def _sweep(self, name: str, own: Case) -> list[Case]:
        """Ascending values of one setting, the own one among them."""
        if name == "denoising_steps" and own.denoising_steps == 0:  # nothing is refined
            return [own]
        values = sorted({*getattr(self, name), getattr(own, name)})
        return [dataclasses.replace(own, **{name: value}) for value in values]

    def _too_long(self, name: str, previous: Timed | None, case: Case) -> str:
        """Why a case is left out, judged by the one before it in its sweep; "" if it is not."""
        if previous is None:
            return ""
        ratio = getattr(case, name) / getattr(previous.case, name)
        call, start = ratio * previous.call, ratio * previous.agent.engine.startup_seconds
        if call > self.longest:
            return f"about {call:.0f} s a call, more than --longest {self.longest:g}"
        if name == "horizon" and start > self.longest_start:  # a graph grows with it
            return f"about {start:.0f} s to start, more than --longest-start {self.longest_start:g}"
        return ""

    # --- Results ---------------------------------------------------------------------------------

    def _report(
        self,
        subject: Subject,
        timed: list[Timed],
        reference: list[float],
        ceilings: dict[str, Ceiling],
    ) -> dict[str, Any]:
        from diffplan.scripts.benchmark.ceiling import REFERENCE_MS
        from diffplan.scripts.benchmark.measure import ceiling_key
        from diffplan.scripts.benchmark.report import fastest, lines
        from diffplan.scripts.report.results import machine

        rows = []
        for each in timed:
            row, ceiling = each.row(), ceilings[ceiling_key(each.case)]
            row["flops_ms"] = 1000 * row["flops"] / ceiling.flops
            row["bytes_ms"] = 1000 * ceiling.seconds(each.work.reuse)
            row["ceiling_share"] = max(row["flops_ms"], row["bytes_ms"]) / row["replan_ms_median"]
            rows.append(row)
        # the own settings are prepared first
        own = timed[0].case
        best = fastest(rows, vars(own), own.batch) or rows[0]
        at_64 = fastest(rows, vars(own), 64)
        return {
            "command": shlex.join(["diffplan", "benchmark", *self.given]),
            "label": subject.label,
            "warning": subject.warning,
            "trained": subject.trained,
            "score": subject.score,
            "engine": best["engine"],
            "replan_ms_median": best["replan_ms_median"],
            "replan_ms_p95": best["replan_ms_p95"],
            "amortised_ms": best["amortised_ms"],
            "plans_per_second_64": at_64["plans_per_second"] if at_64 else None,
            "reference_matmul_ms": min(reference),
            "reference_rounds_ms": reference,
            "reference_machine_ms": REFERENCE_MS,
            "own": dict(vars(own)),
            "ceilings": {
                key: {"products": found.products, "flops": found.flops, "bytes": found.bytes}
                for key, found in ceilings.items()
            },
            "lines": lines(rows, vars(own), self.sweep),
            "cases": rows,
            "random_horizons": subject.trained
            and any(row["horizon"] != own.horizon for row in rows),
            "protocol": _PROTOCOL.format(rounds=self.rounds),
            "machine": machine(own.device, own.threads),
        }


def _value(args: Sequence[str], option: str) -> str | None:
    """What follows an option on the command line, before it is parsed."""
    for word, after in zip(args, [*args[1:], None], strict=True):
        if word == option:
            return after
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None
