"""Disks that are full, names that cannot be, memory that nobody has."""

from __future__ import annotations

import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path

from diffplan.scripts.checks.torture.machinery import Judge, run
from diffplan.scripts.checks.torture.scene import Scene, cart

_HUGE = "1000000000"


def _full(size: int) -> Callable[[], None]:
    """No file may grow beyond `size` bytes: writes fail as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def disks(judge: Judge, scene: Scene) -> None:
    """Refused before the work, or stopped with what was written before."""
    kind = "disks and names"
    for size in (20_000, 100, 70_000, 200_000)[: 4 if scene.large else 1]:
        out = scene.folder() / "run"
        command, status = run(scene.train(out, 60), out.parent, _full(size))
        judge.case(kind, f"train, files of {size} bytes", command, status, 2, "error: ")
    for size in (20_000, 100)[: 2 if scene.large else 1]:
        target = scene.folder() / "results.json"
        words = scene.evaluate(cart(), target)
        command, status = run(words, target.parent, _full(size))
        judge.case(
            kind, f"evaluate, files of {size} bytes", command, status, 2, "cannot be written"
        )
    # the bar on stderr is a file here, and needs its room
    for size in (20_000, 4_000)[: 2 if scene.large else 1]:
        folder = scene.folder()
        words = ["datasets", "make", "maze2d-umaze", "--env-steps", "2000"]
        command, status = run(words, folder, _full(size))
        judge.case(
            *(kind, f"make, files of {size} bytes", command, status, 2, "error: "),
            leaves=scene.root,
        )
    folder = scene.folder()
    (folder / "file").write_text("")
    places = {
        "a file for a folder": folder / "file" / "run",
        "a file": folder / "file",
        "too long a name": folder / ("x" * 300),
        "too long a path": folder / "/".join(["y" * 200] * 40),
        "where nobody may": Path("/proc/run"),
    }
    for name, place in places.items():
        command, status = run(scene.train(place, 2), scene.folder())
        judge.case(kind, f"train: {name}", command, status, 2, "error: ")
        if not scene.large:
            break
        words = scene.evaluate(cart(), place / "results.json")
        command, status = run(words, scene.folder())
        judge.case(kind, f"evaluate: {name}", command, status, 2, "error: ")

    def no_cache() -> None:
        os.environ["DIFFPLAN_CACHE"] = str(folder / "file")

    command, status = run(["datasets", "show", str(scene.data)], scene.folder(), no_cache)
    judge.case(kind, "the cache is a file", command, status, 2, "error: ")


def sizes(judge: Judge, scene: Scene) -> None:
    """Estimated and refused."""

    def train(*more: str) -> list[str]:
        return scene.train(Path("run"), 2, *more)

    def evaluate(*more: str) -> list[str]:
        return scene.evaluate(cart(), Path("results.json"), *more)

    cases = [
        train("--denoiser.width", "10000000"),
        train("--proposer.width", "10000000"),
        train("--heads.width", "10000000", "--heads.value", "returns"),
        train("--denoiser.levels", "100000000"),
        train("--plan.horizon", _HUGE),
        train("--denoiser.depth", _HUGE),
        train("--training.batch-size", _HUGE),
        train("--planning.candidates", _HUGE),
        train("--steps", "1000000000000"),
        train("--threads", _HUGE),
        evaluate("--candidates", _HUGE),
        evaluate("--denoising-steps", _HUGE),
        evaluate("--episodes", _HUGE, "--num-envs", _HUGE),
        evaluate("--workers", _HUGE),
        evaluate("--threads", _HUGE),
        evaluate("--seed", "9" * 30),
        evaluate("--time-limit", "1000000000000"),
        ["datasets", "make", "maze2d-umaze", "--env-steps", "1000000000000"],
        ["datasets", "make", "maze2d-umaze", "--env-steps", "2000000000"],
        ["datasets", "make", "pointmaze-umaze", "--env-steps", "2000000000"],
        ["benchmark", "trajectory-diffuser", "--batch", _HUGE],
        ["benchmark", "trajectory-diffuser", "--candidates", _HUGE],
        ["study", str(scene.data), "--seeds", _HUGE, "--out", "study"],
    ]
    for words in cases if scene.large else cases[::5]:
        command, status = run(words, scene.folder())
        name = f"{words[0]} {' '.join(words[-2:])}"
        judge.case("sizes", name, command, status, 2, "error: ")

    def little() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))

    # estimated at more than that, and at less, where the attempt fails
    for width in ("20000", "8000")[: 2 if scene.large else 1]:
        words = scene.train(Path("run"), 2, "--proposer.width", width)
        command, status = run(words, scene.folder(), little)
        judge.case("sizes", f"width {width} in 3 GB", command, status, 2, "memory")
