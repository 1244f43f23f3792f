"""``UnitVocoder``: units to speech in a chosen voice."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError


class UnitVocoder(Interface):
    """A vocoder of units from a bundle.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``vocoder``.

    Example
    -------
    >>> vocoder = UnitVocoder.from_hparams("unit-vocoder")
    >>> codes = [torch.tensor([[3], [3], [8]])]
    >>> tokens = Tokens.from_list(codes, 50.0, (500,), vocoder.units)
    >>> wavs, lens = vocoder.decode_batch(tokens, speaker="george")
    >>> wavs.shape
    torch.Size([1, 960])
    """

    MODULES_NEEDED = ["vocoder"]

    def decode_batch(
        self, tokens: Tokens, speaker: Any = None, **conditions: Any
    ) -> tuple[Tensor, Tensor]:
        """Speech of tokens.

        Arguments
        ---------
        tokens : Tokens
            Of the tokenizer with the fingerprint ``units``: straight from it, or from
            a token store (``TokenStore.batch``).
        speaker : str, sequence of str or Tensor
            A voice for all items, one for each, or speaker vectors.
        **conditions
            ``pitch=[batch, frames, 2]``, ``deduplicated=True`` for tokens without
            repetition.

        Returns
        -------
        wavs : Tensor
            float32 ``[batch, time]``.
        lens : Tensor
            Relative lengths ``[batch]``.

        Raises
        ------
        DsuError
            If the tokens are another tokenizer's, or there is no such voice.
        """
        with self.inference_ctx:
            return self.mods.vocoder.decode(tokens, speaker, **conditions)

    def forward(self, tokens: Tokens, **conditions: Any) -> tuple[Tensor, Tensor]:
        """The same as ``decode_batch``."""
        return self.decode_batch(tokens, **conditions)

    def decode_file(
        self, tokens: Tokens, out: str | Path, speaker: Any = None, **conditions: Any
    ) -> None:
        """Write the speech of one item's tokens; the suffix says the format.

        Raises
        ------
        DsuError
            As ``decode_batch``, or if there are several items.
        """
        if len(tokens) != 1:
            raise DsuError(
                f"{out}: one file takes the tokens of one item, got {len(tokens)}: "
                "loop over the batch"
            )
        wavs, _ = self.decode_batch(tokens[0], speaker, **conditions)
        write_audio(out, wavs[0].cpu(), self.sample_rate)

    @property
    def voices(self) -> tuple[str, ...]:
        """Names that ``speaker`` may have."""
        return self.mods.vocoder.voices

    @property
    def units(self) -> str:
        """Fingerprint of the tokenizer whose tokens it takes."""
        return self.mods.vocoder.units

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """What the generator makes of ids in turn, as many as the clip has frames.

        A vocoder alone has no units of the clip; ids in turn reach much of its table.
        Where the generator writes levels these are compared: phases found in rounds
        grow a difference in rounding.
        """
        vocoder = modules["vocoder"]
        count = min(len(wav) * vocoder.sample_rate // sample_rate // vocoder.hop, 50)
        places = torch.arange(count, device=next(vocoder.parameters()).device)
        if vocoder.content.soft:
            sizes = torch.arange(vocoder.content.size, device=places.device)
            content = (places.unsqueeze(1) * 0.1 + sizes).sin()
        else:
            sizes = torch.tensor(vocoder.content.sizes, device=places.device)
            content = (7 * places).unsqueeze(1) % sizes
        voice = vocoder.speakers(vocoder.voices[-1], 1)
        latents, _ = vocoder.latents(content.unsqueeze(0), voice, {})
        levels = getattr(vocoder.generator, "levels", None)
        if levels is None:
            return {"wav": vocoder.generator(latents).cpu()}
        return {"levels": levels(latents).cpu()}
