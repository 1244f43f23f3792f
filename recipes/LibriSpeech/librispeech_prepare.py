"""LibriSpeech's manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.librispeech import prepare_librispeech

__all__ = ["prepare_librispeech"]
