"""What the scripts of codec recipes share: data, training, bundle."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.utils.paths import hparams_dir


def train_codec(
    hparams: Mapping[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
) -> CodecBrain | None:
    """Train a codec recipe's system.

    Arguments
    ---------
    hparams : mapping
        ``system`` with ``codec``; ``output_folder``, ``seed``, ``run_opts``,
        ``steps`` (of the optimiser, in all), ``batch_items``, ``max_minutes``;
        ``data``: arguments of ``SpeechSegments``; ``valid_seconds``: of a recording
        in validation; ``training``: arguments of ``CodecBrain``, with ``modules``
        beside the codec.
    train, valid : sequence of AudioItem
        The data.

    Returns
    -------
    CodecBrain or None
        With the averaged weights in place; None when ``max_minutes`` ended it.
    """
    codec, seed = hparams["system"]["codec"], hparams["seed"]
    options = {"seed": seed, **hparams["data"]}
    heard = SpeechSegments(train, codec.sample_rate, **options)
    watched = SpeechSegments(valid, codec.sample_rate, hparams["valid_seconds"])
    training = dict(hparams["training"])
    brain = CodecBrain(
        {"codec": codec, **training.pop("modules", {})},
        run_opts=hparams["run_opts"],
        checkpointer=Checkpointer(Path(hparams["output_folder"]) / "save"),
        max_minutes=hparams["max_minutes"],
        **training,
    )
    brain.optimizer_step_limit = hparams["steps"]
    loading = {"batch_size": hparams["batch_items"], "shuffle": True, "drop_last": True}
    brain.fit(
        hparams.get("epochs", 10**6),
        heard,
        watched,
        train_loader_kwargs=loading,
        valid_loader_kwargs={"batch_size": hparams["batch_items"]},
    )
    if brain.stopped:
        return None
    if brain.ema is not None:
        brain.ema.swap()
    return brain


def train_and_seal_codec(
    hparams: Mapping[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    seal: Callable[..., Any],
) -> None:
    """Train a codec recipe's system and write it as a bundle.

    Arguments
    ---------
    hparams : mapping
        As for ``train_codec``, with ``system_file`` below the package's ``hparams``
        and ``bundle``, arguments of ``seal``.
    train, valid : sequence of AudioItem
        The data.
    seal : callable
        ``inference.save_bundle``.
    """
    from speechbrain.utils.distributed import run_on_main

    brain = train_codec(hparams, train, valid)
    if brain is None or "bundle" not in hparams:
        return
    tokenizer = hparams["system"]["tokenizer"].eval().cpu()
    options = dict(hparams["bundle"])
    metrics = {"steps": brain.optimizer_step}
    for name, value in brain.stats.get("valid", {}).items():
        metrics[f"valid {name}"] = round(float(value), 4)
    options["about"] = {**options["about"], "metrics": metrics}
    options["yaml"] = hparams_dir() / hparams["system_file"]
    run_on_main(seal, [tokenizer], options)
