"""One flat YAML out of a system file and the block files that it includes.

``!include`` is relative to the place of the file, so a copied YAML loses its blocks;
HyperPyYAML's own resolved dump keeps no references, so its numbers no longer steer
anything. Here the blocks are put in the place of their includes and references stay.
"""

import copy
import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq, TaggedScalar

from speechbrain_dsu.inference.loading import arithmetic
from speechbrain_dsu.inference.safe_yaml import check_yaml
from speechbrain_dsu.utils.errors import DsuError

TRAINING_KEYS = ("pretrainer",)
"""Top-level keys that a published file has no use for (``__seed`` and the like too):
its weights lie beside it and are loaded strictly."""


def flatten_yaml(
    path: str | Path,
    overrides: Mapping[str, Any] | None = None,
    drop: tuple[str, ...] = TRAINING_KEYS,
) -> str:
    """Expand the includes of a system file, leave its references in place.

    A block's own references (``<dim>`` inside the block) become references to the
    same key in the flat file (``<encoder[dim]>``), values given to an include replace
    those of the block, keys that start with ``__`` go.

    Arguments
    ---------
    path : str or Path
        The system file. It is from you: its includes may lie anywhere.
    overrides : mapping, optional
        New values, nested as the file; a key of the top level must exist.
    drop : tuple of str
        Top-level keys to leave out.

    Returns
    -------
    str
        YAML without includes that means the same.

    Raises
    ------
    DsuError
        If a file is missing, an override names no key, or a block that stands in a
        list refers to itself by something else than a plain value.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> block = '''!new:torch.nn.Linear
    ... in_features: 2
    ... out_features: !ref <in_features>
    ... '''
    >>> system = '''
    ... size: 3
    ... layer: !include:block.yaml
    ...   in_features: !ref <size>
    ... '''
    >>> _ = (folder / "block.yaml").write_text(block)
    >>> _ = (folder / "system.yaml").write_text(system)
    >>> print(flatten_yaml(folder / "system.yaml", {"size": 5}))
    size: 5
    layer: !new:torch.nn.Linear
      in_features: !ref <size>
      out_features: !ref <layer[in_features]>
    <BLANKLINE>
    """
    path = Path(path)
    tree = _read(path)
    if not isinstance(tree, CommentedMap) or _tag(tree):
        raise DsuError(f"{path}: a system file's top level is a mapping of keys")
    for key in [k for k in tree if k in drop or str(k).startswith("__")]:
        del tree[key]
    missing = [key for key in overrides or {} if key not in tree]
    if missing:
        raise DsuError(f"{path} has no key '{missing[0]}' to override: {sorted(tree)}")
    _update(tree, overrides or {}, str(path))
    tree = _expand(tree, path, "", (path.resolve(),))
    out = io.StringIO()
    yaml = _yaml()
    yaml.dump(tree, out)
    return out.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 10_000
    yaml.preserve_quotes = True
    return yaml


def _read(path: Path) -> Any:
    try:
        with open(path, encoding="utf-8") as file:
            return _yaml().load(file)
    except FileNotFoundError:
        raise DsuError(f"{path}: there is no such YAML file") from None


def _tag(node: Any) -> str:
    tag = getattr(node, "tag", None)
    return (tag.value or "") if tag is not None else ""


def _update(tree: Any, news: Mapping, where: str) -> None:
    if news and not isinstance(tree, dict):
        raise DsuError(f"{where}: the overrides {dict(news)} need a mapping to go to")
    for key, value in news.items():
        if isinstance(value, Mapping) and not _tag(value) and key in tree:
            tree[key] = _as_mapping(tree[key])
            _update(tree[key], value, f"{where}: {key}")
        else:
            tree[key] = value


def _as_mapping(node: Any) -> Any:
    """``!new:Class`` without arguments is a scalar to YAML: give it room for some."""
    if not isinstance(node, TaggedScalar) or node.value or _tag(node) == "!PLACEHOLDER":
        return node
    mapping = CommentedMap()
    mapping.yaml_set_ctag(node.tag)
    return mapping


def _expand(node: Any, path: Path, prefix: str, chain: tuple[Path, ...]) -> Any:
    """Replace the includes under a node; ``prefix`` is its place in the whole file."""
    tag = _tag(node)
    if tag.startswith("!include:"):
        return _include(node, tag[len("!include:") :], path, prefix, chain)
    if isinstance(node, dict):
        for key in node:
            place = f"{prefix}[{key}]" if prefix else str(key)
            node[key] = _expand(node[key], path, place, chain)
    elif isinstance(node, list):
        for index, item in enumerate(node):
            # References can't count in lists: no place to point to.
            node[index] = _expand(item, path, f"{prefix}[{index}]", chain)
    return node


def _include(node: Any, target: str, path: Path, prefix: str, chain: tuple) -> Any:
    file = (path.resolve().parent / target).resolve()
    if file in chain:
        raise DsuError(f"{path}: !include:{target} includes itself")
    if not file.is_file():
        raise DsuError(f"{path}: !include:{target}: there is no file {file}")
    block = _as_mapping(_read(file))
    values = node if isinstance(node, dict) else {}
    # Values come from outside and keep their own references: they are put in after
    # the block's references were turned.
    hidden = {key: copy.deepcopy(block[key]) for key in values if key in block}
    known = {**block, **values} if isinstance(block, dict) else {}
    _turn(block, known, prefix, file)
    for key, old in hidden.items():
        if isinstance(values[key], dict) and not _tag(values[key]):
            _turn(old, known, prefix, file)
            block[key] = _as_mapping(old)
    _update(block, values, str(file))
    comment = getattr(getattr(block, "ca", None), "comment", None)
    if comment:
        block.ca.comment = None
    for key in list(block) if isinstance(block, dict) else []:
        inside = key not in values or isinstance(values[key], dict)
        place = f"{prefix}[{key}]" if prefix else str(key)
        base = file if inside and not _tag(values.get(key)).startswith("!inc") else path
        block[key] = _expand(block[key], base, place, (*chain, file))
    return block


def _turn(node: Any, block: Any, prefix: str, file: Path) -> None:
    """Make the references of a block name their place in the whole file."""
    items = node.items() if isinstance(node, dict) else None
    if items is None and isinstance(node, list):
        items = enumerate(node)
    for key, child in items or ():
        if _tag(child) in ("!ref", "!copy"):
            node[key] = _turned(child, block, prefix, file)
        else:
            _turn(child, block, prefix, file)


def _turned(reference: TaggedScalar, block: Any, prefix: str, file: Path) -> Any:
    listed = re.search(r"\[\d+\]", prefix)

    def turn(match: re.Match) -> str:
        path, dot, attribute = match[1].partition(".")
        if listed:
            return _refuse_list(match[0], file) if dot else _plain(path, block, file)
        first, bracket, rest = path.partition("[")
        return f"<{prefix}[{first}]{bracket}{rest}{dot}{attribute}>"

    text = re.sub(r"<([^>]*)>", turn, reference.value)
    turned = TaggedScalar(text, reference.style, reference.tag)
    return turned if "<" in text else _literal(text)


def _literal(text: str) -> Any:
    """A reference whose parts became values: its arithmetic stays HyperPyYAML's."""
    return arithmetic(text, "block")


def _plain(path: str, block: Any, file: Path) -> str:
    """A block's value to put in the place of a reference to it: a word, a number, or
    what the including file refers to."""
    value = block
    for part in path.split("["):
        value = value.get(part.strip("]")) if isinstance(value, dict) else None
    if _tag(value) == "!ref":
        whole = re.fullmatch(r"<[^>]*>", value.value)
        return value.value if whole else f"({value.value})"
    if value is None or isinstance(value, dict | CommentedSeq) or _tag(value):
        _refuse_list(f"<{path}>", file)
    return str(value)


def _refuse_list(reference: str, file: Path) -> str:
    raise DsuError(
        f"{file}: {reference}: a block in a list can only refer to its own plain "
        "values; give the block a top-level key and list <key>"
    )


def check_and_flatten(
    path: str | Path,
    root: str | Path,
    overrides: Mapping[str, Any] | None = None,
) -> str:
    """``flatten_yaml`` for a file that is not yours: checked first, kept inside
    ``root``."""
    check_yaml(path, root)
    return flatten_yaml(path, overrides)
