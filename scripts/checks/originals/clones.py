"""The inputs that ours and theirs share, and how a clone's modules are imported."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
from collections.abc import Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from itertools import cycle
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn

from diffplan.diffusion.process import Process

SHAPE = (2, 4, 3)  # rows, plan states, columns
T = 40
GRID = (36, 30, 24, 18, 12, 6, 0)
MANY = (*range(33, 10, -1), 0)  # more than 20 steps, where EVODiff takes another branch


def waves(frequency: float) -> Tensor:
    """Numbers in [-1, 1] that are the same everywhere."""
    return torch.cos(frequency * torch.arange(math.prod(SHAPE), dtype=torch.float64)).view(SHAPE)


START, PROPOSAL = 1.3 * waves(1.7), 0.4 * waves(2.3)
NOISE = [waves(0.9), waves(3.1), waves(4.3)]


def answer(x: Tensor, time: float) -> Tensor:
    """What the network of all of them says x0 is; time from 1 (far) to 0."""
    return 0.45 * torch.tanh(1.5 * x + time)


class Shown:
    """The network of formulas; `last` is the x that it was shown last, without an image's axis."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.last = torch.empty(0)

    def eps(self, x: Tensor, t: int) -> Tensor:
        """Of an image [B, 1, H, D] at level t of a process without a proposal."""
        plan = self.last = x.squeeze(1)
        a, sigma = self.process.a[t], self.process.sigma[t]
        return ((plan - a * answer(plan, t / self.process.T)) / sigma).unsqueeze(1)


class Nothing(nn.Module):
    """Stands for whatever is imported from a package that is not there."""

    device = torch.device("cpu")

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def save_hyperparameters(self, *_: Any, **__: Any) -> None: ...
    def update(self, *_: Any) -> None: ...
    def close(self) -> None: ...
    def stamp(self) -> None: ...


class _Absent(MetaPathFinder, Loader):
    """Finds packages of these names, and whatever is asked for in them."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if not any(name == own or name.startswith(f"{own}.") for own in self.names):
            return None
        return ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = ModuleType(spec.name)
        module.__getattr__ = lambda name: Nothing  # type: ignore[method-assign]
        return module

    def exec_module(self, module: ModuleType) -> None: ...


@contextlib.contextmanager
def imported(folder: Path, *names: str, without: tuple[str, ...] = ()) -> Iterator[Any]:
    """Modules of a clone, which runs on the CPU and draws `NOISE` over and over.

    without: packages that they import and that are not needed.
    """
    if not folder.is_dir():
        raise SystemExit(f"{folder} is missing: clone the repositories of SOURCES there")
    before, absent, drawn = dict(sys.modules), _Absent(without), cycle(NOISE)
    sys.path.insert(0, str(folder))
    sys.meta_path.insert(0, absent)
    plain = torch.Tensor.to

    def to(self: Tensor, *args: Any, **named: Any) -> Tensor:
        return self if args[:1] == ("cuda",) else plain(self, *args, **named)

    def draw(like: Any, *_: Any, **__: Any) -> Tensor:
        shape = like.shape if isinstance(like, Tensor) else like
        return next(drawn).reshape(shape).clone()

    try:
        with (
            mock.patch.multiple(torch.Tensor, to=to, cuda=lambda self, *_: self),
            mock.patch.multiple(torch, randn=draw, randn_like=draw),
            torch.no_grad(),
        ):
            modules = [importlib.import_module(name) for name in names]
            yield modules[0] if len(modules) == 1 else modules
    finally:
        sys.path.remove(str(folder))
        sys.meta_path.remove(absent)
        for name in set(sys.modules) - set(before):
            del sys.modules[name]
        sys.modules.update(before)
