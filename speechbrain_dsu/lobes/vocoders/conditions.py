"""What a unit vocoder is given for each frame: units, a voice, contours."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.embeddings import Combine, UnitEmbedding
from speechbrain_dsu.tokens.patterns import Parallel
from speechbrain_dsu.tokens.vocabulary import Vocabulary
from speechbrain_dsu.utils.errors import DsuError

Speaker = str | Sequence[str] | Tensor | None
"""A voice for all items, one for each, their places, or vectors of speakers."""


class UnitContent(nn.Module):
    """Vectors of the units of frames, codebooks added or weighed.

    Arguments
    ---------
    sizes : sequence of int
        Number of ids of each codebook.
    dim : int
        Size of the vectors.
    combine : str
        "sum" or "attention", see ``UnitEmbedding``.

    Example
    -------
    >>> UnitContent(sizes=[5, 7], dim=4)(torch.zeros(1, 3, 2, dtype=torch.int64)).shape
    torch.Size([1, 3, 4])
    """

    soft = False

    def __init__(self, sizes: Sequence[int], dim: int, combine: Combine = "sum"):
        super().__init__()
        layout = Parallel(Vocabulary(sizes=tuple(sizes), shared=True))
        self.sizes, self.dim = tuple(sizes), dim
        self.embedding = UnitEmbedding(layout, dim, combine=combine)

    def forward(self, codes: Tensor) -> Tensor:
        """``[batch, frames, dim]`` of codes ``[batch, frames, codebooks]``."""
        return self.embedding(self.embedding.vocabulary.to_ids(codes))


class FrameContent(nn.Module):
    """Vectors of continuous frames, such as soft units.

    Arguments
    ---------
    size : int
        Of a frame.
    dim : int
        Size of the vectors.

    Example
    -------
    >>> FrameContent(size=6, dim=4)(torch.randn(1, 3, 6)).shape
    torch.Size([1, 3, 4])
    """

    soft, sizes = True, ()

    def __init__(self, size: int, dim: int):
        super().__init__()
        self.size, self.dim = size, dim
        self.map = nn.Linear(size, dim)

    def forward(self, frames: Tensor) -> Tensor:
        """``[batch, frames, dim]`` of ``[batch, frames, size]``."""
        return self.map(frames)


class Voices(nn.Module):
    """A vector of the speaker: from a table by name, or made of a speaker vector.

    Arguments
    ---------
    names : sequence of str
        The voices.
    dim : int
        Size of the vectors.
    vector : int, optional
        Size of speaker vectors of another model, such as SpeechBrain's ECAPA
        (``EncoderClassifier.encode_batch``, 192 values), that may be given in the
        place of a name. They are scaled to length 1.

    Raises
    ------
    DsuError
        If there is no voice, or a name comes twice.

    Example
    -------
    >>> voices = Voices(["ann", "bob"], dim=4, vector=192)
    >>> voices("bob", 3).shape, voices(torch.randn(3, 192), 3).shape
    (torch.Size([3, 4]), torch.Size([3, 4]))
    """

    def __init__(self, names: Sequence[str], dim: int, vector: int | None = None):
        super().__init__()
        if not names or len(set(names)) != len(names):
            raise DsuError(f"voices {list(names)}: one or more different names")
        self.names, self.dim, self.vector = tuple(names), dim, vector
        self.table = nn.Embedding(len(names), dim)
        nn.init.normal_(self.table.weight, std=0.3)
        self.map = None if vector is None else nn.Linear(vector, dim)

    def extra_repr(self) -> str:
        """Which voice is where; part of the fingerprint."""
        return f"names={list(self.names)}"

    def forward(self, speaker: Speaker, batch: int) -> Tensor:
        """Vectors ``[batch, dim]``.

        Arguments
        ---------
        speaker : str, sequence of str or Tensor
            A name, a name for each item, int64 places ``[batch]`` in the table, or
            speaker vectors ``[batch, vector]``. None where there is one voice only.
        batch : int
            Number of items.

        Raises
        ------
        DsuError
            If a voice is missing or unknown, or the shape is another.
        """
        if torch.is_tensor(speaker) and speaker.is_floating_point():
            return self._of_vectors(speaker, batch)
        places = speaker if torch.is_tensor(speaker) else self.places(speaker, batch)
        places = places.to(self.table.weight.device)
        if places.shape != (batch,):
            raise DsuError(f"{len(places)} speakers for {batch} items")
        return self.table(places)

    def places(self, speaker: str | Sequence[str] | None, batch: int) -> Tensor:
        """Places in the table, int64 ``[batch]``, of names."""
        if speaker is None and len(self.names) > 1:
            raise DsuError(f"name a speaker: one of {', '.join(self.names)}")
        speaker = self.names[0] if speaker is None else speaker
        names = [speaker] * batch if isinstance(speaker, str) else list(speaker)
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise DsuError(
                f"speaker '{unknown[0]}' is not among the voices: "
                f"{', '.join(self.names)}"
            )
        return torch.tensor([self.names.index(name) for name in names])

    def _of_vectors(self, vectors: Tensor, batch: int) -> Tensor:
        if self.map is None:
            raise DsuError("this vocoder takes voices by name, not by vector")
        if vectors.shape != (batch, self.vector):
            raise DsuError(
                f"speaker vectors {list(vectors.shape)} are not [{batch}, "
                f"{self.vector}]"
            )
        return self.map(F.normalize(vectors.to(self.map.weight), dim=-1))


class Contour(nn.Module):
    """Vectors of a contour of frames (pitch, energy), or of its absence.

    In training it is hidden from some items, so that a vocoder also does without.

    Arguments
    ---------
    tracker : nn.Module
        Waveforms to the contour ``[batch, frames, values]``: see ``lobes.contours``.
    dim : int
        Size of the vectors.
    hide : float
        Share of the items that do not see it in training.

    Raises
    ------
    DsuError
        If ``hide`` is no share.

    Example
    -------
    >>> from speechbrain_dsu.lobes.contours import PitchTracker
    >>> pitch = Contour(PitchTracker(), dim=4).eval()
    >>> vectors, losses = pitch(torch.zeros(2, 3, 2), 2, 3)
    >>> vectors.shape, torch.equal(vectors, pitch(None, 2, 3)[0])
    (torch.Size([2, 3, 4]), False)
    """

    def __init__(self, tracker: nn.Module, dim: int, hide: float = 0.3):
        super().__init__()
        if not 0 <= hide <= 1:
            raise DsuError(f"hide={hide} must be a share, 0 to 1")
        self.tracker, self.values = tracker, tracker.values
        self.dim, self.hide = dim, float(hide)
        self.read = nn.Linear(self.values, dim)
        self.absent = nn.Parameter(0.3 * torch.randn(dim))

    def forward(
        self, contour: Tensor | None, batch: int, frames: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors and, in training, losses of the stream itself.

        Arguments
        ---------
        contour : Tensor, optional
            ``[batch, frames, values]``; None: not known.
        batch, frames : int
            What is wanted.

        Returns
        -------
        vectors : Tensor
            ``[batch, frames, dim]``.
        losses : dict
            Scalars by name.

        Raises
        ------
        DsuError
            If the contour has another shape.
        """
        nothing = self.absent.expand(batch, frames, self.dim)
        if contour is None:
            return nothing, {}
        if contour.shape != (batch, frames, self.values):
            raise DsuError(
                f"a contour {list(contour.shape)} for {frames} frames of {batch} "
                f"items: [batch, frames, {self.values}] is wanted"
            )
        found, losses = self.vectors(contour.to(self.absent))
        if not self.training or not self.hide:
            return found, losses
        hidden = torch.rand(batch, 1, 1, device=contour.device) < self.hide
        return torch.where(hidden, nothing, found), losses

    def vectors(self, contour: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Vectors of a contour that is there, and losses of what makes them."""
        return self.read(contour), {}


class CodedContour(Contour):
    """A contour that goes through a few codes at a lower rate.

    Polyak et al., "Speech Resynthesis from Discrete Disentangled Self-Supervised
    Representations" (2021), section 2.2: a small VQ-VAE of the normalised pitch. It is
    trained beside the vocoder, by its own losses only: the vocoder gets its vectors,
    no gradient comes back.

    Arguments
    ---------
    tracker : nn.Module
        See ``Contour``.
    quantizer : Quantizer
        Of vectors of size ``dim``: its codes are the contour's.
    dim : int
        Size of the vectors.
    every : int
        Frames per code.
    hide : float
        See ``Contour``.

    Example
    -------
    >>> from speechbrain_dsu.lobes.contours import PitchTracker
    >>> from speechbrain_dsu.nnet.quantizers.codebook import Codebook
    >>> coded = CodedContour(PitchTracker(), Codebook(20, 8), dim=8, every=4)
    >>> vectors, losses = coded(torch.randn(2, 10, 2), 2, 10)
    >>> vectors.shape, sorted(losses)
    (torch.Size([2, 10, 8]), ['pitch', 'pitch_commitment'])
    >>> coded.codes(torch.randn(2, 10, 2)).shape
    torch.Size([2, 3, 1])
    """

    def __init__(
        self,
        tracker: nn.Module,
        quantizer: nn.Module,
        dim: int,
        every: int = 4,
        hide: float = 0.0,
    ):
        super().__init__(tracker, dim, hide)
        self.quantizer, self.every = quantizer, every
        taps = 2 * every + 1
        self.encoder = nn.Sequential(
            nn.Conv1d(self.values, dim, taps, padding=every),
            nn.GELU(),
            nn.Conv1d(dim, dim, every, stride=every),
        )
        self.decoder = nn.Sequential(
            nn.Conv1d(dim, dim, 3, padding=1),
            nn.GELU(),
            nn.Conv1d(dim, self.values, taps, padding=every),
        )

    def extra_repr(self) -> str:
        """Settings that decide the codes; part of the fingerprint."""
        return f"every={self.every}"

    def codes(self, contour: Tensor) -> Tensor:
        """Codes ``[batch, ceil(frames / every), 1]`` of a contour."""
        return self.quantizer.encode(self._latents(contour))

    def vectors(self, contour: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The codes' vectors, held for ``every`` frames each."""
        frames = contour.shape[1]
        quantized = self.quantizer(self._latents(contour))
        held = quantized.quantized.repeat_interleave(self.every, dim=1)[:, :frames]
        if not self.training:
            return held, {}
        decoded = self.decoder(held.transpose(1, 2)).transpose(1, 2)
        losses = {f"pitch_{k}": loss for k, loss in quantized.losses.items()}
        losses["pitch"] = F.mse_loss(decoded, contour)
        return held.detach(), losses

    def _latents(self, contour: Tensor) -> Tensor:
        missing = -contour.shape[1] % self.every
        padded = F.pad(contour.transpose(1, 2), (0, missing))
        return self.encoder(padded).transpose(1, 2)


class Durations(nn.Module):
    """How long each unit lasts, for units without repetition.

    SpeechBrain's predictor (after FastSpeech 2), as its unit HiFi-GAN has it: the
    logarithm of one plus the number of frames.

    Arguments
    ---------
    dim : int
        Size of a unit's vector, the voice's included.
    hidden : int
        Channels of the convolutions.
    kernel : int
        Their taps.
    dropout : float
        In training.

    Example
    -------
    >>> Durations(dim=6).eval()(torch.randn(1, 1, 6)).shape
    torch.Size([1, 1])
    """

    def __init__(
        self, dim: int, hidden: int = 128, kernel: int = 3, dropout: float = 0.3
    ):
        from speechbrain.lobes.models.HifiGAN import VariancePredictor

        super().__init__()
        self.dim, self.kernel = dim, kernel
        self.predictor = VariancePredictor(dim, hidden, kernel, dropout)

    def forward(self, vectors: Tensor) -> Tensor:
        """Logarithms ``[batch, runs]`` of vectors ``[batch, runs, dim]``."""
        # SpeechBrain's convolutions reflect their input, so it can't be too short.
        missing = max(self.kernel - vectors.shape[1], 0)
        padded = F.pad(vectors, (0, 0, 0, missing))
        return self.predictor(padded)[:, : vectors.shape[1]]

    def frames(self, vectors: Tensor) -> Tensor:
        """Whole frames ``[batch, runs]``, at least one each."""
        return (self(vectors).exp() - 1).round().long().clamp(min=1)
