"""Claim 53's conversion: units of a new speaker, spoken in the training's voices."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import Digit, seeded
from speechbrain_dsu.evaluation.claims.pretraining import maker, probe_pooled
from speechbrain_dsu.evaluation.claims.speech_resynthesis import Item, fitted, train


def make_vocoder(size: int, hop: int, voices: Sequence[str]) -> nn.Module:
    """The shipped vocoder of soft units, small.

    Example
    -------
    >>> make_vocoder(8, 160, ["ann", "bob"]).frame_rate
    100.0
    """
    place = "lobes.vocoders.conditions."
    small = {"channels": 64, "hidden": 128, "layers": 3, "win": None, "rounds": 8}
    return maker("lobes.vocoders.unit_vocoder.UnitVocoder")(
        block("decoder_levels", dim=80, sample_rate=16000, hop=hop, **small),
        maker(place + "FrameContent")(size, 64),
        maker(place + "Voices")(list(voices), 16),
    )


def spoken_measures(
    states: Mapping[str, Sequence[Sequence[Tensor]]],
    features: nn.Module,
    known: Sequence[Digit],
    new: Sequence[Digit],
    steps: int,
) -> dict[tuple[str, str], float]:
    """What is heard of a new speaker's digits in the voices of the training.

    Arguments
    ---------
    states : mapping
        Kind of unit to its frames of known and new digits.
    features : nn.Module
        Log-mel, of the same hop; a probe of real recordings reads it.
    known, new : sequence of Digit
        Their frames are waveforms.
    steps : int
        Of each vocoder's training.

    Returns
    -------
    dict
        By measure and kind: share of wrong digits, and of those whose voice is taken
        for the target.
    """
    voices, hop = sorted({digit.speaker for digit in known}), features.hop
    targets = [voices[place % len(voices)] for place in range(len(new))]
    real = [features(digit.frames.unsqueeze(0))[0] for digit in known]
    said = [[digit.digit for digit in part] for part in (known, new)]
    who = [digit.speaker for digit in known]
    found = {}
    for name, (first, second) in states.items():
        items = [
            Item(x, fitted(digit.frames, len(x), hop), {}, digit.speaker)
            for x, digit in zip(first, known, strict=True)
        ]
        with seeded(0) as generator:
            vocoder = make_vocoder(first[0].shape[1], hop, voices)
            train(vocoder, items, steps, generator)
        with torch.no_grad():
            places = vocoder.speakers(targets, len(targets))
            wavs, lens = vocoder.decode_frames(list(second), places)
            counts = (lens * wavs.shape[1]).round().long().tolist()
            made = [
                features(wav[:count].unsqueeze(0))[0]
                for wav, count in zip(wavs, counts, strict=True)
            ]
        error = 1 - probe_pooled((real, said[0]), (made, said[1]))
        found["digit error, spoken", name] = error
        found["target voice, spoken", name] = probe_pooled((real, who), (made, targets))
    return found
