"""Pulling a codebook's output towards a teacher's frames."""

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from speechbrain_dsu.nnet.losses.masking import masked_mean
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, length_mask


def cosine_distillation(
    student: Tensor,
    teacher: Tensor,
    lens: Tensor | None = None,
    axis: Literal["dimension", "time"] = "dimension",
) -> Tensor:
    """Negative log-sigmoid of the cosine between a student and its teacher.

    Zhang et al., "SpeechTokenizer" (2023), eq. 3. ``dimension`` (its "D-axis"): each
    channel's course over time is one vector, so a cosine is taken over *time*, and
    the mean over channels. ``time`` (its "T-axis"): each frame is one vector. The
    names say what the mean runs over; the two are easily confused.

    Arguments
    ---------
    student, teacher : Tensor
        ``[batch, frames, dim]`` of one size; the teacher gets no gradient.
    lens : Tensor, optional
        Relative lengths ``[batch]``.
    axis : "dimension" or "time"
        As above.

    Returns
    -------
    Tensor
        Scalar: log(1 + 1/e) = 0.3133 at best, 1.3133 at worst.

    Raises
    ------
    DsuError
        If sizes differ or the axis is unknown.

    Example
    -------
    >>> import torch
    >>> frames = torch.randn(1, 5, 3)
    >>> round(float(cosine_distillation(frames, 2 * frames)), 4)
    0.3133
    """
    if student.shape != teacher.shape:
        raise DsuError(
            f"student frames {list(student.shape)}, teacher {list(teacher.shape)}: "
            "project and align them first"
        )
    student, teacher = student.float(), teacher.detach().float()
    counts = None
    if lens is not None:
        counts = absolute_lengths(lens, student.shape[1]).to(student.device)
    if axis == "time":
        return masked_mean(_cosine_loss(student, teacher, 2), counts)
    if axis != "dimension":
        raise DsuError(f"axis={axis!r}: take 'dimension' or 'time'")
    if counts is not None:
        # Zeros add nothing to a cosine over time.
        mask = length_mask(counts, student.shape[1]).unsqueeze(2)
        student, teacher = student * mask, teacher * mask
    return _cosine_loss(student, teacher, 1).mean()


def _cosine_loss(student: Tensor, teacher: Tensor, dim: int) -> Tensor:
    return -F.logsigmoid(F.cosine_similarity(student, teacher, dim=dim))


class LevelDistillation(nn.Module):
    """Distils a teacher's frames into the first codebooks of a codec.

    The codes of the first ``levels`` codebooks are decoded, projected to the
    teacher's width and compared. The gradient passes the quantizer straight through
    to the latents. The teacher is wanted in training only.

    Arguments
    ---------
    dim : int
        Size of the codec's latents.
    teacher_dim : int
        Size of the teacher's frames.
    levels : int
        How many codebooks, from the first, carry the teacher's content.
    axis : "dimension" or "time"
        As in ``cosine_distillation``.
    l1 : float
        Weight of a mean absolute difference beside the cosine, as SpeechTokenizer's
        authors add it to the "time" variant.

    Raises
    ------
    DsuError
        If ``levels`` is not positive.

    Example
    -------
    >>> import torch
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> quantizer, latents = ResidualVQ(4, size=8, dim=3), torch.randn(1, 50, 3)
    >>> codes = quantizer(latents).codes
    >>> distil = LevelDistillation(dim=3, teacher_dim=5)
    >>> sorted(distil(quantizer, latents, codes, torch.randn(1, 49, 5)))
    ['distillation']
    """

    def __init__(
        self,
        dim: int,
        teacher_dim: int,
        levels: int = 1,
        axis: Literal["dimension", "time"] = "dimension",
        l1: float = 0.0,
    ):
        super().__init__()
        if levels < 1:
            raise DsuError(f"levels={levels} must be at least 1")
        self.levels, self.axis, self.l1 = levels, axis, l1
        self.project = nn.Linear(dim, teacher_dim)

    def forward(
        self,
        quantizer: nn.Module,
        latents: Tensor,
        codes: Tensor,
        teacher: Tensor,
        lens: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Distance of the chosen codebooks' output from a teacher.

        Arguments
        ---------
        quantizer : Quantizer
            The codec's.
        latents : Tensor
            Its input ``[batch, frames, dim]``, with gradient.
        codes : Tensor
            Its codes ``[batch, frames, codebooks]``.
        teacher : Tensor
            ``[batch, frames, teacher_dim]`` at the codec's frame rate; one frame
            more or less, as two models round differently, is cut.
        lens : Tensor, optional
            Relative lengths ``[batch]``.

        Returns
        -------
        dict
            ``{"distillation": scalar}``.

        Raises
        ------
        DsuError
            If the numbers of frames differ by more than one.
        """
        frames = min(latents.shape[1], teacher.shape[1])
        if abs(latents.shape[1] - teacher.shape[1]) > 1:
            raise DsuError(
                f"{latents.shape[1]} latent frames, {teacher.shape[1]} of the teacher: "
                "their frame rates differ"
            )
        chosen = quantizer.decode(codes[..., : self.levels])
        student = chosen + (latents.float() - latents.float().detach())
        student, teacher = self.project(student[:, :frames]), teacher[:, :frames]
        loss = cosine_distillation(student, teacher, lens, self.axis)
        if self.l1:
            counts = None if lens is None else absolute_lengths(lens, frames)
            distance = (student - teacher.detach()).abs()
            loss = loss + self.l1 * masked_mean(distance, counts)
        return {"distillation": loss}
