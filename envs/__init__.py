"""Datasets, environments, reference scores and rollouts: installed as diffplan.envs."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.envs.datasets import (
        fetch_dataset,
        list_datasets,
        load_dataset,
        load_datasets,
    )
    from diffplan.envs.formats.arrays import load_arrays
    from diffplan.envs.simulators.environments import make_env
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.envs.formats.arrays": "load_arrays",
            "diffplan.envs.datasets": "fetch_dataset list_datasets load_dataset load_datasets",
            "diffplan.envs.simulators.environments": "make_env",
        },
    )

__all__ = [
    "fetch_dataset",
    "list_datasets",
    "load_arrays",
    "load_dataset",
    "load_datasets",
    "make_env",
]
