"""LibriTTS' manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.libritts import prepare_libritts

__all__ = ["prepare_libritts"]
