"""The work is done in ``speechbrain_dsu.dataio.corpora.cvss``."""

from speechbrain_dsu.dataio.corpora.cvss import prepare_cvss

__all__ = ["prepare_cvss"]
