"""CVSS (Jia et al., 2022): Common Voice in 21 languages with English speech, CC BY 4.0.

https://github.com/google-research-datasets/cvss
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from speechbrain_dsu.dataio.corpora.layout import (
    FoundFile,
    Layout,
    find_file,
    find_root,
    list_files,
)
from speechbrain_dsu.dataio.corpora.manifests import Gathered, Utterance, prepare
from speechbrain_dsu.utils.errors import DsuError

_PARTS = {"train": "train", "valid": "dev", "test": "test"}
_CVSS = Layout(
    "CVSS",
    "the folder of cvss_c_es_en_v1.0.tar.gz (or another language) with train.tsv, "
    "dev.tsv, test.tsv and train/common_voice_es_18735428.mp3.wav ...",
    lambda folder: any(
        (folder / f"{name}.tsv").is_file() and (folder / name).is_dir()
        for name in _PARTS.values()
    ),
)
_VOICE = Layout(
    "Common Voice",
    "the folder of one language of release 4 with clips/ and validated.tsv",
    lambda folder: (folder / "clips").is_dir(),
)
_SUFFIXES = (".mp3", ".wav", ".flac")


def prepare_cvss(
    data_folder: str | Path,
    target_folder: str | Path,
    save_folder: str | Path,
    skip_prep: bool = False,
) -> dict[str, Path]:
    """Write the pair manifests ``train.json``, ``valid.json`` and ``test.json``.

    An entry has ``wav`` and ``duration`` (seconds) of the source clip, ``source_text``
    (as written there; empty without a table), ``spk_id`` (Common Voice's client),
    ``target_wav`` (relative to ``target_folder``) and ``text`` (English, normalised).
    The official parts; a part that is not there has no manifest. Nothing is done when
    the same files gave these manifests before.

    Arguments
    ---------
    data_folder : str or Path
        One language of Common Voice 4: ``clips/common_voice_es_18735428.mp3`` (or WAV
        or FLAC of the same name), ``validated.tsv``.
    target_folder : str or Path
        The same language of CVSS-C or CVSS-T.
    save_folder : str or Path
        Where the manifests go.
    skip_prep : bool
        Do nothing.

    Returns
    -------
    dict
        ``{"train": path, ...}``; empty with ``skip_prep``.

    Raises
    ------
    DsuError
        If a folder is not what it should be, or no pair is whole.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.utils.audio import write_audio
    >>> root = getfixture("tmp_path")
    >>> for path in (
    ...     "es/clips/common_voice_es_1.wav",
    ...     "en/dev/common_voice_es_1.mp3.wav",
    ... ):
    ...     (root / path).parent.mkdir(parents=True)
    ...     write_audio(root / path, torch.zeros(16000), 16000)
    >>> _ = (root / "en" / "dev.tsv").write_text("common_voice_es_1.mp3\\tGood day.\\n")
    >>> paths = prepare_cvss(root / "es", root / "en", root / "manifests")
    >>> print(paths["valid"].read_text())
    {
      "common_voice_es_1": {
        "wav": "{data_root}/clips/common_voice_es_1.wav",
        "duration": 1.0,
        "spk_id": "",
        "source_text": "",
        "target_wav": "dev/common_voice_es_1.mp3.wav",
        "text": "Good day."
      }
    }
    <BLANKLINE>
    """
    if skip_prep:
        return {}
    source = find_root(data_folder, _VOICE)
    target = find_root(target_folder, _CVSS)
    clips = list_files(source, "clips", _SUFFIXES)
    tables = find_file(source, "validated.tsv")
    spoken: list[FoundFile] = []
    for name in _PARTS.values():
        tsv = find_file(target, f"{name}.tsv")
        if tsv and (target / name).is_dir():
            spoken += [*tsv, *list_files(target, name, (".wav",))]
    return prepare(
        "CVSS",
        source,
        save_folder,
        [*clips, *tables, *spoken],
        {},
        lambda: _gather(source, target, clips, tables, spoken),
        lambda items: {
            part: chosen
            for part, name in _PARTS.items()
            if (chosen := [u for u in items if _part(u) == name])
        },
    )


def _part(utterance: Utterance) -> str:
    return utterance.fields["target_wav"].split("/", 1)[0]


def _gather(
    source: Path,
    target: Path,
    clips: Sequence[FoundFile],
    tables: Sequence[FoundFile],
    spoken: Sequence[FoundFile],
) -> Gathered:
    """Pairs of the tables; those that lack a file are left out and named."""
    heard = {Path(file.path).stem: file.path for file in clips}
    about = _validated(source / tables[0].path) if tables else {}
    there = {file.path for file in spoken}
    gathered = Gathered([])
    for file in spoken:
        if not file.path.endswith(".tsv"):
            continue
        for number, line in enumerate(_lines(target / file.path), start=1):
            clip, _, text = line.partition("\t")
            if not text:
                raise DsuError(
                    f"{target / file.path}, line {number}: expected 'clip.mp3', a tab, "
                    f"the text; got {line[:60]!r}"
                )
            name = clip.removesuffix(".mp3")
            wav = f"{file.stem}/{name}.mp3.wav"
            if name not in heard:
                gathered.left_out.append(f"{source / 'clips' / clip}: no such file")
                continue
            if wav not in there:
                gathered.left_out.append(f"{target / wav}: no such file")
                continue
            speaker, sentence = about.get(name, ("", ""))
            fields = {"spk_id": speaker, "source_text": sentence}
            fields |= {"target_wav": wav, "text": text.strip()}
            gathered.utterances.append(Utterance(name, heard[name], fields))
    return gathered


def _validated(path: Path) -> Mapping[str, tuple[str, str]]:
    """Client and sentence of each clip in a table of Common Voice."""
    head, *lines = _lines(path) or [""]
    names = head.split("\t")
    for wanted in ("client_id", "path", "sentence"):
        if wanted not in names:
            raise DsuError(f"{path}: has no column '{wanted}', there are {names}")
    client, clip, sentence = map(names.index, ("client_id", "path", "sentence"))
    found = {}
    for line in lines:
        cells = line.split("\t")
        if len(cells) > max(client, clip, sentence):
            name = cells[clip].removesuffix(".mp3")
            found[name] = cells[client], cells[sentence]
    return found


def _lines(path: Path) -> list[str]:
    # No csv module: the texts hold unbalanced quotes.
    lines = path.read_text("utf-8-sig").split("\n")
    return [line.rstrip("\r") for line in lines if line.strip()]
