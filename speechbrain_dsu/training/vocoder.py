"""Training vocoders of units, with or without discriminators."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from speechbrain.utils.checkpoints import Checkpointer
from torch import Tensor, nn

from speechbrain_dsu.dataio.audio_cache import AudioCache
from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.unit_data import (
    batch_columns,
    in_memory,
    number_of,
    token_store,
)
from speechbrain_dsu.dataio.unit_segments import UnitSegments
from speechbrain_dsu.nnet.losses.levels import LevelLoss
from speechbrain_dsu.training.codec import CodecBrain, CodecStep
from speechbrain_dsu.training.systems import Flatten, build_system
from speechbrain_dsu.utils.errors import DsuError

Entries = Mapping[str, Mapping[str, Any]]

_VOCODER = "speechbrain_dsu.inference.vocoder.UnitVocoder"
_CONVERTER = "speechbrain_dsu.inference.voice_conversion.VoiceConverter"
_CONVERTER_FILE = "systems/vc/converter.yaml"


class VocoderBrain(CodecBrain):
    """Trains ``modules["codec"]``, a ``UnitVocoder``, as ``CodecBrain`` trains codecs.

    A generator that writes levels learns from those of the recording; any other by the
    losses and discriminators that the recipe names.

    Arguments
    ---------
    modules : mapping
        ``codec``: see ``lobes.vocoders.unit_vocoder``; optionally ``discriminator``.
    *args
        See ``CodecBrain``.
    reconstruction : sequence of callable, optional
        See ``CodecBrain``; by default the loss of the generator's levels.
    loss_weights : mapping, optional
        Of all terms; 1 for levels by default. Terms of streams that this vocoder does
        not have are not missed.
    **brain
        See ``CodecBrain``.

    Raises
    ------
    DsuError
        If there is no loss.
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *args: Any,
        reconstruction: Any = None,
        loss_weights: Mapping[str, float] | None = None,
        **brain: Any,
    ):
        generator = modules["codec"].generator
        if reconstruction is None and not hasattr(generator, "levels"):
            raise DsuError(
                f"{type(generator).__name__} writes waveforms: name its losses "
                "(reconstruction)"
            )
        if reconstruction is None:
            reconstruction = [LevelLoss(generator.target())]
        weights = {"levels": 1.0, "durations": 0.1, "pitch": 1.0}
        weights |= {"pitch_commitment": 0.25, **(loss_weights or {})}
        brain = {"reconstruction": reconstruction, "loss_weights": weights, **brain}
        super().__init__(modules, *args, **brain)

    def compute_forward(self, batch: Any, stage: sb.Stage) -> CodecStep:
        """Speech of a batch's units, compared with the recordings."""
        columns = batch_columns(batch.to(self.device))
        wavs, lens = columns.pop("wav"), columns.pop("wav_lens")
        lens = None if bool((lens == 1).all()) else lens
        given = {k: v for k, v in columns.items() if not k.endswith("_lens")}
        content, speaker = given.pop("content"), given.pop("speaker")
        output = self.modules.codec(content, lens, speaker, **given)
        losses = dict(output.losses)
        for part in self.reconstruction:
            made = getattr(output, getattr(part, "of", "audio"))
            losses |= part(made, wavs, lens)
        step = CodecStep(losses, (), output.audio, wavs, lens)
        if stage != sb.Stage.TRAIN:
            step.stats |= self._scores(step.audio, step)
        return step


def vocoder_overrides(
    tokenizer: Any, voices: list[str], sample_rate: int, feed: str = "units"
) -> dict[str, Any]:
    """What a vocoder's system YAML takes from the tokenizer and the corpus.

    Arguments
    ---------
    tokenizer : Tokenizer
        Whose units.
    voices : list of str
        Names of the speakers.
    sample_rate : int
        Of the speech to make, in hertz.
    feed : "units" or "frames"
        Whether the vocoder gets units, or what the tokenizer quantizes.

    Returns
    -------
    dict
        Values of ``sizes`` (or ``frame``, the size of a frame), ``units``, ``voices``
        and ``hop``.

    Raises
    ------
    DsuError
        If a frame is no whole number of samples.
    """
    hop = round(sample_rate / tokenizer.frame_rate)
    if abs(hop * tokenizer.frame_rate - sample_rate) > 1e-6:
        raise DsuError(
            f"{tokenizer.frame_rate} frames a second are no whole number of samples "
            f"each at {sample_rate} Hz"
        )
    if feed == "frames":
        content = {"frame": tokenizer.features.dim}
    else:
        content = {"sizes": list(tokenizer.codebook_sizes)}
    found = {"units": tokenizer.fingerprint, "voices": list(voices), "hop": hop}
    return content | found


def vocoder_data(
    vocoder: Any,
    tokenizer: Any,
    entries: Entries,
    folder: str | Path,
    frames: int | None = None,
    seed: int = 0,
) -> UnitSegments:
    """Recordings as a vocoder learns from them.

    Arguments
    ---------
    vocoder : UnitVocoder
        Says which contours and voices there are.
    tokenizer : Tokenizer
        Gives the content. Its frames before the quantizer are taken where the
        vocoder wants soft units.
    entries : mapping
        Manifest: ``wav``, and ``spk_id`` that is a voice.
    folder : str or Path
        Keeps tokens and contours for the next time.
    frames : int, optional
        See ``UnitSegments``.
    seed : int
        Of the parts that are heard.

    Returns
    -------
    UnitSegments
        With ``content``, ``wav``, ``speaker`` and the contours.
    """
    cache = AudioCache(vocoder.sample_rate)
    store = token_store(tokenizer, [entries], folder)
    content = in_memory(store)
    if vocoder.content.soft:
        content = _soft_units(tokenizer, entries, content)
    contours = _contours(vocoder, entries, content, cache, store.folder)
    voice = number_of(vocoder.voices)
    return UnitSegments(
        entries,
        content,
        cache,
        vocoder.hop,
        frames,
        contours,
        {"speaker": lambda key: voice(entries[key]["spk_id"])},
        seed,
    )


@torch.no_grad()
def _soft_units(
    tokenizer: Any, entries: Entries, codes: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    cache = AudioCache(tokenizer.sample_rate, megabytes=0)
    found = {}
    for key, entry in entries.items():
        frames = tokenizer.frames(cache.read(AudioItem(key, entry["wav"])))
        found[key] = frames[: len(codes[key])].cpu()
    return found


def _contours(
    vocoder: Any,
    entries: Entries,
    content: Mapping[str, Tensor],
    cache: AudioCache,
    folder: Path,
) -> dict[str, dict[str, Tensor]]:
    """Contours of whole recordings, measured once."""
    names = sorted(vocoder.contours)
    settings = [str(vocoder.contours[name].tracker) for name in names]
    path = folder / "contours.pt"
    if path.is_file():
        kept = torch.load(path)
        if kept["settings"] == settings:
            return kept["contours"]
    found: dict[str, dict[str, Tensor]] = {name: {} for name in names}
    for key, entry in entries.items() if names else ():
        frames = len(content[key])
        wav = cache.read(AudioItem(key, entry["wav"]))
        for name, contour in vocoder.follow(wav.unsqueeze(0), frames).items():
            found[name][key] = contour[0]
    torch.save({"settings": settings, "contours": found}, path)
    return found


def train_vocoder(
    hparams: Mapping[str, Any],
    vocoder: Any,
    train: UnitSegments,
    valid: UnitSegments,
    test: UnitSegments | None = None,
) -> VocoderBrain | None:
    """Train a vocoder recipe's system.

    Arguments
    ---------
    hparams : mapping
        ``output_folder``, ``seed``, ``run_opts``, ``steps`` (of the optimiser, in
        all), ``batch_frames``, ``max_minutes``; ``training``: arguments of
        ``VocoderBrain``, with ``modules`` beside the vocoder.
    vocoder : UnitVocoder
        What is trained.
    train, valid, test : UnitSegments
        The data.

    Returns
    -------
    VocoderBrain or None
        With the averaged weights in place; None when ``max_minutes`` ended it.
    """
    training = dict(hparams["training"])
    brain = VocoderBrain(
        {"codec": vocoder, **training.pop("modules", {})},
        run_opts=hparams["run_opts"],
        checkpointer=Checkpointer(Path(hparams["output_folder"]) / "save"),
        max_minutes=hparams["max_minutes"],
        **training,
    )
    brain.optimizer_step_limit = hparams["steps"]
    budget, seed = hparams["batch_frames"], hparams["seed"]
    brain.fit(
        hparams.get("epochs", 10**6),
        train,
        valid,
        train_loader_kwargs=train.loading(budget, seed),
        valid_loader_kwargs=valid.loading(budget, seed, False),
    )
    if brain.stopped:
        return None
    if brain.ema is not None:
        brain.ema.swap()
    if test is not None:
        # The weights in place are the ones to judge, not those of a checkpoint.
        kept, brain.checkpointer = brain.checkpointer, None
        brain.evaluate(test, test_loader_kwargs=test.loading(budget, seed, False))
        brain.checkpointer = kept
    vocoder.eval()
    return brain


def train_and_seal_vocoder(
    hparams: Mapping[str, Any],
    parts: Mapping[str, Entries],
    tokenizer: Any,
    seal: Callable[..., Any],
    flatten: Flatten,
) -> None:
    """Train a vocoder recipe's system, measure it, write its bundles.

    Arguments
    ---------
    hparams : mapping
        As for ``train_vocoder``; ``tokenizer`` (its source), ``feed`` (see
        ``vocoder_overrides``), ``system_file`` and ``model`` (new values for its
        keys), ``segment_frames``, ``sample_rate``, ``voices`` (null: all that train),
        ``bundle`` and optionally ``converter``: arguments of ``seal``, the second for
        a system that converts voices.
    parts : mapping
        Manifests ``train``, ``valid``, ``test``.
    tokenizer : Tokenizer
        Loaded.
    seal : callable
        ``inference.compose.seal_system``.
    flatten : callable
        ``inference.flatten.flatten_yaml``.
    """
    from speechbrain.utils.distributed import run_on_main

    system_file = hparams["system_file"]
    spoken = {entry["spk_id"] for entry in parts["train"].values()}
    voices = list(hparams["voices"] or sorted(spoken))
    rate, feed = hparams["sample_rate"], hparams["feed"]
    overrides = vocoder_overrides(tokenizer, voices, rate, feed)
    overrides |= hparams["model"]
    vocoder = build_system(flatten, system_file, overrides)["vocoder"]
    folder, seed = Path(hparams["output_folder"]) / "tokens", hparams["seed"]
    # Another voice has no place in the table.
    known = {
        name: {k: entry for k, entry in part.items() if entry["spk_id"] in voices}
        for name, part in parts.items()
    }
    sizes = {"train": hparams["segment_frames"], "valid": None, "test": None}
    data = {
        name: vocoder_data(vocoder, tokenizer, part, folder, sizes[name], seed)
        for name, part in known.items()
        if part
    }
    brain = train_vocoder(hparams, vocoder, **data)
    if brain is None:
        return
    metrics: dict[str, float] = {"steps": brain.optimizer_step}
    for name, value in brain.stats.get("test", brain.stats.get("valid", {})).items():
        metrics[name] = round(float(value), 4)
    options = {**hparams["bundle"], "overrides": overrides, "parts": {}}
    options["about"] = {"kind": "vocoder", **options["about"], "metrics": metrics}
    options |= {"system": system_file, "interface": _VOCODER}
    modules = {"vocoder": vocoder.cpu()}
    run_on_main(seal, [modules], options)
    if "converter" in hparams:
        whole = {**hparams["converter"], "system": _CONVERTER_FILE}
        whole["about"] = {"kind": "vc", **whole["about"], "metrics": metrics}
        whole["parts"] = {"tokenizer": hparams["tokenizer"], "vocoder": options["out"]}
        modules |= {"tokenizer": tokenizer.cpu()}
        run_on_main(seal, [modules], {**whole, "interface": _CONVERTER})
