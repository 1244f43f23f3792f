"""SpeechBrain's encoders where a model here wants one."""

import torch
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from torch import Tensor, nn


class SpeechBrainEncoder(nn.Module):
    """The encoder of a `TransformerASR` (Conformer, Branchformer, transformer), called
    ``encoder(vectors, lens)``.

    Arguments
    ---------
    transformer : TransformerASR
        SpeechBrain's; its decoder, if any, is not used.

    Example
    -------
    >>> transformer = TransformerASR(
    ...     5,
    ...     8,
    ...     d_model=8,
    ...     nhead=2,
    ...     num_encoder_layers=2,
    ...     num_decoder_layers=0,
    ...     encoder_module="conformer",
    ...     attention_type="RelPosMHAXL",
    ...     normalize_before=True,
    ...     causal=False,
    ... )
    >>> encoder = SpeechBrainEncoder(transformer)
    >>> encoder(torch.randn(2, 6, 8), torch.tensor([1.0, 0.5])).shape
    torch.Size([2, 6, 8])
    """

    def __init__(self, transformer: TransformerASR):
        super().__init__()
        self.transformer = transformer

    @property
    def layers(self) -> nn.ModuleList:
        """Its layers, for taps."""
        return self.transformer.encoder.layers

    def forward(self, vectors: Tensor, lens: Tensor | None = None) -> Tensor:
        """States ``[batch, length, dim]`` of vectors of relative lengths ``lens``."""
        if lens is None:
            lens = torch.ones(len(vectors), device=vectors.device)
        # SpeechBrain makes its masks from float32 lengths.
        return self.transformer.encode(vectors, lens.float())
