"""From frames or units back to a waveform."""
