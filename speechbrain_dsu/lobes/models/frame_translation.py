"""Speech-to-speech translation without units: frames of the target, one by one."""

from torch import Tensor, nn

from speechbrain_dsu.lobes.models.readers import with_positions
from speechbrain_dsu.lobes.models.unit_seq2seq import UnitTranslator
from speechbrain_dsu.nnet.heads import FrameHead
from speechbrain_dsu.nnet.transformer import Transformer


class SpeechToFrames(UnitTranslator):
    """What unit translation is compared with: the same encoder, a decoder of frames.

    As Translatotron (Jia et al., "Direct Speech-to-Speech Translation with a
    Sequence-to-Sequence Model", 2019): each frame from those before it, with a stop.

    Arguments
    ---------
    reader : nn.Module
        ``reader(source, lens)`` gives vectors and their relative lengths.
    encoder, embedding, transformer, head
        See `UnitTranslator`; ``FrameEmbedding`` and ``FrameHead``.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.lobes.models.readers import ConvReader
    >>> from speechbrain_dsu.nnet.embeddings import FrameEmbedding
    >>> model = SpeechToFrames(
    ...     ConvReader(40, 16),
    ...     Transformer(16, 1, 2, causal=False),
    ...     FrameEmbedding(20, 16),
    ...     Transformer(16, 1, 2, memory_dim=16),
    ...     FrameHead(20, 16),
    ... )
    >>> full = torch.ones(2)
    >>> list(model(torch.randn(2, 30, 40), full, torch.randn(2, 9, 20), full))
    ['loss', 'error', 'stop']
    """

    def __init__(
        self,
        reader: nn.Module,
        encoder: nn.Module,
        embedding: nn.Module,
        transformer: Transformer,
        head: FrameHead,
    ):
        super().__init__(reader, encoder, embedding, transformer, head)

    def read(
        self, source: Tensor, source_lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The memory ``[batch, length, memory_dim]`` and its relative lengths."""
        vectors, lens = self.reader(source, source_lens)
        return self.encoder(with_positions(vectors), lens), lens

    def forward(
        self,
        source: Tensor,
        source_lens: Tensor | None,
        frames: Tensor,
        frames_lens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Losses of target frames ``[batch, frames, frame_dim]``, given their sources;
        the begin is added here."""
        steps, lens = self.with_begin(frames, frames_lens)
        return super().forward(source, source_lens, steps, lens)
