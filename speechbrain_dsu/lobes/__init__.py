"""Blocks with a meaning of their own: features, SSL taps, vocoders."""
