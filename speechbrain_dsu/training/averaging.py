"""Exponential moving averages of weights, to evaluate and to export."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from speechbrain_dsu.utils.errors import DsuError


class WeightAverage(nn.Module):
    """A moving average of the trainable parameters of modules.

    ``average <- decay * average + (1 - decay) * weight`` after every step, with the
    smaller decay ``(1 + steps) / (10 + steps)`` at the beginning, so that the first
    weights are soon forgotten. Buffers are not averaged: codebooks and statistics are
    running values already.

    Arguments
    ---------
    modules : mapping
        Name to module; the parameters are looked at, never owned.
    decay : float
        In [0, 1).

    Raises
    ------
    DsuError
        If ``decay`` is outside.

    Example
    -------
    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(layer.weight)
    >>> average = WeightAverage({"layer": layer}, decay=0.1)
    >>> _ = nn.init.ones_(layer.weight)
    >>> average.update()
    >>> with average.swapped():
    ...     print(round(layer.weight.item(), 3))
    0.9
    >>> layer.weight.item()
    1.0
    """

    def __init__(self, modules: Mapping[str, nn.Module], decay: float = 0.999):
        super().__init__()
        if not 0 <= decay < 1:
            raise DsuError(f"the decay of averaged weights must be in [0, 1): {decay}")
        self.decay = decay
        # A list, so that the parameters do not become this module's own.
        self._sources: list[nn.Parameter] = []
        for module_name, module in modules.items():
            for name, parameter in module.named_parameters():
                if parameter.requires_grad:
                    self._sources.append(parameter)
                    key = f"{module_name}.{name}".replace(".", "/")
                    self.register_buffer(key, parameter.detach().clone())
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the weights as they are."""
        self.steps += 1
        steps = int(self.steps)
        decay = min(self.decay, (1 + steps) / (10 + steps))
        torch._foreach_lerp_(self._averages(), self._sources, 1 - decay)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Put the averages in the modules' place, and the weights back at the end."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange averages and weights."""
        for average, weight in zip(self._averages(), self._sources, strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    @torch.no_grad()
    def restart(self) -> None:
        """Begin anew at the weights as they are."""
        torch._foreach_copy_(self._averages(), self._sources)
        self.steps.zero_()

    def _averages(self) -> list[Tensor]:
        return [tensor for name, tensor in self.named_buffers() if name != "steps"]
