"""What the scripts of ASR recipes share: data, training, test, bundle."""

import json
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.dataio.copies import copies_of
from speechbrain_dsu.dataio.corpora.mixing import read_manifest
from speechbrain_dsu.dataio.unit_data import UnitDataset, in_memory, token_store
from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.training.unit_task import train_task
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

logger = logging.getLogger(__name__)

Entries = Mapping[str, Mapping[str, Any]]


class TranscriptJudge:
    """Error rates of validation, by CTC's best path: a search would take too long."""

    def reset(self) -> None:
        """Forget everything, before a stage."""
        self.said: list[str] = []
        self.found: list[str] = []

    def add(self, model: nn.Module, columns: Mapping[str, Any], ids: list[str]) -> None:
        """Transcribe a batch."""
        model = getattr(model, "module", model)
        text, lens = columns["text"], columns["text_lens"]
        counts = absolute_lengths(lens, text.shape[1])
        rows = zip(text.tolist(), counts.tolist(), strict=True)
        self.said += [model.transcripts.decode(row[:count]) for row, count in rows]
        self.found += model.ctc_text(columns["source"], columns["source_lens"])

    def summary(self) -> dict[str, float]:
        """Word error rate in percent, share of distinct outputs."""
        rates = error_rates(self.said, self.found)
        return {"WER": rates["WER"], "distinct": rates["distinct"]}


def train_and_seal_asr(
    hparams: Mapping[str, Any],
    tokenizer: Any,
    seal: Callable[..., Any],
    flatten: Flatten,
    known: dict[str, Tensor] | None = None,
) -> dict[str, Any] | None:
    """Train a recogniser of a tokenizer's units, test it and write it as a bundle.

    Arguments
    ---------
    hparams : mapping
        ``tokenizer`` (its source), ``feed`` ("units", or "frames" for what the
        tokenizer quantizes), ``from_codebooks`` (begin with the tokenizer's own vectors
        of its ids; not with subwords); ``train``, ``valid`` (lists of ``[manifest,
        data root]``), ``tests`` (such lists by name), ``where`` (values of columns that
        entries must have, e.g. ``{language: en}``), ``held_out_speaker`` (null, or one
        whom tests alone hear), ``speeds`` (percent, of the training data), ``copies``
        (of the training data, where given: ``noise``, the lowest and the highest ratio
        in dB; ``through``, ``UnitTokenizer`` by name, whose decoders say it again; and
        ``max_rate``, hertz of all its recordings at most);
        ``system_file`` and ``model`` (new values for its keys; ``symbols: words`` are
        those of the training texts), ``encoder_rate`` (steps a second that the encoder
        sees, about); what ``train_task`` takes, ``batch_frames`` in steps of the
        encoder; ``token_folder`` (tokens and copies of recordings, kept for the next
        run); ``bundle``, arguments of ``seal``.
    tokenizer : Tokenizer
        Loaded.
    seal : callable
        ``inference.compose.seal_system``.
    flatten : callable
        ``inference.flatten.flatten_yaml``.
    known : dict, optional
        What earlier calls with this tokenizer and feed have read, by id; what is new
        is added.

    Returns
    -------
    dict or None
        What ``results.json`` holds; None when ``max_minutes`` ended the training.
    """
    from speechbrain.utils.distributed import if_main_process, run_on_main

    folder = Path(hparams["output_folder"])
    train, valid, tests = split(hparams)
    place, heard = Path(hparams["token_folder"]), {}

    def copy() -> None:
        heard.update(copies_of(train, hparams["speeds"], hparams["copies"], place))

    run_on_main(copy, post_func=copy)
    sources = {} if known is None else known
    new = [
        {name: entry for name, entry in part.items() if name not in sources}
        for part in (heard, valid, *tests.values())
    ]
    if any(new):
        sources |= read_sources(tokenizer, hparams["feed"], new, place)
    overrides, subwords = system_of(hparams, tokenizer, [sources[k] for k in heard])
    if overrides["symbols"] == "words":
        said = (entry["text"].lower().split() for entry in train.values())
        overrides["symbols"] = sorted({word for words in said for word in words})
    system = build_system(flatten, hparams["system_file"], overrides)
    model = system["model"]
    if subwords:
        model.pieces.load(subwords)
    if hparams["from_codebooks"] and model.reader.discrete and not subwords:
        model.reader.start_from(_quantizer(tokenizer))
    if not model.reader.discrete:
        model.reader.standardise(torch.cat([sources[name] for name in heard]))
    data = [transcribed(part, sources, model) for part in (heard, valid)]
    brain = train_task(hparams, model, *data, judge=TranscriptJudge())
    if brain is None:
        return None
    model = model.cpu().eval()
    results = {
        "tokenizer": str(hparams["tokenizer"]),
        "feed": hparams["feed"],
        "system": hparams["system_file"],
        "steps": brain.optimizer_step,
        "parameters": sum(p.numel() for p in model.parameters()),
        **{name: judged(model, part, sources) for name, part in tests.items()},
    }
    if if_main_process():
        text = json.dumps(results, indent=2) + "\n"
        (folder / "results.json").write_text(text, "utf-8")
        logger.info("results: %s", json.dumps(results))
    if "bundle" in hparams:
        options = {**hparams["bundle"], "overrides": overrides}
        metrics = {
            f"{name} {key}": round(results[name][key], 2)
            for name in tests
            for key in ("WER", "CER")
        }
        options["about"] = {"kind": "asr", **options["about"], "metrics": metrics}
        options |= {"system": hparams["system_file"], "interface": _INTERFACE}
        options["parts"] = {"tokenizer": hparams["tokenizer"]}
        modules = {"model": model, "tokenizer": tokenizer.cpu()}
        run_on_main(seal, [modules], options)
    return results


_INTERFACE = "speechbrain_dsu.inference.asr.UnitASR"


def split(
    hparams: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, dict[str, Any]]]:
    """Entries to train on, to watch and to test on; nobody is tested on what he heard.

    Arguments
    ---------
    hparams : mapping
        ``train``, ``valid``, ``tests``, ``where`` and ``held_out_speaker`` of
        ``train_and_seal_asr``.

    Returns
    -------
    train, valid : dict
        Id to entry, without the speaker who is held out.
    tests : dict
        Such by name, without the entries above, and of him alone if there is one.

    Raises
    ------
    DsuError
        If nothing is left of a part.
    """
    out, where = hparams["held_out_speaker"], hparams["where"]
    train, valid = (
        {k: e for k, e in read_parts(pairs, where).items() if e["spk_id"] != out}
        for pairs in (hparams["train"], hparams["valid"])
    )
    tests = {
        name: {
            k: e
            for k, e in read_parts(pairs, where).items()
            if k not in train and k not in valid and out in (None, e["spk_id"])
        }
        for name, pairs in hparams["tests"].items()
    }
    for name, part in {"train": train, "valid": valid, **tests}.items():
        if not part:
            raise DsuError(f"'{name}' has no entries: held_out_speaker={out}, {where=}")
    return train, valid, tests


def read_parts(
    pairs: Iterable[Sequence[str]], where: Mapping[str, Any] | None = None
) -> dict[str, dict[str, Any]]:
    """Entries of several manifests, by id.

    Arguments
    ---------
    pairs : iterable of (str, str)
        Manifest and what ``{data_root}`` stands for in it.
    where : mapping, optional
        Values that columns of the entries must have.

    Returns
    -------
    dict
        Id to entry.

    Raises
    ------
    DsuError
        If an id comes twice.
    """
    wanted = dict(where or {}).items()
    found: dict[str, dict[str, Any]] = {}
    for path, root in pairs:
        entries = read_manifest(path, root)
        twice = sorted(found.keys() & entries.keys())
        if twice:
            raise DsuError(f"{path}: '{twice[0]}' is in another manifest, too")
        found |= {
            name: entry
            for name, entry in entries.items()
            if all(entry[key] == value for key, value in wanted)
        }
    return found


def read_sources(
    tokenizer: Any, feed: str, parts: Sequence[Entries], folder: str | Path
) -> dict[str, Tensor]:
    """What a recogniser reads of every utterance, in memory.

    Arguments
    ---------
    tokenizer : Tokenizer
        Of the units, or of the features that it would quantize.
    feed : str
        "units" or "frames".
    parts : sequence of mapping
        Manifests.
    folder : str or Path
        Keeps tokens for the next run; frames are computed anew.

    Returns
    -------
    dict
        Id to codes int64 ``[frames, codebooks]`` or frames ``[frames, dim]``.

    Raises
    ------
    DsuError
        If there is no such feed.
    """
    if feed == "units":
        return in_memory(token_store(tokenizer, parts, folder))
    if feed != "frames":
        raise DsuError(f"feed must be 'units' or 'frames', got '{feed}'")
    rate = tokenizer.sample_rate
    return {
        name: tokenizer.frames(read_audio(entry["wav"], rate)[0]).cpu()
        for part in parts
        for name, entry in part.items()
    }


def system_of(
    hparams: Mapping[str, Any], tokenizer: Any, sources: Sequence[Tensor]
) -> tuple[dict[str, Any], bytes]:
    """A recipe's values for its system, and the subwords it learns of its units.

    Arguments
    ---------
    hparams : mapping
        See ``train_and_seal_asr``.
    tokenizer : Tokenizer
        Whose units they are.
    sources : sequence of Tensor
        Of the training data.

    Returns
    -------
    overrides : dict
        New values for the system's keys.
    subwords : bytes
        Subword model; empty: none.
    """
    stride = max(1, round(tokenizer.frame_rate / hparams["encoder_rate"]))
    overrides = {"stride": stride, **hparams["model"]}
    if hparams["feed"] == "frames":
        return overrides | {"sizes": [], "frame_dim": sources[0].shape[1]}, b""
    sizes = [int(size) for size in tokenizer.codebook_sizes]
    overrides |= {"sizes": sizes, "units": tokenizer.fingerprint}
    if not overrides.get("n_pieces"):
        if hparams["from_codebooks"]:
            first = torch.zeros(1, 1, len(sizes), dtype=torch.int64)
            overrides["width"] = _quantizer(tokenizer).embed(first).shape[-1]
        return overrides, b""
    runs = [
        deduplicate(codes.unsqueeze(0)).units[0]
        if overrides.get("deduplicate")
        else codes
        for codes in sources
    ]
    bpe = UnitBPE.train([r[:, 0] for r in runs], sizes[0], overrides["n_pieces"])
    return overrides | {"model_bytes": len(bpe.model)}, bpe.model


def _quantizer(tokenizer: Any) -> Any:
    """The tokenizer's own, which has vectors for its ids."""
    holder = getattr(tokenizer, "codec", tokenizer)
    found = getattr(holder, "quantizer", None)
    if found is None:
        raise DsuError(
            f"from_codebooks: {type(tokenizer).__name__} has no quantizer to start from"
        )
    return found


def transcribed(
    entries: Entries, sources: Mapping[str, Tensor], model: nn.Module
) -> UnitDataset:
    """A dataset of what the model reads (``source``) and writes (``text``)."""
    read = {name: model.prepare(sources[name]) for name in entries}
    texts = {
        name: torch.tensor(model.transcripts.encode(entry["text"]))
        for name, entry in entries.items()
    }
    stride = model.reader.stride
    columns = {"source": read.__getitem__, "text": texts.__getitem__}
    return UnitDataset(entries, columns, lambda name: len(read[name]) / stride)


def judged(
    model: nn.Module, entries: Entries, sources: Mapping[str, Tensor]
) -> dict[str, float]:
    """A recogniser's errors and what its input costs.

    Arguments
    ---------
    model : nn.Module
        See ``lobes.models.unit_asr``.
    entries : mapping
        Id to entry with ``text`` and ``duration``.
    sources : mapping
        Id to codes or frames.

    Returns
    -------
    dict
        ``WER``, ``CER``, ``sentence errors``, ``distinct``, ``utterances``, and of
        units ``steps per second`` and ``bits per second`` as the model reads them:
        log2 of the ids that a step can have, summed over codebooks.
    """
    found = model.transcribe([sources[name] for name in entries])
    said = [entry["text"].lower() for entry in entries.values()]
    rates = {**error_rates(said, found), "utterances": len(said)}
    seconds = sum(float(entry["duration"]) for entry in entries.values())
    steps = sum(len(model.prepare(sources[name])) for name in entries)
    rates["steps per second"] = steps / seconds
    if model.reader.discrete:
        bits = sum(math.log2(size) for size in model.pieces.sizes)
        rates["bits per second"] = bits * steps / seconds
    return rates


def table_row(name: str, speaker: str | None, results: Mapping[str, Any]) -> str:
    """A line of a table of results: input, who is held out, rate, errors.

    Example
    -------
    >>> rates = {"WER": 4.25, "bits per second": 448.2}
    >>> table_row("ssl-k500", None, {"digits": rates, "strings": rates, "steps": 9})
    '| ssl-k500 | official | 448 | 4.2 | 4.2 | 9 |'
    """
    bits = results["digits"].get("bits per second")
    rate = "-" if bits is None else f"{bits:.0f}"
    errors = [f"{results[part]['WER']:.1f}" for part in ("digits", "strings")]
    cells = [name, speaker or "official", rate, *errors, str(results["steps"])]
    return f"| {' | '.join(cells)} |"
