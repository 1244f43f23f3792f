"""Training language models of speech, alone or together with text."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.dataio.unit_data import UnitDataset, in_memory, token_store
from speechbrain_dsu.decoders.generation import generate
from speechbrain_dsu.decoders.repetition import distinct_ratio
from speechbrain_dsu.decoders.rules import EndRule, LayoutRule
from speechbrain_dsu.decoders.sampling import Sampling
from speechbrain_dsu.evaluation.language import vert
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.training.unit_task import UnitTaskBrain, train_task
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

KINDS = ("speech", "text", "text_speech", "speech_text", "alternate")
"""What a sequence may hold: one of both, both in either order, or in turns by word."""


class LanguageTask(nn.Module):
    """A language model that takes the column ``tokens`` of a batch.

    Arguments
    ---------
    model : nn.Module
        ``model(tokens, lens)``, see ``lobes.models.unit_lm``.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, tokens_lens: Tensor) -> dict[str, Tensor]:
        """Losses of sequences ``[batch, steps, streams]``."""
        return self.model(tokens, tokens_lens)


class Writings:
    """A judge of language models: perplexity, and whether what it writes differs.

    Arguments
    ---------
    prompt_steps, steps : int
        Length of the prompts, taken from the batches, and of what is written.
    items : int
        Prompts in all.
    """

    def __init__(self, prompt_steps: int = 20, steps: int = 40, items: int = 16):
        self.prompt_steps, self.steps, self.items = prompt_steps, steps, items
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.nats, self._ids, self._written = 0.0, 0, []

    @torch.no_grad()
    def add(self, model: nn.Module, columns: Mapping[str, Any], ids: list[str]) -> None:
        """Judge a batch of ``tokens``."""
        lm = getattr(model, "module", model).model
        tokens, lens = columns["tokens"], columns["tokens_lens"]
        total, count = lm.log_likelihood(tokens, lens)
        self.nats -= float(total.sum())
        self._ids += int(count.sum())
        steps = absolute_lengths(lens, tokens.shape[1])
        wanted = (steps > self.prompt_steps + 1).nonzero().flatten()
        wanted = wanted[: self.items - len(self._written)].to(tokens.device)
        if len(wanted):
            prompt = tokens[wanted, : self.prompt_steps]
            self._written += write_on(lm, prompt, self.steps, seed=0)

    def summary(self) -> dict[str, float]:
        """``perplexity`` per id; ``distinct`` and ``vert`` of what was written."""
        found = {"perplexity": math.exp(min(self.nats / max(self._ids, 1), 50))}
        if self._written:
            found["distinct"] = distinct_ratio(self._written)
        if len(self._written) > 1:
            found["vert"] = vert([row[:, 0] for row in self._written])
        return found


def write_on(
    model: nn.Module, prompt: Tensor, steps: int, seed: int, temperature: float = 1.0
) -> list[Tensor]:
    """What a language model writes behind prompts of equal length.

    Arguments
    ---------
    model : nn.Module
        In evaluation mode.
    prompt : Tensor
        ``[batch, steps, streams]``, the begin included.
    steps : int
        Most steps behind it.
    seed : int
        Each item draws by its own generator: what it gets doesn't depend on others.
    temperature : float
        Of the draws.

    Returns
    -------
    list of Tensor
        ``[steps_i, streams]`` without the prompt.
    """
    layout, size = model.embedding.layout, prompt.shape[1]
    if hasattr(layout, "frames"):
        # Frames that have begun after so many steps; delayed codes are to come.
        begun = layout.frames(size + steps + layout.length(0) - 1)
        rules = LayoutRule(layout, max_frames=begun + 1)
    else:
        rules = EndRule(layout.vocabulary, max_steps=size + steps)
    device = prompt.device
    generators = [
        torch.Generator(device).manual_seed(seed + k) for k in range(len(prompt))
    ]
    sampler = Sampling(temperature, generator=generators)
    found = generate(model.session(), rules, prompt, sampler=sampler)
    return [row[size:].cpu() for row in found.unpad()]


def word_starts(entry: Mapping[str, Any], frames: int, frame_rate: float) -> list[int]:
    """The frame before which each letter of an entry's text stands, word by word.

    All letters of a word (and the space before it) stand where it begins: by the
    entry's ``word_starts`` (seconds, separated by spaces) where it has them; else
    words share the recording by their letters.

    Arguments
    ---------
    entry : mapping
        With ``text``.
    frames : int
        Of the recording.
    frame_rate : float
        Frames per second.

    Returns
    -------
    list of int
        One for each letter, 0 to ``frames``, not falling.

    Example
    -------
    >>> word_starts({"text": "a bcd", "word_starts": "0.1 0.5"}, 50, 50.0)
    [5, 25, 25, 25, 25]
    >>> word_starts({"text": "a bcd"}, 50, 50.0)
    [0, 10, 10, 10, 10]
    """
    words = entry["text"].split()
    if "word_starts" in entry:
        seconds = [float(start) for start in entry["word_starts"].split()]
        if len(seconds) != len(words):
            raise DsuError(f"{len(seconds)} word_starts for {len(words)} words")
        starts = [min(round(start * frame_rate), frames) for start in seconds]
    else:
        lengths = [len(word) + bool(place) for place, word in enumerate(words)]
        before = [sum(lengths[:place]) for place in range(len(words))]
        starts = [number * frames // max(sum(lengths), 1) for number in before]
    out: list[int] = []
    for place, (word, start) in enumerate(zip(words, starts, strict=True)):
        out += [start] * (len(word) + bool(place))
    return out


class Corpus:
    """Sequences of a corpus as a language model's script writes them.

    Arguments
    ---------
    script : nn.Module
        See ``lobes.models.script``.
    codes : callable
        Id to codes ``[frames, codebooks]``.
    entries : mapping
        Manifest; with ``text`` for kinds that have text.
    max_frames : int, optional
        Cut recordings to their first frames.

    Raises
    ------
    DsuError
        If a kind is unknown, or there is text without a joint model.
    """

    def __init__(
        self,
        script: nn.Module,
        codes: Callable[[str], Tensor],
        entries: Mapping[str, Mapping[str, Any]],
        max_frames: int | None = None,
    ):
        self.script, self.codes, self.entries = script, codes, entries
        self.max_frames = max_frames

    def dataset(self, kinds: Sequence[str]) -> UnitDataset:
        """A dataset with the column ``tokens``: each utterance once in every kind."""
        for kind in kinds:
            if kind not in KINDS:
                raise DsuError(f"mix of '{kind}': take some of {', '.join(KINDS)}")
            if kind != "speech" and not self.script.joint:
                raise DsuError(f"'{kind}' needs a joint model, e.g. systems/lm/sutlm")
        names = [f"{name}|{kind}" for name in self.entries for kind in kinds]
        return UnitDataset(names, {"tokens": self.write}, self.length)

    def write(self, name: str) -> Tensor:
        """Ids ``[steps, streams]`` of ``<utterance>|<kind>``."""
        name, _, kind = name.rpartition("|")
        codes = self.codes(name)[: self.max_frames]
        if not self.script.joint:
            return self.script.write(codes[None])[0][0]
        entry = self.entries[name]
        text: list[int] = []
        if kind != "speech":
            text = self.script.text.encode(entry["text"])
        if kind == "text":
            codes = codes[:0]
        if kind == "alternate":
            starts = word_starts(entry, len(codes), self.script.frame_rate)
        else:
            starts = [len(codes) if kind == "speech_text" else 0] * len(text)
        columns = (torch.tensor([x], dtype=torch.int64) for x in (text, starts))
        pieces, starts = columns
        return self.script.write(codes[None], text=pieces, starts=starts)[0][0]

    def length(self, name: str) -> float:
        """About how many steps ``<utterance>|<kind>`` has, without writing it."""
        name, _, kind = name.rpartition("|")
        steps = 2.0
        if kind != "text":
            frames = len(self.codes(name)[: self.max_frames])
            steps += frames / float(self.script.frames_per_unit)
        if kind != "speech":
            steps += len(self.entries[name]["text"])
        return steps


def chosen(
    entries: Mapping[str, Mapping[str, Any]], where: Mapping[str, Any]
) -> dict[str, Mapping[str, Any]]:
    """The entries whose fields have these values.

    Example
    -------
    >>> chosen({"a": {"language": "en"}, "b": {"language": "es"}}, {"language": "en"})
    {'a': {'language': 'en'}}
    """
    found = {
        name: entry
        for name, entry in entries.items()
        if all(entry.get(key) == value for key, value in where.items())
    }
    if entries and not found:
        raise DsuError(f"no utterance has {dict(where)}")
    return found


def train_and_seal_lm(
    hparams: Mapping[str, Any],
    tokenizer: Any,
    manifests: Mapping[str, Mapping[str, Mapping[str, Any]]],
    flatten: Flatten,
    seal: Callable[..., Any],
) -> dict[str, float] | None:
    """A recipe of language modelling: tokens, script, model, evaluation, bundle.

    Arguments
    ---------
    hparams : mapping
        What ``train_task`` takes, and ``tokenizer``, ``system_file`` with ``system``
        (new values for its keys), ``mix`` (see ``KINDS``), ``where`` (see
        ``chosen``), ``n_codebooks``, ``max_frames``, ``token_folder``; ``bundle``:
        arguments of ``seal``.
    tokenizer : Tokenizer
        The loaded one.
    manifests : mapping
        ``train``, ``valid``, ``test``.
    flatten, seal : callable
        ``inference.flatten.flatten_yaml``, ``inference.compose.seal_system``.

    Returns
    -------
    dict or None
        Numbers on the test manifest, also in ``report.json``; None when
        ``max_minutes`` ended the training.
    """
    from speechbrain.utils.distributed import run_on_main

    parts = {k: chosen(v, hparams["where"]) for k, v in manifests.items()}
    tokenizer = tokenizer.to(hparams["run_opts"]["device"] or "cpu")
    store = token_store(
        tokenizer, parts.values(), hparams["token_folder"], hparams["n_codebooks"]
    )
    overrides = {
        **hparams["system"],
        "sizes": list(store.sizes),
        "units": store.fingerprint,
        "frame_rate": store.frame_rate,
    }
    built = build_system(flatten, hparams["system_file"], overrides)
    script, model = built["script"], built["model"]
    codes = in_memory(store)
    # Every rank learns the same: it takes seconds, and needs no message.
    script.fit([codes[name] for name in sorted(parts["train"])])
    data = {
        name: Corpus(script, codes.get, part, hparams["max_frames"])
        for name, part in parts.items()
    }
    brain = train_task(
        hparams,
        LanguageTask(model),
        data["train"].dataset(hparams["mix"]),
        data["valid"].dataset(hparams["mix"]),
        Writings(),
    )
    if brain is None:
        return None
    report = evaluate_lm(brain, data["test"], hparams)
    path = Path(hparams["output_folder"]) / "report.json"
    run_on_main(path.write_text, [json.dumps(report, indent=2) + "\n"])
    if "bundle" in hparams:
        options = dict(hparams["bundle"])
        about = {"kind": "lm", **options.pop("about", {}), "metrics": report}
        modules = {"script": script, "model": model.cpu(), "tokenizer": tokenizer.cpu()}
        options |= {
            "interface": "speechbrain_dsu.inference.lm.SpeechLM",
            "system": hparams["system_file"],
            "parts": {"tokenizer": hparams["tokenizer"]},
            "overrides": overrides,
            "about": about,
        }
        run_on_main(seal, [modules], options)
    return report


def evaluate_lm(
    brain: UnitTaskBrain, corpus: Corpus, hparams: Mapping[str, Any]
) -> dict[str, float]:
    """Numbers of a trained language model on unseen speech.

    Arguments
    ---------
    brain : UnitTaskBrain
        Trained; its ``modules["model"]`` is a ``LanguageTask``.
    corpus : Corpus
        Of the test manifest.
    hparams : mapping
        ``batch_frames``.

    Returns
    -------
    dict
        ``perplexity`` per id, ``bits_per_second`` of speech, ``distinct`` and
        ``vert`` of what it writes, ``steps`` of training.
    """
    judge, model = Writings(), brain.modules["model"]
    data = corpus.dataset(["speech"])
    loading = data.loading(hparams["batch_frames"], shuffle=False)
    for batch in loading["batch_sampler"]:
        rows = [data[place]["tokens"] for place in batch]
        sizes = [len(row) for row in rows]
        columns = {
            "tokens": nn.utils.rnn.pad_sequence(rows, batch_first=True),
            "tokens_lens": torch.tensor(sizes).double() / max(sizes),
        }
        columns = {k: v.to(brain.device) for k, v in columns.items()}
        judge.add(model, columns, [])
    frames = sum(len(corpus.codes(x)[: corpus.max_frames]) for x in corpus.entries)
    seconds = frames / corpus.script.frame_rate
    bits = judge.nats / math.log(2)
    report = {**judge.summary(), "bits_per_second": bits / max(seconds, 1e-9)}
    report = {name: round(value, 4) for name, value in report.items()}
    return {**report, "steps": brain.optimizer_step}
