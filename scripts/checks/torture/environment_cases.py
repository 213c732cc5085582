"""One of six environments misbehaves; one of two workers dies."""

from __future__ import annotations

import json
import signal
from pathlib import Path

from diffplan.scripts.checks.torture.bad_environments import FAULTS, OTHERS
from diffplan.scripts.checks.torture.machinery import Judge, run, start, until
from diffplan.scripts.checks.torture.scene import Scene, cart

_FEW = (
    *("raises", "exits", "hangs", "returns None", "NaN observation", "observation too long"),
    *("NaN reward", "success array", "reset"),
)
_NAMED = "episode 3 (seed 1003) failed at "


def environments(judge: Judge, scene: Scene) -> None:
    """The other episodes are kept, or all is refused before it begins."""
    # what dies takes its process with it: see `workers`
    every = [fault for fault in (*FAULTS, *OTHERS[1:3]) if fault != "dies"]
    for fault in every if scene.large else _FEW:
        target = scene.folder() / "results.json"
        words = scene.evaluate(cart(fault), target, "--step-timeout", "0.5")
        command, status = run(words, target.parent)

        def kept(target: Path = target) -> str:
            if not target.is_file():
                return "no results"
            found = json.loads(target.read_text())
            lost = found["policies"]["planner"].get("failed", [])
            numbers = found["episodes"], [failure["seed"] for failure in lost]
            return "" if numbers == (5, [1003]) else f"kept {numbers}"

        judge.case("environments", fault, command, status, 3, _NAMED, kept=kept)
    refused = {
        "init": "no licence",
        "endless": "give --time-limit",
        "Discrete": "continuous",
        "Wide": "5",
        "Integer": "its space int64",
    }
    few = ("init", "endless", "Integer")
    for fault, text in refused.items():
        if not scene.large and fault not in few:
            continue
        target = scene.folder() / "results.json"
        command, status = run(scene.evaluate(cart(fault), target), target.parent)
        judge.case("environments", fault, command, status, 2, text)
        if fault == "Integer" or (scene.large and fault in ("Discrete", "Wide")):
            folder = scene.folder()
            words = scene.train(folder / "run", 2, "--env", cart(fault))
            command, status = run(words, folder)
            judge.case("environments", f"train: {fault}", command, status, 2, text)
    target = scene.folder() / "results.json"
    command, status = run(scene.evaluate(cart(OTHERS[-1]), target), target.parent)
    judge.case("environments", "close", command, status, 0, "could not be closed: RuntimeError")


def workers(judge: Judge, scene: Scene) -> None:
    """A group of processes ends together, with a line."""
    two = ("--workers", "2")
    if scene.large:
        target = scene.folder() / "results.json"
        command, status = run(scene.evaluate(cart("dies"), target, *two), target.parent)
        judge.case("workers", "one dies", command, status, 2, "was killed or died")
    for signum in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)[: 3 if scene.large else 1]:
        target = scene.folder() / "results.json"
        # the others hang, so that they are at work when the signal comes
        command = start(scene.evaluate(cart("hangs"), target, *two), target.parent)
        until(lambda c=command: "1 of 2 processes" in c.err, command)  # type: ignore[misc]
        command.send(signum)
        killed = signum == signal.SIGKILL
        says = () if killed else ("stopped by",)
        expected = -signum if killed else 128 + signum
        judge.case("workers", signum.name, command, command.wait(), expected, *says)
