"""``VoiceConverter``: what one speaker said, in another voice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.inference.probe import run_tokenizer
from speechbrain_dsu.inference.vocoder import UnitVocoder
from speechbrain_dsu.tokenizers.batching import valid_items
from speechbrain_dsu.utils.audio import resample, write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths


class VoiceConverter(Interface):
    """A tokenizer and a vocoder of its units, from one bundle.

    Units carry what is said; the voice comes from the vocoder. The source's pitch
    goes along as a contour about its mean, so that the melody is the source's and the
    register that of the target. A vocoder of soft units gets the frames that the
    tokenizer would quantize.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``tokenizer`` and ``vocoder``.

    Example
    -------
    >>> converter = VoiceConverter.from_hparams("digits-vc")
    >>> wavs, lens = converter.convert_batch(0.1 * torch.randn(1, 8000), "george")
    >>> wavs.shape
    torch.Size([1, 8000])
    """

    MODULES_NEEDED = ["tokenizer", "vocoder"]

    def convert_file(
        self,
        path: str | Path,
        speaker: Any,
        out: str | Path | None = None,
        contours: bool = True,
    ) -> Tensor:
        """Speech of a file in another voice.

        Arguments
        ---------
        path : str or Path
            An audio file of any rate.
        speaker : str or Tensor
            One of ``voices``, or a speaker vector ``[1, size]``.
        out : str or Path, optional
            Where to write it; the suffix says the format.
        contours : bool
            See ``convert_batch``.

        Returns
        -------
        Tensor
            float32 ``[time]`` at ``sample_rate``.

        Raises
        ------
        AudioError
            If the file is missing, damaged or not audio.
        DsuError
            If there is no such voice.
        """
        wav = self.load_audio(path)
        found = self.convert_batch(wav.unsqueeze(0), speaker, contours=contours)[0][0]
        if out is not None:
            write_audio(out, found.cpu(), self.output_rate)
        return found

    def convert_batch(
        self,
        wavs: Tensor,
        speaker: Any,
        lens: Tensor | None = None,
        sample_rate: int | None = None,
        contours: bool = True,
    ) -> tuple[Tensor, Tensor]:
        """Speech in other voices, as long as the sources.

        Arguments
        ---------
        wavs : Tensor
            Floating point ``[batch, time]`` in [-1, 1].
        speaker : str, sequence of str or Tensor
            One of ``voices`` for all items or one for each, or speaker vectors
            ``[batch, size]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        sample_rate : int, optional
            Of ``wavs`` in hertz; that of the tokenizer by default.
        contours : bool
            Keep the sources' melody; False lets the vocoder do without.

        Returns
        -------
        wavs : Tensor
            float32 ``[batch, time]`` at ``output_rate``.
        lens : Tensor
            Relative lengths.

        Raises
        ------
        DsuError
            If a voice is missing or unknown.
        """
        with self.inference_ctx, torch.no_grad():
            items = valid_items(
                wavs.to(self.device), lens, sample_rate, self.sample_rate
            )
            voice = self.mods.vocoder.speakers(speaker, len(items))
            found = [
                _convert(self.mods, item, vector, contours)
                for item, vector in zip(items, voice.split(1), strict=True)
            ]
        padded, counts = pad_stack(found)
        return padded, relative_lengths(counts, padded.shape[1])

    def forward(self, wavs: Tensor, speaker: Any, **options) -> tuple[Tensor, Tensor]:
        """The same as ``convert_batch``."""
        return self.convert_batch(wavs, speaker, **options)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that ``speaker`` may have."""
        return self.mods.vocoder.voices

    @property
    def sample_rate(self) -> int:
        """Of the audio it takes, in hertz."""
        return self.mods.tokenizer.sample_rate

    @property
    def output_rate(self) -> int:
        """Of the audio it makes, in hertz."""
        return self.mods.vocoder.sample_rate

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """What the tokenizer makes of the clip, and the vocoder of ids in turn."""
        found = UnitVocoder.run_probe(modules, wav, sample_rate)
        if modules["vocoder"].content.soft:
            frames = modules["tokenizer"].frames(wav, sample_rate)
            return found | {"frames": frames.cpu()}
        return found | run_tokenizer(modules, wav, sample_rate)


def _convert(
    modules: Mapping[str, nn.Module], wav: Tensor, voice: Tensor, contours: bool
) -> Tensor:
    """``[time]`` at the tokenizer's rate to ``[time]`` at the vocoder's."""
    tokenizer, vocoder = modules["tokenizer"], modules["vocoder"]
    if vocoder.content.soft:
        content = tokenizer.frames(wav)
    else:
        tokens = tokenizer.encode(wav.unsqueeze(0))
        if tokens.fingerprint != vocoder.units:
            raise DsuError(
                f"the tokenizer is {tokens.fingerprint[:12]}, the vocoder speaks units "
                f"of {vocoder.units[:12]}: they don't belong together"
            )
        content = tokens.codes[0]
    source = resample(wav, tokenizer.sample_rate, vocoder.sample_rate)
    if not len(content):
        return torch.zeros_like(source)
    followed = vocoder.follow(source.unsqueeze(0), len(content)) if contours else {}
    made = vocoder.decode_frames([content], voice, followed)[0][0]
    # Units end at the last whole frame.
    missing = max(len(source) - len(made), 0)
    return nn.functional.pad(made, (0, missing))[: len(source)]
