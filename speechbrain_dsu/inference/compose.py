"""Systems that hold other systems: a recogniser and its tokenizer in one bundle."""

import io
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, TaggedScalar
from torch import nn

from speechbrain_dsu.inference.bundles import load_bundle, save_bundle
from speechbrain_dsu.inference.flatten import TRAINING_KEYS, flatten_yaml
from speechbrain_dsu.inference.hub import find_bundle
from speechbrain_dsu.inference.manifest import YAML_FILE
from speechbrain_dsu.utils.errors import DsuError
from speechbrain_dsu.utils.paths import hparams_dir


def compose_yaml(
    system: str | Path,
    parts: Mapping[str, str | Path],
    overrides: Mapping[str, Any] | None = None,
    keys: Sequence[str] = (),
) -> str:
    """One flat YAML of a system and the systems of bundles that it works with.

    Each part's YAML becomes the mapping ``<name>_system``; the module ``name`` of its
    ``modules`` becomes the whole system's module of that name.

    Arguments
    ---------
    system : str or Path
        A system file, e.g. "systems/asr/unit_ctc.yaml" of the package's ``hparams``.
    parts : mapping
        Module name ("tokenizer", "vocoder") to the bundle that has it: a shipped name,
        a folder or a Hub id. A module that lies deeper in a bundle of several systems
        is found, too.
    overrides : mapping, optional
        New values for the system's keys.
    keys : sequence of str
        Further top-level keys of the parts that the whole system shows (``voices``).

    Returns
    -------
    str
        YAML without includes.

    Raises
    ------
    DsuError
        If a bundle has no such module, or the system has one of that name itself.

    Example
    -------
    >>> system = getfixture("tmp_path") / "system.yaml"
    >>> _ = system.write_text(
    ...     "model: !new:torch.nn.Linear [2, 3]\\nmodules: {model: !ref <model>}"
    ... )
    >>> text = compose_yaml(system, {"tokenizer": "dmel"})
    >>> from speechbrain_dsu.inference.loading import load_yaml
    >>> sorted(load_yaml(text)["modules"])
    ['model', 'tokenizer']
    """
    path = Path(system)
    path = path if path.is_absolute() else hparams_dir() / path
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    tree = yaml.load(flatten_yaml(path, overrides))
    for name, source in reversed(parts.items()):
        part, key = _part(find_bundle(source), f"{name}_system", yaml), f"{name}_system"
        where = _find_module(part, name, key)
        if where is None:
            raise DsuError(f"{source}: has no module '{name}'")
        if name in tree["modules"]:
            raise DsuError(f"{path}: has a module '{name}' already")
        tree.insert(0, key, part)
        tree["modules"][name] = _reference(where)
        for shown in keys:
            if shown in part and shown not in tree:
                tree.insert(1, shown, _reference(f"{key}[{shown}]"))
    out = io.StringIO()
    yaml.dump(tree, out)
    return out.getvalue()


def _part(folder: Path, key: str, yaml: YAML) -> CommentedMap:
    """A bundle's YAML as the value of a key, its references turned to that place."""
    source = (folder / YAML_FILE).resolve()
    with tempfile.TemporaryDirectory() as place:
        outer = Path(place) / "outer.yaml"
        outer.write_text(f"{key}: !include:{source}\n", "utf-8")
        return yaml.load(flatten_yaml(outer, drop=TRAINING_KEYS))[key]


def _find_module(part: Mapping[str, Any], name: str, key: str) -> str | None:
    """Where a bundle's module of this name stands in the whole file."""
    if name in part.get("modules", {}):
        return f"{key}[modules][{name}]"
    for inner, value in part.items():
        if str(inner).endswith("_system") and isinstance(value, Mapping):
            found = _find_module(value, name, f"{key}[{inner}]")
            if found is not None:
                return found
    return None


def _reference(place: str) -> TaggedScalar:
    return TaggedScalar(f"<{place}>", None, "!ref")


def seal_system(
    modules: Mapping[str, nn.Module],
    out: str | Path,
    system: str | Path,
    parts: Mapping[str, str | Path],
    overrides: Mapping[str, Any] | None = None,
    keys: Sequence[str] = (),
    **bundle: Any,
) -> Path:
    """Write a system with the bundles it works with as one bundle.

    Arguments
    ---------
    modules : mapping
        Those of the system. Those of its parts are read from their bundles.
    out : str or Path
        The folder to make.
    system, parts, overrides, keys
        See ``compose_yaml``.
    **bundle
        See ``save_bundle``. ``half`` rounds the system's own modules only: parts stay
        what they are, or their tokens would be others.

    Returns
    -------
    Path
        The folder.
    """
    whole = {name: part for name, part in modules.items() if name not in parts}
    # In the order that they have in the YAML, which a fingerprint knows.
    for name, source in reversed(parts.items()):
        # As published: in a run's memory they may not be rounded yet.
        whole[name] = load_bundle(find_bundle(source), verify="hash").modules[name]
    if bundle.get("half") is True:
        bundle["half"] = [name for name in whole if name not in parts]
    text = compose_yaml(system, parts, overrides, keys)
    return save_bundle(whole, out, text, **bundle)
