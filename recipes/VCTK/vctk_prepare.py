"""VCTK's manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.vctk import prepare_vctk

__all__ = ["prepare_vctk"]
