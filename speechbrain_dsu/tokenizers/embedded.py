"""Units in the place of features: for recipes that take frames from a module."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.embeddings import Combine, UnitEmbedding
from speechbrain_dsu.tokenizers.base import Tokenizer
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import length_mask


class EmbeddedUnits(nn.Module):
    """Waveforms to learned vectors of their units: the tokenizer stays as it is.

    It is called as SpeechBrain's wrappers of SSL models are, ``module(wavs, lens)``
    to ``[batch, frames, dim]``, so a recipe that has one takes units by one entry of
    its YAML (``docs/speechbrain.md``). Only the table is trained.

    Arguments
    ---------
    tokenizer : Tokenizer or UnitTokenizer
        Whose units.
    dim : int
        Size of the vectors.
    n_codebooks : int, optional
        The first ones; all by default.
    combine : str
        How codebooks are combined: "sum" or "attention", see ``UnitEmbedding``.
    from_codebooks : bool
        Start from the tokenizer's own vectors (of all codebooks) instead of noise.

    Raises
    ------
    DsuError
        If ``from_codebooks`` is asked of a tokenizer without a quantizer of its own.

    Example
    -------
    >>> from speechbrain_dsu.lobes.features import LogMel
    >>> from speechbrain_dsu.nnet.quantizers.scalar import UniformBins
    >>> from speechbrain_dsu.tokenizers.features import FeatureTokenizer
    >>> dmel = FeatureTokenizer(LogMel(), UniformBins(80, 16, -11.5, 2.0))
    >>> EmbeddedUnits(dmel, dim=32)(torch.zeros(2, 8000)).shape
    torch.Size([2, 41, 32])
    """

    def __init__(
        self,
        tokenizer: nn.Module,
        dim: int,
        n_codebooks: int | None = None,
        combine: Combine = "sum",
        from_codebooks: bool = False,
    ):
        super().__init__()
        if not isinstance(tokenizer, Tokenizer):
            # An interface holds its tokenizer among its modules.
            tokenizer = tokenizer.mods.tokenizer
        self.tokenizer = tokenizer.requires_grad_(False).eval()
        self.n_codebooks = n_codebooks
        sizes = tokenizer.codebook_sizes[:n_codebooks]
        layout = Parallel(Vocabulary(sizes=sizes, shared=True))
        quantizer = None
        if from_codebooks:
            holder = getattr(tokenizer, "codec", tokenizer)
            quantizer = getattr(holder, "quantizer", None)
            if quantizer is None:
                raise DsuError(
                    f"from_codebooks: {type(tokenizer).__name__} has no quantizer to "
                    "start from"
                )
        width = None if quantizer is None else quantizer.embed(_zeros(sizes)).shape[-1]
        self.embedding = UnitEmbedding(layout, dim, width, combine)
        if quantizer is not None:
            self.embedding.load_codebooks(quantizer)

    def train(self, mode: bool = True) -> "EmbeddedUnits":
        """The tokenizer always stays in evaluation mode."""
        super().train(mode)
        self.tokenizer.eval()
        return self

    def forward(self, wavs: Tensor, wav_lens: Tensor | None = None) -> Tensor:
        """Vectors ``[batch, frames, dim]``, zero behind an item's end.

        Arguments
        ---------
        wavs : Tensor
            ``[batch, time]`` at the tokenizer's rate.
        wav_lens : Tensor, optional
            Relative lengths ``[batch]``.

        Returns
        -------
        Tensor
            ``[batch, frames, dim]``.
        """
        tokens = self.tokenizer.encode(wavs, wav_lens, n_codebooks=self.n_codebooks)
        mask = length_mask(tokens.counts, tokens.codes.shape[1])
        ids = self.embedding.vocabulary.to_ids(tokens.codes, mask=mask)
        return self.embedding(ids) * mask.unsqueeze(-1)


def _zeros(sizes: tuple[int, ...]) -> Tensor:
    return torch.zeros(1, 1, len(sizes), dtype=torch.int64)
