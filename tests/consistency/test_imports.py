"""Rooms import only what they may; the package's import costs nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / "speechbrain_dsu"
NAME = PACKAGE.name

# What each room may import of ours besides itself; a dotted entry allows one module.
MAY_IMPORT = {
    "utils": set(),
    "tokens": {"utils"},
    "nnet": {"utils", "tokens"},
    "lobes": {"utils", "tokens", "nnet"},
    "tokenizers": {"utils", "tokens", "nnet", "lobes"},
    "decoders": {"utils", "tokens"},
    "dataio": {"utils", "tokens"},
    "evaluation": {"utils", "tokens"},
    # Decoders: validation lets a model write.
    "training": {
        "utils",
        "tokens",
        "nnet.losses",
        "decoders",
        "dataio",
        "evaluation",
    },
    "inference": {"utils", "tokens", "tokenizers", "decoders"},
    # The contracts, and the blocks that a third party's weights are put into.
    "integrations": {"utils", "tokens", "nnet", "lobes", "tokenizers"},
}
# Only the adapters know third parties' model zoos.
ONLY_INTEGRATIONS = ("speechbrain.integrations", "transformers", "sklearn", "joblib")
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> list[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions included."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            found += [
                (node.lineno, f"{node.module}.{alias.name}") for alias in node.names
            ]
    return found


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def faults(path: Path) -> list[str]:
    room = room_of(path)
    allowed = MAY_IMPORT.get(room)
    out = []
    for line, name in imported(path):
        where = f"{path}:{line}: {room} imports {name}"
        if name.split(".")[0] != NAME:
            if room not in ("integrations", "cli") and any(
                name == banned or name.startswith(banned + ".")
                for banned in ONLY_INTEGRATIONS
            ):
                out.append(where)
            continue
        if allowed is None:  # the package's own file and cli: everything but itself
            continue
        inner = name.removeprefix(NAME + ".")
        if inner.split(".")[0] == room or inner == "__version__":
            continue
        if not any(inner == a or inner.startswith(a + ".") for a in allowed):
            out.append(where)
    return out


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_import_only_what_they_may(path):
    assert not faults(path), "\n".join(faults(path))


def test_the_rule_catches_a_lazy_import(tmp_path, monkeypatch):
    """The walk itself: a forbidden import inside a function is found."""
    monkeypatch.setattr(sys.modules[__name__], "PACKAGE", tmp_path)
    bad = tmp_path / "tokens" / "x.py"
    bad.parent.mkdir()
    bad.write_text(
        "def f():\n    from speechbrain_dsu.nnet import quantizers\n"
        "    import sklearn\n"
    )
    assert [fault.split(": ")[0] for fault in faults(bad)] == [f"{bad}:2", f"{bad}:3"]


def test_nobody_imports_integrations_or_cli():
    for path in MODULES:
        for line, name in imported(path):
            for room in ("integrations", "cli"):
                if name.startswith(f"{NAME}.{room}") and room_of(path) not in (
                    room,
                    "cli",
                ):
                    raise AssertionError(f"{path}:{line}: imports {name}")


def test_importing_the_package_loads_nothing_heavy():
    code = (
        "import sys, time; start = time.process_time(); import speechbrain_dsu; "
        "heavy = {'torch', 'numpy', 'speechbrain', 'transformers'} & set(sys.modules);"
        "assert not heavy, heavy; print(time.process_time() - start)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr


def test_core_modules_need_no_optional_package():
    """Every module but the adapters imports with the extras blocked."""
    names = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in MODULES
        if path.name not in ("__main__.py",)
    ]
    code = f"""
import importlib, sys
blocked = ("transformers", "peft", "pystoi", "pesq", "jiwer", "sacrebleu", "onnx",
           "onnxruntime", "sklearn", "ray", "torchcodec", "fairseq", "pandas")
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in blocked:
            raise ModuleNotFoundError(f"blocked: {{name}}", name=name)
sys.meta_path.insert(0, Block())
for name in {names!r}:
    importlib.import_module(name.removesuffix(".__init__"))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
