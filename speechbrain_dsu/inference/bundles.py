"""Sealed bundles: one folder that holds a whole system and refuses a wrong pairing.

``hyperparams.yaml`` (flat), ``model.safetensors`` (absent if there is no state),
``manifest.json``, ``probe.wav`` with ``probe.safetensors``, ``README.md``. Loading
checks hashes, builds from the allow-list, loads strictly and recomputes the probe.
"""

import logging
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from speechbrain_dsu.inference import manifest as mf
from speechbrain_dsu.inference import probe as pr
from speechbrain_dsu.inference.card import make_card
from speechbrain_dsu.inference.flatten import flatten_yaml
from speechbrain_dsu.inference.loading import load_yaml
from speechbrain_dsu.inference.manifest import Part, read_manifest
from speechbrain_dsu.inference.weights import load_strict, read_state, state_of
from speechbrain_dsu.utils.errors import DsuError

logger = logging.getLogger(__name__)

TOKENIZER = "speechbrain_dsu.inference.tokenizer.UnitTokenizer"
Verify = Literal["probe", "hash", "none"]
_ABOUT = (
    "name",
    "kind",
    "training_data",
    "language",
    "metrics",
    "layer",
    "normalisation",
)


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: modules (eval mode, CPU), hparams, manifest, folder."""

    modules: dict[str, nn.Module]
    hparams: dict[str, Any]
    manifest: dict[str, Any]
    folder: Path


def save_bundle(
    modules: nn.Module | Mapping[str, nn.Module],
    out: str | Path,
    yaml: str | Path,
    *,
    licence: Mapping[str, str],
    probe: str | Path | Tensor | None = None,
    about: Mapping[str, Any] | None = None,
    overrides: Mapping[str, Any] | None = None,
    interface: str = TOKENIZER,
    half: bool | Collection[str] = False,
    overwrite: bool = False,
) -> Path:
    """Write a system as a bundle; the folder appears whole or not at all.

    The YAML is built once more from the allow-list, gets the weights as they will be
    stored, and must come out as the same system: what is saved can be loaded.

    Arguments
    ---------
    modules : nn.Module or mapping
        A tokenizer, or the modules that the YAML's ``modules`` key names.
    out : str or Path
        The folder to make.
    yaml : str or Path
        A system file (its includes are expanded), or flat YAML text. It must have a
        ``modules`` mapping; a tokenizer's key there is ``tokenizer``.
    licence : mapping
        ``{"code": ..., "weights": ...}``, SPDX names where there are some.
    probe : str, Path or Tensor, optional
        A few seconds of audio (a Tensor ``[time]`` at the system's rate).
    about : mapping, optional
        ``name, kind, training_data, language, metrics, layer, normalisation``.
    overrides : mapping, optional
        New values for the YAML.
    interface : str
        Dotted name of the class that loads it; its ``run_probe`` makes the probe
        where there is no tokenizer. Empty: no interface and no probe.
    half : bool or collection of str
        Store float32 weights as float16 (cast back on load), in these modules only.
        Fingerprint and probe are those of the rounded weights.
    overwrite : bool
        Replace an older bundle.

    Returns
    -------
    Path
        The folder.

    Raises
    ------
    DsuError
        If the YAML does not give this system, a licence is missing, or the folder
        exists.

    Example
    -------
    >>> text = "modules: {layer: !new:torch.nn.Linear [2, 3]}"
    >>> folder = save_bundle(
    ...     {"layer": nn.Linear(2, 3)},
    ...     getfixture("tmp_path") / "b",
    ...     text,
    ...     licence={"code": "Apache-2.0", "weights": "CC0-1.0"},
    ...     interface="",
    ... )
    >>> load_bundle(folder).modules["layer"]
    Linear(in_features=2, out_features=3, bias=True)
    """
    modules = (
        {"tokenizer": modules} if isinstance(modules, nn.Module) else dict(modules)
    )
    out = Path(out)
    about = _check_about(about or {}, out.name)
    _check_target(out, overwrite)
    is_file = isinstance(yaml, Path) or ("\n" not in yaml and yaml.endswith("ml"))
    text = flatten_yaml(yaml, overrides) if is_file else yaml
    if not is_file and overrides:
        raise DsuError("overrides need a YAML file, not a text: change the text")
    state = state_of(modules, half)
    built = _rebuild(text, modules, state, half)
    manifest = {**about, **mf.describe(built), "format": mf.FORMAT}
    manifest |= {"interface": interface, "licence": dict(licence), "probe": False}
    manifest["versions"] = mf.versions()
    problem = mf.check_licence(manifest)
    if not problem.ok:
        raise DsuError(
            f"licence {problem.why}: give licence={{'code': .., 'weights': ..}}"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.parent / f".{out.name}.part-{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        _write(part, text, state, built, manifest, probe)
        _put(part, out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return out


def _check_about(about: Mapping[str, Any], name: str) -> dict[str, Any]:
    unknown = sorted(set(about) - set(_ABOUT))
    if unknown:
        raise DsuError(f"about has no entry '{unknown[0]}', choose from {list(_ABOUT)}")
    return {"name": name, "kind": "tokenizer", **about}


def _check_target(out: Path, overwrite: bool) -> None:
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise DsuError(f"{out} exists; pass overwrite=True to replace a bundle")
    if not (out / mf.MANIFEST).is_file():
        raise DsuError(f"{out} exists and is not a bundle: it will not be replaced")


def _rebuild(text: str, modules: dict, state: dict, half: Any) -> dict[str, nn.Module]:
    """What a loader will get, and proof that it is the system that was given."""
    built = _modules_of(load_yaml(text), mf.YAML_FILE)
    if set(built) != set(modules):
        raise DsuError(
            f"the YAML's modules are {sorted(built)}, those given {sorted(modules)}"
        )
    load_strict(built, state, "the YAML's modules")
    ours, theirs = mf.describe(modules), mf.describe(built)
    unlike = [k for k in ours if k != "fingerprint" and ours[k] != theirs.get(k)]
    if not half and ours["fingerprint"] != theirs["fingerprint"]:
        unlike.append("fingerprint")
    if unlike:
        key = unlike[0]
        raise DsuError(
            f"the YAML builds another system: {key} is {theirs.get(key)}, of what was "
            f"given it is {ours[key]}; export with the YAML (and overrides) it was "
            "built from"
        )
    return _ready(built)


def _modules_of(hparams: Mapping[str, Any], where: str) -> dict[str, nn.Module]:
    modules = hparams.get("modules")
    if not isinstance(modules, Mapping) or not modules:
        raise DsuError(
            f"{where}: there is no 'modules' mapping, only {sorted(hparams)}"
        )
    other = [key for key, value in modules.items() if not isinstance(value, nn.Module)]
    if other:
        raise DsuError(f"{where}: modules['{other[0]}'] is not a torch module")
    return dict(modules)


def _ready(modules: dict[str, nn.Module]) -> dict[str, nn.Module]:
    for module in modules.values():
        module.eval()
    return modules


def _write(
    part: Path, text: str, state: dict, built: dict, manifest: dict, probe: Any
) -> None:
    from safetensors.torch import save_file

    (part / mf.YAML_FILE).write_text(text, "utf-8")
    if state:
        save_file(state, part / mf.WEIGHTS)
    if manifest["interface"]:
        rate = manifest.get("sample_rate", 16000)
        pr.write_clip(probe, part / mf.PROBE_WAV, rate)
        kept = pr.run_probe(built, part / mf.PROBE_WAV, manifest["interface"])
        save_file({k: v.cpu().contiguous() for k, v in kept.items()}, part / mf.PROBE)
        manifest["probe"] = True
    manifest["files"] = mf.file_entries(part)
    (part / mf.CARD).write_text(make_card(manifest), "utf-8")
    manifest["files"] = mf.file_entries(part)
    mf.write_manifest(part, manifest)
    for file in part.iterdir():
        # safetensors writes files that only their owner can read.
        file.chmod(0o644)


def _put(part: Path, out: Path) -> None:
    """Rename into place; an older bundle steps aside and comes back on failure."""
    old = out.parent / f".{out.name}.old-{os.getpid()}"
    if out.exists():
        out.rename(old)
    try:
        part.rename(out)
    except OSError:
        if old.exists():
            old.rename(out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def load_bundle(
    folder: str | Path,
    overrides: Mapping[str, Any] | str | None = None,
    verify: Verify = "probe",
    allow_unsafe_yaml: bool = False,
) -> Bundle:
    """Load a bundle from a folder, refusing whatever is not as it was published.

    Arguments
    ---------
    folder : str or Path
        The bundle.
    overrides : mapping or str, optional
        New values for the YAML; such that leave the tokens as they are.
    verify : "probe", "hash" or "none"
        Recompute the probe; check hashes and fingerprint only; or check no content
        at all (names of files and the YAML are checked always).
    allow_unsafe_yaml : bool
        Let the YAML run any code it names. Only for files that you wrote or read.

    Returns
    -------
    Bundle
        With its modules in eval mode on the CPU.

    Raises
    ------
    DsuError
        With the part that is missing, changed, foreign or does not fit the others.
    """
    folder = Path(folder)
    if verify not in ("probe", "hash", "none"):
        raise DsuError(f"verify={verify!r}: choose 'probe', 'hash' or 'none'")
    manifest = read_manifest(folder)
    for part in mf.check_files(folder, manifest):
        needed = part.part in mf.LOADED or part.part not in manifest["files"]
        content = part.part in manifest["files"] and part.why != "missing"
        if not part.ok and needed and not (content and verify == "none"):
            raise DsuError(f"{folder / part.part}: {part.why}")
    bundle = _open(folder, manifest, overrides, allow_unsafe_yaml)
    if verify == "probe":
        _check_probe(bundle)
    if verify != "none":
        _check_description(bundle)
    _note_licence(bundle)
    return bundle


def _open(folder: Path, manifest: dict, overrides: Any, unsafe: bool) -> Bundle:
    path = folder / mf.YAML_FILE
    text = path.read_text("utf-8")
    if unsafe:
        hparams = _load_unsafe(text, overrides)
    else:
        hparams = load_yaml(text, overrides, str(path))
    modules = _modules_of(hparams, str(path))
    weights = folder / mf.WEIGHTS
    state = read_state(weights) if mf.WEIGHTS in manifest["files"] else {}
    load_strict(modules, state, str(weights))
    return Bundle(_ready(modules), hparams, manifest, folder)


def _load_unsafe(text: str, overrides: Any) -> dict[str, Any]:
    from hyperpyyaml import load_hyperpyyaml

    logger.warning("allow_unsafe_yaml: this YAML file may run any code")
    try:
        return load_hyperpyyaml(text, overrides)
    except AttributeError as error:
        if "max_depth" not in str(error):
            raise
        raise DsuError(
            "HyperPyYAML does not work with this ruamel.yaml: "
            "pip install 'ruamel.yaml<0.19'"
        ) from error


def _check_probe(bundle: Bundle) -> str:
    if not bundle.manifest.get("probe"):
        return "none kept"
    clip, kept = bundle.folder / mf.PROBE_WAV, read_state(bundle.folder / mf.PROBE)
    with torch.random.fork_rng(devices=[]):
        found = pr.run_probe(bundle.modules, clip, bundle.manifest["interface"])
    return pr.compare(found, kept, bundle.folder)


def _check_description(bundle: Bundle) -> str:
    for key, value in mf.describe(bundle.modules).items():
        stated = bundle.manifest.get(key)
        if stated != value:
            raise DsuError(
                f"{bundle.folder}: the manifest says {key} {stated}, what was loaded "
                f"has {value}: the parts are not of one system, or the overrides "
                "change its tokens (then pass verify='none')"
            )
    return str(bundle.manifest.get("fingerprint"))


def _note_licence(bundle: Bundle) -> None:
    licence = mf.check_licence(bundle.manifest)
    name = bundle.manifest.get("name", bundle.folder)
    if not licence.ok:
        logger.warning("%s: licence %s", name, licence.why)
        return
    weights = str(bundle.manifest["licence"]["weights"])
    if mf.is_noncommercial(weights):
        logger.warning("%s: the weights are for non-commercial use (%s)", name, weights)


def verify_bundle(folder: str | Path) -> list[Part]:
    """Check every part of a bundle and say about each whether it is in order.

    Arguments
    ---------
    folder : str or Path
        The bundle.

    Returns
    -------
    list of Part
        ``(part, ok, why)`` for the manifest, each file, each file that does not
        belong there, the licences, the YAML with its weights, fingerprint and probe.

    Example
    -------
    >>> verify_bundle(getfixture("tmp_path"))[0].ok
    False
    """
    folder = Path(folder)
    try:
        manifest = read_manifest(folder)
    except DsuError as error:
        return [Part(mf.MANIFEST, False, str(error))]
    parts = [Part(mf.MANIFEST, True, f"format {manifest['format']}")]
    parts += [*mf.check_files(folder, manifest), mf.check_licence(manifest)]
    try:
        bundle = _open(folder, manifest, None, False)
    except (DsuError, OSError) as error:
        return [*parts, Part("system", False, str(error))]
    parts.append(
        Part("system", True, "built from the allow-list, weights fit strictly")
    )
    for name, check in (("probe", _check_probe), ("fingerprint", _check_description)):
        try:
            parts.append(Part(name, True, check(bundle)))
        except (DsuError, OSError) as error:
            parts.append(Part(name, False, str(error)))
    return parts
