"""Diffusion without a model: processes, what is drawn from them, samplers, guidance."""
