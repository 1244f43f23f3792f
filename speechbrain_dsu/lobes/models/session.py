"""A sequence model being continued: what `decoders` work on."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from speechbrain_dsu.nnet.heads import Emission, Sampler
from speechbrain_dsu.nnet.streaming import Stream
from speechbrain_dsu.utils.errors import DsuError

if TYPE_CHECKING:
    from speechbrain_dsu.lobes.models.base import SequenceModel


class Session:
    """One batch of sequences that a model is writing.

    It has the methods that `decoders.protocol.Session` names. Models make it by
    their own ``session``.

    Arguments
    ---------
    model : SequenceModel
        In evaluation mode.
    memory : Tensor, optional
        ``[batch, length, memory_dim]``, for decoders of a memory.
    memory_lens : Tensor, optional
        Relative lengths of the memory.
    prefix : Tensor, optional
        ``[batch, length, dim]``: vectors in front of the sequences.
    prefix_lens : Tensor, optional
        Relative lengths of the prefix; 0 is allowed.

    Raises
    ------
    DsuError
        If the model is in training mode: dropout would make results random.
    """

    def __init__(
        self,
        model: "SequenceModel",
        memory: Tensor | None = None,
        memory_lens: Tensor | None = None,
        prefix: Tensor | None = None,
        prefix_lens: Tensor | None = None,
    ):
        if model.training:
            raise DsuError("a model generates in evaluation mode: call model.eval()")
        self.model, self._stream = model, Stream()
        self._memory = (memory, memory_lens)
        if prefix is not None and prefix.shape[1]:
            self._run(prefix, prefix_lens)

    @property
    def begin(self) -> Tensor:
        """The step that sequences start with."""
        return self.model.head.begin

    @torch.no_grad()
    def feed(self, tokens: Tensor, lens: Tensor | None = None) -> Tensor:
        """Append steps to every item.

        Arguments
        ---------
        tokens : Tensor
            Ids ``[batch, steps, streams]`` or frames ``[batch, steps, frame_dim]``.
        lens : Tensor, optional
            Relative lengths; later steps follow each item's own end.

        Returns
        -------
        Tensor
            Hidden states ``[batch, steps, dim]``, each for what comes next.
        """
        return self._run(self.model.embedding(tokens), lens)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores ``[..., streams, size]`` of all ids after ``hidden`` ``[..., dim]``.

        Raises
        ------
        DsuError
            If the head has none: its streams hang together, or it emits frames.
        """
        if not hasattr(self.model.head, "logits"):
            raise DsuError(
                f"search over {type(self.model.head).__name__}: it has no scores of "
                "all ids at once; sample from it with decoders.generation.generate"
            )
        return self.model.head.logits(hidden)

    @torch.no_grad()
    def emit(self, hidden: Tensor, sampler: Sampler) -> Emission:
        """The next step after ``hidden`` ``[batch, dim]``."""
        return self.model.head.emit(hidden, sampler)

    def select(self, items: Tensor) -> None:
        """Go on with these items (repeated, if named twice), in this order."""
        self._stream.select(items)

    def rewind(self, steps: Tensor) -> None:
        """Forget the last ``steps`` ``[batch]`` of each item."""
        self.model.transformer.rewind(self._stream, steps)

    def _run(self, x: Tensor, lens: Tensor | None) -> Tensor:
        (memory, memory_lens), self._memory = self._memory, (None, None)
        with self._stream.active():
            return self.model.transformer(x, lens, memory, memory_lens)
