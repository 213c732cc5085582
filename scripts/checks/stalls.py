"""Whether a control loop ever waits: the times of thousands of calls whose rows are out of step.

python -m diffplan.scripts.checks.stalls trajectory-diffuser --like hopper
python -m diffplan.scripts.checks.stalls runs/hopper --json stalls.json
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from diffplan.errors import DiffplanError
from diffplan.scripts.checks import main

_OFTEN = 1 / 200  # of a row's steps end its episode
_LONG = 3.0  # medians


@dataclass(frozen=True)
class Stalls:
    """Time calls of `predict` for many environments that plan at different steps."""

    subject: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN|CONFIG")]
    """Folder of a run, or a configuration with random weights."""
    like: str = "hopper"
    """Sizes and preset of a CONFIG, as in `diffplan benchmark`."""
    engine: str = "auto"
    """How decisions are run."""
    envs: int = 64
    """Environments; their plans come due in turn, and their episodes end at random."""
    calls: int = 2000
    """Calls that are timed, after the agent was made ready (`prepare`) and called once."""
    seed: int = 0
    """Of observations and ends of episodes."""
    json: Path | None = None
    """Where the times go."""

    def run(self) -> dict[str, Any]:
        """Returns what the JSON file holds.

        Raises:
            DiffplanError: A number out of range, no such subject or engine.
        """
        for name in ("envs", "calls"):
            if (value := getattr(self, name)) < 1:
                raise DiffplanError(f"--{name} is {value}, expected at least 1")
        import torch

        from diffplan.scripts.benchmark.settings import default_config
        from diffplan.scripts.benchmark.subject import find_subject
        from diffplan.scripts.report.files import write_json
        from diffplan.scripts.report.results import machine

        config = default_config(self.subject, self.like)
        subject = find_subject(self.subject, self.like, config, self.seed)
        torch.set_num_threads(1)
        agent = subject.agent(self.engine, "cpu", config.plan.horizon)
        agent.prepare(self.envs)
        every, rng = agent.settings.replan_every, np.random.default_rng(self.seed)
        observation = subject.observation(self.envs)
        state = None
        for step in range(every):  # in turn, so that every call plans for some
            _, state = agent.predict(observation, state, np.arange(self.envs) % every == step)
        wall, own = [], []
        for _ in range(self.calls):
            ends = rng.random(self.envs) < _OFTEN
            before = time.perf_counter(), time.thread_time()
            _, state = agent.predict(observation, state, ends)
            wall.append(1000 * (time.perf_counter() - before[0]))
            own.append(1000 * (time.thread_time() - before[1]))
        times = {"own_ms": _summary(own), "wall_ms": _summary(wall)}
        report = {
            "label": subject.label,
            "engine": agent.engine.name,
            "envs": self.envs,
            "calls": self.calls,
            **times,
            "machine": machine("cpu", 1),
        }
        print(f"{subject.label}, {agent.engine.name}, {self.envs} environments, {self.calls} calls")
        for name, said in (("own_ms", "the thread's own time"), ("wall_ms", "wall clock")):
            found = times[name]
            print(
                f"{said}: median {found['median']:.3f} ms, p99 {found['p99']:.3f}, longest "
                f"{found['longest']:.3f} ({found['longest'] / found['median']:.1f} medians), "
                f"{found['stalls']} calls above {_LONG:g} medians"
            )
        if self.json is not None:
            write_json(self.json, report)
        return report


def _summary(ms: list[float]) -> dict[str, float]:
    median = float(np.median(ms))
    return {
        "median": median,
        "p99": float(np.quantile(ms, 0.99)),
        "longest": max(ms),
        "stalls": sum(each > _LONG * median for each in ms),
    }


if __name__ == "__main__":
    sys.exit(main(Stalls, __spec__.name, sys.argv[1:]))
