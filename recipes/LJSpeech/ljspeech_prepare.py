"""LJSpeech's manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.ljspeech import prepare_ljspeech

__all__ = ["prepare_ljspeech"]
