"""What the scripts of codec recipes share: data, training, bundle."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from speechbrain.utils.checkpoints import Checkpointer

from speechbrain_dsu.dataio.manifest import AudioItem
from speechbrain_dsu.dataio.training_data import SpeechSegments
from speechbrain_dsu.training.codec import CodecBrain
from speechbrain_dsu.training.finetune import STATE_SUFFIX
from speechbrain_dsu.utils.paths import hparams_dir


def train_codec(
    hparams: Mapping[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    open_bundle: Callable[..., Any] | None = None,
) -> CodecBrain | None:
    """Train a codec recipe's system.

    Arguments
    ---------
    hparams : mapping
        ``system`` with ``codec``; ``output_folder``, ``seed``, ``run_opts``,
        ``steps`` (of the optimiser, in all), ``batch_items``, ``max_minutes``;
        ``data``: arguments of ``SpeechSegments``; ``valid_seconds``: of a recording
        in validation; ``training``: arguments of ``CodecBrain``, with ``modules``
        beside the codec; its ``finetune_from`` may also be a bundle's name or folder.
    train, valid : sequence of AudioItem
        The data.
    open_bundle : callable, optional
        ``inference.UnitTokenizer.from_hparams``, for fine-tuning from a bundle.

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
    training |= starting_point(training.get("finetune_from"), open_bundle)
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


def starting_point(
    source: str | Path | None, open_bundle: Callable[..., Any] | None = None
) -> dict[str, Any]:
    """What ``CodecBrain`` is given to fine-tune from.

    Arguments
    ---------
    source : str or Path or None
        The ``save`` folder of a run; or a bundle's name or folder, from which the
        codec is taken, with discriminators and optimisers where a training state
        lies beside the folder (see ``finetune.export_state``).
    open_bundle : callable, optional
        ``inference.UnitTokenizer.from_hparams``; without it every source is a run's.

    Returns
    -------
    dict
        ``finetune_from`` and ``released``, each perhaps None.
    """
    run = source is None or any(Path(source).glob("CKPT+*"))
    if run or open_bundle is None:
        return {"finetune_from": source, "released": None}
    bundle = open_bundle(str(source), run_opts={"device": "cpu"})
    state = bundle.folder.with_name(bundle.folder.name + STATE_SUFFIX)
    codec = bundle.mods.tokenizer.codec
    return {"finetune_from": state if state.is_dir() else None, "released": codec}


def train_and_seal_codec(
    hparams: Mapping[str, Any],
    train: Sequence[AudioItem],
    valid: Sequence[AudioItem],
    seal: Callable[..., Any],
    open_bundle: Callable[..., Any] | None = None,
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
    open_bundle : callable, optional
        As for ``train_codec``.
    """
    from speechbrain.utils.distributed import run_on_main

    brain = train_codec(hparams, train, valid, open_bundle)
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
