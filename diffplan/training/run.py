"""One run of training: its options, and how a resumed one continues exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from diffplan.config.config import Config, config_to_dict
from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_into, load_tensors
from diffplan.model.run_folder import Header, list_checkpoints, read_header
from diffplan.training.average import WeightAverage


@dataclass(frozen=True)
class RunOptions:
    """How a run is carried out; nothing here changes what is learned but `steps` and `seed`.

    steps: total number of joint updates, also after a resume. device: "auto", "cpu" or "cuda".
    checkpoint_every: updates between checkpoints; 0: only the last.
    """

    out: Path
    steps: int
    seed: int = 0
    resume: bool = False
    device: str = "auto"
    checkpoint_every: int = 2000
    progress: bool = True


# --- Resuming ------------------------------------------------------------------------------------


def find_previous(config: Config, options: RunOptions) -> tuple[Path, Header] | None:
    """The checkpoint that `train` would resume, None for a run that starts at the beginning.

    Raises DiffplanError if the folder holds a run and `resume` is off, or one of another seed, of
    other settings or with more updates. Looks at no data: can be asked before they are loaded.
    """
    run = options.out
    found = list_checkpoints(run)
    if not options.resume:
        if found:
            raise DiffplanError(
                f"{run} already holds {found[-1].name}; add --resume to continue it or choose "
                "another --out"
            )
        return None
    if not found:
        return None
    header = read_header(found[-1])
    if header.seed != options.seed:
        raise DiffplanError(
            f"{run} was started with --seed {header.seed}, got {options.seed}; resume with the same"
        )
    if difference := _first_difference(_learned(header.config), _learned(config)):
        key, was, now = difference
        raise DiffplanError(
            f"{run} was started with {key} = {was!r}, got {now!r}; resume with the same settings"
        )
    if header.step > options.steps:
        raise DiffplanError(
            f"{run} has already {header.step} updates, more than --steps {options.steps}"
        )
    return found[-1], header


def _learned(config: Config) -> dict[str, Any]:
    """The settings that decide what is learned: how to plan may change, which parts exist not."""
    settings = config_to_dict(config)
    return {**settings, "name": None, "planning": {"start": config.planning.start}}


def _first_difference(
    a: dict[str, Any], b: dict[str, Any], prefix: str = ""
) -> tuple[str, Any, Any] | None:
    for key in sorted(a.keys() | b.keys()):
        left, right = a.get(key), b.get(key)
        if isinstance(left, dict) and isinstance(right, dict):
            if inner := _first_difference(left, right, f"{prefix}{key}."):
                return inner
        elif left != right:
            return prefix + key, left, right
    return None


def training_state(
    model: nn.Module, optimiser: Any, generators: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Live weights, optimiser moments and random states as one flat dictionary of tensors."""
    tensors = {f"model/{k}": v for k, v in model.state_dict().items()}
    for index, entries in optimiser.state_dict()["state"].items():
        for key, value in entries.items():
            tensors[f"optimiser/{index}/{key}"] = torch.as_tensor(value)
    tensors |= generators
    return tensors


def gather_generators(accelerator: Accelerator, generator: torch.Generator) -> dict[str, Tensor]:
    """Random states of all processes.

    "generator/<rank>" [2, n]: its own and the CPU's, which dropout draws from there.
    "cuda/<rank>" [n]: its GPU's, for dropout on a GPU.
    """
    own = {"generator": torch.stack([generator.get_state(), torch.get_rng_state()])}
    if accelerator.device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(accelerator.device)
    if accelerator.num_processes == 1:
        return {f"{name}/0": state for name, state in own.items()}
    every: dict[str, Tensor] = {}
    for name, state in own.items():
        # NCCL gathers neither CPU nor uint8 tensors everywhere
        rows = accelerator.gather(state.to(accelerator.device, torch.int32)[None])
        every |= {f"{name}/{rank}": row.to("cpu", torch.uint8) for rank, row in enumerate(rows)}
    return every


def restore(
    path: Path,
    model: nn.Module,
    average: WeightAverage,
    optimiser: torch.optim.Optimizer,
    generator: torch.Generator,
    accelerator: Accelerator,
) -> None:
    """Put back what `training_state` and the averaged model saved."""
    tensors = load_tensors(path, "training.safetensors")

    def under(prefix: str) -> Iterator[tuple[str, Tensor]]:
        return ((k[len(prefix) :], v) for k, v in tensors.items() if k.startswith(prefix))

    load_into(model, dict(under("model/")), path)
    load_into(average.module, load_tensors(path, "model.safetensors"), path)
    average.count = read_header(path).step
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in under("optimiser/"):
        index, key = name.split("/")
        state.setdefault(int(index), {})[key] = value
    optimiser.load_state_dict(
        {"state": state, "param_groups": optimiser.state_dict()["param_groups"]}
    )
    states = dict(under("generator/"))
    if len(states) != accelerator.num_processes:
        raise DiffplanError(
            f"{path} was written by {len(states)} processes, this run has "
            f"{accelerator.num_processes}; resume with the same number of processes"
        )
    own, global_state = (row.clone() for row in states[str(accelerator.process_index)])
    generator.set_state(own)
    torch.set_rng_state(global_state)
    on_gpu = tensors.get(f"cuda/{accelerator.process_index}")  # None: that run was on the CPU
    if on_gpu is not None and accelerator.device.type == "cuda":
        torch.cuda.set_rng_state(on_gpu, accelerator.device)
