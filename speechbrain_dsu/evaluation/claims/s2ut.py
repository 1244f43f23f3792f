"""Claim 37: units are easier to translate to than spectrograms, and text helps.

Lee et al., "Direct Speech-to-Speech Translation with Discrete Units" (2022). Here a
"language" is the spoken digits of FSDD in the mouths of several speakers, the other one
those of a single speaker under a permutation: who says three means six. So nothing of a
word's sound carries over, both sides are real speech, and what came out is read from
the audio by a recogniser of the target speaker. The same encoder gets a decoder of
log-mel frames, one of units, and one of units with CTC of the target's words on the
encoder.
"""

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperpyyaml import load_hyperpyyaml
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import (
    NOT_STATED,
    RULE,
    Found,
    find_files,
    frames_of,
    log_mel_8k,
    make_result,
    seeded,
)
from speechbrain_dsu.evaluation.claims.dmel import lloyd
from speechbrain_dsu.evaluation.claims.small_training import train
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.lengths import absolute_lengths, pad_stack, relative_lengths
from speechbrain_dsu.utils.nearest import nearest_centers
from speechbrain_dsu.utils.paths import hparams_dir

CLAIM = (
    "A direct translator that writes discrete units says more strings right than one "
    "that writes spectrograms; auxiliary text of the target raises that again."
)
RATE, UNITS, BATCH = 8000, 64, 16
# Griffin-Lim needs some; so few say nothing.
_SHORTEST = 4
WORDS = "zero one two three four five six seven eight nine".split()
_MEL, _UNITS, _TEXT = "log-mel frames", "units", "units + text"
_REAL_MEL, _REAL_UNITS = "real, log-mel", "real, units"
_RUNS = "units with their durations give the frames back"
_GREEDY = "one beam takes the likeliest id at every step"
_SIZES = {"dim": 96, "n_layers": 2, "decoder_layers": 2, "dropout": 0.0}
_EAR = {"hop": 80, "win": 200, "n_fft": 256, "n_mels": 40, "sample_rate": RATE}
_TOOLS = """
translate: !name:speechbrain_dsu.decoders.translation.translate
generate: !name:speechbrain_dsu.decoders.generation.generate
frame_rule: !name:speechbrain_dsu.decoders.rules.FrameRule
target: !new:speechbrain_dsu.lobes.features.LogMel
    sample_rate: 8000
    hop: 160
    win: 320
    n_fft: 512
    n_mels: 40
speak: !new:speechbrain_dsu.lobes.vocoders.griffin_lim.GriffinLim
    features: !ref <target>
reader: !new:speechbrain_dsu.lobes.models.readers.ConvReader {in_dim: 40, dim: 96}
encoder: !new:speechbrain_dsu.nnet.transformer.Transformer
    {dim: 96, n_layers: 2, n_heads: 4, causal: false}
tap: !new:speechbrain_dsu.lobes.models.taps.CTCTap
    {dim: 96, side: encoder, layer: 2, column: text, symbols: !ref <words>}
words: [zero, one, two, three, four, five, six, seven, eight, nine]
"""


class Pair(NamedTuple):
    """One utterance of two digits: what is heard, and what is to be said."""

    source: Tensor
    target: Tensor
    digits: tuple[int, ...]


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/.
    quick : bool
        Two seeds, few steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    seeds, steps = (2, 4) if quick else (3, 700)
    found, laws = Found(), {_RUNS: True, _GREEDY: True}
    for seed in range(seeds):
        with seeded(seed) as generator:
            tools = load_hyperpyyaml(_TOOLS)
            pairs, heard = _read(data, tools["target"], seed, 20 if quick else 800)
            kit = _Kit(tools, pairs[0], heard, steps, generator)
            for name, measured in _compare(kit, pairs, steps, laws).items():
                found.note_all(name, measured)
    rows = [
        found.row("strings right", _MEL, _UNITS, "higher"),
        found.row("strings right", _UNITS, _TEXT, "higher"),
        found.row("digit errors", _MEL, _UNITS, NOT_STATED),
        found.row("digit errors", _UNITS, _TEXT, NOT_STATED),
        found.row("strings right", _REAL_MEL, _REAL_UNITS, NOT_STATED),
    ]
    return make_result(37, "S2UT", CLAIM, _setup(seeds, steps), rows, laws)


def _setup(seeds: int, steps: int) -> str:
    return (
        "Strings of two digits (FSDD); source: all speakers but one, target: that one, "
        "digit d said as 3 d + 7 (mod 10). 85 of the 100 strings in training, 60 "
        "utterances of the others, from other recordings, in the test. Equal encoder, "
        f"sizes and batches, {steps} steps of {BATCH}. Targets 50 frames a second: 40 "
        f"log-mel channels (L1), or {UNITS} k-means units of these without repetition "
        "and with durations; both spoken by Griffin-Lim and read by a CTC recogniser "
        "trained on the target speaker, which reads real strings spoken in the same "
        f"way as the last row says. {seeds} seeds for speakers, strings and starts. "
        f"{RULE}"
    )


def _read(
    data: Path, target: nn.Module, seed: int, count: int
) -> tuple[tuple[list[Pair], list[Pair]], list[tuple[Tensor, tuple[int, ...]]]]:
    """Pairs of train and test, and strings of the target speaker for the recogniser."""
    takes: dict[tuple[str, int], list[Path]] = {}
    for path in find_files(data, "fsdd/recordings/*_*_*.wav", "claim 37"):
        digit, speaker, _ = path.stem.split("_")
        takes.setdefault((speaker, int(digit)), []).append(path)
    speakers = sorted({speaker for speaker, _ in takes})
    draw, said = random.Random(seed), speakers[seed % len(speakers)]
    others = [speaker for speaker in speakers if speaker != said]
    cache: dict[Path, Tensor] = {}

    def wav(speaker: str, digits: Sequence[int], choice: slice) -> Tensor:
        parts = []
        for digit in digits:
            path = draw.choice(takes[speaker, digit][choice])
            if path not in cache:
                cache[path] = read_audio(path, RATE)[0]
            parts += [cache[path], torch.zeros(320)]
        return torch.cat(parts)

    ear = log_mel_8k()
    strings = [(a, b) for a in range(10) for b in range(10)]
    draw.shuffle(strings)
    old, new = slice(0, 15), slice(15, 20)
    parts: tuple[list[Pair], list[Pair]] = ([], [])
    plan = [(draw.choice(strings[15:]), old, parts[0]) for _ in range(count)]
    plan += [(string, new, parts[1]) for string in 4 * strings[:15]]
    for string, choice, part in plan:
        meant = tuple((3 * digit + 7) % 10 for digit in string)
        source = frames_of([wav(draw.choice(others), string, choice)], ear)
        # Few takes of each word: the fewer, the less is left to guess.
        spoken = frames_of([wav(said, meant, slice(0, 5))], target)
        part.append(Pair(source, spoken, meant))
    heard = []
    for _ in range(count):
        string = tuple(draw.randrange(10) for _ in range(2))
        heard.append((wav(said, string, slice(0, 20)), string))
    return parts, heard


class _Kit:
    """What a seed's systems share: scales, units, the recogniser of the target."""

    def __init__(
        self,
        tools: dict[str, Any],
        pairs: Sequence[Pair],
        heard: Sequence[tuple[Tensor, tuple[int, ...]]],
        steps: int,
        generator: torch.Generator,
    ):
        self.tools, self.generator = tools, generator
        sources = torch.cat([pair.source for pair in pairs])
        targets = torch.cat([pair.target for pair in pairs])
        self.ear, self.source_scale = log_mel_8k(), _scale(sources)
        self.target_scale = _scale(targets)
        self.centers = lloyd(targets, UNITS, generator, 20)
        self.listener = nn.ModuleList([tools["reader"], tools["encoder"], tools["tap"]])
        # What the recogniser will hear: frames spoken by Griffin-Lim, or as they are.
        spoken = [
            self.hear(tools["speak"](tools["target"](wav[None]))[0] if n % 2 else wav)
            for n, (wav, _) in enumerate(heard)
        ]
        words = [torch.tensor(digits) for _, digits in heard]

        def loss() -> Tensor:
            chosen = torch.randint(len(spoken), (BATCH,), generator=generator).tolist()
            frames, lens = _padded([spoken[n] for n in chosen])
            text, text_lens = _padded([words[n] for n in chosen])
            states, at = self.listen(frames, lens)
            return tools["tap"].loss(states, at, text, text_lens)

        train(self.listener, loss, steps, 2e-3)

    def hear(self, wav: Tensor) -> Tensor:
        """Frames of speech for the recogniser."""
        mean, std = self.source_scale
        return (self.ear(wav[None])[0] - mean) / std

    def listen(self, frames: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """The recogniser's states and their lengths."""
        vectors, at = self.tools["reader"](frames, lens)
        return self.tools["encoder"](vectors, at), at

    def codes(self, frames: Tensor) -> Tensor:
        """Units ``[frames, 1]`` of target frames."""
        return nearest_centers(frames, self.centers)[0].unsqueeze(1)

    @torch.no_grad()
    def score(
        self, frames: Sequence[Tensor], pairs: Sequence[Pair]
    ) -> dict[str, float]:
        """Speak target frames of each pair and read what is said."""
        right, wrong, digits = 0, 0, 0
        for item, pair in zip(frames, pairs, strict=True):
            found = ()
            if len(item) >= _SHORTEST:
                wav = self.tools["speak"](item[None])[0]
                heard = self.hear(wav)[None]
                text = self.tools["tap"].read(*self.listen(heard, torch.ones(1)))[0]
                found = tuple(WORDS.index(word) for word in text.split())
            right += found == pair.digits
            wrong += _edits(found, pair.digits)
            digits += len(pair.digits)
        return {"strings right": right / len(pairs), "digit errors": wrong / digits}


def _compare(
    kit: _Kit, parts: tuple[list[Pair], list[Pair]], steps: int, laws: dict[str, bool]
) -> dict[str, dict[str, float]]:
    pairs, test = parts
    real = [pair.target for pair in test]
    through = [kit.centers[kit.codes(frames)[:, 0]] for frames in real]
    results = {
        _REAL_MEL: kit.score(real, test),
        _REAL_UNITS: kit.score(through, test),
        _MEL: kit.score(_by_frames(kit, pairs, test, steps), test),
    }
    for name, weight in ((_UNITS, 0.0), (_TEXT, 0.5)):
        frames = _by_units(kit, pairs, test, steps, weight, laws)
        results[name] = kit.score(frames, test)
    return results


def _system(name: str, **overrides: Any) -> nn.Module:
    with open(hparams_dir() / "systems" / "s2st" / f"{name}.yaml") as file:
        features = {**_EAR, "normalize": None}
        options = {**_SIZES, "features": features, **overrides}
        return load_hyperpyyaml(file, options)["model"]


def _train(
    kit: _Kit,
    model: nn.Module,
    pairs: Sequence[Pair],
    steps: int,
    target: Callable[[Pair], Tensor],
    texts: bool = False,
) -> None:
    sources = [_standard(pair.source, kit.source_scale) for pair in pairs]
    targets = [target(pair) for pair in pairs]
    words = [torch.tensor(pair.digits) for pair in pairs]

    def loss() -> Tensor:
        drawn = torch.randint(len(pairs), (BATCH,), generator=kit.generator).tolist()
        columns = [*_padded([sources[n] for n in drawn])]
        columns += _padded([targets[n] for n in drawn])
        extra = {}
        if texts:
            text, lens = _padded([words[n] for n in drawn])
            for name in ("text", "source_text"):
                extra |= {name: text, f"{name}_lens": lens}
        return model(*columns, **extra)["loss"]

    train(model, loss, steps, 2e-3)


@torch.no_grad()
def _by_frames(
    kit: _Kit, pairs: Sequence[Pair], test: Sequence[Pair], steps: int
) -> list[Tensor]:
    """Target frames that the spectrogram translator writes."""
    model = _system("spectrogram", frame_dim=40)
    mean, std = kit.target_scale
    with torch.enable_grad():
        _train(
            kit, model, pairs, steps, lambda p: _standard(p.target, kit.target_scale)
        )
    source, lens = _padded([_standard(p.source, kit.source_scale) for p in test])
    memory, memory_lens = model.read(source, lens)
    rule = kit.tools["frame_rule"](150)
    found = kit.tools["generate"](
        model.session(memory, memory_lens), rule, batch=len(test)
    )
    return [row[1:] * std + mean for row in found.unpad()]


@torch.no_grad()
def _by_units(
    kit: _Kit,
    pairs: Sequence[Pair],
    test: Sequence[Pair],
    steps: int,
    weight: float,
    laws: dict[str, bool],
) -> list[Tensor]:
    """Target frames behind the units that a unit translator writes."""
    options = {"sizes": [UNITS], "symbols": WORDS, "source_symbols": WORDS}
    model = _system("s2ut_ctc", **options, source_layer=1, target_layer=2)
    # Only the target's text on the encoder, and only where it is asked for.
    taps = [tap for tap in model.taps if weight and tap.side == "encoder"]
    model.taps = nn.ModuleList(tap for tap in taps if tap.column == "text")
    with torch.enable_grad():
        _train(kit, model, pairs, steps, lambda p: kit.codes(p.target), bool(weight))
    model.set_pace(1, 1)
    source, lens = _padded([_standard(p.source, kit.source_scale) for p in test])
    found = kit.tools["translate"](model, source, lens, longest=150)
    _keep_laws(kit, model, source, lens, test, laws)
    counts = absolute_lengths(found.lens, found.codes.shape[1]).tolist()
    rows = zip(found.codes[..., 0], counts, strict=True)
    return [kit.centers[row[:n]] for row, n in rows]


def _keep_laws(
    kit: _Kit,
    model: nn.Module,
    source: Tensor,
    lens: Tensor,
    test: Sequence[Pair],
    laws: dict[str, bool],
) -> None:
    codes, code_lens = _padded([kit.codes(pair.target) for pair in test])
    ids, _, durations = model.steps.write(codes, code_lens)
    laws[_RUNS] &= torch.equal(model.steps.read(ids, durations)[0], codes)
    found = kit.tools["translate"](model, source, lens, longest=150)
    memory, memory_lens = model.read(source, lens)
    vectors = model.embedding(found.ids[:, :-1])
    hidden = model.transformer(vectors, None, memory, memory_lens)
    best = model.head.logits(hidden)[:, :, 0]
    best[..., : model.steps.vocabulary.eos] = float("-inf")
    inside = found.ids[:, 2:, 0] != model.steps.vocabulary.pad
    # The last id may be an end that the cap dictates.
    same = best.argmax(-1)[:, :-1] == found.ids[:, 1:-1, 0]
    laws[_GREEDY] &= bool(same[inside].all())


def _padded(items: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    padded, counts = pad_stack(list(items))
    return padded, relative_lengths(counts, padded.shape[1])


def _scale(frames: Tensor) -> tuple[Tensor, Tensor]:
    return frames.mean(0), frames.std(0).clamp(min=1e-3)


def _standard(frames: Tensor, scale: tuple[Tensor, Tensor]) -> Tensor:
    return (frames - scale[0]) / scale[1]


def _edits(found: Sequence[int], wanted: Sequence[int]) -> int:
    """Fewest substitutions, insertions and deletions."""
    row = list(range(len(wanted) + 1))
    for place, one in enumerate(found, start=1):
        last, row[0] = row[0], place
        for index, two in enumerate(wanted, start=1):
            last, row[index] = (
                row[index],
                min(row[index] + 1, row[index - 1] + 1, last + (one != two)),
            )
    return row[-1]
