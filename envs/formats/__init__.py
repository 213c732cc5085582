"""Datasets that others wrote: read, fetched, cached, stored."""

from typing import TYPE_CHECKING

from diffplan.lazy import attributes

if TYPE_CHECKING:
    from diffplan.envs.formats.d4rl import load_d4rl
    from diffplan.envs.formats.d4rl_catalogue import CATALOGUE
    from diffplan.envs.formats.minari import load_minari
    from diffplan.envs.formats.npz import load_npz
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.envs.formats.d4rl": "load_d4rl",
            "diffplan.envs.formats.d4rl_catalogue": "CATALOGUE",
            "diffplan.envs.formats.minari": "load_minari",
            "diffplan.envs.formats.npz": "load_npz",
        },
    )

__all__ = [
    "CATALOGUE",
    "load_d4rl",
    "load_minari",
    "load_npz",
]
