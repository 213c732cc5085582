"""What resuming needs beside the averaged model: live weights, moments, random states."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from diffplan.errors import DiffplanError
from diffplan.model.checkpoint import load_into, load_tensors
from diffplan.model.run_folder import read_header
from diffplan.training.average import WeightAverage

_ELSEWHERE = 7_368_787  # between the seeds of runs that go on elsewhere
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # of Adam


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


def not_finite(tensors: dict[str, Tensor]) -> str | None:
    """The name of the first tensor that holds NaN or infinity."""
    floats = ((name, value) for name, value in tensors.items() if value.is_floating_point())
    return next((name for name, value in floats if not value.isfinite().all()), None)


def gather_generators(accelerator: Accelerator, generator: torch.Generator) -> dict[str, Tensor]:
    """Random states of all processes.

    "generator/<rank>" [2, n]: its own and the CPU's, which dropout draws from there. "cuda/<rank>"
    [n]: its GPU's, for dropout on a GPU. "drawing/<rank>" [n]: its own where that is a GPU's; the
    CPU's then stands twice under the first name.
    """
    here = torch.get_rng_state()
    on_gpu = generator.device.type == "cuda"
    own = {"generator": torch.stack([here if on_gpu else generator.get_state(), here])}
    if on_gpu:
        own["drawing"] = generator.get_state()
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
    optimiser.load_state_dict(
        {
            "state": _moments(path, dict(under("optimiser/")), optimiser),
            "param_groups": optimiser.state_dict()["param_groups"],
        }
    )
    states = dict(under("generator/"))
    if len(states) != accelerator.num_processes:
        raise DiffplanError(
            f"{path} was written by {len(states)} processes, this run has "
            f"{accelerator.num_processes}; resume with the same number of processes"
        )
    try:
        rank = accelerator.process_index
        own, global_state = (row.clone() for row in states[str(rank)])
        if generator.device.type == "cpu":
            generator.set_state(own)
        elif (drawing := tensors.get(f"drawing/{rank}")) is not None:
            generator.set_state(drawing)
        else:  # it drew on the host so far: from here on other numbers, but not those of the start
            generator.manual_seed(generator.initial_seed() + _ELSEWHERE * average.count)
        torch.set_rng_state(global_state)
        on_gpu = tensors.get(f"cuda/{rank}")  # None: that run was on the CPU
        if on_gpu is not None and accelerator.device.type == "cuda":
            torch.cuda.set_rng_state(on_gpu, accelerator.device)
    except (RuntimeError, TypeError, ValueError, KeyError) as error:
        raise DiffplanError(
            f"{path}: the random states of training.safetensors are damaged ({error}); train anew"
        ) from None


def _moments(
    path: Path, tensors: dict[str, Tensor], optimiser: torch.optim.Optimizer
) -> dict[int, dict[str, Tensor]]:
    """The optimiser's state by parameter. DiffplanError where it is not of these parameters."""
    parameters = [p for group in optimiser.param_groups for p in group["params"]]
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        index, _, key = name.partition("/")
        known = index.isdigit() and int(index) < len(parameters) and key in _MOMENTS
        if not known:
            raise DiffplanError(f"{path} has the unknown optimiser state {name!r}; train anew")
        shape = parameters[int(index)].shape if key != "step" else torch.Size()
        of_floats = value.is_floating_point() and bool(value.isfinite().all())
        if value.shape != shape or not of_floats:
            raise DiffplanError(
                f"{path}: the optimiser state {name!r} holds {value.dtype} of shape "
                f"{list(value.shape)}, expected finite floats of shape {list(shape)}; train anew"
            )
        state.setdefault(int(index), {})[key] = value
    for number, found in state.items():
        if len(found) != len(_MOMENTS):
            raise DiffplanError(f"{path} lacks optimiser states of parameter {number}; train anew")
    return state
