"""What a YAML file from elsewhere may name, checked before anything is built.

HyperPyYAML is a programming language: ``!apply:`` calls any function, ``!new:`` builds
any class, ``!!python/...`` does both, and even a plain scalar in round brackets is
parsed by an unsafe loader. This module is the allow-list. It looks at the composed
node graph only (tags expanded, percent escapes decoded, nothing constructed), and
``loading.load_yaml`` builds from the same graph by the same list, so that there is
no second parser that could read the file differently.
"""

import io
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from speechbrain_dsu.inference.allowlist import (
    argument_problem,
    refuse,
    resolve_callable,
    resolve_class,
)
from speechbrain_dsu.utils.errors import DsuError

MAX_BYTES = 1 << 20
MAX_DEPTH = 60
MAX_FILES = 200

_STANDARD = "tag:yaml.org,2002:"
STRING = _STANDARD + "str"
PLAIN_TAGS = tuple(
    _STANDARD + name for name in "map seq str int float bool null timestamp".split()
)


def compose(text: str, name: str) -> Node:
    """Node graph of one YAML document; syntax errors become one line.

    Raises
    ------
    DsuError
        If the text is not one well-formed YAML mapping or object.
    """
    if len(text) > MAX_BYTES:
        raise DsuError(f"{name}: {len(text)} characters of YAML, at most {MAX_BYTES}")
    try:
        node = YAML(typ="safe", pure=True).compose(io.StringIO(text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise DsuError(f"{name}:{line}: not valid YAML: {error.problem}") from None
    except (YAMLError, RecursionError) as error:
        raise DsuError(f"{name}: not valid YAML: {type(error).__name__}") from None
    if node is None:
        raise DsuError(f"{name}: the file is empty")
    return node


def place(node: Node, name: str) -> str:
    """``file:line`` of a node."""
    return f"{name}:{node.start_mark.line + 1}"


class _Checker:
    """One walk over a file's nodes and, if allowed, over the files it includes."""

    def __init__(self, root: Path | None, climb: bool = False):
        self.root = root
        self.climb = climb
        self.files = 0
        self.visited: set[int] = set()
        self.kept: list[Node] = []

    def check(self, node: Node, name: str, folder: Path, chain: tuple, depth=0):
        where = place(node, name)
        if depth > MAX_DEPTH:
            raise refuse(where, "nesting", f"deeper than {MAX_DEPTH} levels")
        if not isinstance(node, ScalarNode):
            # A repeated collection is an alias: a file of a few lines could unfold
            # to billions of nodes. `!ref` says the same thing without that.
            if id(node) in self.visited:
                raise refuse(where, "YAML alias (*)", "write !ref <key> instead")
            self.visited.add(id(node))
            self.kept.append(node)
        self._check_tag(node, where, folder, chain)
        for child in self._children(node, name):
            self.check(child, name, folder, chain, depth + 1)

    def _children(self, node: Node, name: str) -> Iterator[Node]:
        if isinstance(node, SequenceNode):
            yield from node.value
        elif isinstance(node, MappingNode):
            keys = set()
            for key, value in node.value:
                where = place(key, name)
                plain = isinstance(key, ScalarNode) and key.tag in PLAIN_TAGS
                if not plain or key.value == "<<":
                    raise refuse(where, "key", "only plain keys are read")
                if key.value in keys:
                    raise DsuError(f"{where}: the key '{key.value}' is there twice")
                keys.add(key.value)
                yield value

    def _check_tag(self, node: Node, where: str, folder: Path, chain: tuple) -> None:
        tag = str(node.tag)
        if tag == "!tuple" or (tag == STRING and is_plain(node)):
            if not isinstance(node, ScalarNode):
                raise refuse(where, tag, "a tuple is written as (1, 2)")
            parse_tuple(node.value, where)
        elif tag in PLAIN_TAGS or tag == "!PLACEHOLDER":
            return
        elif tag in ("!ref", "!copy"):
            check_reference(node, where)
        elif tag.startswith("!new:"):
            resolve_class(tag[5:], where)
            _check_arguments(node, where, tag)
        elif tag.startswith("!name:"):
            resolve_callable(tag[6:], where)
            _check_arguments(node, where, tag)
        elif tag.startswith("!include:"):
            self._follow(tag[9:], where, folder, chain)
        else:
            shown = tag.replace(_STANDARD, "!!")
            raise refuse(where, shown, "this tag can run code or is not known")

    def _follow(self, target: str, where: str, folder: Path, chain: tuple) -> None:
        what = f"!include:{target}"
        if self.root is None:
            raise refuse(where, what, "a bundle's YAML is one flat file")
        parts = re.split(r"[/\\]", target)
        up = ".." in parts and not self.climb
        if not target or target[0] in "/\\~" or ":" in target or up:
            raise refuse(where, what, "only files beside or below this one are read")
        path = (folder / target).resolve()
        if not path.is_relative_to(self.root.resolve()):
            raise refuse(where, what, f"it leads out of {self.root}")
        if path in chain:
            raise refuse(where, what, "the file includes itself")
        if not path.is_file():
            raise DsuError(f"{where}: {what}: there is no file {path}")
        self.check_file(path, chain)

    def check_file(self, path: Path, chain: tuple = ()) -> None:
        self.files += 1
        if self.files > MAX_FILES:
            raise DsuError(f"{path}: more than {MAX_FILES} files are included")
        node = compose(path.read_text("utf-8"), str(path))
        self.check(node, str(path), path.parent, (*chain, path.resolve()))


def is_plain(node: Node) -> bool:
    """Whether a scalar stands without quotes: only then ``(1, 2)`` is a tuple.

    HyperPyYAML agrees from its second file on; in the first one that a process loads
    it takes quoted brackets for a tuple, too.
    """
    return isinstance(node, ScalarNode) and not node.style


def parse_tuple(text: str, where: str) -> str | tuple:
    """HyperPyYAML's implicit tuple: ``(3, 4)`` as a tuple, other strings unchanged.

    HyperPyYAML hands what is between the brackets to PyYAML's unsafe loader, so that
    ``(!!python/object/apply:os.system [id])`` runs although no tag is to be seen in
    the file. Here the inside holds plain scalars and lists, or is refused.

    Example
    -------
    >>> parse_tuple("(3, 4)", "a.yaml:1"), parse_tuple("3, 4", "a.yaml:1")
    ((3, 4), '3, 4')
    """
    if not re.fullmatch(r"\(.*\)", text):
        return text
    parser = YAML(typ="safe", pure=True)
    try:
        node = parser.compose(io.StringIO(f"[{text[1:-1]}]"))
    except (YAMLError, RecursionError):
        return text
    items = node.value if isinstance(node, SequenceNode) else []
    inner = [i for item in items for i in item.value if isinstance(item, SequenceNode)]
    for part in (*items, *inner):
        tag = str(getattr(part, "tag", ""))
        if tag not in PLAIN_TAGS:
            raise refuse(where, tag.replace(_STANDARD, "!!"), "a tag inside a tuple")
    if not all(isinstance(part, ScalarNode) for part in inner):
        return text
    if any(isinstance(item, MappingNode) for item in items):
        return text
    return tuple(parser.constructor.construct_object(item, deep=True) for item in items)


def check_reference(node: Node, where: str) -> None:
    """Refuse a reference that reaches for more than public attributes."""
    if not isinstance(node, ScalarNode):
        raise refuse(where, str(node.tag), "a reference is one string")
    if len(node.value) > 1000:
        raise refuse(where, str(node.tag), "longer than 1000 characters")
    for target in re.findall(r"<([^>]*)>", node.value):
        attribute = target.partition(".")[2]
        if attribute and not re.fullmatch(r"[A-Za-z]\w*", attribute, re.ASCII):
            raise refuse(where, f"!ref <{target}>", "not one public attribute")


def _check_arguments(node: Node, where: str, tag: str) -> None:
    if isinstance(node, ScalarNode) and node.value:
        raise DsuError(f"{where}: {tag} takes a mapping or a list, not a word")
    problem = argument_problem(None, _literals(node))
    if problem:
        raise refuse(where, tag, problem)


def _literals(node: Node, depth: int = 0) -> Any:
    """The literal strings under a node, in plain containers; not those of tags."""
    if depth > MAX_DEPTH or (depth and str(node.tag) not in PLAIN_TAGS):
        return None
    if isinstance(node, MappingNode):
        return {str(k.value): _literals(v, depth + 1) for k, v in node.value}
    if isinstance(node, SequenceNode):
        return [_literals(v, depth + 1) for v in node.value]
    literal = node.value if str(node.tag) != _STANDARD + "null" else None
    return None if literal in ("false", "False") else literal


def check_text(text: str, name: str = "hyperparams.yaml") -> Node:
    """Check a flat YAML text (a bundle's): includes are refused too.

    Returns
    -------
    Node
        The composed document, ready for ``loading``.

    Raises
    ------
    UnsafeYamlError
        At the first thing that is not on the allow-list; nothing was built.

    Example
    -------
    >>> _ = check_text("layer: !new:torch.nn.Linear [2, 3]")
    >>> check_text("x: !apply:os.system [id]")
    Traceback (most recent call last):
    ...
    speechbrain_dsu.inference.allowlist.UnsafeYamlError: hyperparams.yaml:1: ...
    """
    node = compose(text, name)
    _Checker(None).check(node, name, Path(), ())
    return node


def check_yaml(path: str | Path, root: str | Path | None = None) -> None:
    """Check a YAML file and every file it includes, before anything is built.

    Arguments
    ---------
    path : str or Path
        The file.
    root : str or Path, optional
        The folder that includes must stay in, where ``..`` may then be used; by
        default the file's own, without ``..``. Symbolic links are followed before
        the comparison.

    Raises
    ------
    UnsafeYamlError
        At the first thing that is not on the allow-list, with file, line and tag.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.yaml"
    >>> _ = path.write_text("run: !new:subprocess.Popen [id]")
    >>> check_yaml(path)
    Traceback (most recent call last):
    ...
    speechbrain_dsu.inference.allowlist.UnsafeYamlError: ...
    """
    path = Path(path)
    if not path.is_file():
        raise DsuError(f"{path}: there is no such YAML file")
    checker = _Checker(path.parent if root is None else Path(root), root is not None)
    checker.check_file(path)
