"""One ``prepare_<corpus>`` per public corpus: JSON manifests as SpeechBrain reads them.

Every corpus becomes ``<name>.json`` files of ``{id: {"wav": "{data_root}/...",
"duration": seconds, "spk_id": ..., ...}}``, which
``DynamicItemDataset.from_json(path, {"data_root": data_folder})`` takes.
"""

from speechbrain_dsu.dataio.corpora.cvss import prepare_cvss
from speechbrain_dsu.dataio.corpora.fsdd import prepare_fsdd
from speechbrain_dsu.dataio.corpora.fsdd_strings import prepare_fsdd_strings
from speechbrain_dsu.dataio.corpora.librispeech import prepare_librispeech
from speechbrain_dsu.dataio.corpora.libritts import prepare_libritts
from speechbrain_dsu.dataio.corpora.ljspeech import prepare_ljspeech
from speechbrain_dsu.dataio.corpora.mixing import balanced_items, read_manifest
from speechbrain_dsu.dataio.corpora.vctk import prepare_vctk

__all__ = [
    "balanced_items",
    "prepare_cvss",
    "prepare_fsdd",
    "prepare_fsdd_strings",
    "prepare_librispeech",
    "prepare_libritts",
    "prepare_ljspeech",
    "prepare_vctk",
    "read_manifest",
]
