"""What README and docs show is run: Python blocks and ``dsu`` lines, in order."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from speechbrain_dsu.utils.paths import bundles_dir

ROOT = Path(__file__).resolve().parents[2]
# Needs corpora that are not here; its commands are what its numbers came from.
MEASUREMENTS = ROOT / "docs" / "measurements.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Shell lines that set up a machine, or need what a test has not.
NOT_RUN = (
    "pip ",
    "make ",
    "git ",
    "python recipes/",
    "dsu bench",
    "dsu claim",
    "torchrun",
)


def commands(text):
    """Shell lines with continuations joined and comments dropped."""
    joined = text.replace("\\\n", " ")
    lines = (line.split(" #")[0].strip() for line in joined.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_snippets_run(page, tmp_path, monkeypatch, capsys):
    from speechbrain_dsu.cli.main import main

    monkeypatch.chdir(tmp_path)
    shutil.copy(bundles_dir() / "speech.wav", "speech.wav")
    Path("corpus").mkdir()
    shutil.copy("speech.wav", "corpus/one.wav")
    shutil.copy("speech.wav", "corpus/two.wav")
    names: dict = {}
    if page == MEASUREMENTS:
        pytest.skip("takes public corpora and minutes: run by hand for each release")
    for language, code in BLOCK.findall(page.read_text(encoding="utf-8")):
        if language == "python":
            exec(compile(code, f"{page.name}", "exec"), names)
        elif language == "bash":
            for line in commands(code):
                if line.startswith(NOT_RUN):
                    continue
                words = shlex.split(line)
                assert words[0] == "dsu", f"{page.name}: unknown command {line}"
                assert main(words[1:]) == 0, f"{page.name}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)", text):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
