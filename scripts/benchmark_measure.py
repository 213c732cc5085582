"""Timing decisions and their stages: cases in turn over several rounds on a shared machine.

The fastest round's median counts: what else the machine does can only slow a call down.
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from diffplan import planner
from diffplan.agents import AgentState, PlannerAgent
from diffplan.errors import DiffplanError
from diffplan.scripts.benchmark_count import Work, count
from diffplan.scripts.benchmark_report import STAGES
from diffplan.scripts.benchmark_subject import Subject

REFERENCE_MS = 28.0  # the 1024 x 1024 x 1024 float32 product on the reference machine, one thread
_REFERENCE_SIZE = 1024
_CEILING_SIZE = {"cpu": 2048, "cuda": 8192}
_COPY_BYTES = {"cpu": 1 << 27, "cuda": 1 << 30}  # far more than any cache holds
_FEWEST = 3  # calls of a case in a round, unless one takes longer than the round's share


@dataclass(frozen=True)
class Case:
    """One setting that is timed."""

    device: str
    threads: int
    engine: str
    batch: int
    candidates: int
    steps: int
    horizon: int

    def __str__(self) -> str:
        return (
            f"{self.engine}, {self.device}, {self.threads} threads, batch {self.batch}, "
            f"K {self.candidates}, {self.steps} steps, horizon {self.horizon}"
        )


@dataclass(frozen=True)
class Ceiling:
    """What the machine can do at most, measured with plain PyTorch operations.

    flops: operations per second of a large float32 product. bytes: read and written per second by
    a large copy.
    """

    flops: float
    bytes: float

    def best(self, other: Ceiling) -> Ceiling:
        return Ceiling(max(self.flops, other.flops), max(self.bytes, other.bytes))


@dataclass
class Times:
    """Milliseconds of every call of one round."""

    replan: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})


@dataclass
class Timed:
    """A case, its agent ready to run, and the times of its rounds.

    startup: seconds from the loaded networks to the first plan. call: seconds of the second.
    """

    case: Case
    agent: PlannerAgent
    observation: Any
    startup: float
    call: float
    state: AgentState
    work: Work
    rounds: list[Times] = field(default_factory=list)

    @property
    def fastest(self) -> Times:
        return min(self.rounds, key=lambda times: statistics.median(times.replan))

    def row(self) -> dict[str, Any]:
        """What is reported of the case; milliseconds are of the fastest round."""
        times, case = self.fastest, self.case
        replan = statistics.median(times.replan)
        every = self.agent.settings.keep * self.agent.stride
        between = _least_median([times.between for times in self.rounds])
        found: dict[str, Any] = {
            **vars(case),
            "replan_ms_median": replan,
            "replan_ms_p95": float(np.quantile(times.replan, 0.95)),
            "plans_per_second": 1000 * case.batch / replan,
            "between_ms_median": between,
            "steps_per_plan": every,
            "amortised_ms": (replan + (every - 1) * (between or 0.0)) / every,
            "startup_seconds": self.startup,
            "calls": sum(len(times.replan) for times in self.rounds),
        }
        if case.engine == "eager":
            stages = {
                name: _least_median([times.stages[name] for times in self.rounds]) or 0.0
                for name in STAGES
            }
            found["stages_ms"] = stages
            found["host_ms"] = max(0.0, replan - sum(stages.values()))
        return found | vars(self.work)


def _least_median(rounds: Sequence[list[float]]) -> float | None:
    medians = [statistics.median(times) for times in rounds if times]
    return min(medians, default=None)


# --- Preparing -----------------------------------------------------------------------------------


def prepare(subject: Subject, case: Case) -> Timed:
    """The agent of a case after its first plans, with its operations counted.

    Raises DiffplanError for settings that do not go together.
    """
    observation = subject.observation(case.batch)
    due = np.ones(case.batch, bool)
    with threads(case.threads):
        subject.load(case.device, case.horizon)
        before = time.perf_counter()
        agent = subject.agent(
            case.engine, case.device, case.horizon, candidates=case.candidates, steps=case.steps
        )
        state = agent.predict(observation)[1]
        first = time.perf_counter()
        state = agent.predict(observation, state, due)[1]
        second = time.perf_counter()
        work = count(_Stages(agent, observation).run)
    return Timed(case, agent, observation, first - before, second - first, state, work)


class _Stages:
    """The four stages of one decision, each on the tensors that the one before made."""

    def __init__(self, agent: PlannerAgent, observation: Any) -> None:
        self.model, self.settings = agent.model, agent.settings
        states, goals = agent.layout.split(observation)
        device, batch = agent.device, len(states)
        goal = None if goals is None else self.model.goal(torch.from_numpy(goals).to(device))
        returns = torch.zeros(batch, device=device) if self.model.use_returns else None
        start = self.model.states(torch.from_numpy(states).to(device))
        self.context = planner.Context(start, goal, returns)
        seeds = np.arange(batch)
        self.noise = agent._noise(seeds, np.zeros_like(seeds), None)
        self.lag = torch.ones(batch, device=device)

    def run(self, mark: Callable[[], None] = lambda: None) -> None:
        """All stages once; `mark` is called before the first and after each."""
        model, settings, k = self.model, self.settings, self.settings.k
        rows = len(self.context.state)
        mark()
        proposal = planner.propose(model, self.context, self.noise.propose, settings)
        mark()
        context = self._repeated(k)
        plans = planner.optimise(model, context, proposal, self.noise, settings)
        mark()
        candidates = model.from_plan(context.state, plans)
        values = planner.evaluate(model, context, candidates).unflatten(0, (rows, k))
        chosen = planner.select(values, self.noise.select, settings)
        states = candidates.unflatten(0, (rows, k))[
            torch.arange(rows, device=chosen.device), chosen
        ]
        mark()
        planner.decode(model, self.context.state, states[:, 1], self.lag)
        mark()

    def _repeated(self, k: int) -> planner.Context:
        def repeat(values: Tensor | None) -> Tensor | None:
            return None if values is None else values.repeat_interleave(k, 0)

        context = self.context
        return planner.Context(
            context.state.repeat_interleave(k, 0), repeat(context.goal), repeat(context.returns)
        )


# --- Timing --------------------------------------------------------------------------------------


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """PyTorch's threads on the CPU, put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure_round(timed: Timed, seconds: float) -> Times:
    """Call one case for about `seconds`, its stages and the steps between plans in turn."""
    times = Times()
    agent, observation, state = timed.agent, timed.observation, timed.state
    due = np.ones(timed.case.batch, bool)
    kept = agent.settings.keep * agent.stride > 1
    with threads(timed.case.threads), torch.inference_mode():
        stages = _Stages(agent, observation) if timed.case.engine == "eager" else None
        begin = time.perf_counter()
        while True:
            before = time.perf_counter()
            state = agent.predict(observation, state, due)[1]
            times.replan.append(1000 * (time.perf_counter() - before))
            if kept:
                before = time.perf_counter()
                agent.predict(observation, state)
                times.between.append(1000 * (time.perf_counter() - before))
            if stages is not None:
                for name, ms in zip(STAGES, _stage_times(stages, agent.device), strict=True):
                    times.stages[name].append(ms)
            spent = time.perf_counter() - begin
            enough = len(times.replan) >= _FEWEST or times.replan[-1] > 1000 * seconds
            if spent > seconds and enough:
                return times


def _stage_times(stages: _Stages, device: torch.device) -> list[float]:
    if device.type == "cuda":
        events: list[torch.cuda.Event] = []

        def record() -> None:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            events.append(event)

        torch.cuda.synchronize(device)
        stages.run(record)
        torch.cuda.synchronize(device)
        return [a.elapsed_time(b) for a, b in itertools.pairwise(events)]
    marks: list[float] = []
    stages.run(lambda: marks.append(time.perf_counter()))
    return [1000 * (b - a) for a, b in itertools.pairwise(marks)]


def measure_all(
    timed: Sequence[Timed], rounds: int, seconds: float
) -> tuple[float, dict[str, Ceiling]]:
    """Time every case in every round; the times are kept in the cases.

    Returns the milliseconds of the reference product (one CPU thread) and the ceilings, by
    `ceiling_key`, the best of all rounds.
    """
    reference, ceilings = float("inf"), dict[str, Ceiling]()
    places = {ceiling_key(t.case): t.case for t in timed}
    with tqdm(total=rounds * (len(timed) + len(places)), desc="measuring", unit="case") as bar:
        for _ in range(rounds):
            reference = min(reference, reference_ms())
            for key, case in places.items():
                found = measure_ceiling(case)
                ceilings[key] = found.best(ceilings[key]) if key in ceilings else found
                bar.update()
            for each in timed:
                each.rounds.append(measure_round(each, seconds))
                bar.update()
    return reference, ceilings


# --- The machine ---------------------------------------------------------------------------------


def ceiling_key(case: Case) -> str:
    """Cases with the same key have the same ceiling."""
    return f"{case.device}, {case.threads} threads" if case.device == "cpu" else case.device


def reference_ms() -> float:
    """Milliseconds of the 1024 x 1024 x 1024 float32 product on one CPU thread."""
    with threads(1), torch.inference_mode():
        a = torch.ones(_REFERENCE_SIZE, _REFERENCE_SIZE)
        out = torch.empty_like(a)
        return 1000 * _fastest(lambda: torch.mm(a, a, out=out), a.device, 5)


def measure_ceiling(case: Case) -> Ceiling:
    """Operations and bytes per second of a large product and a large copy."""
    device = torch.device(case.device)
    size, length = _CEILING_SIZE[device.type], _COPY_BYTES[device.type]
    try:
        with threads(case.threads), torch.inference_mode():
            a = torch.ones(size, size, device=device)
            out = torch.empty_like(a)
            product = _fastest(lambda: torch.mm(a, a, out=out), device, 2)
            source = torch.ones(length, dtype=torch.uint8, device=device)
            target = torch.empty_like(source)
            copy = _fastest(lambda: target.copy_(source), device, 3)
    except (RuntimeError, MemoryError) as error:
        raise DiffplanError(
            f"{case.device} cannot run the product and the copy that it is compared with: "
            f"{str(error).splitlines()[0]}"
        ) from None
    return Ceiling(2 * size**3 / product, 2 * length / copy)


def _fastest(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Seconds of the fastest of several calls after one that is not counted."""
    call()
    found = []
    for _ in range(times):
        _wait(device)
        before = time.perf_counter()
        call()
        _wait(device)
        found.append(time.perf_counter() - before)
    return min(found)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
