"""Networks: what the denoiser and the proposer are made of.

Every denoiser network is a `Network`, is built with `(horizon, dim, features, ..., use_proposal)`,
starts with a zero output and never lets one row of the batch see another.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from diffplan.lazy import Table, attributes

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

NETWORKS: "Mapping[str, type[Network]]" = Table(
    mlp="diffplan.nn.residual_mlp:ResidualMLP",
    unet="diffplan.nn.temporal_unet:TemporalUNet",
    dit="diffplan.nn.dit:DiT",
)
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
