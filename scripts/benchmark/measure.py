"""Timing decisions and their stages: cases in turn over several rounds on a shared machine.

The fastest round's median counts: what else the machine does can only slow a call down.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from diffplan.agents import AgentState, PlannerAgent
from diffplan.diffusion.samplers import SAMPLERS
from diffplan.engines import ENGINES
from diffplan.errors import DiffplanError
from diffplan.planning import selection, stages
from diffplan.planning.chains import chain_of
from diffplan.scripts.benchmark.ceiling import (
    Ceiling,
    clock_of,
    measure_ceiling,
    reference_ms,
    threads,
)
from diffplan.scripts.benchmark.count import Work, count
from diffplan.scripts.benchmark.report import STAGES, place_name
from diffplan.scripts.benchmark.subject import Subject

_FEWEST = 3  # calls of a case in a round, unless one takes longer than the round's share


@dataclass(frozen=True)
class Case:
    """One setting that is timed."""

    device: str
    threads: int
    engine: str
    batch: int
    candidates: int
    denoising_steps: int
    horizon: int

    @property
    def direct(self) -> bool:
        """Whether its engine runs the stages as they are written."""
        return ENGINES[self.engine].direct

    def __str__(self) -> str:
        return (
            f"{self.engine}, {place_name(self.device, self.threads)}, batch {self.batch}, "
            f"K {self.candidates}, {self.denoising_steps} denoising steps, horizon {self.horizon}"
        )


@dataclass
class Times:
    """Milliseconds of every call of one round.

    decision: the mean call of each sequence from one plan to the next.
    """

    replan: list[float] = field(default_factory=list)
    between: list[float] = field(default_factory=list)
    decision: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in STAGES})


@dataclass
class Timed:
    """A case, its agent ready to run, and the times of its rounds.

    call: seconds of a decision, roughly.
    """

    case: Case
    agent: PlannerAgent
    observation: Any
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
        between = _least_median([times.between for times in self.rounds])
        found: dict[str, Any] = {
            **vars(case),
            "replan_ms_median": replan,
            "replan_ms_p95": float(np.quantile(times.replan, 0.95)),
            "plans_per_second": 1000 * case.batch / replan,
            "between_ms_median": between,
            "steps_per_plan": self.agent.settings.replan_every,
            "amortised_ms": _least_median([times.decision for times in self.rounds]),
            "startup_seconds": self.agent.engine.startup_seconds,
            "round_medians_ms": [statistics.median(times.replan) for times in self.rounds],
            "calls": sum(len(times.replan) for times in self.rounds),
        }
        if case.direct:
            stages = {
                name: _least_median([times.stages[name] for times in self.rounds]) or 0.0
                for name in STAGES
            }
            found["stages_ms"] = stages
            # what no stage accounts for: numpy in and out, checks, bookkeeping
            found["host_ms"] = max(0.0, replan - sum(stages.values()))
        return found | {"flops": self.work.flops, "bytes": self.work.bytes}


def _least_median(rounds: Sequence[list[float]]) -> float | None:
    medians = [statistics.median(times) for times in rounds if times]
    return min(medians, default=None)


# --- Preparing -----------------------------------------------------------------------------------


def prepare(subject: Subject, case: Case) -> Timed:
    """The agent of a case after its first plans, with its operations counted.

    Raises DiffplanError for settings that do not go together, and where an engine cannot run them.
    """
    observation = subject.observation(case.batch)
    due = np.ones(case.batch, bool)
    with threads(case.threads):
        # read before the clock runs: the networks are kept, the agent is made anew
        subject.load(case.device, case.horizon)
        agent = subject.agent(
            *(case.engine, case.device, case.horizon),
            candidates=case.candidates,
            denoising_steps=case.denoising_steps,
        )
        try:
            state = agent.predict(observation)[1]
            agent.predict(observation, state)  # what follows a plan is a graph of its own
        except Exception as error:
            # exporters and compilers fail in their own ways; the other engines go on
            if case.direct or isinstance(error, DiffplanError):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            raise DiffplanError(f"engine {case.engine} cannot run this ({reason})") from error
        # once more: the first calls also started the engine
        before = time.perf_counter()
        state = agent.predict(observation, state, due)[1]
        call = time.perf_counter() - before
        work = count(Stages(agent, observation).run)
    return Timed(case, agent, observation, call, state, work)


class Stages:
    """The four stages of one decision, each on the tensors that the one before made."""

    def __init__(self, agent: PlannerAgent, observation: Any) -> None:
        self.model, self.settings = agent.model, agent.settings
        self.context = self.model.normalised_context(agent.context(observation))
        device, batch = agent.device, len(self.context)
        settings, model, k = self.settings, self.model, self.settings.candidates
        shape = (batch, k, model.rows, model.plan_dim)
        # drawn once: the stages are timed without their random numbers, as engines draw them
        # apart
        random_steps = SAMPLERS[settings.sampler].eta(settings.eta) > 0
        self.noise = stages.Noise(
            torch.randn(batch, k, agent.horizon, model.spec.state_dim + 1, device=device),
            torch.randn(shape, device=device),
            torch.randn(settings.denoising_steps, *shape, device=device) if random_steps else None,
            torch.randn(batch, k, device=device),
        )
        self.chain = chain_of(model, settings)
        self.chooses = k > 1
        self.lag = torch.ones(batch, device=device)

    def run(self, mark: Callable[[], None] = lambda: None) -> None:
        """All stages once; `mark` is called before the first and after each."""
        model, settings, k = self.model, self.settings, self.settings.candidates
        rows = len(self.context.state)
        mark()
        proposal = stages.propose(model, self.context, self.noise.propose, settings)
        mark()
        context = self.context.repeat(k)
        plans, told = stages.optimise(model, context, proposal, self.noise, settings, self.chain)
        mark()
        candidates = model.from_plan(context.state, plans)
        states = candidates
        if self.chooses:
            values = selection.evaluate(model, context, candidates, plans, told)
            values = values.unflatten(0, (rows, k))
            chosen = selection.select(values, self.noise.select, settings)
            every = torch.arange(rows, device=chosen.device)
            states = candidates.unflatten(0, (rows, k))[every, chosen]
        mark()
        if model.config.actions_in_plan:
            model.environment_actions(model.planned_actions(plans)[:rows, 0, 0])
        else:
            kept = told["kept"][:rows, 0] if "kept" in told else None
            stages.decode(model, self.context.state, states[:rows, 1], self.lag, kept)
        mark()


# --- Timing --------------------------------------------------------------------------------------


def measure_round(
    timed: Timed, seconds: float, elsewhere: Callable[[], object] = lambda: None
) -> Times:
    """Call one case for about `seconds`, from plan to plan and its stages in turn.

    elsewhere: what is done, untimed, before every call.
    """
    times = Times()
    agent, observation, state = timed.agent, timed.observation, timed.state
    due = np.ones(timed.case.batch, bool)
    clock = clock_of(timed.case.device, timed.case.threads)
    with threads(timed.case.threads), torch.inference_mode():
        stages = Stages(agent, observation) if timed.case.direct else None
        begin = time.perf_counter()
        while True:
            calls = []
            # a whole sequence: a call that follows a plan finds other caches than one after itself
            for step in range(agent.settings.replan_every):
                elsewhere()
                before = clock()
                state = agent.predict(observation, state, due if step == 0 else None)[1]
                calls.append(1000 * (clock() - before))
            times.replan.append(calls[0])
            times.between += calls[1:]
            times.decision.append(statistics.fmean(calls))
            if stages is not None:
                for name, ms in zip(STAGES, _stage_times(stages, agent.device, clock), strict=True):
                    times.stages[name].append(ms)
            spent = time.perf_counter() - begin
            # a slow case has had its share after one call, others get what a median needs
            enough = len(times.replan) >= _FEWEST or sum(calls) > 1000 * seconds
            if spent > seconds and enough:
                return times


def _stage_times(stages: Stages, device: torch.device, clock: Callable[[], float]) -> list[float]:
    if device.type == "cuda":
        # events are stamped on the device: reading the host's clock would wait at every stage
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
    stages.run(lambda: marks.append(clock()))
    return [1000 * (b - a) for a, b in itertools.pairwise(marks)]


def measure_all(
    timed: Sequence[Timed], rounds: int, seconds: float, beside: Callable[[float], object]
) -> tuple[list[float], dict[str, Ceiling]]:
    """Time every case in every round; the times are kept in the cases.

    beside: measures what they are held against, in every round as well, for about so many seconds.
    Returns the milliseconds of the reference product (one CPU thread) in each round and the
    ceilings, by `ceiling_key`, the best of all rounds.
    """
    reference, ceilings = list[float](), dict[str, Ceiling]()
    # one ceiling for every device and number of threads, whatever runs there
    places = {ceiling_key(t.case): t.case for t in timed}
    onnx = any(ENGINES[t.case.engine].keeps_graphs for t in timed)
    with tqdm(total=rounds * (len(timed) + len(places)), desc="measuring", unit="case") as bar:
        for _ in range(rounds):
            reference.append(reference_ms())
            for key, case in places.items():
                found = measure_ceiling(case.device, case.threads, onnx)
                ceilings[key] = found.best(ceilings[key]) if key in ceilings else found
                bar.update()
            # cases in turn within a round: a busy minute slows all of them
            for each in timed:
                each.rounds.append(measure_round(each, seconds))
                bar.update()
            beside(seconds)
    return reference, ceilings


def ceiling_key(case: Case) -> str:
    """Cases with the same key have the same ceiling."""
    return place_name(case.device, case.threads)
