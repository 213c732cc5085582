"""What the cases start from: data of a healthy environment, and a run trained on them."""

from __future__ import annotations

import importlib
import itertools
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from diffplan.errors import DiffplanError
from diffplan.scripts.checks.torture.bad_environments import env_id
from diffplan.scripts.checks.torture.machinery import run

_MODULE = "diffplan.scripts.checks.torture.bad_environments"
# imported once, before processes are forked
_HEAVY = (
    "diffplan.training.loop",
    "diffplan.scripts.train",
    "diffplan.scripts.evaluate.evaluation",
    "diffplan.envs.makers.maze2d_data",
    "tensorboard.backend.event_processing.event_accumulator",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
SMALL = [
    *("--proposer.width", "16", "--denoiser.width", "16", "--heads.width", "16"),
    *("--training.batch-size", "16", "--plan.horizon", "4", "--planning.replan-every", "4"),
    *("--planning.candidates", "1"),
]


def cart(fault: str = "") -> str:
    """What --env calls the cart with a fault."""
    return f"{_MODULE}:{env_id(fault)}"


@dataclass(eq=False)
class Scene:
    """A folder of its own for every case."""

    root: Path
    large: bool
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def __post_init__(self) -> None:
        for name in _HEAVY:
            importlib.import_module(name)

    def folder(self) -> Path:
        """A new folder."""
        made = self.root / "cases" / str(next(self._numbers))
        made.mkdir(parents=True)
        return made

    @cached_property
    def data(self) -> Path:
        """An .npz file of random pushes."""
        rng, n = np.random.default_rng(0), 400
        path = self.root / "cart.npz"
        ends = np.arange(1, n + 1) % 20 == 0
        np.savez(
            path,
            observations=np.cumsum(rng.normal(size=(n, 2)), 0) % 3,
            actions=rng.uniform(-1, 1, (n, 1)),
            rewards=rng.normal(size=n),
            terminations=ends & False,
            truncations=ends,
        )
        return path

    def train(self, out: Path, steps: int, *more: str) -> list[str]:
        """The words that train into a folder."""
        words = ["train", "trajectory-diffuser", "--dataset", str(self.data), "--out", str(out)]
        return [*words, "--steps", str(steps), "--preset", "none", *SMALL, *more]

    @cached_property
    def trained(self) -> Path:
        """A run of two updates."""
        out = self.root / "trained"
        command, status = run(self.train(out, 2, "--env", cart()), self.folder())
        if status:
            raise DiffplanError(f"the run to start from could not be trained: {command.err}")
        return out

    def evaluate(self, env: str, target: Path, *more: str) -> list[str]:
        """The words that evaluate the trained run."""
        words = ["evaluate", str(self.trained), "--env", env, "--json", str(target)]
        words += ["--episodes", "6", "--num-envs", "6", "--no-pictures", "--engine", "eager"]
        return [*words, "--no-baselines", *more]
