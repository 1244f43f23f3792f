"""What claims about self-supervised models share: speech, a plain training, probes."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from torch import Tensor, nn

from speechbrain_dsu.evaluation.alignments import frame_labels, phone_ids
from speechbrain_dsu.evaluation.claims.aligned_speech import (
    Spoken,
    english_entries,
    read_spoken,
)
from speechbrain_dsu.evaluation.claims.common import Digit
from speechbrain_dsu.evaluation.probes import fit_probe
from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths
from speechbrain_dsu.utils.paths import hparams_dir

SAMPLE_RATE = 16000


class Signal(nn.Module):
    """Waveforms as they are, where ``read_digits`` wants features.

    Example
    -------
    >>> Signal()(torch.zeros(1, 7)).shape
    torch.Size([1, 7])
    """

    sample_rate = SAMPLE_RATE

    def forward(self, wavs: Tensor) -> Tensor:
        """Waveforms ``[batch, time]``."""
        return wavs


class Corpus(NamedTuple):
    """Utterances of voices to train on, and of voices nobody trained on."""

    train: list[Spoken]
    test: list[Spoken]
    ids: dict[str, int]


def system(
    name: str, scalars: Mapping[str, Any], family: str = "ssl", **nested: Any
) -> dict[str, Any]:
    """A shipped system in another size.

    Arguments
    ---------
    name : str
        Of the file, without its ending.
    scalars : mapping
        Values on top of the file.
    family : str
        Its folder in ``hparams/systems``.
    **nested
        Values inside its parts, those of included files too.

    Returns
    -------
    dict
        The built file.

    Example
    -------
    >>> body = {"body": {"dim": 4, "n_layers": 2}}
    >>> system("apc", {}, encoder=body)["encoder"].dim
    4
    """
    with open(hparams_dir() / "systems" / family / f"{name}.yaml") as file:
        flat = resolve_references(file, dict(scalars))
    return load_hyperpyyaml(flat, nested, overrides_must_match=False)


def maker(place: str) -> Callable[..., Any]:
    """A shipped class that is to be given objects, as YAML would give them.

    Arguments
    ---------
    place : str
        Module and class, from the package on.

    Returns
    -------
    callable
        What makes one.

    Example
    -------
    >>> maker("lobes.features.LogMel")(n_mels=4).dim
    4
    """
    text = f"part: !name:speechbrain_dsu.{place}"
    return load_hyperpyyaml(text)["part"]


def read_corpus(data: Path, claim: int, seed: int, train: int, test: int) -> Corpus:
    """English utterances with aligned phones, drawn by seed.

    Arguments
    ---------
    data : Path
        With synth/, as recipes/Synth/synth_prepare.py leaves it.
    claim : int
        For the error.
    seed : int
        Of the draw.
    train, test : int
        How many, at most.

    Returns
    -------
    Corpus
        ``ids`` numbers the phones of the training part.

    Raises
    ------
    DsuError
        If there is no such folder, or it holds no English.
    """
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for part, most in (("train", train), ("test", test)):
        entries = english_entries(data, part, claim)
        names = sorted(entries)
        order = torch.randperm(len(names), generator=generator)[:most].tolist()
        parts.append([read_spoken(entries[names[place]]) for place in order])
    heard = {str(k): spoken.alignment for k, spoken in enumerate(parts[0])}
    return Corpus(*parts, phone_ids(heard))


def digit_strings(
    digits: Sequence[Digit], generator: torch.Generator, length: int = 4
) -> list[Tensor]:
    """Waveforms of ``length`` digits each, one speaker's after another's.

    Arguments
    ---------
    digits : sequence of Digit
        Of ``read_digits`` with ``Signal``.
    generator : torch.Generator
        Of the order.
    length : int
        Digits in a string; a speaker's last one may be shorter.

    Returns
    -------
    list of Tensor
        ``[time]`` each.

    Example
    -------
    >>> digits = [Digit(k, "ann", torch.full((2,), float(k))) for k in range(5)]
    >>> [len(x) for x in digit_strings(digits, torch.Generator().manual_seed(0))]
    [8, 2]
    """
    out = []
    for speaker in sorted({digit.speaker for digit in digits}):
        wavs = [digit.frames for digit in digits if digit.speaker == speaker]
        order = torch.randperm(len(wavs), generator=generator).tolist()
        out += [
            torch.cat([wavs[place] for place in order[first : first + length]])
            for first in range(0, len(order), length)
        ]
    return out


def pretrain(
    parts: Mapping[str, Any],
    wavs: Sequence[Tensor],
    steps: int,
    generator: torch.Generator,
    labels: Sequence[Tensor] | None = None,
    label_hop: int = 320,
    batch: int = 8,
    rate: float = 2e-3,
) -> None:
    """Train a system's objective on random seconds by Adam, up and down a ramp.

    Arguments
    ---------
    parts : mapping
        Of ``system``: its ``objective`` and ``loss_weights``.
    wavs : sequence of Tensor
        ``[time]`` each.
    steps : int
        Of ``batch`` crops.
    generator : torch.Generator
        Draws the crops; masks follow torch's global draws, see ``seeded``.
    labels : sequence of Tensor, optional
        int64 ``[labels]`` of each waveform, every ``label_hop`` samples.
    label_hop : int
        Crops begin at its multiples.
    batch : int
        Crops of a step.
    rate : float
        The highest one.
    """
    objective, weights = parts["objective"], parts["loss_weights"]
    optimizer = torch.optim.Adam(objective.parameters(), lr=rate)
    warm = max(1, steps // 10)
    objective.train()
    for step in range(steps):
        if hasattr(objective, "set_step"):
            objective.set_step(step)
        ramp = min((step + 1) / warm, (steps - step) / max(1, steps - warm))
        optimizer.param_groups[0]["lr"] = rate * ramp
        places = torch.randint(len(wavs), (batch,), generator=generator).tolist()
        crops, targets = [], []
        for place in places:
            room = max(0, len(wavs[place]) - SAMPLE_RATE) // label_hop
            first = int(torch.randint(room + 1, (1,), generator=generator))
            start = first * label_hop
            crops.append(wavs[place][start : start + SAMPLE_RATE])
            if labels is not None:
                stop = first + len(crops[-1]) // label_hop
                targets.append(labels[place][first:stop] + 1)
        padded, counts = pad_stack(crops)
        # Behind the end there is no label.
        aligned = pad_stack(targets)[0] - 1 if targets else None
        lens = relative_lengths(counts, padded.shape[1])
        losses = objective(padded, lens, aligned).losses
        loss = sum(weights[name] * value for name, value in losses.items())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(objective.parameters(), 5.0)
        optimizer.step()
    objective.eval()


@torch.no_grad()
def layer_states(encoder: nn.Module, wavs: Sequence[Tensor], layer: int) -> list:
    """Frames ``[frames, dim]`` of a layer for each waveform ``[time]``."""
    states = []
    for wav in wavs:
        if encoder.normalize:
            wav = (wav - wav.mean()) / wav.std().clamp(min=1e-5)
        states.append(encoder.hidden_states(wav.unsqueeze(0), None, [layer])[0][0])
    return states


@torch.no_grad()
def plain_frames(features: nn.Module, wavs: Sequence[Tensor]) -> list[Tensor]:
    """Frames ``[frames, dim]`` of a front end for each waveform ``[time]``."""
    return [features(wav.unsqueeze(0))[0] for wav in wavs]


def phone_labels(
    speech: Sequence[Spoken], frames: Sequence[Tensor], model: nn.Module, ids: dict
) -> list[Tensor]:
    """The phone of every frame of ``model``, int64 ``[frames]``; -1 where none is."""
    labels = []
    for spoken, states in zip(speech, frames, strict=True):
        places = torch.arange(len(states), dtype=torch.float64) * model.hop
        times = (places + model.frame_offset) / model.sample_rate
        labels.append(frame_labels(spoken.alignment, times, ids))
    return labels


def probe_frames(
    train: tuple[Sequence[Tensor], Sequence[Tensor]],
    test: tuple[Sequence[Tensor], Sequence[Tensor]],
    classes: int,
    every: int = 1,
) -> float:
    """Accuracy of a linear probe of frames, fitted on some utterances.

    Arguments
    ---------
    train, test : tuple
        Frames ``[frames, dim]`` and labels ``[frames]`` of each utterance; frames
        with a label of -1 don't count.
    classes : int
        Number of labels.
    every : int
        Take every so manieth frame: neighbours say much the same.

    Returns
    -------
    float
        0 to 1.

    Example
    -------
    >>> frames, labels = [torch.eye(4)], [torch.tensor([0, 1, 2, -1])]
    >>> probe_frames((frames, labels), (frames, labels), classes=3)
    1.0
    """

    def gather(part: tuple) -> tuple[Tensor, Tensor]:
        frames = torch.cat([states[::every] for states in part[0]])
        labels = torch.cat([names[::every] for names in part[1]])
        return frames[labels >= 0], labels[labels >= 0]

    fitted = fit_probe(*gather(train), classes, max_iter=50)
    frames, labels = gather(test)
    return float((fitted.predict(frames) == labels).double().mean())


def pool(frames: Sequence[Tensor], parts: int = 3) -> Tensor:
    """Means over thirds, side by side: ``[utterances, parts * dim]``.

    Example
    -------
    >>> pool([torch.tensor([[1.0], [1.0], [5.0]])])
    tensor([[1., 1., 5.]])
    """
    return torch.stack(
        [torch.cat([p.mean(0) for p in x.tensor_split(parts)]) for x in frames]
    )


def probe_pooled(
    train: tuple[Sequence[Tensor], Sequence[Any]],
    test: tuple[Sequence[Tensor], Sequence[Any]],
) -> float:
    """Accuracy of a linear probe of pooled utterances.

    Arguments
    ---------
    train, test : tuple
        Frames ``[frames, dim]`` and one label for each utterance.

    Returns
    -------
    float
        0 to 1.

    Example
    -------
    >>> frames = [torch.zeros(3, 2), torch.ones(3, 2)]
    >>> probe_pooled((frames, ["a", "b"]), (frames, ["a", "b"]))
    1.0
    """
    names = {name: k for k, name in enumerate(sorted(set(train[1])))}
    answers = [torch.tensor([names.get(x, -1) for x in p[1]]) for p in (train, test)]
    fitted = fit_probe(pool(train[0]), answers[0], len(names))
    return float((fitted.predict(pool(test[0])) == answers[1]).double().mean())
