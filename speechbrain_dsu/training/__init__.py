"""Training by procedure: clustering, adversarial codecs, sequences of units."""
