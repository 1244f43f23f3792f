"""Every public object has a docstring; user-facing modules carry runnable examples."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "speechbrain_dsu"
MODULES = sorted(PACKAGE.rglob("*.py"))


def public_definitions(body, prefix=""):
    """Yield (name, node) of public classes, functions and methods."""
    for node in body:
        kinds = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{node.name}.")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_public_objects_are_documented(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    missing = [] if ast.get_docstring(tree) else [f"{path}:1: module"]
    missing += [
        f"{path}:{node.lineno}: {name}"
        for name, node in public_definitions(tree.body)
        if not ast.get_docstring(node)
    ]
    assert not missing, "\n".join(missing)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_arguments_and_results_are_typed(path):
    """Every public function states the type of each argument."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    untyped = []
    for name, node in public_definitions(tree.body):
        if isinstance(node, ast.ClassDef):
            continue
        arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
        for argument in arguments:
            if argument.annotation is None and argument.arg not in ("self", "cls"):
                untyped.append(f"{path}:{node.lineno}: {name}({argument.arg})")
    assert not untyped, "\n".join(untyped)


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_and_functions_stay_small(path):
    """A file over 400 lines or a function over 70 wants to be two."""
    source = path.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= 400, path
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef):
            doc = ast.get_docstring(node, clean=False) or ""
            code = node.end_lineno - node.lineno - doc.count("\n")
            assert code <= 70, f"{path}:{node.lineno}: {node.name} has {code} lines"


def test_there_is_something_to_check():
    assert len(MODULES) > 20
