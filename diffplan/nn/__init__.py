"""Networks: what the denoiser and the proposer are made of.

Every denoiser network has the signature `net(x [B, H, D], proposal [B, H, D] or None,
features [B, F]) -> [B, H, D]`, is built with `(horizon, dim, features, ..., use_proposal)`, starts
with a zero output and never lets one row of the batch see another.
"""

from torch import nn

from diffplan.nn.dit import DiT
from diffplan.nn.residual_mlp import ResidualMLP
from diffplan.nn.temporal_unet import TemporalUNet
from diffplan.nn.transformer import Cache, CausalTransformer

NETWORKS: dict[str, type[nn.Module]] = {"mlp": ResidualMLP, "unet": TemporalUNet, "dit": DiT}
"""Denoiser networks by the name used in configurations."""

__all__ = ["NETWORKS", "Cache", "CausalTransformer", "DiT", "ResidualMLP", "TemporalUNet"]
