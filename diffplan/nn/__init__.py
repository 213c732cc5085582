"""Networks: what the denoiser and the proposer are made of.

Every denoiser network is a `Network`, is built with `(horizon, dim, features, ..., use_proposal)`,
starts with a zero output and never lets one row of the batch see another.
"""

from diffplan.nn.dit import DiT
from diffplan.nn.network import Network
from diffplan.nn.residual_mlp import ResidualMLP
from diffplan.nn.temporal_unet import TemporalUNet
from diffplan.nn.transformer import Cache, CausalTransformer

NETWORKS: dict[str, type[Network]] = {"mlp": ResidualMLP, "unet": TemporalUNet, "dit": DiT}
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
