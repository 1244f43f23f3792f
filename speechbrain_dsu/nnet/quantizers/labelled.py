"""A codebook whose entries stand for phonemes."""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.soft import SoftCodebook
from speechbrain_dsu.utils.errors import DsuError


class LabelledCodebook(SoftCodebook):
    """One entry per phoneme: codes are a recognition, entries a pronunciation.

    Liu et al., "Towards Unsupervised Speech Recognition and Synthesis with Quantized
    Speech Representation Learning" (SeqRQ-AE, 2020), section 2.2. A frame gives a
    posterior over the entries, the softmax of minus its squared distances over a
    temperature. The code is its maximum, which is the nearest entry; the gradient is
    that of the posterior mean, so that reconstruction trains encoder and codebook
    without further losses. A little labelled speech ties entries to phonemes through
    ``cross_entropy`` (frame labels) or a CTC loss on ``log_posterior``. Runs of one
    code, joined by ``tokens.runs``, are the phoneme sequence.

    Arguments
    ---------
    labels : sequence of str
        The phonemes; their order gives the ids.
    dim : int
        Size of a frame and of an entry.
    temperature : float
        Of the posterior, in units of squared distance.

    Raises
    ------
    DsuError
        If a label occurs twice or the temperature is not positive.

    Example
    -------
    >>> quantizer = LabelledCodebook(["a", "t"], dim=3)
    >>> quantizer.ids(["t", "a"]).tolist()
    [1, 0]
    >>> codes = quantizer.encode(torch.randn(1, 4, 3))
    >>> len(quantizer.symbols(codes[0, :, 0]))
    4
    """

    def __init__(self, labels: Sequence[str], dim: int, temperature: float = 1.0):
        labels = tuple(labels)
        if len(set(labels)) != len(labels) or not labels:
            raise DsuError(f"labels must be different, and at least one: {labels}")
        super().__init__(len(labels), dim, temperature, metric="euclidean", hard=True)
        self.labels = labels

    def extra_repr(self) -> str:
        """Settings that decide the codes and what they are called."""
        return f"{super().extra_repr()}, labels={self.labels}"

    def ids(self, symbols: Sequence[str]) -> Tensor:
        """Codes of phonemes: int64 ``[n]``; what a synthesizer starts from.

        Raises
        ------
        DsuError
            If a phoneme is unknown.
        """
        places = {label: place for place, label in enumerate(self.labels)}
        for symbol in symbols:
            if symbol not in places:
                raise DsuError(f"no entry for {symbol!r} among {len(places)} labels")
        return torch.tensor([places[symbol] for symbol in symbols], dtype=torch.int64)

    def symbols(self, codes: Tensor) -> list[str]:
        """Phonemes of codes ``[n]``."""
        return [self.labels[code] for code in codes.tolist()]

    def log_posterior(self, latents: Tensor) -> Tensor:
        """Log posterior over the entries ``[batch, frames, size]``, with gradient."""
        self.check_dim(latents)
        return self.logits(latents).log_softmax(-1)


def sharpen(posterior: Tensor, temperature: float) -> Tensor:
    """Pseudo-labels from a posterior: nearer to its maximum.

    ``p ** (1 / temperature)``, normalised (DQR-TTS; Berthelot et al., "MixMatch",
    2019, equation 7). Without gradient.

    Arguments
    ---------
    posterior : Tensor
        ``[..., size]``, adds up to 1.
    temperature : float
        Below 1 sharpens, 1 changes nothing.

    Returns
    -------
    Tensor
        Same shape.

    Example
    -------
    >>> sharpen(torch.tensor([0.8, 0.2]), 0.5)
    tensor([0.9412, 0.0588])
    """
    if temperature <= 0:
        raise DsuError(f"temperature={temperature} must be positive")
    return (posterior.detach().log() / temperature).softmax(-1)
