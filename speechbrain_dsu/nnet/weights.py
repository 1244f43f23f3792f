"""Weights of convolutions: normalised in training, folded and laid out in inference."""

from torch import nn
from torch.nn.utils import parametrizations, parametrize, remove_weight_norm


def normalise_weights(module: nn.Module) -> nn.Module:
    """Give every convolution a normalised weight (Salimans & Kingma, 2016), in place.

    Arguments
    ---------
    module : nn.Module
        With everything below it.

    Returns
    -------
    nn.Module
        The same module.

    Example
    -------
    >>> len(list(normalise_weights(nn.Conv1d(2, 2, 3)).parameters()))
    3
    """
    for part in list(module.modules()):
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d):
            parametrizations.weight_norm(part)
    return module


def fold_weight_norm(module: nn.Module) -> nn.Module:
    """Replace normalised weights, of both of torch's styles, by their product.

    For inference: each call of a normalised layer computes its weight anew. Folding
    a folded module changes nothing. The module itself is changed; to go on training,
    fold a copy.

    Arguments
    ---------
    module : nn.Module
        With everything below it.

    Returns
    -------
    nn.Module
        The same module.

    Example
    -------
    >>> layer = parametrizations.weight_norm(nn.Linear(2, 2))
    >>> sorted(fold_weight_norm(layer).state_dict())
    ['bias', 'weight']
    """
    for part in list(module.modules()):
        if parametrize.is_parametrized(part):
            for name, chain in list(part.parametrizations.items()):
                if any(type(step).__name__ == "_WeightNorm" for step in chain):
                    parametrize.remove_parametrizations(part, name)
        for hook in list(part._forward_pre_hooks.values()):
            if type(hook).__name__ == "WeightNorm":
                remove_weight_norm(part, hook.name)
    return module


def arrange_weights(module: nn.Module) -> nn.Module:
    """Lay the weights of convolutions out in memory as the products here read them.

    Values and shapes stay; without it, every call copies them. For inference, folded.

    Arguments
    ---------
    module : nn.Module
        With everything below it.

    Returns
    -------
    nn.Module
        The same module.

    Example
    -------
    >>> arrange_weights(nn.Conv1d(4, 6, 3)).weight.stride()
    (12, 1, 4)
    """
    for part in module.modules():
        if isinstance(part, nn.Conv1d | nn.ConvTranspose1d) and part.groups == 1:
            taps = part.weight.detach().transpose(1, 2).contiguous()
            part.weight.data = taps.transpose(1, 2)
    return module
