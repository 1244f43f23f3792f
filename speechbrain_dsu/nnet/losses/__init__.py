"""Losses: spectra, waveforms, adversarial, distillation, and how they balance."""
