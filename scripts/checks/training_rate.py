"""Windows learned per second of CPU time: several working trees in turn, in one run.

git worktree add /somewhere/before COMMIT
python -m diffplan.scripts.checks.training_rate --trees /somewhere/before . --dataset DATA

Cores are shared and their clocks change, so each tree trains a few updates, then the next one, over
and over; reported are medians over these rounds, also of the ratio to the first tree in each.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from diffplan.scripts.checks import main

# runs with the packages of another tree, so that it must not need this one's
_WORKER = """
import dataclasses, json, sys, tempfile, time
from pathlib import Path
import torch
torch.set_num_threads(1)
from diffplan.config.planners import get_config
from diffplan.envs.datasets import load_datasets
from diffplan.training import loop
from diffplan.training.learner import Learner
from diffplan.training.defaults import decide
from diffplan.training.run import RunOptions
data, batch, bf16 = json.loads(sys.argv[1])
episodes = load_datasets((data,), None, progress=False)
config, _ = decide(get_config("trajectory-diffuser"), episodes)
training = dataclasses.replace(config.training, batch_size=batch, bf16=bf16)
config = dataclasses.replace(config, training=training)
torch.manual_seed(0)
began = time.process_time()
with tempfile.TemporaryDirectory() as folder:
    place = loop._accelerator(RunOptions(Path(folder), 1, device="cpu"))
    learner = Learner(episodes, config, 0, place)
learner.prepare()
print(json.dumps(time.process_time() - began), flush=True)
step = 0
for line in sys.stdin:
    began = time.process_time()
    for _ in range(int(line)):
        learner.update(step)
        step += 1
    print(json.dumps(time.process_time() - began), flush=True)
"""


@dataclass(frozen=True)
class TrainingRate:
    """Time updates of trajectory-diffuser, on one thread of a CPU, in several working trees."""

    trees: tuple[Path, ...]
    """Folders that hold a `diffplan` package; ratios are to the first."""
    dataset: str
    """What `diffplan train --dataset` takes."""
    batch: tuple[int, ...] = (64, 256)
    """Windows of an update."""
    bf16: bool = False
    """With --training.bf16."""
    rounds: int = 15
    """Turns of every tree."""
    updates: int = 20
    """Of a turn."""

    def run(self) -> list[dict[str, Any]]:
        """Measure and print; one row for each batch size and tree."""
        rows = []
        for batch in self.batch:
            workers = [self._start(tree, batch) for tree in self.trees]
            setup = [_answer(worker) for worker in workers]
            for worker in workers:  # the first updates warm up
                _ask(worker, self.updates)
            times = [[_ask(worker, self.updates) for worker in workers] for _ in range(self.rounds)]
            for worker in workers:
                cast(IO[str], worker.stdin).close()
                worker.wait()
            for tree, own, start in zip(self.trees, zip(*times, strict=True), setup, strict=True):
                ratio = [turn[0] / t for turn, t in zip(times, own, strict=True)]
                ms = 1000 * statistics.median(own) / self.updates
                low, _, high = statistics.quantiles(ratio, n=4)
                rows.append({
                    "tree": str(tree), "batch": batch, "set-up s": round(start, 2),
                    "ms an update": round(ms, 2), "windows/s": round(1000 * batch / ms),
                    "times as fast": round(statistics.median(ratio), 3),
                    "quartiles": [round(low, 3), round(high, 3)],
                    "updates": self.rounds * self.updates,
                })  # fmt: skip
                print(json.dumps(rows[-1]), flush=True)
        return rows

    def _start(self, tree: Path, batch: int) -> subprocess.Popen[str]:
        given = json.dumps([self.dataset, batch, self.bf16])
        # safe: the folder it starts in must not come before that of the tree
        where = {"PYTHONPATH": str(tree.resolve()), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", _WORKER, given],
            env=os.environ | where,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )


def _ask(worker: subprocess.Popen[str], updates: int) -> float:
    """CPU seconds that a worker takes for so many updates."""
    stream = cast(IO[str], worker.stdin)
    stream.write(f"{updates}\n")
    stream.flush()
    return _answer(worker)


def _answer(worker: subprocess.Popen[str]) -> float:
    line = cast(IO[str], worker.stdout).readline()
    if not line:
        raise RuntimeError("a worker has ended; what it said is above")
    return float(json.loads(line))


if __name__ == "__main__":
    sys.exit(main(TrainingRate, __spec__.name, sys.argv[1:]))
