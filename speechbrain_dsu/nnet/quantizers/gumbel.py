"""Codes drawn by Gumbel noise around learned logits, with a cooling schedule."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantized, Quantizer, count_codes
from speechbrain_dsu.nnet.quantizers.codebook_base import valid_frames
from speechbrain_dsu.nnet.quantizers.estimators import pick_rows
from speechbrain_dsu.nnet.quantizers.statistics import is_paused
from speechbrain_dsu.utils.errors import DsuError


class GumbelProduct(Quantizer):
    """Product quantizer with a hard Gumbel softmax per group.

    A layer gives each frame logits over the entries of every group. In training the
    code of a group is drawn by adding Gumbel noise, and the gradient is that of the
    softmax at the current temperature (wav2vec 2.0, Baevski et al. 2020, equation 1
    and section 3.2; vq-wav2vec, Baevski et al. 2020, section 3.2). In evaluation
    and in ``encode`` the largest logit counts. The chosen entries side by side are
    the result.

    The temperature falls by a factor a step, ``max(start * factor**steps, stop)``;
    training passes count themselves. With gradient accumulation or recomputation,
    where passes are more than updates, call ``set_steps`` once an update instead.

    Loss "diversity" (wav2vec 2.0, equation 4, in the form of its code): the share of
    entries that the mean softmax without noise leaves unused,
    ``(entries - sum of perplexities) / entries``, over valid frames.

    Arguments
    ---------
    dim : int
        Size of a latent frame.
    size : int
        Entries of a group.
    groups : int
        Number of codebooks.
    out_dim : int, optional
        Size of the result, a multiple of ``groups``; default ``dim``.
    temperature : sequence of float
        start, stop and factor.
    shared : bool
        One table for all groups, as vq-wav2vec may.
    hidden : int
        Width of a hidden layer with ReLU before the logits; 0: none.
    diversity_weight : float
        Weight of the loss; 0 leaves it out.

    Raises
    ------
    DsuError
        If sizes don't divide or the schedule does not fall from start to stop.

    Example
    -------
    >>> quantizer = GumbelProduct(dim=8, size=5, groups=2, out_dim=6)
    >>> found = quantizer(torch.randn(2, 7, 8))
    >>> found.codes.shape, found.quantized.shape, quantizer.temperature
    (torch.Size([2, 7, 2]), torch.Size([2, 7, 6]), 1.99999)
    """

    def __init__(
        self,
        dim: int,
        size: int,
        groups: int = 2,
        out_dim: int | None = None,
        temperature: Sequence[float] = (2.0, 0.5, 0.999995),
        shared: bool = False,
        hidden: int = 0,
        diversity_weight: float = 0.1,
    ):
        super().__init__(dim, (size,) * groups)
        self.out_dim = dim if out_dim is None else out_dim
        if self.out_dim % groups:
            raise DsuError(f"out_dim={self.out_dim} is no multiple of groups={groups}")
        start, stop, factor = (float(value) for value in temperature)
        if not (start >= stop > 0 and 0 < factor <= 1):
            raise DsuError(
                f"temperature={tuple(temperature)}: take start >= stop > 0 and a "
                "factor in (0, 1]"
            )
        self.size, self.groups, self.shared = size, groups, shared
        self.schedule = (start, stop, factor)
        self.diversity_weight = float(diversity_weight)
        self.hidden = nn.Linear(dim, hidden) if hidden else None
        self.logits = nn.Linear(hidden or dim, groups * size)
        nn.init.normal_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        tables = 1 if shared else groups
        entries = torch.rand(tables, size, self.out_dim // groups)
        self.entries = nn.Parameter(entries)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def extra_repr(self) -> str:
        """Settings that decide the codes."""
        return (
            f"dim={self.dim}, size={self.size}, groups={self.groups}, "
            f"out_dim={self.out_dim}, shared={self.shared}"
        )

    @property
    def temperature(self) -> float:
        """The temperature of the next training pass."""
        start, stop, factor = self.schedule
        return max(start * factor ** int(self.steps), stop)

    def set_steps(self, steps: int) -> None:
        """Set the number of updates done, which decides the temperature."""
        self.steps.fill_(steps)

    def forward(
        self,
        latents: Tensor,
        lens: Tensor | None = None,
        n_codebooks: int | None = None,
    ) -> Quantized:
        """Draw codes in training, take the largest logits otherwise.

        Returns
        -------
        Quantized
            ``quantized`` is ``[batch, frames, out_dim]``; groups left out by
            ``n_codebooks`` are zero.
        """
        keep = self.keep(n_codebooks)
        with torch.autocast(latents.device.type, enabled=False):
            logits = self._logits(latents, keep)
            parts, ids = [], []
            for group, scores in enumerate(logits):
                weights, chosen = self._draw(scores)
                table = self.entries[0 if self.shared else group]
                if weights is None:
                    parts.append(F.embedding(chosen, table))
                else:
                    parts.append(pick_rows(weights, table, chosen))
                ids.append(chosen)
            codes = torch.stack(ids, 1).view(*latents.shape[:2], keep)
            quantized = torch.cat(parts, 1).unflatten(0, latents.shape[:2])
            losses = {}
            if self.diversity_weight:
                valid = valid_frames(latents, lens)
                rows = None if valid is None else valid.flatten()
                unused = [diversity(scores, rows) for scores in logits]
                loss = torch.stack(unused).mean()
                losses["diversity"] = self.diversity_weight * loss
        if self.learning and not is_paused():
            self.steps += 1
        usage = count_codes(codes, self.codebook_sizes, lens)
        return Quantized(codes, self._fill(quantized), losses, usage)

    def encode(self, latents: Tensor, n_codebooks: int | None = None) -> Tensor:
        """The largest logit of each group: ``[batch, frames, groups]``."""
        keep = self.keep(n_codebooks)
        with torch.no_grad(), torch.autocast(latents.device.type, enabled=False):
            ids = [scores.argmax(1) for scores in self._logits(latents, keep)]
            return torch.stack(ids, 1).view(*latents.shape[:2], keep)

    def decode(self, codes: Tensor) -> Tensor:
        """Entries side by side ``[batch, frames, out_dim]``."""
        return self._fill(self.embed(codes).flatten(2))

    def embed(self, codes: Tensor) -> Tensor:
        """Entries ``[batch, frames, k, out_dim // groups]``."""
        if self.shared:
            return self.entries[0][codes]
        return self.entries[torch.arange(codes.shape[2], device=codes.device), codes]

    def _logits(self, latents: Tensor, keep: int) -> list[Tensor]:
        """``[batch * frames, size]`` in float32 for each group that is kept."""
        self.check_dim(latents)
        rows = latents.float().flatten(0, 1)
        if self.hidden is not None:
            rows = self.hidden(rows).relu()
        # Group by group: slices of one product would be copied at every step.
        weights = self.logits.weight.split(self.size)[:keep]
        biases = self.logits.bias.split(self.size)[:keep]
        pairs = zip(weights, biases, strict=True)
        return [F.linear(rows, weight, bias) for weight, bias in pairs]

    def _draw(self, scores: Tensor) -> tuple[Tensor | None, Tensor]:
        """Soft weights (None where nothing is drawn) and ids of one group."""
        if not self.training:
            weights = None
            if torch.is_grad_enabled() and scores.requires_grad:
                weights = scores.softmax(1)
            return weights, scores.argmax(1)
        # -log of an exponential variable is Gumbel.
        noise = torch.empty_like(scores).exponential_().log_()
        weights = (scores - noise).div_(self.temperature).softmax(1)
        return weights, weights.detach().argmax(1)

    def _fill(self, quantized: Tensor) -> Tensor:
        return F.pad(quantized, (0, self.out_dim - quantized.shape[2]))


def diversity(logits: Tensor, valid: Tensor | None = None) -> Tensor:
    """Share of a codebook's entries that frames leave unused on average.

    Arguments
    ---------
    logits : Tensor
        ``[frames, size]``.
    valid : Tensor, optional
        bool ``[frames]``.

    Returns
    -------
    Tensor
        Scalar: 0 when the mean softmax is uniform, near 1 when all frames agree on
        one entry; 1 when there is no frame.

    Example
    -------
    >>> diversity(torch.zeros(3, 4)).item()
    0.0
    """
    shares = logits.softmax(-1)
    if valid is None:
        mean = shares.sum(0) / max(len(shares), 1)
    else:
        mean = valid.to(shares.dtype) @ shares / valid.sum().clamp(min=1)
    entropy = torch.special.entr(mean.clamp(min=1e-12)).sum()
    used = entropy.exp() * (mean.sum() > 0)
    return 1 - used / logits.shape[-1]
