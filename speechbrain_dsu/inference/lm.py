"""``SpeechLM``: a language model of speech that goes on, judges, and speaks."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from speechbrain_dsu.decoders.acceptance import Coarse, similarity_groups
from speechbrain_dsu.decoders.generation import Generated, generate
from speechbrain_dsu.decoders.repetition import LoopDetector
from speechbrain_dsu.decoders.rules import EndRule, LayoutRule, Rules
from speechbrain_dsu.decoders.sampling import Greedy, Sampling
from speechbrain_dsu.decoders.speculative import Speculation, speculate
from speechbrain_dsu.inference.interfaces import Interface
from speechbrain_dsu.inference.speaking import speak, speech_rate
from speechbrain_dsu.inference.writing import Continuation, Writes, Writing
from speechbrain_dsu.tokens.streams import Tokens
from speechbrain_dsu.utils.audio import write_audio
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths, relative_lengths


class SpeechLM(Interface):
    """A language model of speech from a bundle.

    Every method takes the fields of `Writing` by name (``seconds=5``,
    ``temperature=0.8``). With ``draft``, another SpeechLM over the same units, it
    writes by speculative decoding.

    Arguments
    ---------
    *args, **kwargs
        See ``Interface``; the modules must have ``tokenizer``, ``script``, ``model``,
        and ``vocoder`` if it shall speak units that the tokenizer can't decode.

    Example
    -------
    >>> from speechbrain_dsu.inference.flatten import flatten_yaml
    >>> from speechbrain_dsu.inference.loading import load_yaml
    >>> from speechbrain_dsu.inference.tokenizer import UnitTokenizer
    >>> from speechbrain_dsu.utils.paths import hparams_dir
    >>> tokenizer = UnitTokenizer.from_hparams("mfcc-k100").mods.tokenizer
    >>> system = load_yaml(
    ...     flatten_yaml(hparams_dir() / "systems" / "lm" / "gslm.yaml"),
    ...     {"sizes": [100], "dim": 16, "n_layers": 1},
    ... )
    >>> lm = SpeechLM({**system["modules"], "tokenizer": tokenizer})
    >>> wavs = 0.1 * torch.randn(2, 8000)
    >>> found = lm.continue_batch(wavs, torch.tensor([1.0, 0.5]), seconds=0.5)
    >>> found.prompts.tolist(), len(found.tokens)
    ([26, 13], 2)
    >>> nats, ids = lm.log_likelihood_batch(wavs)
    >>> bool((nats < 0).all())
    True
    """

    MODULES_NEEDED = ["tokenizer", "script", "model"]

    @staticmethod
    def run_probe(
        modules: Mapping[str, nn.Module], wav: Tensor, sample_rate: int
    ) -> dict[str, Tensor]:
        """Codes of the clip, how likely they are, and what follows the first half."""
        tokenizer, script, model = (
            modules[name] for name in ("tokenizer", "script", "model")
        )
        found = tokenizer.encode(wav.unsqueeze(0), sample_rate=sample_rate)
        codes = _first(found, len(script.sizes)).codes
        nats, ids = model.log_likelihood(*script.write(codes))
        prompt, _ = script.prompt(codes[:, : max(1, codes.shape[1] // 2)])
        rules = _rules(script, prompt.shape[1] * torch.ones(1).long(), 20, "speech")
        written = generate(model.session(), rules, prompt).tokens
        return {
            "codes": codes.cpu(),
            "nats_per_id": (nats / ids.clamp(min=1)).float().cpu(),
            "written": written[:, : prompt.shape[1] + 5].cpu(),
        }

    def use_int8(self) -> "SpeechLM":
        """From now on, write with matrices in eight bits: faster, slightly other odds.

        Returns
        -------
        SpeechLM
            This one.
        """
        self.mods["model"] = self.mods.model.int8_copy()
        return self

    def continue_file(
        self,
        path: str | Path,
        prompt_seconds: float | None = 3.0,
        out: str | Path | None = None,
        draft: "SpeechLM | None" = None,
        conditions: Mapping[str, Any] | None = None,
        **writing: Any,
    ) -> Continuation:
        """Go on behind the first seconds of a recording.

        Arguments
        ---------
        path : str or Path
            Audio.
        prompt_seconds : float, optional
            Of it; None: all.
        out : str or Path, optional
            Write prompt and continuation there as speech.
        draft : SpeechLM, optional
            Writes ahead.
        conditions : mapping, optional
            What the vocoder takes beside units: ``{"speaker": "theo"}``.
        **writing
            Fields of `Writing`.
        """
        wav = self.load_audio(path)
        if prompt_seconds is not None:
            wav = wav[: max(1, round(prompt_seconds * self.sample_rate))]
        found = self.continue_batch(wav.unsqueeze(0), draft=draft, **writing)
        if out is not None:
            wavs, _ = self.speak(found, **dict(conditions or {}))
            write_audio(out, wavs[0], self.speech_rate)
        return found

    def continue_batch(
        self,
        wavs: Tensor,
        lens: Tensor | None = None,
        draft: "SpeechLM | None" = None,
        **writing: Any,
    ) -> Continuation:
        """Go on behind ``wavs [batch, time]`` of relative ``lens [batch]``."""
        with self.inference_ctx:
            tokens = self.mods.tokenizer.encode(wavs.to(self.device), lens)
        return self.continue_tokens(tokens, draft=draft, **writing)

    def continue_tokens(
        self,
        tokens: Tokens,
        text: Sequence[str] | None = None,
        draft: "SpeechLM | None" = None,
        **writing: Any,
    ) -> Continuation:
        """Go on behind tokens; in joint models behind text and tokens.

        Arguments
        ---------
        tokens : Tokens
            Of the tokenizer that the model was trained with.
        text : sequence of str, optional
            Text in front of the tokens, one for each item.
        draft : SpeechLM, optional
            Writes ahead.
        **writing
            Fields of `Writing`.

        Raises
        ------
        DsuError
            If the tokens are another tokenizer's, or the draft has other ids.
        """
        how, script = Writing(**writing), self.mods.script
        tokens = _first(tokens, len(script.sizes)).to(self.device)
        script.check(tokens)
        with self.inference_ctx:
            prompt, counts, runs = self._prompt(tokens, text, how.writes)
            found, speculation = self._write(prompt, counts, how, draft)
            codes, lens = script.read(found.tokens, runs)
        frames = absolute_lengths(lens, codes.shape[1])
        at_most = tokens.counts.cpu() + round(how.seconds * script.frame_rate)
        frames = frames.cpu().minimum(at_most)
        codes = codes[:, : int(frames.max())] if len(frames) else codes
        spoken = torch.arange(codes.shape[1], device=codes.device)
        inside = spoken < frames.to(codes.device)[:, None]
        codes = codes * inside.unsqueeze(2)
        lens = relative_lengths(frames, codes.shape[1])
        return Continuation(
            script.tokens(codes, lens.to(codes.device)),
            tokens.counts.cpu(),
            script.text_of(found.tokens),
            found.stopped,
            speculation,
        )

    def continue_text(
        self, text: str | Sequence[str], draft: "SpeechLM | None" = None, **writing: Any
    ) -> Continuation:
        """Go on behind text alone, by speech or text: joint models only.

        Raises
        ------
        DsuError
            If the model knows no text.
        """
        lines = [text] if isinstance(text, str) else list(text)
        script = self.mods.script
        empty = [torch.zeros(0, len(script.sizes), dtype=torch.int64)] * len(lines)
        tokens = Tokens.from_list(empty, script.frame_rate, script.sizes, script.units)
        return self.continue_tokens(tokens, lines, draft, **writing)

    def log_likelihood_file(self, path: str | Path) -> tuple[float, int]:
        """Nats of a recording, and of how many ids: what pairs are scored by."""
        nats, ids = self.log_likelihood_batch(self.load_audio(path).unsqueeze(0))
        return float(nats), int(ids)

    def log_likelihood_batch(
        self, wavs: Tensor, lens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Nats ``[batch]`` of ``wavs [batch, time]``, and of how many ids each."""
        with self.inference_ctx:
            tokens = self.mods.tokenizer.encode(wavs.to(self.device), lens)
        return self.log_likelihood(tokens)

    @torch.no_grad()
    def log_likelihood(
        self, tokens: Tokens, text: Sequence[str] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Nats float64 ``[batch]`` of tokens (behind text), and of how many ids."""
        script = self.mods.script
        tokens = _first(tokens, len(script.sizes)).to(self.device)
        script.check(tokens)
        with self.inference_ctx:
            pieces = self._pieces(text)
            ids, lens = script.write(tokens.codes, tokens.lens, *pieces)
            return self.mods.model.log_likelihood(ids, lens)

    def speak(
        self, found: Continuation | Tokens, **conditions: Any
    ) -> tuple[Tensor, Tensor]:
        """Speech of a continuation: waveforms and relative lengths."""
        tokens = found.tokens if isinstance(found, Continuation) else found
        with self.inference_ctx:
            return speak(self.mods, tokens, **conditions)

    @property
    def speech_rate(self) -> int:
        """Sample rate of what ``speak`` gives, in hertz."""
        return speech_rate(self.mods)

    @property
    def sample_rate(self) -> int:
        """Of the audio it takes, in hertz."""
        return self.mods.tokenizer.sample_rate

    def forward(
        self, wavs: Tensor, lens: Tensor | None = None, **writing: Any
    ) -> Continuation:
        """The same as ``continue_batch``."""
        return self.continue_batch(wavs, lens, **writing)

    def _pieces(self, text: Sequence[str] | None) -> tuple[Tensor, Tensor] | tuple:
        if text is None:
            return ()
        script = self.mods.script
        if not script.joint:
            raise DsuError("this language model knows no text: take a joint one")
        rows = [script.text.encode(line) for line in text]
        counts = torch.tensor([len(row) for row in rows])
        size = int(counts.max())
        padded = torch.tensor([row + [0] * (size - len(row)) for row in rows])
        padded = padded.long().view(len(rows), size).to(self.device)
        return padded, relative_lengths(counts, size)

    def _prompt(
        self, tokens: Tokens, text: Sequence[str] | None, writes: Writes
    ) -> tuple[Tensor, Tensor, Any]:
        """Ids to go on from, how many of each item, and the runs of the speech."""
        script = self.mods.script
        runs = script.runs(tokens.codes, tokens.lens)
        pieces = self._pieces(text)
        ids, lens = script.prompt(tokens.codes, tokens.lens, *pieces)
        counts = absolute_lengths(lens, ids.shape[1]).to(ids.device)
        if not script.joint:
            return ids, counts, runs
        return *script.open_turn(ids, counts, writes), runs

    def _write(
        self, prompt: Tensor, counts: Tensor, how: Writing, draft: "SpeechLM | None"
    ) -> tuple[Generated, Speculation | None]:
        script, model = self.mods.script, self.mods.model
        rate = script.frame_rate / float(script.frames_per_unit)
        rules = _rules(script, counts, round(how.seconds * rate) or 1, how.writes)
        lens = relative_lengths(counts, prompt.shape[1])
        sampler = self._sampler(how, len(prompt))
        if draft is None:
            loops = None
            if how.loop_seconds is not None:
                loops = LoopDetector(max(2, round(how.loop_seconds * rate)))
            session = model.session()
            return generate(session, rules, prompt, lens, sampler, loops), None
        other = draft.mods.script
        if repr(other.layout.vocabulary) != repr(script.layout.vocabulary) or (
            other.units != script.units
        ):
            raise DsuError(
                "the draft model writes other ids: it needs the same tokenizer, "
                "pieces and text"
            )
        acceptance = None
        if how.coarse is not None:
            vocabulary = script.layout.vocabulary
            ids = torch.arange(vocabulary.size, device=prompt.device)
            groups = similarity_groups(
                model.embedding.table.weight, how.coarse, vocabulary.is_unit(ids)
            )
            acceptance = Coarse(groups)
        return speculate(
            model.session(),
            draft.mods.model.session(),
            rules,
            prompt,
            lens,
            sampler,
            how.ahead,
            acceptance,
        )

    def _sampler(self, how: Writing, batch: int) -> Greedy | Sampling:
        if how.temperature == 0:
            return Greedy()
        generators = [
            torch.Generator(self.device).manual_seed(how.seed + k) for k in range(batch)
        ]
        return Sampling(how.temperature, how.top_k, how.top_p, generators)


def _first(tokens: Tokens, n_codebooks: int) -> Tokens:
    """The codebooks that the model was trained on."""
    if len(tokens.sizes) > n_codebooks:
        return tokens.codebooks(n_codebooks)
    return tokens


def _rules(script: nn.Module, counts: Tensor, more: int, writes: Writes) -> Rules:
    """At most ``more`` units behind prompts of ``counts`` steps."""
    layout = script.layout
    if script.joint:
        kinds = [0] if writes == "speech" else ["text"]
        return EndRule(layout.vocabulary, counts + more, kinds)
    # The prompt has its begin, but no end yet.
    frames = layout.frames(counts + layout.length(0) - 1)
    return LayoutRule(layout, max_frames=frames + more)
