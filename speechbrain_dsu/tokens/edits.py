"""Edits of token ids: as bits through a noisy channel, and by residue (watermarks).

All functions take codes ``[batch, frames, codebooks]`` or any other shape that ends
so, return new tensors and hold no parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.nearest import nearest_centers


def to_bits(codes: Tensor, bits: int) -> Tensor:
    """Ids as bits, most significant first.

    Arguments
    ---------
    codes : Tensor
        int64 of any shape, 0 to ``2**bits - 1``.
    bits : int
        Bits per id, 1 to 62.

    Returns
    -------
    Tensor
        bool ``[..., bits]``.

    Example
    -------
    >>> to_bits(torch.tensor([6]), 4).int().tolist()
    [[0, 1, 1, 0]]
    """
    places = torch.arange(bits - 1, -1, -1, device=codes.device)
    return ((codes.unsqueeze(-1) >> places) & 1).bool()


def from_bits(bits: Tensor) -> Tensor:
    """Ids from bits, most significant first: undoes ``to_bits``.

    Example
    -------
    >>> from_bits(torch.tensor([[False, True, True, False]])).tolist()
    [6]
    """
    count = bits.shape[-1]
    places = 1 << torch.arange(count - 1, -1, -1, device=bits.device)
    return (bits.long() * places).sum(-1)


def to_gray(codes: Tensor) -> Tensor:
    """Gray code of ids: neighbours differ in one bit.

    Example
    -------
    >>> to_gray(torch.arange(4)).tolist()
    [0, 1, 3, 2]
    """
    return codes ^ (codes >> 1)


def from_gray(codes: Tensor) -> Tensor:
    """Ids from their Gray code, below 2^62.

    Example
    -------
    >>> from_gray(to_gray(torch.arange(4))).tolist()
    [0, 1, 2, 3]
    """
    for shift in (1, 2, 4, 8, 16, 32):
        codes = codes ^ (codes >> shift)
    return codes


def bit_channel(
    codes: Tensor,
    levels: Sequence[int],
    flip: float,
    gray: bool = False,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Send codes as bits over a channel that flips each bit with one probability.

    The robustness test of NeuCodec ("Finite Scalar Quantization Enables Redundant
    and Transmission-Robust Neural Audio Compression at Low Bit-rates", 2025). An id
    is read as digits, the first least significant, and each digit takes the bits it
    needs. One digit per id is the natural code of a codebook without order; the
    levels of FSQ as digits let `gray` make every single flip a small step of one
    channel.

    Arguments
    ---------
    codes : Tensor
        int64 ``[..., codebooks]``, every codebook of the product of ``levels`` ids.
    levels : sequence of int
        Number of values of each digit: ``[1024]`` for a plain codebook,
        ``[4] * 8`` for FSQ with these levels.
    flip : float
        Probability that a bit arrives wrong.
    gray : bool
        Send digits in Gray code.
    generator : torch.Generator, optional
        Source of the errors, on the device of the codes.

    Returns
    -------
    Tensor
        What arrives. A digit beyond its range, possible where its levels are no
        power of two, is taken as the last level.

    Raises
    ------
    DsuError
        If ``flip`` is no probability or a code is out of range.

    Example
    -------
    >>> codes = torch.tensor([[[5], [0]]])
    >>> bit_channel(codes, [8], flip=0.0).flatten().tolist()
    [5, 0]
    >>> bit_channel(codes, [8], flip=1.0).flatten().tolist()
    [2, 7]
    """
    if not 0 <= flip <= 1:
        raise DsuError(f"flip={flip} is not a probability")
    if not levels or min(levels) < 1:
        raise DsuError(f"levels must be positive numbers, got {list(levels)}")
    rest, out, place = codes, torch.zeros_like(codes), 1
    for count in levels:
        digit = rest % count
        rest = torch.div(rest, count, rounding_mode="floor")
        out += place * _send(digit, count, flip, gray, generator)
        place *= count
    if bool((rest != 0).any()):
        raise DsuError(f"codes outside 0 to {place - 1}, the product of the levels")
    return out


def _send(
    digit: Tensor,
    count: int,
    flip: float,
    gray: bool,
    generator: torch.Generator | None,
) -> Tensor:
    width = (count - 1).bit_length()
    if width == 0:
        return digit
    bits = to_bits(to_gray(digit) if gray else digit, width)
    chance = torch.rand(bits.shape, generator=generator, device=digit.device)
    arrived = from_bits(bits ^ (chance < flip))
    if gray:
        arrived = from_gray(arrived)
    return arrived.clamp(max=count - 1)


def residues(codes: Tensor, modulus: int = 2) -> Tensor:
    """What a watermark reader sees: ids modulo ``modulus``.

    Example
    -------
    >>> residues(torch.tensor([4, 7])).tolist()
    [0, 1]
    """
    return codes % modulus


def residue_table(centers: Tensor, modulus: int = 2) -> Tensor:
    """For every id and residue, the nearest id of that residue.

    Arguments
    ---------
    centers : Tensor
        The vectors of the ids ``[size, dim]``.
    modulus : int
        Number of residues, 2 or more and at most ``size``.

    Returns
    -------
    Tensor
        int64 ``[size, modulus]``; an id is its own nearest.

    Raises
    ------
    DsuError
        If there are fewer ids than residues.

    Example
    -------
    >>> residue_table(torch.tensor([[0.0], [5.0], [1.0], [6.0]])).tolist()
    [[0, 1], [2, 1], [2, 1], [2, 3]]
    """
    return _nearest_of_residue(centers, centers, modulus)


def with_residues(
    codes: Tensor,
    wanted: Tensor,
    centers: Tensor,
    modulus: int = 2,
    latents: Tensor | None = None,
) -> Tensor:
    """Change ids so that they carry a message and stay as near as they can.

    The embedder of DiscreteWM (Ji et al., "Speech Watermarking with Discrete
    Intermediate Representations", 2024) without its trained manipulator: an id
    moves to the nearest one whose residue is the wanted digit; ids that already
    have it stay.

    Arguments
    ---------
    codes : Tensor
        int64 ``[batch, frames]`` or ``[batch, frames, 1]``: one codebook.
    wanted : Tensor
        Digits 0 to ``modulus - 1`` of the shape of ``codes``; -1 leaves a frame as
        it is.
    centers : Tensor
        The vectors of the ids ``[size, dim]``.
    modulus : int
        Digits are ids modulo this; 2 is parity, one bit a frame.
    latents : Tensor, optional
        ``[batch, frames, dim]``: nearest is then meant from what was quantized
        rather than from the vector of the old id.

    Returns
    -------
    Tensor
        int64, of the shape of ``codes``.

    Raises
    ------
    DsuError
        If a digit is out of range or the shapes differ.

    Example
    -------
    >>> centers = torch.tensor([[0.0], [5.0], [1.0], [6.0]])
    >>> marked = with_residues(
    ...     torch.tensor([[0, 0, 3]]), torch.tensor([[1, 0, -1]]), centers
    ... )
    >>> marked.tolist(), residues(marked).tolist()
    ([[1, 0, 3]], [[1, 0, 1]])
    """
    if wanted.shape != codes.shape or bool(((wanted < -1) | (wanted >= modulus)).any()):
        raise DsuError(
            f"wanted digits must be -1 to {modulus - 1} and shaped as the codes "
            f"{list(codes.shape)}, got {list(wanted.shape)}"
        )
    flat, digits = codes.reshape(-1), wanted.reshape(-1)
    if latents is None:
        choice = residue_table(centers, modulus)[flat]
    else:
        choice = _nearest_of_residue(latents.reshape(len(flat), -1), centers, modulus)
    moved = choice.gather(1, digits.clamp(min=0)[:, None])[:, 0]
    stays = (digits < 0) | (flat % modulus == digits)
    return torch.where(stays, flat, moved).view_as(codes)


def _nearest_of_residue(frames: Tensor, centers: Tensor, modulus: int) -> Tensor:
    """Nearest id of every residue for each frame: int64 ``[n, modulus]``."""
    if not 2 <= modulus <= len(centers):
        raise DsuError(f"modulus={modulus} for {len(centers)} ids: take 2 or more")
    columns = [
        nearest_centers(frames, centers[residue::modulus])[0] * modulus + residue
        for residue in range(modulus)
    ]
    return torch.stack(columns, dim=1)
