"""Is every codebook in use? Counts over an epoch, and alarms that name the codebook."""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from speechbrain_dsu.evaluation.rates import entropy
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class CodebookHealth:
    """The state of one codebook over the frames that were counted.

    Arguments
    ---------
    name : str
        As in alarms.
    size : int
        Number of ids.
    frames : int
        Frames counted.
    used : float
        Share of the ids that occurred.
    dead : int
        Ids that did not.
    perplexity : float
        Two to the entropy of the ids: how many equally frequent ids would be as
        diverse; 1 is collapse.
    error : float or None
        Mean squared error left after this and the codebooks before it, as a share
        of the latents' mean square; None when no latents were given.
    """

    name: str
    size: int
    frames: int
    used: float
    dead: int
    perplexity: float
    error: float | None

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON and loggers."""
        return asdict(self)


class CodebookMonitor:
    """Collects the usage of codebooks over an epoch and tells what is wrong.

    Feed it the results of a quantizer, ask for ``line()`` or ``log()`` at the end of
    an epoch, then ``reset()``. A codebook is judged once it has seen ``least`` frames
    per id: on few frames every large codebook looks dead.

    Arguments
    ---------
    sizes : sequence of int
        Ids of each codebook, ``quantizer.codebook_sizes``.
    names : sequence of str, optional
        Names for alarms; default "codebook 0" and so on.
    max_dead : float
        Alarm when a larger share of the ids did not occur.
    min_perplexity : float
        Alarm when the perplexity is a smaller share of the size.
    least : float
        Frames per id before a codebook is judged.

    Raises
    ------
    DsuError
        If names and sizes differ in number.

    Example
    -------
    >>> monitor = CodebookMonitor([4, 4])
    >>> monitor.count([torch.tensor([9, 9, 9, 9]), torch.tensor([36, 0, 0, 0])])
    >>> monitor.alarms()
    ['codebook 1: collapsed, perplexity 1.0 of 4, 3 of 4 ids dead']
    >>> monitor.line()  # doctest: +ELLIPSIS
    'used 1.00 0.25, perplexity 4.0 1.0, ALARM codebook 1: ...'
    """

    def __init__(
        self,
        sizes: Sequence[int],
        names: Sequence[str] | None = None,
        max_dead: float = 0.5,
        min_perplexity: float = 0.1,
        least: float = 4.0,
    ):
        if names is None:
            names = [f"codebook {place}" for place in range(len(sizes))]
        if len(names) != len(sizes):
            raise DsuError(f"{len(names)} names for {len(sizes)} codebooks")
        self.sizes, self.names = tuple(sizes), tuple(names)
        self.max_dead, self.min_perplexity = max_dead, min_perplexity
        self.least = least
        self.reset()

    def reset(self) -> None:
        """Forget all counts."""
        self._counts = [torch.zeros(size, dtype=torch.int64) for size in self.sizes]
        # Squared error per codebook, squared latents, for the codebooks measured.
        self._errors = torch.zeros(len(self.sizes), 2, dtype=torch.float64)

    def count(self, usage: Sequence[Tensor]) -> None:
        """Add counts ``[size]`` per codebook; those of the first few are enough.

        Raises
        ------
        DsuError
            If a codebook has another size.
        """
        for place, counts in enumerate(usage):
            if place >= len(self.sizes) or counts.shape != (self.sizes[place],):
                raise DsuError(
                    f"usage {place} is {list(counts.shape)}, the monitor was made for "
                    f"codebooks of {self.sizes}"
                )
            self._counts[place] += counts.detach().cpu()

    @torch.no_grad()
    def update(
        self,
        result: Any,
        latents: Tensor | None = None,
        quantizer: Any = None,
        lens: Tensor | None = None,
    ) -> None:
        """Add a result of a quantizer.

        Arguments
        ---------
        result : Quantized
            What ``quantizer(latents, lens)`` returned; only codes and usage are
            read.
        latents : Tensor, optional
            The latents ``[batch, frames, dim]``, for errors.
        quantizer : Quantizer, optional
            Wanted with latents: the first codes are decoded, then the first two, and
            so on. That is a decoding per codebook, so measure a few batches only.
        lens : Tensor, optional
            Relative lengths ``[batch]``.
        """
        self.count(result.usage)
        if latents is None:
            return
        if quantizer is None:
            raise DsuError("errors need the quantizer beside the latents")
        size = latents.shape[1]
        counts = absolute_lengths(lens, size, len(latents)).to(latents.device)
        valid = length_mask(counts, size)
        latents = latents.detach().double()
        power = latents[valid].square().sum().item()
        for keep in range(1, result.codes.shape[2] + 1):
            decoded = quantizer.decode(result.codes[..., :keep]).double()
            error = (decoded - latents)[valid].square().sum().item()
            self._errors[keep - 1] += torch.tensor([error, power]).double()

    def synchronise(self) -> None:
        """Add up the counts of all ranks; every rank has to call it, once an epoch."""
        parallel = torch.distributed
        if not (parallel.is_available() and parallel.is_initialized()):
            return
        for counts in self._counts:
            parallel.all_reduce(counts)
        parallel.all_reduce(self._errors)

    def report(self) -> tuple[CodebookHealth, ...]:
        """The state of each codebook."""
        found = []
        for place, (name, counts) in enumerate(
            zip(self.names, self._counts, strict=True)
        ):
            dead = int((counts == 0).sum())
            error, power = self._errors[place].tolist()
            found.append(
                CodebookHealth(
                    name=name,
                    size=len(counts),
                    frames=int(counts.sum()),
                    used=1 - dead / len(counts),
                    dead=dead,
                    perplexity=2.0 ** entropy(counts),
                    error=error / power if power else None,
                )
            )
        return tuple(found)

    def alarms(self) -> list[str]:
        """What is wrong, one line per codebook; empty when all is well."""
        found, before = [], None
        for health in self.report():
            faults = self._faults(health)
            if (
                before is not None
                and health.error is not None
                and health.error > before
            ):
                faults.append(f"error {health.error:.3g} above {before:.3g} before it")
            before = health.error
            if faults:
                found.append(f"{health.name}: {', '.join(faults)}")
        return found

    def _faults(self, health: CodebookHealth) -> list[str]:
        if health.frames < self.least * health.size:
            return []
        low = health.perplexity < self.min_perplexity * health.size
        # Of a small codebook a tenth is less than one id.
        low = low or (health.perplexity < 1.01 and health.size > 1)
        collapsed = f"collapsed, perplexity {health.perplexity:.1f} of {health.size}"
        faults = [collapsed] if low else []
        if health.dead > self.max_dead * health.size:
            faults.append(f"{health.dead} of {health.size} ids dead")
        return faults

    def stats(self) -> dict[str, float]:
        """Numbers for SpeechBrain's train loggers, e.g. "perplexity 0"."""
        out = {}
        for place, health in enumerate(self.report()):
            out[f"used {place}"] = health.used
            out[f"perplexity {place}"] = health.perplexity
            if health.error is not None:
                out[f"error {place}"] = health.error
        return out

    def line(self) -> str:
        """All codebooks in one line, alarms at its end."""
        report = self.report()
        parts = [
            "used " + " ".join(f"{health.used:.2f}" for health in report),
            "perplexity " + " ".join(f"{health.perplexity:.1f}" for health in report),
        ]
        errors = [f"{h.error:.3f}" for h in report if h.error is not None]
        if errors:
            parts.append("error " + " ".join(errors))
        alarms = self.alarms()
        if alarms:
            parts.append("ALARM " + "; ".join(alarms))
        return ", ".join(parts)

    def log(self, epoch: int) -> None:
        """One line to the log: a warning when there is an alarm, else information."""
        level = logging.WARNING if self.alarms() else logging.INFO
        logger.log(level, "epoch %d: %s", epoch, self.line())
