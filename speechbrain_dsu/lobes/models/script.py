"""How utterances are written down for a language model, and read again."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.embeddings import Sequences
from speechbrain_dsu.tokens.interleave import Interleave
from speechbrain_dsu.tokens.runs import Runs, deduplicate, expand
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.tokens.subwords import UnitBPE
from speechbrain_dsu.tokens.text import Text
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import (
    absolute_lengths,
    length_mask,
    pad_stack,
    relative_lengths,
)

# Bytes of a subword model: settings, and at most 16 units in UTF-8 and a score for each
# piece. The first eight hold its length.
_SETTINGS, _ROOM, _HEAD = 2048, 96, 8
_ITEMS = 256


class UnitScript(nn.Module):
    """Tokens to the ids that a language model reads, and what it wrote to tokens.

    On the way there: repeated units become one (GSLM, Lakhotia et al. 2021, section
    3.1), runs become subwords (DAU-BPE), and a layout adds begin, end and, in joint
    models, text (SUTLM). On the way back a run that the model wrote lasts as long as
    runs of that unit did in training, on average; runs of a prompt keep their lengths.

    Arguments
    ---------
    layout : Layout or Interleave
        Over the codebooks, or over one codebook of ``pieces``.
    sizes : sequence of int
        Ids of each codebook of the tokenizer.
    units : str
        Fingerprint of the tokenizer.
    frame_rate : float
        Frames per second of its tokens.
    deduplicate : bool
        Whether to join frames that repeat the frame before.
    pieces : int, optional
        Write subwords, so many of them; None: units.
    text : Text, optional
        Symbols of the text of a joint model.

    Raises
    ------
    DsuError
        If the layout's codebooks are not what is written, or text and layout don't go
        together.

    Example
    -------
    >>> from speechbrain_dsu.tokens.patterns import Delay
    >>> from speechbrain_dsu.tokens.vocabulary import Vocabulary
    >>> script = UnitScript(Delay(Vocabulary(sizes=(9,))), (9,))
    >>> codes = torch.tensor([[[4], [4], [4], [7]]])
    >>> ids, lens = script.fit([codes[0]]).write(codes)
    >>> ids[0, :, 0].tolist()
    [1, 7, 10, 2]
    >>> script.read(ids)[0][0, :, 0].tolist()
    [4, 4, 4, 7]
    """

    def __init__(
        self,
        layout: Sequences,
        sizes: Sequence[int],
        units: str = "",
        frame_rate: float = 50.0,
        deduplicate: bool = True,
        pieces: int | None = None,
        text: Text | None = None,
    ):
        super().__init__()
        self.layout, self.sizes, self.units = layout, tuple(sizes), units
        self.frame_rate, self.deduplicate = float(frame_rate), bool(deduplicate)
        self.pieces, self.text = pieces, text
        self.joint = isinstance(layout, Interleave)
        wanted = self.sizes if pieces is None else (pieces,)
        found = layout.vocabulary.sizes
        if tuple(found) != wanted:
            raise DsuError(f"a layout of codebooks {found} for sequences of {wanted}")
        if self.joint and (text is None or len(wanted) > 1):
            raise DsuError(
                f"a joint model needs text, and one codebook instead of {len(wanted)}: "
                "take n_codebooks=1, or pieces"
            )
        self.register_buffer("durations", torch.ones(self.sizes[0]))
        self.register_buffer("frames_per_unit", torch.ones(()))
        offsets = torch.tensor([0, *self.sizes[:-1]]).cumsum(0)
        self.register_buffer("offsets", offsets, persistent=False)
        if pieces is not None:
            room = torch.zeros(_SETTINGS + pieces * _ROOM, dtype=torch.uint8)
            self.register_buffer("subwords", room)
        self._bpe: UnitBPE | None = None

    def extra_repr(self) -> str:
        """Settings that no weight shows."""
        return (
            f"{_shown(self.layout)}, sizes={self.sizes}, units={self.units}, "
            f"frame_rate={self.frame_rate:g}, deduplicate={self.deduplicate}, "
            f"pieces={self.pieces}, text={_shown(self.text)}"
        )

    def fit(self, items: Sequence[Tensor]) -> "UnitScript":
        """Learn how long runs last, and subwords, from training data; in place.

        Arguments
        ---------
        items : sequence of Tensor
            Codes ``[frames, codebooks]`` of each utterance.

        Returns
        -------
        UnitScript
            This one.
        """
        frames = torch.zeros(self.sizes[0], dtype=torch.float64)
        runs = torch.zeros_like(frames)
        lines: list[Tensor] = []
        for first in range(0, len(items), _ITEMS):
            codes, counts = pad_stack(items[first : first + _ITEMS])
            found = self._runs(codes, relative_lengths(counts, codes.shape[1]))
            n_runs = absolute_lengths(found.lens, found.units.shape[1])
            inside = length_mask(n_runs, found.units.shape[1])
            lead = found.units[..., 0][inside]
            lasts = found.durations[inside].double()
            frames += torch.bincount(lead, lasts, minlength=self.sizes[0])
            runs += torch.bincount(lead, minlength=self.sizes[0])
            if self.pieces is not None:
                flat = self._flatten(found.units)
                n_flat = (n_runs * len(self.sizes)).tolist()
                lines += [row[:n] for row, n in zip(flat, n_flat, strict=True)]
        total = frames.sum() / runs.sum().clamp(min=1)
        mean = torch.where(runs > 0, frames / runs.clamp(min=1), total)
        self.durations.copy_(mean)
        written = runs.sum()
        if self.pieces is not None:
            self._bpe = UnitBPE.train(lines, sum(self.sizes), self.pieces)
            model = self._bpe.model
            model = bytearray(len(model).to_bytes(_HEAD, "little") + model)
            model = torch.frombuffer(model, dtype=torch.uint8)
            if len(model) > len(self.subwords):
                raise DsuError(f"a subword model of {len(model)} bytes finds no room")
            self.subwords.zero_()[: len(model)] = model
            written = sum(map(len, self._bpe.encode(lines)))
        self.frames_per_unit.fill_(float(frames.sum() / max(int(written), 1)))
        return self

    def write(
        self,
        codes: Tensor,
        lens: Tensor | None = None,
        text: Tensor | None = None,
        text_lens: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Ids of whole sequences, begin and end included.

        Arguments
        ---------
        codes : Tensor
            ``[batch, frames, codebooks]``.
        lens : Tensor, optional
            Relative lengths.
        text : Tensor, optional
            Pieces ``[batch, pieces]``, of joint models.
        text_lens : Tensor, optional
            Relative lengths of the text.
        starts : Tensor, optional
            Frame ``[batch, pieces]`` before which each piece stands, see
            ``Interleave``.

        Returns
        -------
        ids : Tensor
            ``[batch, steps, streams]``.
        lens : Tensor
            Relative lengths.
        """
        units, unit_lens, ends = self._shorten(codes, lens)
        if not self.joint:
            if text is not None:
                raise DsuError("this language model has no text")
            return self.layout.apply(units, unit_lens)
        if text is None:
            text = codes.new_zeros(len(codes), 0)
        if starts is not None:
            # A piece of text stands before the unit that lasts at its start.
            starts = torch.searchsorted(ends, starts.contiguous(), right=True)
        return self.layout.apply(text, units, text_lens, unit_lens, starts)

    def prompt(
        self,
        codes: Tensor,
        lens: Tensor | None = None,
        text: Tensor | None = None,
        text_lens: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The same without an end: what a model goes on from.

        Of several streams, those that lag behind lose their last codes: the model
        writes them anew.
        """
        ids, lens = self.write(codes, lens, text, text_lens, starts)
        steps = absolute_lengths(lens, ids.shape[1])
        tail = 1 if self.joint else self.layout.length(0) - 1
        counts = steps - tail
        size = int(counts.max())
        return ids[:, :size], relative_lengths(counts, size)

    def open_turn(
        self, ids: Tensor, counts: Tensor, kind: str
    ) -> tuple[Tensor, Tensor]:
        """Open a turn of speech or text behind prompts, where it isn't open already.

        Arguments
        ---------
        ids : Tensor
            Prompts ``[batch, steps, 1]`` of a joint model.
        counts : Tensor
            Steps of each, int64 ``[batch]``.
        kind : str
            "speech" or "text": its tag is written, if the layout has tags.

        Returns
        -------
        ids : Tensor
            ``[batch, steps, 1]``.
        counts : Tensor
            Steps of each.
        """
        tags = self.layout.tags
        if tags is None:
            return ids, counts
        vocabulary = self.layout.vocabulary
        last = ids.gather(1, counts.view(-1, 1, 1) - 1).flatten()
        test = vocabulary.is_unit if kind == "speech" else vocabulary.is_text
        more = (~test(last)).long()
        ids = nn.functional.pad(ids, (0, 0, 0, 1), value=vocabulary.pad)
        tag = vocabulary[tags[0 if kind == "text" else 1]]
        place = counts.view(-1, 1, 1)
        kept = ids.gather(1, place)
        ids.scatter_(1, place, torch.where(more.view(-1, 1, 1) > 0, tag, kept))
        counts = counts + more
        return ids[:, : int(counts.max())], counts

    def read(self, ids: Tensor, prompt: Runs | None = None) -> tuple[Tensor, Tensor]:
        """Codes of what a model wrote, as far as frames are complete.

        Arguments
        ---------
        ids : Tensor
            ``[batch, steps, streams]``; each item up to its end or padding.
        prompt : Runs, optional
            Of the prompt, see ``runs``: its runs keep their durations.

        Returns
        -------
        codes : Tensor
            ``[batch, frames, codebooks]``.
        lens : Tensor
            Relative lengths.
        """
        found = self.layout.undo_partial(ids)
        units, lens = (found.codes, found.lens) if self.joint else found
        if self.pieces is not None:
            flat, lens = self._subwords().decode_batch(units, lens)
            units, lens = self._whole(flat[..., 0], lens)
        counts = absolute_lengths(lens, units.shape[1])
        inside = length_mask(counts.to(units.device), units.shape[1])
        durations = self._expected(units[..., 0]) * inside
        if prompt is not None:
            size = min(prompt.durations.shape[1], units.shape[1])
            n_known = absolute_lengths(prompt.lens, prompt.durations.shape[1])
            known = length_mask(n_known.to(units.device), size) & inside[:, :size]
            durations[:, :size] = torch.where(
                known, prompt.durations[:, :size], durations[:, :size]
            )
        return expand(units, durations, lens)

    def text_of(self, ids: Tensor) -> list[str]:
        """Text in sequences of a joint model; empty strings of others."""
        if not self.joint:
            return [""] * len(ids)
        found = self.layout.undo_partial(ids)
        counts = absolute_lengths(found.text_lens, found.text.shape[1]).tolist()
        rows = zip(found.text.tolist(), counts, strict=True)
        return [self.text.decode(row[:n]) for row, n in rows]

    def runs(self, codes: Tensor, lens: Tensor | None = None) -> Runs:
        """Runs of codes ``[batch, frames, codebooks]``; single frames without
        ``deduplicate``."""
        return self._runs(codes, lens)

    def check(self, tokens: Tokens) -> None:
        """Refuse tokens of another tokenizer.

        Raises
        ------
        DsuError
            With both fingerprints.
        """
        if self.units and tokens.fingerprint != self.units:
            raise DsuError(
                f"tokens of {tokens.fingerprint[:12]} for a language model of "
                f"{self.units[:12]}: take the tokenizer that it was trained with"
            )
        if tuple(tokens.sizes) != self.sizes:
            raise DsuError(f"tokens of sizes {tokens.sizes}, not {self.sizes}")

    def tokens(self, codes: Tensor, lens: Tensor) -> Tokens:
        """Codes with their provenance."""
        return Tokens(codes, lens, self.frame_rate, self.sizes, self.units)

    def _load_from_state_dict(self, *args: Any, **options: Any) -> None:
        self._bpe = None
        super()._load_from_state_dict(*args, **options)

    def _runs(self, codes: Tensor, lens: Tensor | None) -> Runs:
        if self.deduplicate:
            return deduplicate(codes, lens)
        counts = absolute_lengths(lens, codes.shape[1], len(codes)).to(codes.device)
        lasts = length_mask(counts, codes.shape[1]).long()
        return Runs(codes, lasts, relative_lengths(counts, codes.shape[1]))

    def _shorten(
        self, codes: Tensor, lens: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Units or pieces, their relative lengths, and the frame that ends each."""
        runs = self._runs(codes, lens)
        ends = runs.durations.cumsum(1)
        if self.pieces is None:
            return runs.units, runs.lens, ends
        n_books = len(self.sizes)
        flat = self._flatten(runs.units)
        pieces, lens = self._subwords().encode_batch(flat, runs.lens)
        counts = absolute_lengths(lens, pieces.shape[1]).to(codes.device)
        lasts = self._subwords().piece_lengths.to(codes.device)[pieces]
        lasts = lasts * length_mask(counts, pieces.shape[1])
        # Of the run in which a piece ends.
        place = (lasts.cumsum(1) - 1) // n_books
        ends = ends.gather(1, place.clamp(min=0)) if ends.shape[1] else place
        return pieces.unsqueeze(2), lens, ends

    def _flatten(self, units: Tensor) -> Tensor:
        return (units + self.offsets.to(units.device)).flatten(1)

    def _whole(self, flat: Tensor, lens: Tensor) -> tuple[Tensor, Tensor]:
        """Frames of flat units, up to the first that is out of place."""
        n_books = len(self.sizes)
        counts = absolute_lengths(lens, flat.shape[1]).to(flat.device) // n_books
        size = flat.shape[1] // n_books
        units = flat[:, : size * n_books].view(len(flat), size, n_books)
        units = units - self.offsets.to(flat.device)
        limits = torch.tensor(self.sizes, device=flat.device)
        bad = ((units < 0) | (units >= limits)).any(2)
        counts = counts.minimum((bad.cumsum(1) == 0).sum(1))
        inside = length_mask(counts, size).unsqueeze(2)
        return torch.where(inside, units, 0), relative_lengths(counts, size)

    def _expected(self, lead: Tensor) -> Tensor:
        """Whole frames of each run, so that their sums stay near those of the means."""
        if not self.deduplicate:
            return torch.ones_like(lead)
        until = self.durations.double()[lead].cumsum(1).round().long()
        lasts = torch.diff(until, dim=1, prepend=until.new_zeros(len(until), 1))
        return lasts.clamp(min=1)

    def _subwords(self) -> UnitBPE:
        if self._bpe is None:
            model = bytes(self.subwords.cpu().numpy())
            length = int.from_bytes(model[:_HEAD], "little")
            if not length:
                raise DsuError("this script has no subwords yet: fit it")
            self._bpe = UnitBPE(model[_HEAD : _HEAD + length])
        return self._bpe


def _shown(thing: object) -> str:
    if thing is None:
        return "None"
    public = {k: v for k, v in vars(thing).items() if k[0] != "_"}
    return f"{type(thing).__name__}({public})"
