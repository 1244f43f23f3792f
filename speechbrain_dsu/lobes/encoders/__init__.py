"""Waveforms or frames to latents."""
