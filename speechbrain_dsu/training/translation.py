"""What the scripts of translation recipes share: data, training, test, bundle."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.dataio.corpora.speech_pairs import read_pairs
from speechbrain_dsu.dataio.unit_data import UnitDataset, in_memory, token_store
from speechbrain_dsu.decoders.translation import translate
from speechbrain_dsu.evaluation.translation import translation_scores
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.text import Characters, Text
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.training.unit_task import train_task
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths

logger = logging.getLogger(__name__)

Entries = Mapping[str, Mapping[str, Any]]
_INTERFACE = "speechbrain_dsu.inference.translation.SpeechTranslator"
_PARTS = ("train", "valid", "test")
# Of log-mel frames some 60 MB an hour.
_KEPT_HOURS = 40
_PACED = 1000


class TranslationJudge:
    """Lets the model write in validation: are its outputs different, and right?

    A translator that ignores its source writes the same for all: ``distinct`` (the
    share of different unit sequences among different references) is then near zero.
    """

    def reset(self) -> None:
        """Forget everything, before a stage."""
        self.outputs: list[tuple] = []
        self.references: list[tuple] = []
        self.found: list[str] = []
        self.said: list[str] = []
        self.ended = 0

    def add(self, model: nn.Module, columns: Mapping[str, Any], ids: list[str]) -> None:
        """Translate a batch."""
        model = getattr(model, "module", model)
        result = translate(model, columns["source"], columns["source_lens"])
        self.outputs += _rows(result.codes, result.lens)
        self.references += _rows(columns["codes"], columns["codes_lens"])
        self.ended += sum(reason == "end" for reason in result.stopped)
        if result.texts is not None:
            taps = [tap for tap in model.taps if tap.column == "text"]
            rows = _rows(columns["text"], columns["text_lens"])
            self.said += [taps[-1].text.decode(row) for row in rows]
            self.found += result.texts

    def summary(self) -> dict[str, float]:
        """Shares, and the text head's word error rate in percent."""
        different = len(set(self.references))
        distinct = len(set(self.outputs)) / max(different, 1)
        if distinct < 0.1 and different > 10:
            logger.warning(
                "%.1f %% distinct outputs: the model does not listen to its source",
                100 * distinct,
            )
        found = {"distinct": distinct, "ended": self.ended / len(self.outputs)}
        if self.said:
            scores = translation_scores(self.said, self.found, bleu=False)
            found["text WER"] = scores["WER"]
        return found


def train_and_seal_translation(
    hparams: Mapping[str, Any],
    parts: Mapping[str, Any],
    seal: Callable[..., Any],
    flatten: Flatten,
) -> dict[str, Any] | None:
    """Train a speech-to-unit translator, test it and write it as a bundle.

    Arguments
    ---------
    hparams : mapping
        ``pairs`` (folder of the pairs' train.json, valid.json, test.json),
        ``data_folder`` and ``target_folder`` (their roots); ``system_file`` and
        ``model`` (new values for its keys); what ``train_task`` takes;
        ``token_folder`` (kept for the next run); ``tokenizer`` and ``vocoder``
        (sources; null: the tokenizer's own decoder, or none); ``voice``; ``beams``;
        ``bundle``, arguments of ``seal``.
    parts : mapping
        ``tokenizer``, loaded; ``vocoder`` and ``judge`` (a recogniser with
        ``transcribe_batch``, which reads the translations from the audio), or None.
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

    tokenizer, vocoder = parts["tokenizer"], parts["vocoder"]
    entries = {
        part: read_pairs(
            Path(hparams["pairs"]) / f"{part}.json",
            hparams["data_folder"],
            hparams["target_folder"],
        )
        for part in _PARTS
    }
    overrides = {
        **hparams["model"],
        "sizes": [int(size) for size in tokenizer.codebook_sizes],
        "units": tokenizer.fingerprint,
        "frame_rate": float(tokenizer.frame_rate),
        "voice": hparams["voice"],
    }
    system = build_system(flatten, hparams["system_file"], overrides)
    model = system["model"]
    targets = target_units(tokenizer, entries, hparams["token_folder"])
    sources = read_sources(system, tokenizer, entries, hparams["token_folder"])
    model.set_pace(*_pace(model, entries["train"], sources, targets))
    data = [paired(entries[part], sources, targets, model) for part in _PARTS[:2]]
    brain = train_task(hparams, model, *data, judge=TranslationJudge())
    if brain is None:
        return None
    model = model.cpu().eval()
    results = {
        "tokenizer": str(hparams["tokenizer"]),
        "system": hparams["system_file"],
        "steps": brain.optimizer_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        **judged(model, entries["test"], sources, vocoder, parts["judge"], hparams),
    }
    if if_main_process():
        text = json.dumps(results, indent=2) + "\n"
        (Path(hparams["output_folder"]) / "results.json").write_text(text, "utf-8")
        logger.info("results: %s", json.dumps(results))
    if "bundle" in hparams:
        options = dict(hparams["bundle"])
        about = {"kind": "s2st", **options["about"], "metrics": _metrics(results)}
        options |= {
            "about": about,
            "overrides": overrides,
            "system": hparams["system_file"],
            "interface": _INTERFACE,
        }
        modules = {k: v.cpu().eval() for k, v in system["modules"].items()}
        # The tokenizer is needed where it decodes, or where its units are read, too.
        needed = {"vocoder": vocoder} if vocoder is not None else {}
        if vocoder is None or "features" not in modules:
            needed["tokenizer"] = tokenizer
        options["parts"] = {name: hparams[name] for name in needed}
        modules |= {name: module.cpu() for name, module in needed.items()}
        run_on_main(seal, [modules], options)
    return results


def target_units(
    tokenizer: Any, entries: Mapping[str, Entries], folder: str | Path
) -> dict[str, Tensor]:
    """Units ``[frames, codebooks]`` of the targets, by the pairs' ids.

    Arguments
    ---------
    tokenizer : Tokenizer
        Loaded.
    entries : mapping
        Pairs of each part.
    folder : str or Path
        Keeps tokens for the next run.
    """
    wavs = {
        name: [entry["target_wav"]]
        if isinstance(entry["target_wav"], str)
        else entry["target_wav"]
        for part in entries.values()
        for name, entry in part.items()
    }
    # By file: recordings that several targets are made of are tokenized once.
    files = sorted({path for paths in wavs.values() for path in paths})
    keys = {path: f"{number:07}" for number, path in enumerate(files)}
    manifest = {key: {"wav": path} for path, key in keys.items()}
    codes = in_memory(token_store(tokenizer, [manifest], Path(folder) / "target"))
    return {
        name: torch.cat([codes[keys[path]] for path in paths])
        for name, paths in wavs.items()
    }


def read_sources(
    system: Mapping[str, Any],
    tokenizer: Any,
    entries: Mapping[str, Entries],
    folder: str | Path,
) -> dict[str, Tensor]:
    """What the model reads of each source: frames of the system's ``features``, or
    the tokenizer's units where it has none."""
    if "features" not in system["modules"]:
        return in_memory(
            token_store(tokenizer, entries.values(), Path(folder) / "source")
        )
    items = {k: entry for part in entries.values() for k, entry in part.items()}
    return _Frames(system["modules"]["features"], items)


class _Frames(dict):
    """Frames by id, computed when they are asked for, and kept where they all fit."""

    def __init__(self, features: nn.Module, entries: Entries):
        super().__init__()
        self.features, self.entries = features, entries
        seconds = sum(float(entry["duration"]) for entry in entries.values())
        self.kept = seconds < 3600 * _KEPT_HOURS

    @torch.no_grad()
    def __missing__(self, name: str) -> Tensor:
        wav, _ = read_audio(self.entries[name]["wav"], self.features.sample_rate)
        # Half the memory: the frames are of unit size.
        frames = self.features(wav.unsqueeze(0))[0].half()
        if self.kept:
            self[name] = frames
        return frames


def paired(
    entries: Entries,
    sources: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
    model: nn.Module,
) -> UnitDataset:
    """Columns of pairs: ``source``, ``codes`` and a text for each tap's column.

    Raises
    ------
    DsuError
        If two taps spell the same column with different symbols.
    """
    columns: dict[str, Any] = {"codes": targets.__getitem__}
    columns["source"] = lambda name: _read(sources[name])
    spelt: dict[str, Any] = {}
    for tap in model.taps:
        symbols = vars(tap.text)
        if spelt.setdefault(tap.column, symbols) != symbols:
            raise DsuError(
                f"taps spell '{tap.column}' in two ways: give both the same symbols"
            )
        texts = {
            name: torch.tensor(spell(entry[tap.column], tap.text), dtype=torch.int64)
            for name, entry in entries.items()
        }
        columns[tap.column] = texts.__getitem__
    return UnitDataset(entries, columns, lambda name: len(targets[name]))


def spell(text: str, symbols: Text) -> list[int]:
    """Ids of a text; letters that are not among the symbols are left out.

    Public texts hold signs that no list of letters foresees. Words are a closed list:
    another one raises.

    Example
    -------
    >>> from speechbrain_dsu.tokens.text import Characters
    >>> letters = Characters("adioys ")
    >>> letters.decode(spell("¡Adiós — \\"Ada\\"!", letters))
    'adis ada'
    """
    if not isinstance(symbols, Characters):
        return symbols.encode(text)
    known = "".join(letter for letter in text.lower() if letter in symbols.letters)
    return symbols.encode(" ".join(known.split()))


def judged(
    model: nn.Module,
    entries: Entries,
    sources: Mapping[str, Tensor],
    vocoder: Any,
    judge: Any,
    hparams: Mapping[str, Any],
    batch: int = 16,
) -> dict[str, Any]:
    """Translate a test part, speak it, let a recogniser read it.

    Arguments
    ---------
    model : SpeechToUnits
        In evaluation mode.
    entries : mapping
        Pairs.
    sources : mapping
        See ``read_sources``.
    vocoder, judge
        See ``train_and_seal_translation``; without both of them only the text that
        the model writes beside the units is judged.
    hparams : mapping
        With ``voice`` and ``beams``.
    batch : int
        Pairs at once.

    Returns
    -------
    dict
        ``audio`` and ``text``, see ``evaluation.translation``, where there are such.
    """
    names = sorted(entries, key=lambda name: len(sources[name]))
    said: list[str] = []
    heard: list[str] = []
    texts: list[str] = []
    voice = {"speaker": hparams["voice"]} if hparams["voice"] else {}
    for first in range(0, len(names), batch):
        part = names[first : first + batch]
        source, counts = pad_stack([_read(sources[name]) for name in part])
        lens = relative_lengths(counts, source.shape[1])
        found = translate(model, source, lens, hparams["beams"])
        said += [entries[name]["text"] for name in part]
        texts += found.texts or []
        if vocoder is not None and judge is not None:
            tokens = model.steps.tokens(found.codes, found.lens)
            wavs, wav_lens = vocoder.decode(tokens, **voice)
            rate = vocoder.sample_rate
            heard += judge.transcribe_batch(wavs, wav_lens, sample_rate=rate)
    results = {"pairs": len(said)}
    if heard:
        results["audio"] = translation_scores(said, heard)
    if texts:
        results["text"] = translation_scores(said, texts)
    return results


def _pace(
    model: nn.Module,
    entries: Entries,
    sources: Mapping[str, Tensor],
    targets: Mapping[str, Tensor],
) -> tuple[int, int]:
    """Steps of targets and frames of sources, of about a thousand pairs."""
    steps = frames = 0
    for name in sorted(entries)[:: max(1, len(entries) // _PACED)]:
        codes = targets[name].unsqueeze(0)
        units = deduplicate(codes).units if model.steps.reduce else codes
        steps += -(-units.shape[1] // model.steps.stack)
        frames += len(sources[name])
    return steps, frames


def _read(source: Tensor) -> Tensor:
    return source.float() if source.is_floating_point() else source


def _rows(values: Tensor, lens: Tensor) -> list[tuple]:
    counts = absolute_lengths(lens, values.shape[1]).tolist()
    rows: Sequence[Tensor] = [row[:n] for row, n in zip(values, counts, strict=True)]
    return [tuple(row.flatten().tolist()) for row in rows]


def _metrics(results: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"steps": results["steps"]}
    for kind in ("audio", "text"):
        for key, value in results.get(kind, {}).items():
            shown[f"test {kind} {key}"] = round(value, 3)
    return shown
