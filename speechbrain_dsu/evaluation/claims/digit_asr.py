"""Small recognisers of spoken digits on any input: what claims about ASR compare."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from hyperpyyaml import load_hyperpyyaml
from safetensors.torch import load_file
from torch import Tensor, nn

from speechbrain_dsu.evaluation.claims.common import find_files
from speechbrain_dsu.evaluation.claims.small_training import train
from speechbrain_dsu.evaluation.error_rates import error_rates
from speechbrain_dsu.tokens.runs import deduplicate
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.utils.audio import read_audio
from speechbrain_dsu.utils.lengths import pad_stack, relative_lengths
from speechbrain_dsu.utils.paths import bundles_dir, hparams_dir

WORDS = "zero one two three four five six seven eight nine".split()
SETUP = (
    "Free Spoken Digit Dataset, single digits, one speaker in turn kept for the test "
    "and never trained on. The recogniser is unit_ctc.yaml with one Conformer layer of "
    "64, CTC over the ten words, about 25 steps a second, read by the best path; it "
    "begins with the tokenizer's own vectors, and masks in time as the recipes do. "
    "Error: digits that are not read as they were said, in percent."
)


class Spoken(NamedTuple):
    """A recording: what was said, by whom, and its samples at 16 kHz."""

    text: str
    speaker: str
    wav: Tensor


def read_digits(
    data: Path, claim: int, seed: int, takes: int
) -> tuple[list[Spoken], list[Spoken]]:
    """Recordings to train on and those of the speaker kept out, drawn by seed.

    Arguments
    ---------
    data : Path
        With fsdd/recordings/.
    claim : int
        For the error.
    seed : int
        Takes the speaker in turn and draws the takes.
    takes : int
        Of every digit by every speaker.

    Returns
    -------
    train, test : list of Spoken
        At 16 kHz.
    """
    files: dict[tuple[str, str], list[Path]] = {}
    for path in find_files(data, "fsdd/recordings/*_*_*.wav", f"claim {claim}", 20):
        digit, speaker, _ = path.stem.split("_")
        files.setdefault((speaker, digit), []).append(path)
    speakers = sorted({speaker for speaker, _ in files})
    out = speakers[seed % len(speakers)]
    generator = torch.Generator().manual_seed(seed)
    parts: tuple[list[Spoken], list[Spoken]] = ([], [])
    for (speaker, digit), paths in sorted(files.items()):
        order = torch.randperm(len(paths), generator=generator)[:takes].tolist()
        for place in order:
            wav = read_audio(paths[place], 16000)[0]
            parts[speaker == out].append(Spoken(WORDS[int(digit)], speaker, wav))
    return parts


def shipped_tokenizer(name: str) -> nn.Module:
    """The tokenizer of a shipped bundle.

    Example
    -------
    >>> shipped_tokenizer("mfcc-k100").codebook_sizes
    (100,)
    """
    folder = bundles_dir() / name
    with open(folder / "hyperparams.yaml", encoding="utf-8") as file:
        tokenizer = load_hyperpyyaml(file)["modules"]["tokenizer"]
    weights = folder / "model.safetensors"
    if weights.is_file():
        state = load_file(str(weights))
        state = {k.removeprefix("tokenizer."): v for k, v in state.items()}
        dtypes = {k: v.dtype for k, v in tokenizer.state_dict().items()}
        state = {k: v.to(dtypes.get(k, v.dtype)) for k, v in state.items()}
        tokenizer.load_state_dict(state)
    return tokenizer.eval()


class Input(NamedTuple):
    """What a recogniser reads: both parts' sources, ids, frame rate, first vectors."""

    train: list[Tensor]
    test: list[Tensor]
    sizes: tuple[int, ...]
    rate: float
    quantizer: nn.Module | None

    @property
    def bits(self) -> float:
        """Bits of a step."""
        return sum(math.log2(size) for size in self.sizes)


@torch.no_grad()
def encoded(tokenizer: nn.Module, parts: Sequence[list[Spoken]], feed: str) -> Input:
    """Codes ("units") or what is quantized ("frames") of the recordings' parts."""
    read = tokenizer.frames if feed == "frames" else None
    if read is None:
        train_part, test = (
            [tokenizer.encode(one.wav[None]).codes[0] for one in part] for part in parts
        )
        holder = getattr(tokenizer, "codec", tokenizer)
        sizes = tuple(tokenizer.codebook_sizes)
        return Input(train_part, test, sizes, tokenizer.frame_rate, holder.quantizer)
    train_part, test = ([read(one.wav) for one in part] for part in parts)
    return Input(train_part, test, (), tokenizer.frame_rate, None)


def without_runs(given: Input, n_pieces: int = 0) -> Input:
    """The same without repetitions, and as ``n_pieces`` subwords learnt in training."""
    parts = [[_runs(codes) for codes in part] for part in (given.train, given.test)]
    if not n_pieces:
        return given._replace(train=parts[0], test=parts[1])
    flat = [[codes[:, 0] for codes in part] for part in parts]
    bpe = UnitBPE.train(flat[0], given.sizes[0], n_pieces)
    found = [
        [torch.from_numpy(item)[:, None] for item in bpe.encode(part)] for part in flat
    ]
    sizes = (n_pieces,)
    return Input(found[0], found[1], sizes, given.rate, None)


def _runs(codes: Tensor) -> Tensor:
    return deduplicate(codes[None]).units[0]


def recogniser(given: Input, **values: Any) -> nn.Module:
    """A small recogniser of the shipped system for an input."""
    frames = not given.sizes
    sizes: dict[str, Any] = {"sizes": list(given.sizes), "symbols": WORDS, "dim": 64}
    sizes |= {"layers": 1, "decoder_layers": 0, "ffn": 256, "kernel": 7, "dropout": 0.0}
    sizes |= {"combine": "concat", "stride": max(1, round(given.rate / 25))}
    sizes |= {"frame_dim": given.train[0].shape[1] if frames else 0}
    if given.quantizer is not None:
        first = torch.zeros(1, 1, len(given.sizes), dtype=torch.int64)
        sizes["width"] = given.quantizer.embed(first).shape[-1]
    path = hparams_dir() / "systems" / "asr" / "unit_ctc.yaml"
    with open(path, encoding="utf-8") as file:
        model = load_hyperpyyaml(file, {**sizes, **values})["model"]
    if frames:
        model.reader.standardise(torch.cat(given.train))
    elif given.quantizer is not None:
        model.reader.start_from(given.quantizer)
    return model


def fit(
    model: nn.Module,
    given: Input,
    texts: Sequence[str],
    steps: int,
    generator: torch.Generator,
    batch: int = 32,
) -> nn.Module:
    """Train a recogniser on an input's training part, in place."""
    ids = [torch.tensor(model.transcripts.encode(text)) for text in texts]

    def loss() -> Tensor:
        drawn = torch.randint(len(ids), (batch,), generator=generator).tolist()
        source, counts = pad_stack([given.train[i] for i in drawn])
        text, sizes = pad_stack([ids[i] for i in drawn])
        lens = relative_lengths(counts, source.shape[1])
        return model(source, lens, text, relative_lengths(sizes, text.shape[1]))["loss"]

    train(model, loss, steps)
    return model


@torch.no_grad()
def digit_error(
    model: nn.Module, sources: Sequence[Tensor], texts: Sequence[str]
) -> float:
    """Errors of the best path, in percent of the digits said."""
    found: list[str] = []
    for start in range(0, len(sources), 64):
        source, counts = pad_stack(sources[start : start + 64])
        lens = relative_lengths(counts, source.shape[1])
        found += model.ctc_text(source, lens)
    return error_rates(list(texts), found)["WER"]


def bits_per_second(given: Input, spoken: Sequence[Spoken]) -> float:
    """What the test part costs: bits of its steps over its seconds.

    Example
    -------
    >>> codes = [torch.zeros(25, 2, dtype=torch.int64)]
    >>> given = Input([], codes, (4, 8), 50.0, None)
    >>> bits_per_second(given, [Spoken("one", "x", torch.zeros(8000))])
    250.0
    """
    seconds = sum(len(one.wav) for one in spoken) / 16000
    return given.bits * sum(map(len, given.test)) / seconds
