"""Checkpoints: folders of JSON and safetensors, written whole or not at all, never unpickled.

RUN/checkpoint-00001000/
    config.json           configuration, sizes, dataset, progress
    model.safetensors     averaged weights and scales: all that planning needs
    training.safetensors  live weights, optimiser and random states: what resuming needs
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from diffplan.errors import DiffplanError
from diffplan.model.planner_model import PlannerModel
from diffplan.model.run_folder import (
    Header,
    checkpoint_path,
    find_checkpoint,
    header_to_dict,
    list_checkpoints,
    read_header,
)


def save_checkpoint(
    run: Path, header: Header, model: dict[str, Tensor], training: dict[str, Tensor]
) -> Path:
    """Write a checkpoint atomically; older ones lose their resuming state, which is large.

    Raises DiffplanError where it cannot be written: a full disk, a folder that may not be written.
    """
    target = checkpoint_path(run, header.step)
    try:
        _write(run, target, header, model, training)
    except (OSError, SafetensorError) as error:
        kept = [old for old in list_checkpoints(run) if old != target]
        last = f"{kept[-1]} is kept; " if kept else ""
        raise DiffplanError(
            f"{target} cannot be written: {error}; {last}mend that and go on with --resume"
        ) from None
    for old in list_checkpoints(run):
        if old != target:
            (old / "training.safetensors").unlink(missing_ok=True)
    return target


def _write(
    run: Path,
    target: Path,
    header: Header,
    model: dict[str, Tensor],
    training: dict[str, Tensor],
) -> None:
    run.mkdir(parents=True, exist_ok=True)
    for killed in run.glob(".writing-*"):
        shutil.rmtree(killed, ignore_errors=True)
    temporary = run / f".writing-{uuid.uuid4().hex}"
    temporary.mkdir()
    try:
        save_file(_plain(training), temporary / "training.safetensors")
        write_model(temporary, header, model)
        if target.exists():
            shutil.rmtree(target)
        os.replace(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_model(folder: Path, header: Header, model: dict[str, Tensor]) -> None:
    """Write all of a checkpoint that planning needs into a folder."""
    save_file(_plain(model), folder / "model.safetensors")
    text = folder / "config.json"
    text.write_text(json.dumps(header_to_dict(header), indent=2) + "\n")
    for file in folder.glob("*.safetensors"):  # written for the owner alone
        shutil.copymode(text, file)


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # safetensors refuses tensors that share memory or are not contiguous
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def load_tensors(path: Path, name: str, device: str = "cpu") -> dict[str, Tensor]:
    """Tensors of one file of a checkpoint. DiffplanError if missing or truncated."""
    file = path / name
    if not file.is_file():
        raise DiffplanError(
            f"{path} has no {name}"
            + (
                "; only the last checkpoint of a run can be resumed"
                if name.startswith("training")
                else "; the checkpoint folder is incomplete"
            )
        )
    try:
        return load_file(file, device=device)
    except SafetensorError as error:
        raise DiffplanError(f"{file} is truncated or damaged: {error}") from None


def load_into(module: torch.nn.Module, tensors: dict[str, Tensor], where: Path) -> None:
    """Copy tensors into a module. DiffplanError names the first missing, extra or odd one."""
    own = module.state_dict()
    for name in sorted(own.keys() ^ tensors.keys()):
        what = "lacks" if name in own else "has the unknown tensor"
        raise DiffplanError(f"{where} {what} {name!r}: it does not fit its own config.json")
    for name, value in tensors.items():
        if own[name].shape != value.shape:
            raise DiffplanError(
                f"{where}: {name!r} has shape {list(value.shape)}, expected "
                f"{list(own[name].shape)} by its config.json"
            )
        if own[name].dtype != value.dtype:
            raise DiffplanError(
                f"{where}: {name!r} holds {value.dtype}, expected {own[name].dtype}"
            )
        if value.is_floating_point() and not value.isfinite().all():
            raise DiffplanError(
                f"{where}: {name!r} holds NaN or infinity: its training had diverged; use an "
                "earlier checkpoint"
            )
    module.load_state_dict(tensors)


def load_model(
    run: str | Path, device: str | torch.device = "cpu"
) -> tuple[PlannerModel, Header, Path]:
    """The averaged model of a run's last checkpoint (or of a checkpoint folder), for planning."""
    path = find_checkpoint(run)
    header = read_header(path)
    model = PlannerModel(header.spec, header.config)
    load_into(model, load_tensors(path, "model.safetensors"), path)
    model.to(device).eval().requires_grad_(False)
    return model, header, path
