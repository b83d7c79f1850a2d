"""The house rules: what holds for all files of the repository at once."""

import ast
import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
MODULES = sorted((ROOT / "sic").rglob("*.py"))
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))

#: The eight folders, from the ground up: a folder imports only from those on lines above its own,
#: and from the modules that lie directly in ``sic``.
FLOORS = (
    ("codec", "data", "anchors"),
    ("masks", "training", "stream"),
    ("evaluation",),
    ("report",),
)


def tree(module: Path) -> ast.Module:
    return ast.parse(module.read_text(encoding="utf-8"))


def folder(module: Path) -> str:
    """The folder of ``sic`` that a module lies in; empty for those directly in ``sic``."""
    parts = module.relative_to(ROOT / "sic").parts
    return parts[0] if len(parts) > 1 else ""


def imported(module: Path) -> set[str]:
    """Folders of the package that a module imports from, anywhere in it; "" for ``sic`` itself."""
    dotted: set[str] = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: imports name the package"
            dotted |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            dotted |= {alias.name for alias in node.names}
    ours = [name.split(".") for name in dotted if name.split(".")[0] == "sic"]
    return {parts[1] if parts[1:] and parts[1] in sum(FLOORS, ()) else "" for parts in ours}


def tracked() -> list[Path]:
    """The files that git keeps."""
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    answer = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True)
    return [ROOT / name for name in answer.stdout.decode().split("\0") if name]


# ---- the environment -------------------------------------------------------------------------


def pins() -> dict[str, Version]:
    """Package and version of each pin; a package may have one for each kind of machine."""
    found = re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK, re.MULTILINE)
    return {canonicalize_name(name): Version(version) for name, version in found}


def test_the_lock_is_names_versions_and_hashes() -> None:
    head = r"[a-z0-9._-]+==[^ ;\\]+(?: ; [^\\]+?)?"
    pin = re.compile(rf"{head}(?: \\\n    --hash=sha256:[0-9a-f]{{64}})+\n")
    assert pin.sub("", LOCK) == ""
    assert "//" not in LOCK


def test_the_lock_has_everything_that_the_package_asks_for() -> None:
    wanted = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]
    for requirement in map(Requirement, wanted):
        version = pins().get(canonicalize_name(requirement.name))
        assert version, f"{requirement.name} is not in requirements.lock: compile it anew"
        assert version in requirement.specifier, f"{requirement}: the lock has {version}"


def test_environment_yml_is_in_step() -> None:
    content = YAML(typ="safe").load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, packages = content["dependencies"]
    # As repo2docker reads it: one version, or its own default.
    version = re.fullmatch(r"python =(\d+\.\d+)", python)
    assert version
    assert Version(version[1]) in SpecifierSet(PROJECT["requires-python"])
    assert pip == "pip"
    assert packages == {"pip": ["--require-hashes", "-r requirements.lock"]}
    assert (ROOT / "postBuild").stat().st_mode & 0o111, "repo2docker runs it"


def test_the_development_container_has_a_python_of_ours_and_runs_the_study() -> None:
    text = (ROOT / ".devcontainer/devcontainer.json").read_text(encoding="utf-8")
    content = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    version = re.fullmatch(r"python:(\d+\.\d+)-\w+", content["image"])
    assert version
    assert Version(version[1]) in SpecifierSet(PROJECT["requires-python"])
    assert content["postCreateCommand"].startswith("python3 study.py ")


def test_ci_runs_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert "python3 study.py test" in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


# ---- the package -----------------------------------------------------------------------------


def test_there_are_eight_folders() -> None:
    folders = {path.parent.name for path in (ROOT / "sic").glob("*/__init__.py")}
    assert folders == set(sum(FLOORS, ()))


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "sic")))
def test_a_folder_imports_only_from_those_below_it(module: Path) -> None:
    own = folder(module)
    if module.name == "__main__.py" or (not own and module.name == "__init__.py"):
        return  # the command line and the names for users reach into every folder
    level = next((i for i, floor in enumerate(FLOORS) if own in floor), 0)
    below = set(sum(FLOORS[:level], ())) | {""}
    assert imported(module) <= below | ({own} if own else set())


def test_a_package_that_fits_in_the_head() -> None:
    modules = [path for path in MODULES if path.name != "__init__.py"]
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES)
    assert len(modules) <= 76
    assert lines <= 15_010


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "sic")))
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) < 400


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT / "sic")))
def test_what_is_public_says_what_it_is(module: Path) -> None:
    if not module.read_text(encoding="utf-8").strip():
        return
    parts = [node for node in tree(module).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    silent = [part.name for part in parts if part.name[0] != "_" and not ast.get_docstring(part)]
    assert ast.get_docstring(tree(module)), "the module's one idea"
    assert silent == []


def test_nothing_is_left_for_later() -> None:
    marks = re.compile("|".join(("TO" + "DO", "FIX" + "ME", "NotImplemented" + "Error")))
    sources = [*MODULES, *(ROOT / "tests").glob("*.py"), *NOTEBOOKS, ROOT / "study.py"]
    assert [p.name for p in sources if marks.search(p.read_text(encoding="utf-8"))] == []


# ---- the notebooks ---------------------------------------------------------------------------


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def notebook(request: pytest.FixtureRequest) -> NotebookNode:
    content = nbformat.read(request.param, as_version=4)
    nbformat.validate(content)
    return content


def test_a_source_notebook_has_no_outputs(notebook: NotebookNode) -> None:
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.outputs == [] and cell.execution_count is None for cell in code)
    assert "papermill" not in notebook.metadata


def test_a_notebook_opens_with_words_and_takes_parameters(notebook: NotebookNode) -> None:
    assert notebook.cells[0].cell_type == "markdown"
    assert notebook.cells[0].source.startswith("# ")
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assert len(tagged) == 1
    assert tagged[0].cell_type == "code"


def test_a_notebook_ends_with_something(notebook: NotebookNode) -> None:
    assert notebook.cells[-1].source.strip()
    assert all(cell.source.strip() for cell in notebook.cells), "an empty cell"


def test_cell_ids_are_unique(notebook: NotebookNode) -> None:
    ids = [cell.id for cell in notebook.cells]
    assert len(ids) == len(set(ids))


def test_jupyterlab_keeps_the_kernel_as_it_stands_there(notebook: NotebookNode) -> None:
    # What JupyterLab writes on saving; another name would show as a change in git.
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    assert notebook.metadata.kernelspec == kernel


# ---- what git keeps --------------------------------------------------------------------------


def test_no_large_file_is_committed() -> None:
    limit = 5 * 2**20
    large = [path.name for path in tracked() if path.is_file() and path.stat().st_size > limit]
    assert large == []


def test_no_product_is_committed() -> None:
    parts = {"__pycache__", ".venv", ".uv", "checkpoints", "artifacts", ".ipynb_checkpoints"}
    assert [path for path in tracked() if parts & set(path.relative_to(ROOT).parts)] == []
