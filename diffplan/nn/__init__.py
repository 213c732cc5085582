"""Networks: what the denoiser and the proposer are made of.

Every denoiser network is a `Network`, is built with `(horizon, dim, features, width, ...,
use_proposal)`, starts with a zero output and never lets one row of the batch see another.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffplan.lazy import attributes, imported

if TYPE_CHECKING:
    from diffplan.nn.dit import DiT
    from diffplan.nn.network import Network
    from diffplan.nn.residual_mlp import ResidualMLP
    from diffplan.nn.temporal_unet import TemporalUNet
    from diffplan.nn.transformer import Cache, CausalTransformer
else:
    __getattr__, __dir__ = attributes(
        __name__,
        {
            "diffplan.nn.dit": "DiT",
            "diffplan.nn.network": "Network",
            "diffplan.nn.residual_mlp": "ResidualMLP",
            "diffplan.nn.temporal_unet": "TemporalUNet",
            "diffplan.nn.transformer": "Cache CausalTransformer",
        },
    )


@dataclass(frozen=True)
class Entry:
    """One denoiser network: what is known of it without importing it."""

    home: str
    """Where it is, "module:class"."""
    takes_depth: bool = True
    """Whether its depth is a setting."""
    features_of_width: bool = False
    """Whether it has as many time and condition features as it is wide."""

    def __call__(self, *args: Any, **sizes: Any) -> "Network":
        """Build one; arguments are those of the class."""
        made: Network = imported(self.home)(*args, **sizes)
        return made


NETWORKS = {
    "mlp": Entry("diffplan.nn.residual_mlp:ResidualMLP"),
    # as published: four resolutions, features as wide as the finest
    "unet": Entry(
        "diffplan.nn.temporal_unet:TemporalUNet", takes_depth=False, features_of_width=True
    ),
    "dit": Entry("diffplan.nn.dit:DiT"),
}
"""Denoiser networks by the name used in configurations."""

__all__ = [
    "NETWORKS",
    "Cache",
    "CausalTransformer",
    "DiT",
    "Network",
    "ResidualMLP",
    "TemporalUNet",
]
