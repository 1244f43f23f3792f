"""What all models that write sequences of units share."""

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.heads import Head
from speechbrain_dsu.nnet.int8 import int8_copy
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


class SequenceModel(nn.Module):
    """Base: embedding, causal transformer, head.

    Sequences are ids ``[batch, steps, streams]`` of a layout, or frames
    ``[batch, steps, frame_dim]``, and begin with ``head.begin``: layouts with ends do,
    and ``with_begin`` adds it to frames. Step t is predicted from those before it.

    Arguments
    ---------
    embedding : nn.Module
        Steps to vectors ``[batch, steps, dim]``: `UnitEmbedding`, `FrameEmbedding`.
    transformer : Transformer
        Causal.
    head : Head
        The token slot, see `nnet.heads`.
    condition_dropout : float
        In training, hide the condition of this share of the items, so that the model
        also learns to do without it (Ho & Salimans, "Classifier-Free Diffusion
        Guidance", 2022, algorithm 1).

    Raises
    ------
    DsuError
        If the transformer isn't causal.
    """

    def __init__(
        self,
        embedding: nn.Module,
        transformer: Transformer,
        head: Head,
        condition_dropout: float = 0.0,
    ):
        super().__init__()
        if not transformer.causal:
            raise DsuError("a model that writes needs a causal transformer")
        if not 0 <= condition_dropout < 1:
            raise DsuError(f"condition_dropout={condition_dropout}: take 0 to below 1")
        self.embedding, self.transformer, self.head = embedding, transformer, head
        self.condition_dropout = condition_dropout

    def extra_repr(self) -> str:
        """The setting that no weight shows."""
        return f"condition_dropout={self.condition_dropout:g}"

    def with_begin(self, frames: Tensor, lens: Tensor | None = None):
        """Frames behind the begin, and their lengths: what models of frames take.

        Arguments
        ---------
        frames : Tensor
            ``[batch, frames, frame_dim]``.
        lens : Tensor, optional
            Relative lengths.

        Returns
        -------
        steps : Tensor
            ``[batch, 1 + frames, frame_dim]``.
        lens : Tensor
            Relative lengths in steps.
        """
        size = frames.shape[1]
        counts = absolute_lengths(lens, size, len(frames)).to(frames.device)
        begin = self.head.begin.to(frames.dtype).expand(len(frames), 1, -1)
        return torch.cat([begin, frames], 1), (counts + 1).double() / (size + 1)

    def int8_copy(self) -> "SequenceModel":
        """A copy that writes faster: see ``nnet.int8``."""
        return int8_copy(self)

    def _losses(self, hidden: Tensor, tokens: Tensor, lens: Tensor | None):
        return self.head.loss(hidden, tokens[:, 1:], self.counted(tokens, lens))

    def _likelihood(self, hidden: Tensor, tokens: Tensor, lens: Tensor | None):
        mask = self.counted(tokens, lens)
        scores = self.head.score(hidden, tokens[:, 1:]) * mask
        return scores.double().sum((1, 2)), mask.sum((1, 2))

    def counted(self, tokens: Tensor, lens: Tensor | None = None) -> Tensor:
        """Which targets count: bool ``[batch, steps - 1, streams]`` (frames: 1).

        Not padding, nor what the layout dictates: begins, and ends after a stream's
        first one.
        """
        targets = tokens[:, 1:]
        counts = absolute_lengths(lens, tokens.shape[1], len(tokens))
        mask = length_mask(counts.to(tokens.device) - 1, targets.shape[1])
        mask = mask.unsqueeze(-1)
        if targets.is_floating_point():
            return mask
        vocabulary = self.head.vocabulary
        mask = mask & (targets != vocabulary.pad)
        if "<bos>" in vocabulary.specials:
            mask = mask & (targets != vocabulary.bos)
        if "<eos>" in vocabulary.specials:
            ends = targets == vocabulary.eos
            mask = mask & ~(ends & (ends.cumsum(1) > 1))
        return mask

    def _hidden_items(self, batch: int, device: torch.device) -> Tensor | None:
        """Items whose condition this training step hides; None: no item's."""
        if not self.training or not self.condition_dropout:
            return None
        return torch.rand(batch, device=device) < self.condition_dropout
