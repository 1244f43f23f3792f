"""The state of k-means over a stream: centres, counts and what came since."""

import torch
import torch.distributed as dist
from torch import Tensor, nn

from speechbrain_dsu.training.kmeans_start import (
    grow_centers,
    refine_centers,
    revive_centers,
)
from speechbrain_dsu.training.kmeans_stream import world
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


class KMeansTrainer(nn.Module):
    """Centres that follow a stream of frames; statistics in float32 and float64.

    `add` assigns frames and collects sums, `update` moves every centre to the mean
    of all its frames so far (the step size of Sculley, "Web-scale k-means
    clustering", WWW 2010: one over the count, here for a whole batch at once).
    Everything is a buffer: the state dict is the complete state.

    Arguments
    ---------
    size : int
        Centres per group.
    dim : int
        Size of a slice.
    groups : int
        Slices of a frame, each with centres of its own.
    min_share : float
        A centre with fewer frames in an epoch than this share of the mean moves to
        a place that the others serve badly.

    Example
    -------
    >>> trainer = KMeansTrainer(size=2, dim=1)
    >>> sample = torch.tensor([[0.0], [1.0], [9.0], [10.0]])
    >>> trainer.start(sample, torch.Generator().manual_seed(0))
    >>> trainer.add(torch.tensor([[2.0]]))
    >>> trainer.update()
    >>> trainer.centers.sort(1).values.tolist()
    [[[1.0], [9.5]]]
    """

    def __init__(self, size: int, dim: int, groups: int = 1, min_share: float = 0.01):
        super().__init__()
        if min(size, dim, groups) < 1:
            raise DsuError(
                f"k-means sizes must be positive, got size={size}, dim={dim}, "
                f"groups={groups}"
            )
        if not 0 <= min_share < 1:
            raise DsuError(f"min_share must be in [0, 1), got {min_share}")
        self.size, self.dim, self.groups = size, dim, groups
        self.min_share = min_share
        shape = (groups, size)
        self.register_buffer("centers", torch.zeros(*shape, dim))
        self.register_buffer("sums", torch.zeros(*shape, dim))
        # float64: float32 stops counting at 16.8 million frames.
        for name in ("counts", "fresh", "epoch_counts"):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))
        self.register_buffer("distance", torch.zeros((), dtype=torch.float64))
        self.register_buffer("frames", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def start(
        self,
        sample: Tensor,
        generator: torch.Generator,
        centers: Tensor | None = None,
        passes: int = 2,
    ) -> None:
        """Choose the first centres on a sample, and settle them there.

        Arguments
        ---------
        sample : torch.Tensor
            Frames [n, groups * dim].
        generator : torch.Generator
            On the device of the sample.
        centers : torch.Tensor | None
            Centres to begin from [groups, size, dim] instead of k-means++.
        passes : int
            Lloyd's iterations on the sample.

        Raises
        ------
        DsuError
            If the sample has fewer different frames than there are centres.
        """
        if len(sample) < self.size:
            raise DsuError(
                f"{self.size} centres need at least as many frames, the stream gave "
                f"{len(sample)}: take a smaller size or more data"
            )
        for group, part in enumerate(self._slices(sample)):
            if centers is None:
                first = grow_centers(part, part[:0], self.size, generator)
            else:
                first = centers[group].to(part)
            settled, counts = refine_centers(part, first, passes, generator)
            self.centers[group], self.counts[group] = settled, counts
        self._agree()

    @torch.no_grad()
    def add(self, frames: Tensor) -> None:
        """Assign frames [n, groups * dim] and collect their sums."""
        for group, part in enumerate(self._slices(frames)):
            ids, distances = nearest_centers(part, self.centers[group], exact=False)
            self.sums[group].index_add_(0, ids, part)
            self.fresh[group] += torch.bincount(ids, minlength=self.size)
            self.distance += distances.sum(dtype=torch.float64)
        self.frames += len(frames)

    @torch.no_grad()
    def update(self) -> None:
        """Move the centres by what all ranks have collected; a collective call."""
        if world() > 1:
            dist.all_reduce(self.sums)
            dist.all_reduce(self.fresh)
        self.counts += self.fresh
        self.epoch_counts += self.fresh
        fresh = self.fresh.unsqueeze(2).float()
        total = self.counts.clamp(min=1).unsqueeze(2).float()
        self.centers += (self.sums - fresh * self.centers) / total
        self.sums.zero_()
        self.fresh.zero_()

    @torch.no_grad()
    def begin_epoch(self, memory: float) -> None:
        """Forget the last epoch's statistics, but for a weight.

        Arguments
        ---------
        memory : float
            Frames that the centres as they are shall stand for, at most. With 0 the
            next update puts every centre at the mean of its new frames, as in
            Lloyd's algorithm.
        """
        known = self.counts.sum(1, keepdim=True)
        self.counts *= (memory / known.clamp(min=1)).clamp(max=1)
        self.epoch_counts.zero_()
        self.distance.zero_()
        self.frames.zero_()

    @torch.no_grad()
    def end_epoch(
        self, sample: Tensor, generator: torch.Generator, last: bool = True
    ) -> tuple[float, int, int]:
        """Move centres that (almost) no frame wants; a collective call.

        Arguments
        ---------
        sample : torch.Tensor
            Frames [n, groups * dim] to move them to, the same on all ranks.
        generator : torch.Generator
            In the same state on all ranks.
        last : bool
            Whether no other epoch follows.

        Returns
        -------
        inertia : float
            Mean squared distance of the epoch's frames to the centres that were
            nearest at the time, summed over groups.
        frames : int
            Frames of the epoch, over all ranks.
        revived : int
            Centres that moved.
        """
        totals = torch.stack([self.distance, self.frames.double()])
        if world() > 1:
            dist.all_reduce(totals)
        distance, frames = totals.tolist()
        limit = self.min_share * frames / self.size
        # After the last epoch nothing settles a moved centre: only unused ones move.
        dead = self.epoch_counts < (1 if last else max(1, limit))
        for group, part in enumerate(self._slices(sample)):
            self.centers[group] = revive_centers(
                part, self.centers[group], dead[group], generator
            )
        self.counts[dead] = 0
        self._agree()
        return distance / max(frames, 1), int(frames), int(dead.sum())

    def _agree(self) -> None:
        """Rank 0 decides: machines of two kinds may round, hence choose, otherwise."""
        if world() > 1:
            dist.broadcast(self.centers, 0)
            dist.broadcast(self.counts, 0)

    def _slices(self, frames: Tensor) -> list[Tensor]:
        if self.groups == 1:
            return [frames]
        return [part.contiguous() for part in frames.split(self.dim, dim=1)]
