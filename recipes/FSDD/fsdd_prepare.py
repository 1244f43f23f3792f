"""FSDD's manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.fsdd import prepare_fsdd

__all__ = ["prepare_fsdd"]
