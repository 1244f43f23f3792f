"""One contract from waveform to tokens and back, and the kinds that fulfil it."""
