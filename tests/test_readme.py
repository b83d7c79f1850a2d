"""README and docs say what is so: the Python block runs, and what they name is there."""

import os
import pkgutil
import re
import shlex
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "data").rglob("README.md")),
    *sorted((ROOT / "docs").glob("*.md")),
]
by_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))

#: What a run makes, as .gitignore lists it: documents may name it, and a fresh clone lacks it.
MADE = [line[1:] for line in (ROOT / ".gitignore").read_text().splitlines() if line[0:1] == "/"]


FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall(page.read_text()) if language in languages]


def quoted(page: Path) -> set[str]:
    """What stands between backticks outside of blocks, on one line each."""
    prose = FENCED.sub("", page.read_text())
    return {" ".join(words.split()) for words in re.findall(r"`([^`]+)`", prose)}


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_python_block_prints_what_the_readme_expects() -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    (expected,) = blocks(ROOT / "README.md", "text")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    number = re.compile(r"\d+(?:\.\d+)?")
    assert number.sub("#", done.stdout) == number.sub("#", expected)
    machine, human, bpp, size = (float(found) for found in number.findall(expected))
    printed = [float(found) for found in number.findall(done.stdout)]
    assert printed[:2] == pytest.approx([machine, human], abs=0.02)
    assert printed[2:] == pytest.approx([bpp, size], rel=0.02)


@by_page
def test_a_link_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]*)(?:#([^)]*))?\)", page.read_text())
    for path, anchor in links:
        target = (page.parent / path) if path else page
        assert target.exists(), path
        assert not anchor or anchor in anchors(target), f"{path}#{anchor}"


@by_page
def test_a_file_that_is_named_is_there(page: Path) -> None:
    top = {path.name for path in ROOT.iterdir() if path.is_dir()} | {m.split("/")[0] for m in MADE}
    paths = {name for name in quoted(page) if re.fullmatch(r"[\w.-]+(/[\w.-]*)+", name)}
    names = {name for name in paths if name.split("/")[0] in top}
    names |= {name for name in quoted(page) if re.fullmatch(r"[\w-]+\.(yaml|toml|cff|lock)", name)}
    made = {n for n in names if any(fnmatch(n, m) or n.startswith(f"{m}/") for m in MADE)}
    assert [name for name in names - made if not (ROOT / name).exists()] == []


def test_the_map_of_the_readme_is_the_repository() -> None:
    (entries,) = (b for b in blocks(ROOT / "README.md", "") if b.startswith("params.yaml"))
    folder, named = "", set()
    for line in entries.splitlines():
        name = re.match(r"( {0,2})(\S+)", line)
        if name:
            folder = folder if name[1] else name[2]
            named.add(folder + name[2] if name[1] else folder)
    made = {name for name in named if name.rstrip("/") in MADE}
    assert [name for name in named - made if not (ROOT / name).exists()] == []
    packages = {f"sic/{path.parent.name}/" for path in (ROOT / "sic").glob("*/__init__.py")}
    assert packages <= named
    for package, line in re.findall(r"^  (\w+/) .*?((?:.*\n {16})*.*)", entries, re.MULTILINE):
        for module in re.findall(r"\w+\.py", line):
            assert (ROOT / "sic" / package / module).exists(), module


@by_page
def test_a_name_of_the_code_is_there(page: Path) -> None:
    for name in quoted(page):
        if re.fullmatch(r"sic(\.\w+)+", name):
            pkgutil.resolve_name(name)


@by_page
def test_a_command_of_the_study_is_one(page: Path) -> None:
    from dvc.cli.parser import get_main_parser

    lines = [line for block in blocks(page, "sh", "") for line in block.splitlines()]
    lines += quoted(page)
    named = [
        re.match(r"(?:python3 study\.py|dvc)((?: .*)?)$", line.split(" | ")[0]) for line in lines
    ]
    commands = [shlex.split(match[1], comments=True) for match in named if match]
    stages = YAML(typ="safe").load((ROOT / "dvc.yaml").read_text())["stages"]
    for words in commands:
        if words[:1] == ["profile"]:
            assert words[1] == "NAME" or (ROOT / f"profiles/{words[1]}.yaml").is_file(), words
        elif words[:1] == ["train-all"]:
            assert all(word.isdecimal() or word in ("N", "[N]") for word in words[1:]), words
        elif words and words[0] not in ("test", "bench", "lab", "verify", "bundle"):
            parsed = get_main_parser().parse_args(words)
            if words[0] == "repro":
                assert {target.partition("@")[0] for target in parsed.targets} <= set(stages), words


@pytest.mark.parametrize("words", [r"\ba (row|curve|line|file|look) an? \w+", "told apart only"])
def test_prose_says_per(words: str) -> None:
    kinds = (("sic", "*.py"), ("notebooks", "*.ipynb"), ("docs", "*.md"))
    texts = [path for folder, kind in kinds for path in (ROOT / folder).rglob(kind)]
    bad = [path.name for path in [*texts, *PAGES] if re.search(words, path.read_text())]
    assert bad == [], "one curve per codec, not a curve a codec"
