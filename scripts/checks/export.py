"""Exported planners beside their agents: actions over an episode, size and start of what they need.

python -m diffplan.scripts.checks.export runs/medium runs/hopper runs/heads
"""

from __future__ import annotations

import importlib.metadata
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from diffplan.scripts.checks import main

_ROUNDS = 5
# what each environment does before its first action
_START = {
    "runtime": "from diffplan_runtime import load; agent = load({folder!r})",
    "diffplan": "from diffplan import load_agent; agent = load_agent({run!r}, batch_size=1)",
}
_NEEDS = {"runtime": ("numpy", "onnxruntime"), "diffplan": ("diffplan", "onnx", "onnxruntime")}


@dataclass(frozen=True)
class Export:
    """Compare every run's export with its agent, and what the two need to run.

    Both see the observations of the run's own environment, in which the agent acts.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN [RUN ...]")]
    """Folders that `diffplan train --out` wrote."""
    steps: int = 1000
    """Environment steps, over as many episodes as they take."""
    json: Annotated[Path, tyro.conf.arg(metavar="FILE")] = Path("docs/results/export.json")
    """Where the figures go."""

    def run(self) -> None:
        """Compare, print and write."""
        from diffplan import runtime
        from diffplan.agents import export, load_agent
        from diffplan.agents.exporting import RUNTIME
        from diffplan.scripts.report.files import check_writable, write_json
        from diffplan.scripts.report.results import machine

        check_writable(self.json, "--json")
        rows: dict[str, dict[str, Any]] = {}
        with tempfile.TemporaryDirectory() as scratch:
            for run in self.runs:
                folder = Path(scratch) / run.name
                agent = load_agent(run, engine="eager")
                export(agent, folder)
                other = runtime.load(folder)
                eager = differences(agent, other, self.steps)
                onnx = differences(agent.to("cpu", "onnx"), other, self.steps)
                rows[run.name] = {
                    "config": agent.config_name,
                    "updates": agent.updates,
                    "env_id": agent.info.env_id,
                    "from_onnx": max(onnx),
                    "from_eager": max(eager),
                    "from_eager_median": statistics.median(eager),
                    "mebibytes": _mebibytes(folder.iterdir()),
                }
                print(
                    f"{run.name}: actions differ by at most {max(onnx):.1e} from engine onnx, "
                    f"{max(eager):.1e} from eager",
                    flush=True,
                )
            folder = Path(scratch) / self.runs[0].name
            size = _mebibytes([folder / RUNTIME]) * 2**20
            needs = {
                name: {
                    "mebibytes": _installed_mebibytes(roots),
                    "start_cpu_seconds": _start(
                        _START[name].format(folder=str(folder), run=str(self.runs[0])), folder
                    ),
                }
                for name, roots in _NEEDS.items()
            }
        for name, found in needs.items():
            print(
                f"{name}: {found['mebibytes']:,.0f} MiB installed, "
                f"{found['start_cpu_seconds']:.2f} s until it can act"
            )
        words = ["python", "-m", __spec__.name, *map(str, self.runs), "--steps", str(self.steps)]
        report = {
            "command": shlex.join(words),
            "steps": self.steps,
            "export": rows,
            "runtime_bytes": round(size),
            "needs": needs,
            "rounds": _ROUNDS,
            "machine": machine("cpu", 1),
        }
        write_json(self.json, report)
        print(f"wrote {self.json}")


def differences(agent: Any, other: Any, steps: int) -> list[float]:
    """The largest difference of the two's actions at every step of episodes that `agent` plays."""
    import numpy as np

    from diffplan.envs.simulators.tasks import task_env_factory

    env = task_env_factory(agent.info, agent.layout)()
    found: list[float] = []
    episode, over = 0, True
    mine = its = observation = None
    while len(found) < steps:
        if over:
            observation, _ = env.reset(seed=episode)
            rows, seeds = np.ones(1, bool), np.array([episode])
            mine, its = (each.reset_rows(None, rows, seeds) for each in (agent, other))
            episode += 1
        action, mine = agent.predict(observation, mine)
        again, its = other.predict(observation, its)
        found.append(float(np.abs(action - again).max()))
        observation, reward, terminated, truncated, _ = env.step(action)
        earned = np.array([float(reward)]), np.ones(1, bool)
        mine, its = agent.observe(mine, *earned), other.observe(its, *earned)
        over = terminated or truncated
    env.close()
    return found


def _mebibytes(files: Any) -> float:
    return float(sum(file.stat().st_size for file in files) / 2**20)


def _installed_mebibytes(roots: tuple[str, ...]) -> float:
    """Of the files of these distributions and of all that they depend on, extras apart."""
    seen: set[str] = set()
    waiting, total = list(roots), 0
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            held = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        paths = (Path(str(held.locate_file(file))) for file in held.files or [])
        total += sum(path.stat().st_size for path in paths if path.is_file())
        needed = (line for line in held.requires or [] if "extra ==" not in line)
        waiting += [re.split(r"[\s;<>=!~\[(]", line, maxsplit=1)[0] for line in needed]
    return total / 2**20


def _start(code: str, folder: Path) -> float:
    """Median CPU seconds of a new process from nothing to a planner that is ready."""
    code = f"import sys, time; sys.path.insert(0, {str(folder)!r}); {code}"
    code += "; print(time.process_time())"

    def once() -> float:
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        )
        return float(done.stdout.split()[-1])

    return statistics.median(once() for _ in range(_ROUNDS))


if __name__ == "__main__":
    sys.exit(main(Export, __spec__.name, sys.argv[1:]))
