"""What quantizers of single channels share: groups, and layers to and from them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.quantizers.base import Quantizer


class GroupedChannels(Quantizer):
    """Latents as groups of a few channels, each group one codebook.

    Base of the quantizers without a table (finite scalar, binary): a subclass turns
    the channels of a group into an id. Layers, if any, run in float32 whatever the
    autocast.

    Arguments
    ---------
    channels : int
        Channels of a group.
    groups : int
        Number of groups; each takes a consecutive part of the channels.
    size : int
        Codes of a group.
    dim : int, optional
        Size of a latent frame. Linear layers lead to ``groups * channels`` and back
        when it differs; default: that number, without layers.
    """

    def __init__(self, channels: int, groups: int, size: int, dim: int | None = None):
        inner = groups * channels
        super().__init__(inner if dim is None else dim, (size,) * groups)
        self.channels, self.groups = channels, groups
        projected = self.dim != inner
        self.project_in = nn.Linear(self.dim, inner) if projected else None
        self.project_out = nn.Linear(inner, self.dim) if projected else None

    def to_channels(self, latents: Tensor, keep: int) -> Tensor:
        """The first groups in float32: ``[batch, frames, keep, channels]``."""
        self.check_dim(latents)
        values = latents.float()
        if self.project_in is not None:
            # float() alone isn't enough: autocast would cast the product again.
            with torch.autocast(latents.device.type, enabled=False):
                layer = self.project_in
                values = F.linear(values, layer.weight.float(), layer.bias.float())
        return values.unflatten(2, (self.groups, self.channels))[:, :, :keep]

    def to_latents(self, channels: Tensor) -> Tensor:
        """Latents of groups of channels; groups left out count as zero."""
        values = channels.flatten(2)
        missing = self.groups * self.channels - values.shape[2]
        if missing:
            values = F.pad(values, (0, missing))
        if self.project_out is None:
            return values
        with torch.autocast(values.device.type, enabled=False):
            layer = self.project_out
            return F.linear(values, layer.weight.float(), layer.bias.float())
