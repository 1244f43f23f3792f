"""Claim 3: a BERT can be trained on speech once speech is discrete, and it helps.

Baevski et al., "vq-wav2vec: Self-Supervised Learning of Discrete Speech
Representations" (2020). The shipped Gumbel system, made small, learns codes; a
transformer then learns to fill in masked codes. Linear probes look for phones and
digits in the codes' vectors, in the transformer's frames, and in those of the same
transformer untrained.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from speechbrain_dsu.evaluation.blocks import block
from speechbrain_dsu.evaluation.claims.common import (
    RULE,
    Digit,
    Digits,
    Found,
    joined,
    log_mel_8k,
    make_result,
    read_digits,
    seeded,
    share_of_error,
)
from speechbrain_dsu.evaluation.claims.pretraining import (
    Corpus,
    Signal,
    digit_strings,
    layer_states,
    maker,
    phone_labels,
    plain_frames,
    pretrain,
    probe_frames,
    probe_pooled,
    read_corpus,
    system,
)

CLAIM = (
    "Discrete codes let a masked language model be trained on speech: its frames say "
    "more than the codes' own vectors and than an untrained one's. Two groups of codes "
    "are better than one of as many parameters."
)
_SIZE, _DIM, _LAYERS, _TAPPED = 32, 32, 3, 2
_GROUPED = (32, 320)
_CODES, _RANDOM, _BERT = "codes", "BERT, untrained", "BERT"
_LABELS, _EVERY = 10, 5
_ROUND = "tuples of codes -> ids -> tuples of codes"
_HARD = "what training passes on are entries of the codebook"


class _Sizes(NamedTuple):
    seeds: int = 3
    speech: int = 100
    test: int = 40
    takes: int = 8
    steps: int = 180


class CodeFrames(nn.Module):
    """Vectors of a trained system's codes, as a front end that does not learn.

    Arguments
    ---------
    front_end : nn.Module
        Of ``lobes.encoders.front_ends``.
    quantizer : nn.Module
        Of its frames.

    Example
    -------
    >>> parts = build()
    >>> CodeFrames(parts["front_end"], parts["quantizer"])(torch.randn(1, 1600)).shape
    torch.Size([1, 8, 32])
    """

    normalize = False

    def __init__(self, front_end: nn.Module, quantizer: nn.Module):
        super().__init__()
        self.front_end, self.quantizer = front_end, quantizer
        self.dim = quantizer.out_dim
        for name in ("sample_rate", "hop", "min_samples", "frame_offset"):
            setattr(self, name, getattr(front_end, name))
        self.masks_padding = front_end.masks_padding
        self.requires_grad_(False)

    def num_frames(self, n_samples: int) -> int:
        """Frames of ``n_samples`` samples."""
        return self.front_end.num_frames(n_samples)

    def codes(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Codes ``[batch, frames, groups]`` of wavs ``[batch, time]``."""
        return self.quantizer.encode(self.front_end(wavs, counts))

    def forward(self, wavs: Tensor, counts: Tensor | None = None) -> Tensor:
        """Vectors ``[batch, frames, dim]`` of wavs ``[batch, time]``."""
        return self.quantizer.decode(self.codes(wavs, counts))


def run(data: Path, quick: bool = False) -> dict[str, Any]:
    """Check the claim.

    Arguments
    ---------
    data : Path
        With fsdd/, and synth/ of recipes/Synth.
    quick : bool
        Two seeds, less speech, fewer steps.

    Returns
    -------
    dict
        See ``run_claim``, without ``command``.
    """
    sizes = _Sizes(2, 12, 4, 2, 3) if quick else _Sizes()
    found = Found()
    laws = {_ROUND: True, _HARD: True}
    for seed in range(sizes.seeds):
        corpus = read_corpus(data, 3, seed, sizes.speech, sizes.test)
        digits = read_digits(data, Signal(), 3, seed, sizes.takes)
        with seeded(seed) as generator:
            wavs = [spoken.wav for spoken in corpus.train]
            wavs += digit_strings(digits.train, generator)
            parts = build()
            pretrain(parts, wavs, sizes.steps, generator, label_hop=160)
            codes = CodeFrames(parts["front_end"], parts["quantizer"])
            found.note("tuples in use", "there are", float(_SIZE**2))
            found.note("tuples in use", _CODES, float(_tuples(codes, wavs)))
            untrained, trained = _train_bert(codes, wavs, sizes.steps, generator, laws)
            _keep_hard(laws, parts, wavs[0])
            order = torch.randperm(len(digits.train), generator=generator).tolist()
        few = _few([digits.train[place] for place in order])
        models = {_CODES: codes, _RANDOM: untrained, _BERT: trained}
        for name, model in models.items():
            _note(found, name, model, corpus, Digits(few, digits.test))
        _note_groups(found, data, seed, sizes.takes)
    return make_result(3, "vq-wav2vec", CLAIM, _setup(sizes), _rows(found), laws)


def build() -> dict[str, Any]:
    """The shipped system with few and narrow layers.

    Example
    -------
    >>> build()["quantizer"].codebook_sizes
    (32, 32)
    """
    return system(
        "vq_wav2vec_gumbel",
        {},
        # A norm per frame: codes of a crop are those of the whole.
        front_end={"channels": [_DIM] * 8, "norm": "layer"},
        quantizer={
            "dim": _DIM,
            "size": _SIZE,
            "hidden": 2 * _DIM,
            "temperature": [2.0, 0.5, 0.99],
        },
        aggregator={"dim": _DIM, "kernels": [2, 3, 4, 5], "norm": "layer"},
    )


def _setup(sizes: _Sizes) -> str:
    return (
        f"Eight convolutions of {_DIM}, 2 groups of {_SIZE} shared entries by Gumbel "
        f"softmax, a norm per frame, then {_LAYERS} transformer blocks of 64 that fill "
        f"in ids of tuples of codes; {sizes.steps} steps of 8 seconds for each, on "
        f"{sizes.speech} synthetic English utterances and the training speakers' "
        f"digits (FSDD, {sizes.takes} takes). Accuracy of linear probes, BERT's of "
        f"layer {_TAPPED}. Phones: frames of voices nobody trained on. Digits: of a "
        f"new speaker, fitted on {_LABELS} recordings of each. Error: of log-mel "
        "frames of the new speaker's digits, as a share of their squares; two groups "
        f"take twice the bits. {sizes.seeds} seeds for draws, initial values, crops "
        f"and masks. {RULE}"
    )


def tuple_ids(codes: Tensor) -> tuple[Tensor, Tensor]:
    """A vocabulary of the tuples that occur.

    Arguments
    ---------
    codes : Tensor
        ``[frames, groups]``.

    Returns
    -------
    tuples : Tensor
        ``[ids, groups]``: the tuple of each id.
    ids : Tensor
        ``[frames]``: the id of each frame.

    Example
    -------
    >>> tuples, ids = tuple_ids(torch.tensor([[3, 1], [0, 2], [3, 1]]))
    >>> tuples.tolist(), ids.tolist()
    ([[0, 2], [3, 1]], [1, 0, 1])
    """
    return codes.unique(dim=0, return_inverse=True)


@torch.no_grad()
def _tuples(codes: CodeFrames, wavs: list[Tensor]) -> int:
    """How many tuples occur: codes that fell together explain what follows."""
    known = [codes.codes(wav.unsqueeze(0))[0] for wav in wavs]
    return len(tuple_ids(torch.cat(known))[0])


def _train_bert(
    codes: CodeFrames,
    wavs: list[Tensor],
    steps: int,
    generator: torch.Generator,
    laws: dict[str, bool],
) -> tuple[nn.Module, nn.Module]:
    """The transformer over codes before and after training."""
    with torch.no_grad():
        known = [codes.codes(wav.unsqueeze(0))[0] for wav in wavs]
    tuples, ids = tuple_ids(torch.cat(known))
    laws[_ROUND] &= torch.equal(tuples[ids], torch.cat(known))
    state = torch.get_rng_state()
    encoders = []
    for count in (0, steps):
        torch.set_rng_state(state)  # the same initial values
        objective = maker("lobes.pretraining.hubert.MaskedUnitPrediction")(
            _make_bert(codes), n_units=len(tuples), head_dim=64
        )
        parts = {"objective": objective, "loss_weights": {"masked": 1.0}}
        labels = ids.split([len(part) for part in known])
        pretrain(parts, wavs, count, generator, labels, codes.hop)
        encoders.append(objective.encoder)
    return encoders[0], encoders[1]


def _make_bert(codes: CodeFrames) -> nn.Module:
    transformer = maker("nnet.transformer_encoder.TransformerEncoder")(
        dim=64,
        layers=_LAYERS,
        heads=2,
        ffn=128,
        norm_first=True,
        positions=32,
        position_groups=8,
    )
    return maker("lobes.encoders.ssl.SSLEncoder")(codes, transformer)


@torch.no_grad()
def _keep_hard(laws: dict[str, bool], parts: dict[str, Any], wav: Tensor) -> None:
    quantizer = parts["quantizer"].train()
    found = quantizer(parts["front_end"](wav.unsqueeze(0)))
    chosen = quantizer.decode(found.codes)
    laws[_HARD] &= torch.allclose(found.quantized, chosen, atol=1e-6)
    quantizer.eval()


def _few(digits: list[Digit]) -> list[Digit]:
    """The first recordings of each digit."""
    kept: list[Digit] = []
    for digit in range(10):
        kept += [d for d in digits if d.digit == digit][:_LABELS]
    return kept


def _note(
    found: Found,
    name: str,
    model: nn.Module,
    corpus: Corpus,
    digits: Digits,
) -> None:
    def frames(wavs: list[Tensor]) -> list[Tensor]:
        if name == _CODES:
            return plain_frames(model, wavs)
        return layer_states(model, wavs, _TAPPED)

    parts = []
    for speech in corpus[:2]:
        states = frames([spoken.wav for spoken in speech])
        parts.append((states, phone_labels(speech, states, model, corpus.ids)))
    value = probe_frames(*parts, len(corpus.ids), _EVERY)
    found.note("phones", name, value)
    pairs = ((frames([d.frames for d in p]), [d.digit for d in p]) for p in digits)
    found.note("digits", name, probe_pooled(*pairs))


def _note_groups(found: Found, data: Path, seed: int, takes: int) -> None:
    """Errors of one and of two groups with the same number of parameters."""
    digits = read_digits(data, log_mel_8k(), 3, seed, takes).standardised()
    train, test = (joined(part).unsqueeze(0) for part in digits)
    for size in _GROUPED:
        for groups in (1, 2):
            with seeded(seed), torch.no_grad():
                book = block(
                    "quantizer_grouped", groups=groups, size=size, dim=train.shape[2]
                )
                book.train()
                for _ in range(10):
                    book(train)
                book.eval()
                decoded = book.decode(book.encode(test))
            error = share_of_error(test, decoded)
            found.note(f"error, {size} entries", f"{groups} x {size}", error)


def _rows(found: Found) -> list[dict[str, Any]]:
    rows = [
        found.row(measure, rival, _BERT, "higher")
        for measure in ("phones", "digits")
        for rival in (_CODES, _RANDOM)
    ]
    rows.append(found.row("tuples in use", "there are", _CODES, "none stated"))
    for size in _GROUPED:
        one, two = f"1 x {size}", f"2 x {size}"
        rows.append(found.row(f"error, {size} entries", one, two, "lower"))
    return rows
