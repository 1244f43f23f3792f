"""Quantizers: latents ``[batch, frames, dim]`` to codes ``[batch, frames, codebooks]``."""
