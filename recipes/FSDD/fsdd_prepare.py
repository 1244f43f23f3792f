"""FSDD's manifests; the work is done in ``speechbrain_dsu.dataio.corpora``."""

from speechbrain_dsu.dataio.corpora.fsdd import prepare_fsdd
from speechbrain_dsu.dataio.corpora.fsdd_strings import prepare_fsdd_strings

__all__ = ["prepare_fsdd", "prepare_fsdd_strings"]
