"""Training neural codecs: reconstruction first, then against discriminators."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import speechbrain as sb
import torch
from torch import Tensor, nn

from speechbrain_dsu.nnet.losses.adversarial import (
    Kind,
    discriminator_loss,
    feature_matching_loss,
    generator_loss,
)
from speechbrain_dsu.nnet.losses.balancer import LossBalancer
from speechbrain_dsu.training.brain import UnitBrain
from speechbrain_dsu.training.finetune import load_released, load_run
from speechbrain_dsu.training.steps import weigh_losses
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.lengths import absolute_lengths

ADVERSARIAL = ("adversarial", "features")
"""Loss terms that exist only once the discriminators take part."""


@dataclass(eq=False)
class CodecStep:
    """What a batch gave: see ``UnitBrain`` for the first three.

    Arguments
    ---------
    losses, stats : dict
        Scalars by name.
    usage : tuple of Tensor
        Counts of each codebook.
    audio, wavs : Tensor
        Decoded and original ``[batch, time]``.
    lens : Tensor or None
        Relative lengths ``[batch]``.
    """

    losses: dict[str, Tensor]
    usage: tuple[Tensor, ...]
    audio: Tensor
    wavs: Tensor
    lens: Tensor | None
    stats: dict[str, Tensor] = field(default_factory=dict)


class CodecBrain(UnitBrain):
    """Trains ``modules["codec"]``, against ``modules["discriminator"]`` if there.

    In every step the discriminators first learn from this batch, then the codec is
    judged by them as they were before; both optimisers step together. Discriminators
    wait for ``adversarial_from`` steps. With a ``LossBalancer`` the terms that it has
    weights for (they must depend on the decoded audio) are balanced by their
    gradients; the others (commitment, distillation) are weighed as they are.

    Arguments
    ---------
    modules : mapping
        ``codec`` (see ``lobes.codec``); optionally ``discriminator`` (returns scores
        and features), ``distillation`` and ``teacher`` (frozen: waveforms and their
        counts to frames).
    reconstruction : sequence of callable
        Each from ``(decoded, original, lens)`` to scalars by name. A loss with an
        attribute ``of`` gets that part of the codec's output in place of its audio.
    loss_weights : mapping
        Of all terms that the balancer does not weigh.
    balancer : LossBalancer, optional
        See there.
    augment : callable, optional
        Changes training waveforms ``[batch, time]``.
    discriminator_opt : callable, optional
        Parameters to optimiser; wanted with a discriminator.
    discriminator_scheduler : callable, optional
        Optimiser to scheduler.
    quantize_from : int
        Steps in which the latents are decoded as they are: codebooks that start on
        the latents of an untrained encoder are soon ignored, or pull them to nothing.
    adversarial_from : int
        Steps on reconstruction alone.
    adversarial_kind : "hinge" or "least_squares"
        Form of the adversarial losses.
    depths : sequence of int
        Numbers of codebooks at which validation measures the first reconstruction
        loss and ``metrics``, beside all of them; terms are called ``log_mel@2``.
    metrics : mapping, optional
        Name to ``metric(original, rate, decoded, rate)`` of ``[time]`` signals.
    finetune_from : str or Path, optional
        ``save`` folder of another run: start from its best weights, discriminators
        and optimisers included.
    released : nn.Module, optional
        A released codec: start from its weights, whatever ``finetune_from`` gives
        beside them. Either way validation is taken before the first step, too.
    **brain
        As for ``UnitBrain``.

    Raises
    ------
    DsuError
        If a discriminator has no optimiser, or the teacher another sample rate.

    Example
    -------
    >>> from speechbrain_dsu.lobes.codec import Codec
    >>> from speechbrain_dsu.lobes.encoders.convnext import ConvNextEncoder
    >>> from speechbrain_dsu.lobes.encoders.stft_frames import StftFrames
    >>> from speechbrain_dsu.lobes.vocoders.vocos import VocosDecoder
    >>> from speechbrain_dsu.nnet.losses.spectral import SpectralLoss
    >>> from speechbrain_dsu.nnet.quantizers.residual import ResidualVQ
    >>> from speechbrain_dsu.dataio.training_data import SpeechSegments
    >>> from speechbrain_dsu.dataio.manifest import AudioItem
    >>> from speechbrain_dsu.utils.paths import bundles_dir
    >>> small = {"channels": 16, "hidden": 16, "layers": 1}
    >>> codec = Codec(
    ...     ConvNextEncoder(StftFrames(), dim=4, **small),
    ...     ResidualVQ(2, 16, 4),
    ...     VocosDecoder(4, **small),
    ... )
    >>> brain = CodecBrain(
    ...     {"codec": codec},
    ...     lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    ...     run_opts={"device": "cpu"},
    ...     reconstruction=[SpectralLoss(16000, [512], ["log_mel"], n_mels=40)],
    ...     loss_weights={"log_mel": 1.0, "commitment": 0.25},
    ... )
    >>> item = AudioItem("a", str(bundles_dir() / "speech.wav"))
    >>> brain.fit(3, SpeechSegments([item], 16000, segment_seconds=0.5))
    >>> sorted(brain.stats["train"])
    ['commitment', 'log_mel', 'loss', 'norm codec']
    """

    def __init__(
        self,
        modules: Mapping[str, nn.Module],
        *args: Any,
        reconstruction: Sequence[Callable[..., dict[str, Tensor]]],
        loss_weights: Mapping[str, float],
        balancer: LossBalancer | None = None,
        augment: Callable[[Tensor], Tensor] | None = None,
        discriminator_opt: Callable[..., torch.optim.Optimizer] | None = None,
        discriminator_scheduler: Callable[..., Any] | None = None,
        quantize_from: int = 0,
        adversarial_from: int = 0,
        adversarial_kind: Kind = "hinge",
        depths: Sequence[int] = (),
        metrics: Mapping[str, Callable[..., Any]] | None = None,
        finetune_from: str | Path | None = None,
        released: nn.Module | None = None,
        **brain: Any,
    ):
        modules = dict(modules)
        if "discriminator" in modules and discriminator_opt is None:
            raise DsuError("a discriminator needs discriminator_opt")
        heard = getattr(modules.get("teacher"), "sample_rate", None)
        if heard not in (None, modules["codec"].sample_rate):
            rate = modules["codec"].sample_rate
            raise DsuError(f"a teacher at {heard} Hz of a codec at {rate} Hz")
        if balancer is not None:
            modules["balancer"] = balancer
        # Discriminators are never exported: only the codec is averaged.
        brain = {"ema_modules": ["codec"], **brain}
        super().__init__(modules, *args, loss_weights=loss_weights, **brain)
        self.reconstruction = [
            part.to(self.device) if isinstance(part, nn.Module) else part
            for part in reconstruction
        ]
        self.augment, self.depths = augment, tuple(depths)
        self.discriminator_opt = discriminator_opt
        self.discriminator_scheduler = discriminator_scheduler
        self.quantize_from = quantize_from
        self.adversarial_from, self.kind = adversarial_from, adversarial_kind
        self.metrics = dict(metrics or {})
        self.finetune_from, self.released, self._watched = finetune_from, released, None

    # Optimisers.

    def init_optimizers(self) -> None:
        """One for the codec (and distillation), one for the discriminators."""
        trained = [
            parameter
            for name in ("codec", "distillation")
            if name in self.modules
            for parameter in self.modules[name].parameters()
            if parameter.requires_grad
        ]
        self.add_optimizer("codec", self.opt_class(trained), self.scheduler)
        if "discriminator" in self.modules:
            optimizer = self.discriminator_opt(self.modules.discriminator.parameters())
            self.add_optimizer("judges", optimizer, self.discriminator_scheduler)

    def make_dataloader(self, dataset: Any, stage: sb.Stage, *args: Any, **kwargs: Any):
        """As in ``UnitBrain``; that of validation is also heard before a tuning."""
        loader = super().make_dataloader(dataset, stage, *args, **kwargs)
        if stage == sb.Stage.VALID:
            self._watched = loader
        return loader

    def on_fit_start(self) -> None:
        """Go on from a checkpoint; else, when fine-tuning, begin where others ended."""
        super().on_fit_start()
        if self.optimizer_step > 0:
            return
        if self.finetune_from is not None:
            load_run(self, self.finetune_from)
        if self.released is not None:
            load_released(self, {"codec": self.released})
        tuning = self.finetune_from is not None or self.released is not None
        if tuning and self._watched is not None:
            self.validate(self._watched, 0)
            self.log.write({"epoch": 0, **self._meta()}, valid=self.stats["valid"])

    # One batch.

    @property
    def adversarial(self) -> bool:
        """Whether the discriminators take part in this step."""
        begun = self.optimizer_step >= self.adversarial_from
        return "discriminator" in self.modules and begun

    def fit_batch(self, batch: Any) -> Tensor:
        """The discriminators' turn, the codec's turn, and a step of both."""
        should_step = self.step % self.grad_accumulation_factor == 0
        self.on_fit_batch_start(batch, should_step)
        with self.no_sync(not should_step):
            with self.training_ctx:
                outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            if self.adversarial:
                self._judge(outputs)
            with self.training_ctx:
                loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            self.backward({**outputs.losses, "sum": loss}, loss)
        if should_step:
            self.optimizers_step()
        self.on_fit_batch_end(batch, outputs, loss, should_step)
        return loss.detach().cpu()

    def compute_forward(self, batch: Any, stage: sb.Stage) -> CodecStep:
        """Decode a batch and compare."""
        wavs, lens = batch.wav
        wavs = wavs.to(self.device)
        lens = None if bool((lens == 1).all()) else lens.to(self.device)
        if stage == sb.Stage.TRAIN and self.augment is not None:
            wavs = self.augment(wavs)
        quantize = stage != sb.Stage.TRAIN or self.optimizer_step >= self.quantize_from
        output = self.modules.codec(wavs, lens, quantize=quantize)
        losses = dict(output.quantized.losses)
        for part in self.reconstruction:
            losses |= _compare(part, output, wavs, lens)
        if "distillation" in self.modules and output.quantized.usage:
            losses |= self._distil(output, wavs, lens)
        step = CodecStep(losses, output.quantized.usage, output.audio, wavs, lens)
        if stage != sb.Stage.TRAIN:
            self._measure(step)
        return step

    def compute_objectives(
        self, outputs: CodecStep, batch: Any, stage: sb.Stage
    ) -> Tensor:
        """Weighted, and in training balanced, sum of the terms."""
        train, balancer = stage == sb.Stage.TRAIN, self._raw("balancer")
        if train and self.adversarial:
            outputs.losses |= self._convince(outputs)
        weights = self._weights(outputs, train)
        if balancer is None:
            loss = weigh_losses(outputs.losses, weights)
        else:
            balanced = {k: v for k, v in outputs.losses.items() if k in balancer.names}
            plain = {k: v for k, v in outputs.losses.items() if k not in balanced}
            loss = balancer(balanced, outputs.audio) if train else 0.0
            loss = loss + weigh_losses(plain, weights)
        if not torch.is_tensor(loss):
            loss = torch.tensor(loss)
        self.log.note(outputs, loss)
        return loss

    def _weights(self, outputs: CodecStep, train: bool) -> dict[str, float]:
        """Those of the terms that there are in this phase of the training."""
        weights = dict(self.loss_weights)
        waiting = () if train and self.adversarial else ADVERSARIAL
        if not outputs.usage:  # nothing was quantized yet
            waiting = [name for name in weights if name not in outputs.losses]
        return {name: w for name, w in weights.items() if name not in waiting}

    def _raw(self, name: str) -> nn.Module | None:
        """A module without its wrapper for several ranks."""
        module = self.modules[name] if name in self.modules else None
        return getattr(module, "module", module)

    def _judge(self, outputs: CodecStep) -> None:
        """Gradients of the discriminators; real and decoded in one pass."""
        pair = torch.cat([outputs.wavs, outputs.audio.detach()])
        with self.training_ctx:
            scores = self.modules.discriminator(pair).scores
            halves = [score.chunk(2) for score in scores]
            real, fake = zip(*halves, strict=True)
            loss = discriminator_loss(real, fake, outputs.lens, self.kind)
        self.backward({"discriminator": loss}, loss)
        outputs.stats["discriminator"] = loss.detach()

    def _convince(self, outputs: CodecStep) -> dict[str, Tensor]:
        """Losses by which the codec follows the discriminators, held still."""
        judges = self._raw("discriminator")
        with _held_still(judges):
            with torch.no_grad():
                real = judges(outputs.wavs)
            fake = judges(outputs.audio)
        return {
            "adversarial": generator_loss(fake.scores, outputs.lens, self.kind),
            "features": feature_matching_loss(
                real.features, fake.features, outputs.lens
            ),
        }

    def _distil(
        self, output: Any, wavs: Tensor, lens: Tensor | None
    ) -> dict[str, Tensor]:
        counts = None if lens is None else absolute_lengths(lens, wavs.shape[1])
        with torch.no_grad():
            frames = self.modules.teacher(wavs, counts)
        codec, codes = self._raw("codec"), output.quantized.codes
        return self.modules.distillation(
            codec.quantizer, output.latents, codes, frames, lens
        )

    # Validation.

    def _measure(self, step: CodecStep) -> None:
        """Note the first loss and the metrics, also at fewer codebooks."""
        every = len(self._raw("codec").quantizer.codebook_sizes)
        for depth in sorted({*self.depths, every}):
            audio = step.audio
            if depth != every:
                output = self.modules.codec(step.wavs, step.lens, depth)
                audio, part = output.audio, self.reconstruction[0]
                found = _compare(part, output, step.wavs, step.lens)
                for name, value in found.items():
                    step.stats[f"{name}@{depth}"] = value
            mark = "" if depth == every else f"@{depth}"
            for name, value in self._scores(audio, step).items():
                step.stats[name + mark] = value
        for sink in self.log.loggers:
            if hasattr(sink, "log_audio") and self.step == 1:
                _show(sink, step, self._raw("codec").sample_rate)

    def _scores(self, audio: Tensor, step: CodecStep) -> dict[str, Tensor]:
        """Means of the metrics over the items where they are defined."""
        sizes = absolute_lengths(step.lens, audio.shape[1], len(audio)).tolist()
        rate = self._raw("codec").sample_rate
        out: dict[str, Tensor] = {}
        for name, metric in self.metrics.items():
            found = []
            for wav, guess, size in zip(step.wavs, audio, sizes, strict=True):
                try:
                    found.append(
                        metric(wav[:size].cpu(), rate, guess[:size].cpu(), rate)
                    )
                except DsuError:
                    continue
            if found:
                out[name] = torch.tensor(found).mean()
        return out


def _compare(
    part: Callable[..., dict[str, Tensor]],
    output: Any,
    wavs: Tensor,
    lens: Tensor | None,
) -> dict[str, Tensor]:
    """A reconstruction loss; ``of`` names what it looks at, if not the audio."""
    return part(getattr(output, getattr(part, "of", "audio")), wavs, lens)


@contextmanager
def _held_still(module: nn.Module) -> Iterator[None]:
    """Within it gradients pass through a module but do not reach its weights."""
    module.requires_grad_(False)
    try:
        yield
    finally:
        module.requires_grad_(True)


def _show(sink: Any, step: CodecStep, rate: int) -> None:
    """The first item as audio and as spectra, for TensorBoard."""
    for name, wavs in (("original", step.wavs), ("decoded", step.audio)):
        wav = wavs[0].detach().float().cpu()
        sink.log_audio(name, wav, rate)
        window = torch.hann_window(512)
        spectrum = torch.stft(wav, 512, 128, window=window, return_complex=True)
        # SpeechBrain draws [time, frequency].
        sink.log_figure(f"{name} spectrum", (spectrum.abs() + 1e-5).log().t()[None])
