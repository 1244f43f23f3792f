"""``UnitTTS``: text to speech, by way of units."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.decoders.protocol import Sampler
from speechbrain_dsu.decoders.speech import say
from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.inference.speaking import speak, speech_rate
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import relative_lengths


class Speech(NamedTuple):
    """What was said.

    Arguments
    ---------
    wavs : Tensor
        ``[batch, time]``.
    lens : Tensor
        Relative lengths ``[batch]``.
    tokens : Tokens
        The units.
    stopped : tuple of str
        Why each item stopped: "end" where all went well, "length" or "loop" where a
        model was cut.
    """

    wavs: Tensor
    lens: Tensor
    tokens: Tokens
    stopped: tuple[str, ...]


class UnitTTS(Interface):
    """A speaker of texts with its vocoder, from one bundle.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``model`` and a ``vocoder``, or a
        ``tokenizer`` that decodes.

    Example
    -------
    >>> tts = UnitTTS.from_hparams("digits-tts")
    >>> speech = tts.say_batch(["three one four", "zero"], voice="nicolas")
    >>> speech.wavs.shape[0], speech.stopped
    (2, ('end', 'end'))
    """

    MODULES_NEEDED = ["model"]

    def say_file(self, text: str, out: str | Path, **options: Any) -> None:
        """Say a text into an audio file; the suffix says the format.

        Arguments
        ---------
        text : str
            One utterance, as those the model was trained on.
        out : str or Path
            To write.
        **options
            See ``say_batch``.
        """
        found = self.say_batch([text], **options)
        write_audio(out, found.wavs[0].cpu(), self.speech_rate)

    def say_batch(
        self,
        texts: Sequence[str],
        voice: str | Sequence[str | None] | None = None,
        prompt: Tokens | None = None,
        prompt_texts: Sequence[str] | None = None,
        sampler: Sampler | None = None,
        guidance: float = 1.0,
    ) -> Speech:
        """Say texts; no item depends on the others.

        Arguments
        ---------
        texts : sequence of str
            What to say.
        voice : str or sequence of str, optional
            One of ``voices`` for all, or one for each; None: the first.
        prompt : Tokens, optional
            Units of a speaker to go on as, one item for each text
            (``read_prompt`` makes them of a recording): models that write from left to
            right. Their own texts are ``prompt_texts``.
        prompt_texts : sequence of str, optional
            What the prompts say.
        sampler : callable, optional
            See ``decoders.sampling``; the likeliest units if not given.
        guidance : float
            How much to amplify what the text changes; 1: not.

        Returns
        -------
        Speech
            ``wavs`` at ``speech_rate``, ``lens``, ``tokens``, ``stopped``.

        Raises
        ------
        DsuError
            If there is no such voice, a text has letters that the model doesn't know,
            or a prompt is of another tokenizer.
        """
        if not texts:
            raise DsuError("no text to say")
        model, units = self.mods.model, None
        known = model.reader.voices
        if voice is None and prompt is None and known:
            voice = known[0]
        names = [voice] * len(texts) if isinstance(voice, str | None) else list(voice)
        if len(names) != len(texts):
            raise DsuError(f"{len(names)} voices for {len(texts)} texts")
        lens = None
        if prompt is not None:
            self._check(prompt, len(texts))
            units, lens = prompt.to(self.device).codes, prompt.lens
        options = {"sampler": sampler, "guidance": guidance}
        with self.inference_ctx, torch.no_grad():
            found = say(model, texts, names, units, lens, prompt_texts, **options)
            tokens = model.steps.tokens(found.codes, found.lens)
            wavs, wav_lens = self.speak(tokens, names)
        return Speech(wavs, wav_lens, tokens, found.stopped)

    def speak(
        self, tokens: Tokens, voice: Sequence[str | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Speech of units: the way from ``Speech.tokens`` to its wavs.

        Voices that the vocoder lacks become its first.

        Raises
        ------
        DsuError
            If there is no vocoder, or the tokens are not its own.
        """
        conditions = {}
        if "vocoder" in self.mods and getattr(self.mods.vocoder, "voices", ()):
            known = self.mods.vocoder.voices
            names = [None] * len(tokens) if voice is None else voice
            conditions["speaker"] = [n if n in known else known[0] for n in names]
        return speak(self.mods, tokens, **conditions)

    def read_prompt(self, path: str | Path) -> Tokens:
        """Units of a recording, for ``say_batch``: systems that hold a tokenizer.

        Raises
        ------
        DsuError
            If the system holds none.
        """
        if "tokenizer" not in self.mods:
            raise DsuError(
                "this system holds no tokenizer: make the prompt's tokens with the one "
                f"of the fingerprint {self.mods.model.steps.units[:12]}"
            )
        tokenizer = self.mods.tokenizer
        with self.inference_ctx, torch.no_grad():
            tokens = tokenizer.encode(self.load_audio(path).unsqueeze(0))
        books = len(self.mods.model.steps.sizes)
        return self.mods.model.steps.tokens(tokens.codes[..., :books], tokens.lens)

    def forward(self, texts: Sequence[str], **options: Any) -> Speech:
        """The same as ``say_batch``."""
        return self.say_batch(texts, **options)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that ``voice`` may have."""
        return self.mods.model.reader.voices

    @property
    def sample_rate(self) -> int:
        """Of the audio it reads prompts from, in hertz."""
        if "tokenizer" not in self.mods:
            raise DsuError("this system reads no audio: it holds no tokenizer")
        return self.mods.tokenizer.sample_rate

    @property
    def speech_rate(self) -> int:
        """Of the speech it gives, in hertz."""
        return speech_rate(self.mods)

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """Scores of given units after a text of symbols in turn; the clip isn't read.

        Scores of given units, not units that it writes: those can part for good at
        one that was all but even, on another machine.
        """
        model = modules["model"]
        size = min(model.reader.text.size, 20)
        text = torch.arange(size).unsqueeze(0)
        sizes = torch.tensor(model.steps.sizes)
        codes = (7 * torch.arange(2 * size)).unsqueeze(1) % sizes
        lens = relative_lengths(torch.tensor([2 * size]), 2 * size)
        voice = torch.zeros(1, dtype=torch.int64)
        return model.scores(text, None, codes.unsqueeze(0), lens, voice)

    def _check(self, prompt: Tokens, batch: int) -> None:
        units = self.mods.model.steps.units
        if prompt.fingerprint != units:
            raise DsuError(
                f"this model writes units of the tokenizer {units[:12]}, the prompt is "
                f"of {prompt.fingerprint[:12]}"
            )
        if len(prompt) != batch:
            raise DsuError(f"{len(prompt)} prompts for {batch} texts: one for each")
