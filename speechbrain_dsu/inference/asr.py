"""``UnitASR``: speech, or tokens of it, to text."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths


class UnitASR(Interface):
    """A recogniser with its tokenizer, from one bundle.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``tokenizer`` and ``model``.

    Example
    -------
    >>> asr = UnitASR.from_hparams("digits-asr")
    >>> asr.transcribe_batch(torch.zeros(1, 0))
    ['']
    """

    MODULES_NEEDED = ["tokenizer", "model"]

    def transcribe_file(self, path: str | Path) -> str:
        """Text of an audio file: one utterance, as those the model was trained on.

        Raises
        ------
        AudioError
            If the file is missing, damaged or not audio.
        """
        return self.transcribe_batch(self.load_audio(path).unsqueeze(0))[0]

    def transcribe_batch(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
    ) -> list[str]:
        """Texts of ``wavs [batch, time]`` with relative ``lens [batch]``.

        Items are searched one by one: their texts do not depend on their company.

        Arguments
        ---------
        wavs : Tensor
            Floating point ``[batch, time]`` in [-1, 1].
        lens : Tensor, optional
            Relative lengths.
        sample_rate : int, optional
            Of ``wavs`` in hertz; resampled if the system's differs.

        Returns
        -------
        list of str
            One per item.
        """
        tokenizer, model = self.mods.tokenizer, self.mods.model
        with self.inference_ctx, torch.no_grad():
            if model.reader.discrete:
                tokens = tokenizer.encode(wavs, lens, sample_rate)
                return self.transcribe_tokens(tokens)
            counts = absolute_lengths(lens, wavs.shape[1], len(wavs))
            items = zip(wavs, counts.tolist(), strict=True)
            frames = [tokenizer.frames(wav[:n], sample_rate) for wav, n in items]
            return model.transcribe(frames)

    def transcribe_tokens(self, tokens: Tokens) -> list[str]:
        """Texts of tokens that the system's own tokenizer made.

        Raises
        ------
        DsuError
            If the tokens are another tokenizer's.
        """
        model = self.mods.model
        if tokens.fingerprint != model.units:
            raise DsuError(
                f"this recogniser reads units of the tokenizer {model.units[:12]}, "
                f"the tokens are of {tokens.fingerprint[:12]}"
            )
        with self.inference_ctx, torch.no_grad():
            return model.transcribe(tokens.to(self.device).unpad())

    def forward(self, wavs: Tensor, lens: Tensor | None = None, **options) -> list[str]:
        """The same as ``transcribe_batch``."""
        return self.transcribe_batch(wavs, lens, **options)

    @property
    def sample_rate(self) -> int:
        """Of the audio it takes, in hertz."""
        return self.mods.tokenizer.sample_rate

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """CTC's probabilities ``[1, steps, ids]`` of the clip."""
        tokenizer, model = modules["tokenizer"], modules["model"]
        if model.reader.discrete:
            source = tokenizer.encode(wav[None], sample_rate=sample_rate).codes[0]
        else:
            source = tokenizer.frames(wav, sample_rate)
        hidden, _ = model.encode(model.prepare(source).unsqueeze(0))
        return {"ctc": model.ctc_scores(hidden).exp()}
