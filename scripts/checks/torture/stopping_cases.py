"""Signals and kills at any moment: what was written is whole, and a resumed run is exact."""

from __future__ import annotations

import functools
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

from diffplan.model.run_folder import list_checkpoints
from diffplan.scripts.checks.torture.machinery import Command, Judge, hidden, run, start, until
from diffplan.scripts.checks.torture.scene import Scene, cart

_STEPS = 60
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _weights(run: Path) -> bytes:
    found = list_checkpoints(run)
    return (found[-1] / "model.safetensors").read_bytes() if found else b""


@functools.cache
def _whole(scene: Scene) -> bytes:
    """The weights of a run that was never stopped."""
    out = scene.folder() / "run"
    run(scene.train(out, _STEPS, "--checkpoint-every", "10"), out.parent)
    return _weights(out)


def _begin(scene: Scene, updates: int) -> tuple[Path, Command]:
    """A run that is past its first lines of the log."""
    out = scene.folder() / "run"
    command = start(scene.train(out, _STEPS, "--checkpoint-every", "10"), out.parent)
    until(lambda: len(list_checkpoints(out)) * 10 >= updates, command)
    return out, command


def signals(judge: Judge, scene: Scene) -> None:
    """Training keeps its update, the other commands leave nothing half-done."""
    whole = _whole(scene)
    for signum in _SIGNALS if scene.large else _SIGNALS[1:2]:
        out, command = _begin(scene, 10)
        command.send(signum)
        status = command.wait()
        says = ("stopped by", "checkpoint-", "--resume")
        judge.case("signals", f"train {signum.name}", command, status, 128 + signum, *says)
        again, status = run(scene.train(out, _STEPS, "--resume"), scene.folder())
        judge.case(
            *("signals", f"train {signum.name}, resumed", again, status, 0),
            kept=lambda out=out: "" if _weights(out) == whole else "other weights",  # type: ignore[misc]
            leaves=out,
        )
    cases: dict[str, list[str]] = {
        "evaluate": scene.evaluate(cart("hangs"), scene.folder() / "results.json"),
        "datasets make": ["datasets", "make", "maze2d-umaze", "--env-steps", "2000000"],
    }
    shown = {"evaluate": "planner", "datasets make": "step/s"}
    for name, words in cases.items():
        for signum in _SIGNALS if scene.large else _SIGNALS[1:2]:
            command = start(words, scene.folder())
            until(lambda c=command, n=name: shown[n] in c.err, command)  # type: ignore[misc]
            command.send(signum)
            judge.case(
                *("signals", f"{name} {signum.name}", command, command.wait(), 128 + signum),
                "stopped by",
                leaves=scene.root,
            )


def kills(judge: Judge, scene: Scene) -> None:
    """A killed run goes on from its last checkpoint and ends with the very same weights."""
    whole, rng = _whole(scene), random.Random(0)
    for number in range(100 if scene.large else 2):
        out, command = _begin(scene, rng.randrange(0, _STEPS, 10))
        # anywhere in the ten updates until the next checkpoint, or in its writing
        until(_after(rng.random()), command)
        command.send(signal.SIGKILL)
        command.wait()
        again, status = run(scene.train(out, _STEPS, "--resume"), scene.folder())
        judge.case(
            *("kills", f"train {number}", again, status, 0),
            kept=lambda out=out: _same(out, whole),  # type: ignore[misc]
            leaves=out,
        )
    _conversion(judge, scene)


def _same(out: Path, whole: bytes) -> str:
    """Weights as of a run that was never killed, and every step of the log once."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    # the settings of a run are events in a folder of their own
    (events,) = {path.parent for path in out.glob("*/events.out.tfevents*")}
    found = EventAccumulator(str(events)).Reload()
    steps = [event.step for event in found.Scalars("samples_per_second")]
    if steps != sorted(set(steps)):
        return f"TensorBoard shows steps {steps}"
    return "" if _weights(out) == whole else "other weights"


def _after(share: float) -> Callable[[], bool]:
    end = time.monotonic() + 0.1 * share
    return lambda: time.monotonic() > end


def _conversion(judge: Judge, scene: Scene) -> None:
    """What a killed conversion left is gone after the next."""
    from diffplan.data.folders import building_folder

    def killed() -> None:
        with building_folder(scene.root / "diffplan_cache" / "episodes", "cart.npz-0"):
            os.kill(os.getpid(), signal.SIGKILL)

    run([], scene.folder(), killed)
    folder = scene.folder()

    def next_one() -> None:
        with building_folder(scene.root / "diffplan_cache" / "episodes", "cart.npz-0"):
            pass

    command, status = run(["datasets", "show", str(scene.data)], folder, next_one)
    judge.case(
        *("kills", "conversion", command, status, 0),
        kept=lambda: str(hidden(scene.root / "diffplan_cache") or ""),
    )
