"""Quantizers: latent frames to codes, one id per codebook, and back."""
