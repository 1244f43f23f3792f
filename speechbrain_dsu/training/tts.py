"""What the scripts of text-to-speech recipes share: data, training, test, bundle."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.dataio.unit_data import (
    UnitDataset,
    in_memory,
    number_of,
    token_store,
)
from speechbrain_dsu.decoders.speech import say
from speechbrain_dsu.evaluation.translation import translation_scores
from speechbrain_dsu.tokens.word_pieces import WordPieces
from speechbrain_dsu.training.asr import read_parts
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.training.unit_task import train_task
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

logger = logging.getLogger(__name__)

Entries = Mapping[str, Mapping[str, Any]]
_INTERFACE = "speechbrain_dsu.inference.tts.UnitTTS"


class SpeechJudge:
    """Lets the model speak in validation: are its outputs different, do they end?

    A model that ignores its text says the same for all: ``distinct`` (the share of
    different outputs among different texts) is then near zero.

    Arguments
    ---------
    texts : mapping
        Id to text.
    items : int
        Texts said in each validation.
    """

    def __init__(self, texts: Mapping[str, str], items: int = 16):
        self.texts, self.items = texts, items
        self.reset()

    def reset(self) -> None:
        """Forget everything, before a stage."""
        self.said: list[tuple] = []
        self.asked: list[tuple] = []
        self.ended = 0

    def add(self, model: nn.Module, columns: Mapping[str, Any], ids: list[str]) -> None:
        """Say a batch's texts, as long as some are wanted."""
        model = getattr(model, "module", model)
        ids = ids[: self.items - len(self.said)]
        if not ids:
            return
        voices = [*model.reader.voices, None]
        names = [voices[place] for place in columns["voice"][: len(ids)].tolist()]
        found = say(model, [self.texts[name] for name in ids], names)
        counts = absolute_lengths(found.lens, found.codes.shape[1]).tolist()
        for row, count in zip(found.codes, counts, strict=True):
            self.said.append(tuple(row[:count].flatten().tolist()))
        pairs = zip(ids, names, strict=True)
        self.asked += [(self.texts[name], voice) for name, voice in pairs]
        self.ended += sum(reason == "end" for reason in found.stopped)

    def summary(self) -> dict[str, float]:
        """``distinct``, and ``ended``: the share of outputs that weren't cut."""
        different = len(set(self.asked))
        distinct = len(set(self.said)) / max(different, 1)
        if distinct < 0.1 and different > 10:
            logger.warning(
                "%.1f %% distinct outputs: the model does not read its text",
                100 * distinct,
            )
        return {"distinct": distinct, "ended": self.ended / max(len(self.said), 1)}


def train_and_seal_tts(
    hparams: Mapping[str, Any],
    parts: Mapping[str, Any],
    seal: Callable[..., Any],
    flatten: Flatten,
) -> dict[str, Any] | None:
    """Train a model of text to units, test it by ear of a recogniser, seal it.

    Arguments
    ---------
    hparams : mapping
        ``train``, ``valid``, ``test`` (lists of ``[manifest, data root]``), ``where``
        (values that columns of entries must have); ``system_file`` and ``model`` (new
        values for its keys); ``letters`` (null: the system's own; "texts": those of the
        training texts) or ``pieces`` (number of word pieces; 0: letters);
        ``tokenizer``, ``vocoder`` (sources; null: the tokenizer's own decoder) and
        ``n_codebooks`` (null: all); what ``train_task`` takes; ``token_folder`` (kept
        for the next run); ``test_voices`` (null: the test's own; "all"; a list);
        ``bundle``, arguments of ``seal``.
    parts : mapping
        ``tokenizer``, loaded; ``vocoder`` and ``judge`` (a recogniser with
        ``transcribe_batch``), or None.
    seal : callable
        ``inference.compose.seal_system``.
    flatten : callable
        ``inference.flatten.flatten_yaml``.

    Returns
    -------
    dict or None
        What ``results.json`` holds; None when ``max_minutes`` ended the training.
    """
    from speechbrain.utils.distributed import if_main_process, run_on_main

    where = hparams["where"]
    entries = {
        "train": read_parts(hparams["train"], where),
        "valid": read_parts(hparams["valid"], where),
        "test": read_parts(hparams["test"], where),
    }
    tokenizer, vocoder = parts["tokenizer"], parts["vocoder"]
    store = token_store(
        tokenizer,
        [entries["train"], entries["valid"]],
        hparams["token_folder"],
        hparams["n_codebooks"],
    )
    check_vocoder(vocoder, store.fingerprint)
    codes = in_memory(store)
    overrides, pieces = system_of(hparams, store, entries["train"])
    system = build_system(flatten, hparams["system_file"], overrides)
    model = system["model"]
    if pieces:
        model.reader.text.load(pieces)
    data = {
        part: spoken(entries[part], codes, model.reader) for part in ("train", "valid")
    }
    train = [entries["train"][name] for name in data["train"].data_ids]
    frames = sum(len(codes[name]) for name in data["train"].data_ids)
    symbols = sum(len(model.reader.text.encode(entry["text"])) for entry in train)
    model.set_pace(frames, symbols)
    judge = SpeechJudge({k: e["text"] for k, e in entries["valid"].items()})
    brain = train_task(hparams, model, data["train"], data["valid"], judge)
    if brain is None:
        return None
    model = model.cpu().eval()
    results = {
        "tokenizer": str(hparams["tokenizer"]),
        "system": hparams["system_file"],
        "steps": brain.optimizer_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        "voices": list(model.reader.voices),
        **judged(model, entries["test"], parts, hparams["test_voices"]),
    }
    if if_main_process():
        text = json.dumps(results, indent=2) + "\n"
        (Path(hparams["output_folder"]) / "results.json").write_text(text, "utf-8")
        logger.info("results: %s", json.dumps(results))
    if "bundle" in hparams:
        options = dict(hparams["bundle"])
        about = {"kind": "tts", **options["about"], "metrics": _metrics(results)}
        options |= {
            "about": about,
            "overrides": overrides,
            "system": hparams["system_file"],
            "interface": _INTERFACE,
        }
        name = "tokenizer" if vocoder is None else "vocoder"
        options["parts"] = {name: hparams[name]}
        modules = {k: v.cpu().eval() for k, v in system["modules"].items()}
        modules[name] = parts[name].cpu()
        run_on_main(seal, [modules], options)
    return results


def system_of(
    hparams: Mapping[str, Any], store: Any, train: Entries
) -> tuple[dict[str, Any], bytes]:
    """New values for the system's keys, and the model of word pieces if it has one.

    Arguments
    ---------
    hparams : mapping
        See ``train_and_seal_tts``.
    store : TokenStore
        Of the units.
    train : mapping
        Entries of the training.

    Returns
    -------
    overrides : dict
        Of the system's YAML.
    pieces : bytes
        Empty without word pieces.
    """
    texts = [entry["text"] for entry in train.values()]
    overrides = {
        **hparams["model"],
        "sizes": [int(size) for size in store.sizes],
        "units": store.fingerprint,
        "frame_rate": float(store.frame_rate),
        "voices": sorted({entry["spk_id"] for entry in train.values()}),
    }
    if hparams["pieces"]:
        pieces = WordPieces.learn(texts, hparams["pieces"])
        size = {"pieces": hparams["pieces"], "model_bytes": len(pieces)}
        return {**overrides, **size}, pieces
    if hparams["letters"] == "texts":
        overrides["letters"] = "".join(sorted(set("".join(texts).lower())))
    elif hparams["letters"]:
        overrides["letters"] = hparams["letters"]
    return overrides, b""


def spoken(entries: Entries, codes: Mapping[str, Tensor], reader: Any) -> UnitDataset:
    """Columns of utterances: ``text``, ``codes``, ``voice``.

    Utterances with more symbols than frames are left out: no speech is so fast.

    Arguments
    ---------
    entries : mapping
        With ``text`` and ``spk_id``; speakers that the reader doesn't know are any.
    codes : mapping
        Id to units ``[frames, codebooks]``.
    reader : TextReader
        Of the model.

    Returns
    -------
    UnitDataset
        See there.
    """
    texts = {
        name: torch.tensor(reader.text.encode(entry["text"])).long()
        for name, entry in entries.items()
    }
    kept = [name for name in texts if 0 < len(texts[name]) <= len(codes[name])]
    if len(kept) < len(texts):
        lost = len(texts) - len(kept)
        logger.warning("%d of %d texts don't fit their speech", lost, len(texts))
    places = number_of([*reader.voices, ""])
    known = set(reader.voices)
    voice = {
        name: places(entry["spk_id"] if entry["spk_id"] in known else "")
        for name, entry in entries.items()
    }
    columns = {
        "text": texts.__getitem__,
        "codes": codes.__getitem__,
        "voice": voice.__getitem__,
    }
    return UnitDataset(kept, columns, lambda name: len(codes[name]))


def judged(
    model: nn.Module,
    entries: Entries,
    parts: Mapping[str, Any],
    voices: Sequence[str] | str | None = None,
    batch: int = 16,
) -> dict[str, Any]:
    """Say the texts of a test part, let a recogniser read them from the audio.

    Arguments
    ---------
    model : TextToUnits, CoarseToFine or TimedUnits
        In evaluation mode.
    entries : mapping
        With ``text`` and ``spk_id``.
    parts : mapping
        See ``train_and_seal_tts``.
    voices : sequence of str or str, optional
        Taken in turn; "all": those of the training; None: the entries' own.
    batch : int
        Texts at once.

    Returns
    -------
    dict
        ``test``: ``texts``, ``ended``, ``distinct`` units, and with a judge what
        ``translation_scores`` gives (``word accuracy`` beside it), in all and by voice.
    """
    known = model.reader.voices
    names = sorted(entries)
    turns = known if voices == "all" else voices
    if turns:
        wanted = [turns[place % len(turns)] for place in range(len(names))]
    else:
        own = [entries[name]["spk_id"] for name in names]
        wanted = [name if name in known else None for name in own]
    said = [entries[name]["text"] for name in names]
    speaker = parts["tokenizer"] if parts["vocoder"] is None else parts["vocoder"]
    can_speak = parts["vocoder"] is not None or speaker.has_decoder
    audible = can_speak and parts["judge"] is not None
    heard: list[str] = []
    units: list[tuple] = []
    ended = 0
    for first in range(0, len(said), batch):
        part = slice(first, first + batch)
        found = say(model, said[part], wanted[part])
        ended += sum(reason == "end" for reason in found.stopped)
        tokens = model.steps.tokens(found.codes, found.lens)
        units += [tuple(row.flatten().tolist()) for row in tokens.unpad()]
        if not audible:
            continue
        conditions = conditions_of(parts["vocoder"], wanted[part])
        wavs, lens = speaker.decode(tokens, **conditions)
        rate = speaker.sample_rate
        heard += parts["judge"].transcribe_batch(wavs, lens, sample_rate=rate)
    pairs = zip(said, wanted, strict=True)
    distinct = len(set(units)) / len(set(pairs))
    results = {"texts": len(said), "ended": ended / len(said), "distinct": distinct}
    if heard:
        results |= _heard(said, heard)
        results["voices"] = {
            voice: _heard(
                [a for a, v in zip(said, wanted, strict=True) if v == voice],
                [b for b, v in zip(heard, wanted, strict=True) if v == voice],
            )
            for voice in sorted(set(wanted), key=str)
        }
    return {"test": results}


def conditions_of(vocoder: Any, voices: Sequence[str | None]) -> dict[str, Any]:
    """What a vocoder is told of the voices: those that it lacks become its first.

    Example
    -------
    >>> from types import SimpleNamespace
    >>> conditions_of(SimpleNamespace(voices=("ann", "bob")), ["bob", None])
    {'speaker': ['bob', 'ann']}
    """
    known = getattr(vocoder, "voices", ())
    if not known:
        return {}
    return {"speaker": [name if name in known else known[0] for name in voices]}


def _heard(said: Sequence[str], heard: Sequence[str]) -> dict[str, float]:
    scores = translation_scores(said, heard, bleu=False)
    return {"word accuracy": 100 - scores["WER"], "exact": scores["exact"]}


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"steps": results["steps"], "parameters": results["parameters"]}
    for key, value in results["test"].items():
        if isinstance(value, (int, float)):
            shown[f"test {key}"] = round(value, 3)
    return shown


def check_vocoder(vocoder: Any, units: str) -> None:
    """Refuse a vocoder of other units before hours of training, not after.

    Raises
    ------
    DsuError
        If it speaks units of another tokenizer.
    """
    if vocoder is not None and vocoder.units != units:
        raise DsuError(
            f"the vocoder speaks units of the tokenizer {vocoder.units[:12]}, the "
            f"model writes those of {units[:12]}: take a vocoder of the same units"
        )
