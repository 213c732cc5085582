"""Stores and runs that somebody changed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from diffplan.scripts.checks.bad_cases import CANARY, Canary, Case, command, good_arrays

_TINY = ("--device=cpu", "--training.batch-size=8", "--proposer.width=16", "--denoiser.width=16")
_VALUES: tuple[Any, ...] = (7, "text", [], {"x": 1})


def _store(folder: Path) -> Iterator[Case]:
    """Stores of our own that somebody changed."""
    from diffplan.envs.formats.npz import load_npz

    np.savez(folder / "good.npz", **good_arrays())
    store = folder / "work" / "store"

    def fresh() -> Path:
        shutil.rmtree(store, ignore_errors=True)
        load_npz(folder / "good.npz", progress=False).save(store)
        return store

    show = command("datasets", "show", store)
    for file in sorted(path.name for path in fresh().glob("*.npy")):
        array = np.load(fresh() / file)
        for name, changed in {
            "shorter": array[:-1],
            "complex": array.astype(complex),
            "objects": np.full(array.shape, Canary(folder / CANARY), object),
            "reversed": array[::-1] if file.endswith("starts.npy") else np.stack([array] * 2),
        }.items():
            np.save(fresh() / file, changed, allow_pickle=True)
            yield Case(f"{file} {name}", show)
        (fresh() / file).unlink()
        yield Case(f"{file} missing", show)
        (fresh() / file).write_bytes(b"")
        yield Case(f"{file} empty", show)
    text = (fresh() / "episodes.json").read_text()
    header = json.loads(text)
    info = [("info", key) for key in header["info"] if key != "env_id"]
    for keys in [("layout",), ("info",), ("layout", "state_dim"), *info]:
        for value in _VALUES:
            changed = json.loads(text)
            inner = changed if len(keys) == 1 else changed[keys[0]]
            if isinstance(value, type(inner[keys[-1]])):
                continue
            inner[keys[-1]] = value
            (fresh() / "episodes.json").write_text(json.dumps(changed))
            yield Case(f"episodes.json: {keys[-1]} = {value}", show)
    deep = "[" * 99_999
    for name, damaged in {"cut": text[:-9], "a list": "[]", "deep": deep, "empty": ""}.items():
        (fresh() / "episodes.json").write_text(damaged)
        yield Case(f"episodes.json {name}", show)
    for out in (fresh(), fresh() / "run"):
        words = ("train", "trajectory-diffuser", "--dataset", store, "--out", out, *_TINY)
        yield Case(f"--out {out.name} in a dataset", command(*words))
    shutil.rmtree(store)


def _checkpoint(folder: Path) -> Iterator[Case]:
    """Checkpoints that somebody changed."""
    import torch
    from safetensors.torch import load_file, save_file

    from diffplan.scripts.cli import main

    np.savez(folder / "good.npz", **good_arrays())
    run, kept = folder / "work" / "run", folder / "kept"
    train = ["train", "trajectory-diffuser", "--dataset", str(folder / "good.npz"), "--steps=2"]
    train += ["--plan.horizon=4", "--plan.stride=1", "--planning.replan-every=2", *_TINY]
    if main([*train, "--out", str(kept)]):
        raise RuntimeError("the run to be changed cannot be trained")
    resume = command(*train, "--steps=3", "--resume", "--out", run)
    evaluate = command("evaluate", run, "--env", "Pendulum-v1", "--episodes=1", "--no-baselines")

    def fresh() -> Path:
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(kept, run)
        return next(run.glob("checkpoint-*"))

    text = (fresh() / "config.json").read_text()
    header = json.loads(text)
    inner_keys = [(a, b) for a in ("spec", "layout", "info", "config") for b in header[a]]
    free = ("details", "env_kwargs", "name", "version", "command", "id", "source")
    for keys in [*((key,) for key in header), *inner_keys]:
        for value in ({"x": 1}, "text", -7):
            may_be = keys[-1] in ("fingerprint", "env_id", "seed") and value != {"x": 1}
            if keys[-1] in free or may_be:
                continue
            changed = json.loads(text)
            inner = changed[keys[0]] if len(keys) > 1 else changed
            inner[keys[-1]] = value
            (fresh() / "config.json").write_text(json.dumps(changed))
            yield Case(f"config.json: {'.'.join(keys)} = {value}", evaluate)
    for name, damaged in {"cut": text[:-9], "a list": "[]", "deep": "[" * 99_999}.items():
        (fresh() / "config.json").write_text(damaged)
        yield Case(f"config.json {name}", evaluate)
    for file, do in (("model.safetensors", evaluate), ("training.safetensors", resume)):
        whole = load_file(fresh() / file)
        names = [n for n in whole if "/" not in n or n.startswith(("optimiser", "generator"))]
        for name in names[:: max(1, len(names) // 12)]:
            tensor = whole[name]
            for what, odd in {
                "left out": None,
                "wider": torch.cat([tensor.reshape(-1)] * 2),
                "of text": torch.full(tensor.shape, 7, dtype=torch.int16),
            }.items():
                tensors = {k: v for k, v in whole.items() if k != name}
                if odd is not None:
                    tensors[name] = odd
                save_file(tensors, fresh() / file)
                yield Case(f"{file}: {name} {what}", do)
        for size in (0, 99, -99):
            path = fresh() / file
            path.write_bytes(path.read_bytes()[:size])
            yield Case(f"{file} cut at {size}", do)
    shutil.rmtree(run)
    shutil.rmtree(kept)


FOLDERS: dict[str, Callable[[Path], Iterator[Case]]] = {
    "stores": _store,
    "checkpoints": _checkpoint,
}
"""As `bad_cases.FILES`."""
