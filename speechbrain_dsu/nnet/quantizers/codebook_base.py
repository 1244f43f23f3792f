"""What trained quantizers share: how they nest, and what a forward pass does.

A trained quantizer may hold others (residual, grouped, split ...). The outermost one
runs the pass: it starts the codebooks if they were not started, quantizes, and then
updates all codebooks below it at once, with one collective for all of them.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from speechbrain_dsu.nnet.quantizers.base import Quantized, Quantizer, count_codes
from speechbrain_dsu.nnet.quantizers.statistics import is_paused, sum_over_ranks
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


@dataclass(eq=False)
class Seen:
    """What one codebook saw in a pass: its input frames and the codes they got.

    Arguments
    ---------
    codebook : Quantizer
        The codebook; has ``statistics``, ``update`` and ``revive``.
    frames : Tensor
        Valid input frames ``[n, dim of the codebook]``, without gradient.
    ids : Tensor
        Their codes, int64 ``[n]``.
    """

    codebook: "Quantizer"
    frames: Tensor
    ids: Tensor


@dataclass(eq=False)
class Step:
    """Result of quantizing in a forward pass, before statistics are updated.

    Arguments
    ---------
    codes : Tensor
        int64 ``[batch, frames, k]``.
    quantized : Tensor
        ``[batch, frames, dim]`` with gradients to the latents.
    losses : dict
        Weighted scalar losses.
    seen : list of Seen
        One entry per codebook that keeps statistics.
    """

    codes: Tensor
    quantized: Tensor
    losses: dict[str, Tensor] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)


class TrainedQuantizer(Quantizer):
    """A quantizer that learns from the batches it sees; may be nested.

    A subclass implements ``search`` (codes, no gradient), ``contributions`` (one
    vector per code, adding up to the decoded latents), ``lookup`` where a sum of
    contributions would be wasteful, ``step`` (codes, latents, losses for training)
    and ``start``. Everything runs in float32, under autocast as well, and results
    are float32.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    codebook_sizes : sequence of int
        Number of ids of each codebook.
    """

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Quantize a batch, and learn from it in training mode unless frozen.

        Arguments
        ---------
        latents : Tensor
            ``[batch, frames, dim]``.
        lens : Tensor, optional
            Relative lengths ``[batch]``. Frames behind them get codes but count in
            no loss and no statistic.
        n_codebooks : int, optional
            Use the first ``n_codebooks`` codebooks; also switches dropout of
            codebooks off.

        Returns
        -------
        Quantized
            The losses are weighted: add them up.
        """
        self.check_dim(latents)
        keep = self.keep(n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            latents = latents.float()
            valid = valid_frames(latents, lens)
            learning = self.learning and not is_paused()
            if learning and not self.is_started:
                with torch.no_grad():
                    self.start(latents.detach(), valid)
            step = self.step(latents, valid, keep, drop=n_codebooks is None)
            if learning:
                update_codebooks(step.seen)
            usage = count_codes(step.codes, self.codebook_sizes, lens)
        return Quantized(step.codes, step.quantized, step.losses, usage)

    def encode(
        self,
        latents: Tensor,
        n_codebooks: int | None = None,
        lens: Tensor | None = None,
    ) -> Tensor:
        """Codes ``[batch, frames, codebooks]`` of latents ``[batch, frames, dim]``.

        ``lens`` matters only to quantizers that look at several frames at once.
        """
        self.check_dim(latents)
        keep = self.keep(n_codebooks)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            latents = latents.detach().float()
            return self.search(latents, valid_frames(latents, lens), keep, exact=True)

    def decode(self, codes: Tensor) -> Tensor:
        """Latents ``[batch, frames, dim]`` of codes ``[batch, frames, k]``."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.lookup(codes)

    def embed(self, codes: Tensor) -> Tensor:
        """What each code adds to the decoded latents: ``[batch, frames, k, dim]``."""
        with torch.autocast(codes.device.type, enabled=False):
            return self.contributions(codes)

    @property
    def is_started(self) -> bool:
        """Whether every codebook got its start from data, or needs none."""
        return all(
            module.is_started
            for module in self.modules()
            if module is not self and isinstance(module, TrainedQuantizer)
        )

    def start(self, latents: Tensor, valid: Tensor | None) -> None:
        """Give each codebook below a start from these frames, if it has none."""
        raise NotImplementedError

    def search(
        self, latents: Tensor, valid: Tensor | None, keep: int, exact: bool
    ) -> Tensor:
        """Codes ``[batch, frames, keep]``; runs without gradient, in float32."""
        raise NotImplementedError

    def contributions(self, codes: Tensor) -> Tensor:
        """Vectors ``[batch, frames, k, dim]`` whose sum over k is the result."""
        raise NotImplementedError

    def lookup(self, codes: Tensor) -> Tensor:
        """Decoded latents ``[batch, frames, dim]``."""
        return self.contributions(codes).sum(2)

    def step(
        self, latents: Tensor, valid: Tensor | None, keep: int, drop: bool
    ) -> Step:
        """Quantize for a forward pass; ``drop`` allows dropout of codebooks."""
        raise NotImplementedError


def valid_frames(latents: Tensor, lens: Tensor | None) -> Tensor | None:
    """Mask ``[batch, frames]`` of valid frames; None when all are.

    Example
    -------
    >>> valid_frames(torch.zeros(1, 2, 3), torch.tensor([0.5]))
    tensor([[ True, False]])
    """
    if lens is None:
        return None
    size = latents.shape[1]
    counts = absolute_lengths(lens, size)
    if bool((counts == size).all()):
        return None
    return length_mask(counts, size).to(latents.device)


def valid_rows(latents: Tensor, valid: Tensor | None) -> Tensor:
    """Valid frames ``[n, dim]`` without gradient.

    Example
    -------
    >>> valid_rows(torch.zeros(2, 3, 5), None).shape
    torch.Size([6, 5])
    """
    latents = latents.detach()
    return latents.flatten(0, 1) if valid is None else latents[valid]


def mean_square(difference: Tensor, valid: Tensor | None) -> Tensor:
    """Mean square over valid frames and channels; 0 when there is none.

    Example
    -------
    >>> mean_square(torch.tensor([[[2.0], [9.0]]]), torch.tensor([[True, False]]))
    tensor(4.)
    """
    square = difference.square()
    if valid is None:
        return square.sum() / max(square.numel(), 1)
    weights = valid.unsqueeze(-1).to(square.dtype)
    return (square * weights).sum() / (weights.sum() * square.shape[-1]).clamp(min=1)


@torch.no_grad()
def update_codebooks(seen: list[Seen]) -> None:
    """Update all codebooks of a pass from the frames of all ranks.

    Arguments
    ---------
    seen : list of Seen
        In the same order on every rank.
    """
    sizes, local = [], []
    for entry in seen:
        statistics = entry.codebook.statistics(entry.frames, entry.ids)
        sizes.append(len(statistics))
        local.extend(statistics)
    shared = iter(sum_over_ranks(local))
    for entry, size in zip(seen, sizes, strict=True):
        entry.codebook.update(*[next(shared) for _ in range(size)])
        entry.codebook.revive(entry.frames)


def add_losses(
    total: dict[str, Tensor], losses: dict[str, Tensor], weight: float = 1.0
) -> None:
    """Add weighted losses to a running dict of them.

    Example
    -------
    >>> total = {}
    >>> add_losses(total, {"commitment": torch.tensor(4.0)}, weight=0.5)
    >>> total
    {'commitment': tensor(2.)}
    """
    for name, value in losses.items():
        value = value * weight
        total[name] = total[name] + value if name in total else value
