"""``SpeechTranslator``: speech of one language to speech of another."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.decoders.translation import translate
from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.inference.speaking import speak, speech_rate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    relative_lengths,
)
from speechbrain_dsu.utils.resampling import resample


class Translation(NamedTuple):
    """What was said.

    Arguments
    ---------
    wavs : Tensor
        Speech ``[batch, time]``.
    lens : Tensor
        Relative lengths ``[batch]``.
    texts : list of str or None
        What the model says that the speech says; None from models without text.
    tokens : Tokens
        The units.
    """

    wavs: Tensor
    lens: Tensor
    texts: list[str] | None
    tokens: Tokens


class SpeechTranslator(Interface):
    """A translator with its vocoder, from one bundle.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``model``, ``features`` or a
        ``tokenizer`` to read the source by, and a ``vocoder`` or a ``tokenizer`` that
        decodes.

    Example
    -------
    >>> translator = SpeechTranslator.from_hparams("digits-s2st")
    >>> wavs, lens, texts, tokens = translator.translate_batch(torch.zeros(1, 16000))
    >>> wavs.ndim, len(texts)
    (2, 1)
    """

    MODULES_NEEDED = ["model"]

    def translate_file(
        self, path: str | Path, out: str | Path | None = None, **options: Any
    ) -> str | None:
        """Translate an audio file, one utterance.

        Arguments
        ---------
        path : str or Path
            To read.
        out : str or Path, optional
            Where the translation goes; the suffix says the format.
        **options
            See ``translate_batch``.

        Returns
        -------
        str or None
            The text of the translation, if the model writes one.

        Raises
        ------
        AudioError
            If the file is missing, damaged or not audio.
        """
        found = self.translate_batch(self.load_audio(path).unsqueeze(0), **options)
        if out is not None:
            write_audio(out, found.wavs[0].cpu(), self.target_rate)
        return found.texts[0] if found.texts else None

    def translate_batch(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        beams: int | None = None,
        voice: str | None = None,
    ) -> Translation:
        """Translate ``wavs [batch, time]``; no item depends on the others.

        Arguments
        ---------
        wavs : Tensor
            Floating point in [-1, 1].
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        sample_rate : int, optional
            Of ``wavs`` in hertz; resampled if the system's differs.
        beams : int, optional
            Of the search; the system's own number if not given. 1: greedy.
        voice : str, optional
            Of the vocoder; the one that the model was trained for if not given.

        Returns
        -------
        Translation
            ``wavs`` at ``target_rate``, ``lens``, ``texts``, ``tokens``.
        """
        beams = getattr(self.hparams, "beams", 1) if beams is None else beams
        with self.inference_ctx, torch.no_grad():
            source, source_lens = _source(self.mods, wavs, lens, sample_rate)
            power = getattr(self.hparams, "length_power", 1.0)
            found = translate(self.mods.model, source, source_lens, beams, power)
            tokens = self.mods.model.steps.tokens(found.codes, found.lens)
            speech, speech_lens = self.speak(tokens, voice)
        return Translation(speech, speech_lens, found.texts, tokens)

    def speak(self, tokens: Tokens, voice: str | None = None) -> tuple[Tensor, Tensor]:
        """Speech of units in a voice: the way from ``Translation.tokens`` to its wavs.

        Raises
        ------
        DsuError
            If there is no vocoder, or the tokens are not its own.
        """
        voice = getattr(self.hparams, "voice", "") if voice is None else voice
        conditions = {"speaker": voice} if voice and "vocoder" in self.mods else {}
        return speak(self.mods, tokens, **conditions)

    def forward(self, wavs: Tensor, lens: Tensor | None = None, **options):
        """The same as ``translate_batch``."""
        return self.translate_batch(wavs, lens, **options)

    @property
    def sample_rate(self) -> int:
        """Of the audio it takes, in hertz."""
        return _reader(self.mods).sample_rate

    @property
    def target_rate(self) -> int:
        """Of the speech it gives, in hertz."""
        return speech_rate(self.mods)

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """The memory of the clip, and the model's scores of units in turn after it.

        Scores of given units, not units that it writes: those can part for good at
        one that was all but even, on another machine.
        """
        model = modules["model"]
        source, lens = _source(modules, wav.unsqueeze(0), None, sample_rate)
        memory, memory_lens = model.read(source, lens)
        sizes = torch.tensor(model.steps.sizes)
        codes = (7 * torch.arange(20)).unsqueeze(1) % sizes
        ids, _, _ = model.steps.write(codes.unsqueeze(0))
        hidden = model.transformer(
            model.embedding(ids[:, :-1]), None, memory, memory_lens
        )
        return {"memory": memory, "scores": model.head.score(hidden, ids[:, 1:])}


def _reader(modules: Mapping[str, nn.Module]) -> Any:
    """What reads the source: features, or else the tokenizer."""
    for name in ("features", "tokenizer"):
        if name in modules:
            return modules[name]
    raise DsuError("a translator needs a module 'features' or 'tokenizer'")


def _source(
    modules: Mapping[str, nn.Module],
    wavs: Tensor,
    lens: Tensor | None,
    sample_rate: int | None,
) -> tuple[Tensor, Tensor]:
    """What the model reads of speech, and its relative lengths."""
    reader = _reader(modules)
    if "features" not in modules:
        tokens = reader.encode(wavs, lens, sample_rate)
        return tokens.codes, tokens.lens
    wavs = wavs.float()
    counts = absolute_lengths(lens, wavs.shape[1], len(wavs)).to(wavs.device)
    rate = sample_rate or reader.sample_rate
    if rate != reader.sample_rate:
        wavs = wavs * length_mask(counts, wavs.shape[1])
        wavs = resample(wavs, rate, reader.sample_rate)
        counts = -(-counts * reader.sample_rate // rate)
    frames = reader(wavs, counts)
    kept = torch.where(counts > 0, 1 + counts // reader.hop, 0)
    return frames, relative_lengths(kept.clamp(max=frames.shape[1]), frames.shape[1])


def load_parts(
    tokenizer: str,
    vocoder: str | None,
    judge: str | None,
    device: torch.device,
) -> dict[str, Any]:
    """What a translation recipe works with, from bundles.

    Arguments
    ---------
    tokenizer, vocoder, judge : str or None
        Shipped name, folder, or Hub id of each; the last two may be missing.
    device : torch.device
        Where to put them.

    Returns
    -------
    dict
        ``tokenizer`` and ``vocoder`` (modules), ``judge`` (an interface).
    """
    from speechbrain_dsu.inference.asr import UnitASR
    from speechbrain_dsu.inference.tokenizer import UnitTokenizer
    from speechbrain_dsu.inference.vocoder import UnitVocoder

    options = {"run_opts": {"device": str(device)}}
    units = UnitTokenizer.from_hparams(tokenizer, **options)
    parts = {"tokenizer": units.mods.tokenizer, "vocoder": None, "judge": None}
    if vocoder:
        parts["vocoder"] = UnitVocoder.from_hparams(vocoder, **options).mods.vocoder
    if judge:
        parts["judge"] = UnitASR.from_hparams(judge, **options)
    return parts
