"""Lengths, fingerprints, paths, audio files and errors: what every room shares."""
