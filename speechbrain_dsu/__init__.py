"""Discrete speech units for SpeechBrain: tokenizers, codecs and what is built on them.

Importing this package costs nothing: torch, SpeechBrain and the optional
packages are imported by the modules that use them. The first things to reach for:

- ``speechbrain_dsu.inference.tokenizer.UnitTokenizer``: speech to tokens and back;
- ``speechbrain_dsu.tokens``: what tokens are, and every lossless way to arrange them;
- the ``dsu`` command.
"""

__version__ = "0.1.0"
