"""The token slot: how a sequence model emits a step, discrete or continuous.

Every head keeps one contract, so that systems of both kinds share their trunk:

- ``score(hidden, targets)``: log density of given steps, nats;
- ``loss(hidden, targets, mask)``: what training lowers;
- ``emit(hidden, sampler)``: the next step, and whether the head itself says "end".
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from speechbrain_dsu.nnet.embeddings import Sequences, UnitEmbedding
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.nnet.transformer import Transformer
from speechbrain_dsu.utils.errors import DsuError

Sampler = Callable[..., Tensor]
"""``sampler(logits [batch, n, size], stream)`` gives ids ``[batch, n]`` of the ``n``
streams from ``stream`` on; see ``decoders.sampling``."""


class Emission(NamedTuple):
    """The next step of each item.

    Arguments
    ---------
    tokens : Tensor
        Ids int64 ``[batch, streams]``, or frames ``[batch, frame_dim]``.
    ended : Tensor or None
        bool ``[batch]``: the step is an item's last; None: the ids say it themselves.
    """

    tokens: Tensor
    ended: Tensor | None = None


class Head(nn.Module):
    """Base of the heads: the contract of this module."""

    begin: Tensor
    """The step ``[streams]`` or ``[frame_dim]`` that sequences start with."""

    def score(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log density of steps, in nats.

        Arguments
        ---------
        hidden : Tensor
            ``[..., dim]``.
        targets : Tensor
            Ids ``[..., streams]`` or frames ``[..., frame_dim]``.

        Returns
        -------
        Tensor
            ``[..., streams]``, or ``[..., 1]`` of frames.
        """
        raise NotImplementedError

    def loss(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Named losses, ``loss`` being their sum.

        Arguments
        ---------
        hidden : Tensor
            ``[batch, steps, dim]``.
        targets : Tensor
            ``[batch, steps, streams]`` or ``[batch, steps, frame_dim]``.
        mask : Tensor
            bool ``[batch, steps, streams]`` (or ``[batch, steps, 1]`` for frames):
            which targets count.

        Returns
        -------
        dict
            Scalars; means over what counts.
        """
        raise NotImplementedError

    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """The next step from ``hidden`` ``[batch, dim]``."""
        raise NotImplementedError


class _IdHead(Head):
    """What heads over ids share: the loss is the mean of the scores."""

    def __init__(self, layout: Sequences):
        super().__init__()
        self.vocabulary, self.streams = layout.vocabulary, layout.streams
        first = "<bos>" if "<bos>" in self.vocabulary.specials else "<pad>"
        begin = torch.full((self.streams,), self.vocabulary[first])
        self.register_buffer("begin", begin, persistent=False)

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return f"streams={self.streams}, {self.vocabulary}"

    def loss(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Cross-entropy, nats per target that counts."""
        # Steps of which nothing counts would only cost time.
        steps = mask.any(-1)
        scores = self.score(hidden[steps], targets[steps])
        counted = mask[steps]
        loss = -(scores * counted).sum() / counted.sum().clamp(min=1)
        return {"loss": loss, "nll": loss.detach()}


class SoftmaxHead(_IdHead):
    """Softmax over the ids, independent between the streams of a step.

    Arguments
    ---------
    layout : Sequences
        Says how many streams and ids there are.
    dim : int
        Size of the hidden states.
    tie : UnitEmbedding, optional
        Use its tables as weights (Press & Wolf, "Using the Output Embedding to
        Improve Language Models", 2017).
    smoothing : float
        Share of the target's mass that training spreads evenly over all ids (label
        smoothing: Szegedy et al., "Rethinking the Inception Architecture", 2016).

    Raises
    ------
    DsuError
        If weights to tie have another shape, or the smoothing is out of range.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Flatten
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> head = SoftmaxHead(Flatten(Vocabulary(sizes=(4,))), dim=8)
    >>> hidden, targets = torch.randn(2, 3, 8), torch.full((2, 3, 1), 5)
    >>> head.score(hidden, targets).shape
    torch.Size([2, 3, 1])
    """

    def __init__(
        self,
        layout: Sequences,
        dim: int,
        tie: UnitEmbedding | None = None,
        smoothing: float = 0.0,
    ):
        super().__init__(layout)
        if not 0 <= smoothing < 1:
            raise DsuError(f"smoothing={smoothing}: take 0 to below 1")
        self.smoothing = smoothing
        size = self.vocabulary.size
        self.out = nn.Linear(dim, self.streams * size, bias=False)
        nn.init.normal_(self.out.weight, std=dim**-0.5)
        if tie is not None:
            if tie.table.weight.shape != self.out.weight.shape:
                raise DsuError(
                    f"weights of {list(self.out.weight.shape)} can't be tied to tables "
                    f"of {list(tie.table.weight.shape)}"
                )
            self.out.weight = tie.table.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., streams, size]`` of hidden states ``[..., dim]``, float32."""
        logits = self.out(hidden)
        return logits.view(
            *hidden.shape[:-1], self.streams, self.vocabulary.size
        ).float()

    def score(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log probabilities ``[..., streams]`` of ids."""
        return _log_probability(self.logits(hidden), targets)

    def loss(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Cross-entropy with smoothed targets in training; ``nll`` is without."""
        if not self.smoothing or not self.training:
            return super().loss(hidden, targets, mask)
        steps = mask.any(-1)
        counted, total = mask[steps], mask.sum().clamp(min=1)
        logs = self.logits(hidden[steps]).log_softmax(-1)
        chosen = logs.gather(-1, targets[steps].unsqueeze(-1)).squeeze(-1)
        nll = -(chosen * counted).sum() / total
        even = -(logs.mean(-1) * counted).sum() / total
        loss = (1 - self.smoothing) * nll + self.smoothing * even
        return {"loss": loss, "nll": nll.detach()}

    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """Ids ``[batch, streams]``."""
        return Emission(sampler(self.logits(hidden), 0))


class DepthHead(_IdHead):
    """Softmax over the ids of one stream after the other, within a step.

    A small causal transformer runs over the streams of a step: it sees the hidden
    state and the ids of the streams before. From RQ-Transformer (Lee et al. 2022,
    section 3.2.2) and Moshi (Défossez et al. 2024, section 3.4.1).

    Arguments
    ---------
    layout : Sequences
        Says how many streams and ids there are.
    dim : int
        Size of the hidden states.
    depth_dim, n_layers, n_heads : int
        Of the small transformer.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Parallel
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> layout = Parallel(Vocabulary(sizes=(4, 4), shared=True))
    >>> head = DepthHead(layout, dim=8, depth_dim=8, n_heads=2)
    >>> head.emit(torch.randn(3, 8), lambda logits, stream: logits.argmax(-1))[0].shape
    torch.Size([3, 2])
    """

    def __init__(
        self,
        layout: Sequences,
        dim: int,
        depth_dim: int = 256,
        n_layers: int = 2,
        n_heads: int = 4,
    ):
        super().__init__(layout)
        size = self.vocabulary.size
        self.into = nn.Linear(dim, self.streams * depth_dim)
        self.table = nn.Embedding((self.streams - 1) * size or 1, depth_dim)
        nn.init.normal_(self.table.weight, std=depth_dim**-0.5)
        # The stream's own part of `into` tells where it stands: no positions.
        self.body = Transformer(depth_dim, n_layers, n_heads, rotary_base=None)
        self.out = nn.Parameter(
            torch.randn(self.streams, size, depth_dim) * depth_dim**-0.5
        )

    def score(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Log probabilities ``[..., streams]`` of ids, given those before them."""
        return _log_probability(self.teacher_logits(hidden, targets), targets)

    def teacher_logits(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """``[..., streams, size]`` given the ids ``[..., streams]`` of each step."""
        x = self._into(hidden)
        if self.streams > 1:
            first = torch.arange(self.streams - 1, device=targets.device)
            before = targets[..., :-1] + first * self.vocabulary.size
            x = x + F.pad(self.table(before), (0, 0, 1, 0))
        deep = self.body(x.flatten(0, -3)).view(x.shape)
        return torch.einsum("...sd,svd->...sv", deep, self.out).float()

    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """Ids ``[batch, streams]``, each stream sampled given those before."""
        x, stream, ids = self._into(hidden), Stream(), []
        for book in range(self.streams):
            step = x[:, book : book + 1]
            if book:
                last = ids[-1] + (book - 1) * self.vocabulary.size
                step = step + self.table(last)
            with stream.active():
                deep = self.body(step)
            logits = F.linear(deep, self.out[book]).float()
            ids.append(sampler(logits, book))
        return Emission(torch.cat(ids, 1))

    def _into(self, hidden: Tensor) -> Tensor:
        return self.into(hidden).view(*hidden.shape[:-1], self.streams, -1)


class FrameHead(Head):
    """Regression of the next continuous frame, with a stop of its own.

    The loss is the mean absolute or squared error plus binary cross-entropy of "this
    is the last frame" (Tacotron 2, Shen et al. 2018, section 2.2).

    Arguments
    ---------
    frame_dim : int
        Size of a frame.
    dim : int
        Size of the hidden states.
    error : str
        "l1" or "l2".
    stop_weight : float
        Factor of the stop's loss.

    Raises
    ------
    DsuError
        If there is no such error.

    Example
    -------
    >>> head = FrameHead(frame_dim=5, dim=8)
    >>> head.emit(torch.randn(2, 8), sampler=None).tokens.shape
    torch.Size([2, 5])
    """

    def __init__(
        self,
        frame_dim: int,
        dim: int,
        error: Literal["l1", "l2"] = "l1",
        stop_weight: float = 1.0,
    ):
        super().__init__()
        if error not in ("l1", "l2"):
            raise DsuError(f"error must be 'l1' or 'l2', got '{error}'")
        self.streams, self.frame_dim = 1, frame_dim
        self.error, self.stop_weight = error, stop_weight
        self.frame, self.stop = nn.Linear(dim, frame_dim), nn.Linear(dim, 1)
        self.register_buffer("begin", torch.zeros(frame_dim), persistent=False)

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return f"error={self.error}, stop_weight={self.stop_weight:g}"

    def score(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """Minus the mean error: a log density up to scale and constant ``[..., 1]``."""
        error = self.frame(hidden) - targets
        error = error.abs() if self.error == "l1" else error.square()
        return -error.mean(-1, keepdim=True)

    def loss(self, hidden: Tensor, targets: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """Error of the frames and of the stop."""
        mask = mask[..., 0]
        error = -self.score(hidden[mask], targets[mask]).mean()
        # The last frame that counts, of items that have one.
        later = mask.flip(1).cumsum(1).flip(1)
        last = (mask & (later == 1)).float()
        stop = F.binary_cross_entropy_with_logits(
            self.stop(hidden)[..., 0][mask].float(), last[mask]
        )
        loss = error + self.stop_weight * stop
        return {"loss": loss, "error": error.detach(), "stop": stop.detach()}

    def emit(self, hidden: Tensor, sampler: Sampler | None) -> Emission:
        """Frames ``[batch, frame_dim]``; ended where the stop is likelier than not."""
        return Emission(self.frame(hidden), self.stop(hidden)[:, 0] > 0)


def _log_probability(logits: Tensor, targets: Tensor) -> Tensor:
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    return chosen - logits.logsumexp(-1)
