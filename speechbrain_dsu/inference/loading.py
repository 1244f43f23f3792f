"""Build the objects of a HyperPyYAML file from its checked nodes, by the allow-list.

This is HyperPyYAML's language without its dangerous half, and not its code: that
resolves references on one parse, dumps the result to text and parses the text again
with an unsafe loader, so what was checked need not be what is built. Here the nodes
that were checked are built. What a file means is the same (a test compares both).
"""

import ast
import functools
import io
import operator
import re
from collections.abc import Mapping
from typing import Any

import torch
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from torch import Tensor, nn

from speechbrain_dsu.inference.allowlist import (
    argument_problem,
    refuse,
    resolve_callable,
    resolve_class,
)
from speechbrain_dsu.inference.safe_yaml import (
    PLAIN_TAGS,
    check_reference,
    check_text,
    is_plain,
    parse_tuple,
    place,
)
from speechbrain_dsu.utils.errors import DsuError

_OPERATORS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
    ast.Mod: operator.mod,
}
_SHARED = int | float | str | bool | None | Tensor | nn.Module | torch.dtype
_MAX_TEXT = 10_000
_MAX_BUILT = 100_000
_MAX_NUMBER = 2.0**64


def load_yaml(
    text: str,
    overrides: Mapping[str, Any] | str | None = None,
    name: str = "hyperparams.yaml",
) -> dict[str, Any]:
    """Check and build a flat HyperPyYAML text that may come from anywhere.

    Understood as HyperPyYAML does: ``!new:``, ``!name:``, ``!ref``, ``!copy``,
    tuples, arithmetic in references, keys that begin with ``__`` (dropped). Names are
    those of the allow-list. The global random state is left as it was: what is built
    gets its weights from a file.

    Arguments
    ---------
    text : str
        The YAML.
    overrides : mapping or str, optional
        New values, nested as the file; a key of the top level must exist.
    name : str
        File name for messages.

    Returns
    -------
    dict
        The top-level keys with what was built.

    Raises
    ------
    UnsafeYamlError
        If the text uses what a file from elsewhere may not; nothing was built then.
    DsuError
        If it can't be built: file, line and the constructor's own message.

    Example
    -------
    >>> text = '''
    ... dim: 4
    ... layer: !new:torch.nn.Linear
    ...     in_features: !ref <dim>
    ...     out_features: !ref <dim> * 2
    ... '''
    >>> load_yaml(text, overrides={"dim": 3})["layer"]
    Linear(in_features=3, out_features=6, bias=True)
    """
    root = check_text(text, name)
    if overrides:
        _override(root, _override_node(overrides), name)
    if not isinstance(root, MappingNode) or str(root.tag) not in PLAIN_TAGS:
        raise DsuError(f"{name}: the top level must be a mapping of keys")
    with torch.random.fork_rng(devices=[]):
        try:
            built = _Builder(root, name).build(root)
        except RecursionError:
            raise DsuError(f"{name}: references are nested too deeply") from None
    return {key: value for key, value in built.items() if not key.startswith("__")}


def _override_node(overrides: Mapping[str, Any] | str) -> Node:
    if not isinstance(overrides, str):
        stream = io.StringIO()
        try:
            YAML(typ="safe", pure=True).dump(dict(overrides), stream)
        except Exception as error:
            raise DsuError(
                f"overrides: only plain values can be set: {error}"
            ) from None
        overrides = stream.getvalue()
    return check_text(overrides, "overrides")


def _override(target: Node, news: Node, name: str, must_match: bool = True) -> None:
    if not isinstance(target, MappingNode) or not isinstance(news, MappingNode):
        raise DsuError(f"{place(target, name)}: the overrides need a mapping here")
    at = {key.value: i for i, (key, _) in enumerate(target.value)}
    for key, value in news.value:
        index = at.get(key.value)
        if index is None and must_match:
            raise DsuError(
                f"{name} has no key '{key.value}' to override, it has {sorted(at)}"
            )
        if index is None:
            target.value.append((key, value))
        elif isinstance(value, MappingNode) and str(value.tag) in PLAIN_TAGS:
            _override(target.value[index][1], value, name, must_match=False)
        else:
            target.value[index] = (target.value[index][0], value)


class _Builder:
    """Builds each node once; references to a node share what it became."""

    def __init__(self, root: Node, name: str):
        self.root, self.name = root, name
        self.memo: dict[int, Any] = {}
        self.active: set[int] = set()
        self.count = 0
        self.scalars = YAML(typ="safe", pure=True).constructor

    def build(self, node: Node) -> Any:
        if id(node) in self.memo:
            return self.memo[id(node)]
        where = place(node, self.name)
        if id(node) in self.active:
            raise DsuError(f"{where}: the reference leads back to itself")
        self.count += 1
        if self.count > _MAX_BUILT:
            raise refuse(where, "!copy", f"more than {_MAX_BUILT} nodes are built")
        self.active.add(id(node))
        try:
            value = self._build(node, str(node.tag), where)
        finally:
            self.active.discard(id(node))
        self.memo[id(node)] = value
        return value

    def _build(self, node: Node, tag: str, where: str) -> Any:
        if tag in ("!ref", "!copy"):
            return self._reference(node, tag == "!copy", where)
        if tag.startswith("!new:"):
            return self._call(resolve_class(tag[5:], where), node, tag, where)
        if tag.startswith("!name:"):
            found = resolve_callable(tag[6:], where)
            args, kwargs = self._arguments(node, tag, where)
            return (
                functools.partial(found, *args, **kwargs) if args or kwargs else found
            )
        if tag == "!PLACEHOLDER":
            raise DsuError(f"{where}: this value is left to you: give it in overrides")
        if tag not in PLAIN_TAGS and tag != "!tuple":
            raise refuse(where, tag, "this tag can run code or is not known")
        if isinstance(node, MappingNode):
            return {str(key.value): self.build(value) for key, value in node.value}
        if isinstance(node, SequenceNode):
            return [self.build(item) for item in node.value]
        return self._scalar(node, tag, where)

    def _scalar(self, node: ScalarNode, tag: str, where: str) -> Any:
        if tag == "!tuple":
            return parse_tuple(node.value, where)
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise DsuError(f"{where}: {node.value!r}: {error}") from None
        if isinstance(value, str) and is_plain(node):
            return parse_tuple(value, where)
        return value

    def _call(self, cls: type, node: Node, tag: str, where: str) -> Any:
        args, kwargs = self._arguments(node, tag, where)
        try:
            return cls(*args, **kwargs)
        except DsuError as error:
            raise DsuError(f"{where}: {tag}: {error}") from error
        except Exception as error:
            kind = type(error).__name__
            raise DsuError(f"{where}: {tag} can't be built: {kind}: {error}") from error

    def _arguments(self, node: Node, tag: str, where: str) -> tuple[list, dict]:
        args, kwargs = [], {}
        if isinstance(node, SequenceNode):
            args = [self.build(item) for item in node.value]
        elif isinstance(node, MappingNode):
            kwargs = {str(key.value): self.build(item) for key, item in node.value}
        # Again, now on the values: a reference may have put a path together.
        problem = argument_problem(None, [args, kwargs])
        if problem:
            raise refuse(where, tag, problem)
        return args, kwargs

    def _reference(self, node: ScalarNode, copy: bool, where: str) -> Any:
        check_reference(node, where)
        text = node.value
        whole = re.fullmatch(r"<([^>]*)>", text)
        if whole:
            return self._target(whole[1], copy, where)
        if "<" not in text:
            return parse_tuple(text, where)

        def insert(match: re.Match) -> str:
            if "." in match[1]:
                raise DsuError(
                    f"{where}: {match[0]}: an attribute can't be part of text"
                )
            value = self._target(match[1], copy, where)
            if not isinstance(value, int | float | str | tuple | None):
                raise DsuError(
                    f"{where}: {match[0]} is an object, not text or a number"
                )
            return str(value)

        result = re.sub(r"<([^>]*)>", insert, text)
        if len(result) > _MAX_TEXT:
            raise refuse(where, "!ref", f"longer than {_MAX_TEXT} characters")
        result = arithmetic(result, where)
        return parse_tuple(result, where) if isinstance(result, str) else result

    def _target(self, target: str, copy: bool, where: str) -> Any:
        path, _, attribute = target.partition(".")
        node = self._find(path, target, where)
        if copy:
            other = _Builder(self.root, self.name)
            other.count, other.active = self.count, set(self.active)
            value = other.build(node)
            self.count = other.count
            return value
        value = self.build(node)
        if not attribute:
            return value
        value = getattr(value, attribute, Ellipsis)
        if value is Ellipsis:
            raise DsuError(f"{where}: <{target}>: there is no attribute {attribute}")
        items = value if isinstance(value, tuple | list) else (value,)
        if not all(isinstance(item, _SHARED) for item in items):
            kind = type(value).__name__
            raise refuse(where, f"!ref <{target}>", f"the attribute is a {kind}")
        return value

    def _find(self, path: str, target: str, where: str) -> Node:
        node = self.root
        for part in path.split("["):
            seen = 0
            while str(node.tag) == "!ref" and seen < 100:
                inner = re.fullmatch(r"<([^>.]*)>", node.value)
                if not inner:
                    break
                node, seen = self._find(inner[1], target, where), seen + 1
            items = node.value if isinstance(node, MappingNode) else []
            found = [value for key, value in items if key.value == part.strip("]")]
            if not found:
                raise DsuError(
                    f"{where}: <{target}>: there is no key '{part.strip(']')}'"
                )
            node = found[0]
        return node


def arithmetic(text: str, where: str) -> Any:
    """Evaluate numbers and ``+ - * / // % **`` in a text; other texts come back as is.

    Example
    -------
    >>> arithmetic("16000 // 320", "a.yaml:1"), arithmetic("a/b", "a.yaml:1")
    (50, 'a/b')
    """
    try:
        return _evaluate(ast.parse(text, mode="eval").body, where)
    except (
        TypeError,
        SyntaxError,
        KeyError,
        ValueError,
        MemoryError,
        RecursionError,
    ) as e:
        if isinstance(e, DsuError):
            raise
        return text
    except (ZeroDivisionError, OverflowError) as error:
        raise DsuError(f"{where}: {text}: {error}") from None


def _evaluate(node: ast.AST, where: str) -> Any:
    if isinstance(node, ast.Constant):
        if isinstance(node.value, int | float | str | None):
            return node.value
    elif isinstance(node, ast.BinOp):
        left, right = _evaluate(node.left, where), _evaluate(node.right, where)
        if not isinstance(left, int | float) or not isinstance(right, int | float):
            raise TypeError("numbers only")
        power = isinstance(node.op, ast.Pow)
        if power and (abs(right) > 64 or abs(left) > 1e6):
            raise refuse(where, "**", "the power is too large")
        value = _OPERATORS[type(node.op)](left, right)
        if isinstance(value, complex) or abs(value) > _MAX_NUMBER:
            raise refuse(where, "!ref", "the number is too large")
        return value
    raise TypeError("not arithmetic")
