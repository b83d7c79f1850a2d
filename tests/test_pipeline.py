"""The pipeline: exact dependencies, and one small real run in a clone that ends with the report."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chromium
import nbformat
import pytest
from dvc.repo import Repo
from ruamel.yaml import YAML

from sic import params

ROOT = Path(__file__).parents[1]
STAGES: dict[str, Any] = {
    name: stage.get("do", stage)
    for name, stage in YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"].items()
}
NOTEBOOK = re.compile(r"notebooks/(\w+)\.ipynb")

# ---- exact dependencies ----


def notebook_of(stage: str) -> str | None:
    found = NOTEBOOK.search(STAGES[stage]["cmd"])
    return found[1] if found else None


def code_of(notebook: str) -> str:
    cells = nbformat.read(ROOT / f"notebooks/{notebook}.ipynb", as_version=4).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    return re.sub(r"^%.*$", "", code, flags=re.MULTILINE)


NOTEBOOK_STAGES = [stage for stage in STAGES if notebook_of(stage)]


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_a_stage_depends_on_the_code_of_its_notebook_alone(stage: str) -> None:
    listed = [d for d in STAGES[stage]["deps"] if d.endswith(".py")]
    assert listed == [f"build/code/{notebook_of(stage)}.py"]


@pytest.mark.parametrize("stage", NOTEBOOK_STAGES)
def test_a_stage_depends_on_every_section_of_params_that_its_notebook_reads(stage: str) -> None:
    notebook = notebook_of(stage)
    assert notebook
    sections = {f.split(".")[0] for f in STAGES[stage].get("params", [])}
    named = set(re.findall(r"\bstudy\.(\w+)", code_of(notebook))) & set(params.Params.model_fields)
    named.discard("machine")  # no result depends on it
    assert named <= sections, "the notebook reads a section that a change of would not rerun it"


def test_no_stage_depends_on_an_executed_copy() -> None:
    for stage in STAGES.values():
        assert not [d for d in stage["deps"] if d.startswith("reports")]


def test_every_notebook_is_a_stage() -> None:
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks == {notebook_of(stage) for stage in NOTEBOOK_STAGES}


def test_products_are_kept_out_of_git_from_the_start() -> None:
    outs = [out for stage in STAGES.values() for out in stage.get("outs", [])]
    plain = [re.sub(r"\$\{.*?\}", "x", out) for out in outs]
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", *plain], cwd=ROOT, capture_output=True, text=True
    ).stdout.split()
    assert sorted(ignored) == sorted(plain)


# ---- a small real run ----

SMALL = {
    "data": {
        "source": "sample", "root": None, "url": None,
        "train": ["chelsea"], "validation": ["color"], "test": ["sundae"],
    },
    "codec": {
        "N": 8, "M": 20, "num_slices": 5, "hyper": 8, "context": [8, 8], "attention": 8,
        "head_dims": [4, 4, 4], "hyper_head_dim": 4, "attention_head_dim": 4,
    },
    "quality": {"q1": {"lmbda": 0.005}, "q2": {"lmbda": 0.01}},
    "stages": {
        "sa_icm": {"quality": ["q1", "q2"], "base": "q1"}, "lic": {"quality": ["q1", "q2"]},
        "fusion": {
            "codecs": {f"m{m}-q1": {"m": m, "quality": "q1"} for m in (2, 1)} | {
                "cfr-m2-q1": {"m": 2, "quality": "q1", "residual": "feature", "condition": True}
            },
        },
        "difference": {"quality": ["q1"]},
    },
    "anchors": {  # libvvenc refuses the noise that an untrained base decodes
        "vvc": {"preset": "faster", "qp": [37, 47]}, "vvc_m": {"qp": []},
        "hevc": {"preset": "fast", "qp": [37]}, "avif": {"quality": [15]},
        "jpeg_xl": {"distance": [8.0]},
    },
}  # fmt: skip


#: Stages that show λ beside what they measure or draw.
NAMES_POINTS = {"evaluate", "steps", "detect", "stream", "pictures", "report"}


class Study:
    """A clone of the working tree with a small params.yaml."""

    ran = False  # whether stages may have: what they made is to be put back

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        files = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.split("\0")
        for name in filter(None, files):
            if (ROOT / name).is_file() and name != "dvc.lock" and not name.startswith("results/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self.edit(self._small)
        self.git("init", "-q", "-b", "main")
        self.commit()

    @staticmethod
    def _small(content: dict[str, Any]) -> None:
        content["data"].update(SMALL["data"])
        content["codec"] = SMALL["codec"]
        content["quality"] = SMALL["quality"]
        content["train"].update(batch=1)
        content["machine"].update(validate_every=2, device="cpu")
        for stage, values in SMALL["stages"].items():
            content[stage].update(values, steps=2, init="data/weights/scratch", train=True)
        content["evaluate"].update(jpeg=[10, 50], webp=[10, 50], steps=[0.5, 2])
        for codec, values in SMALL["anchors"].items():
            content["evaluate"][codec].update(values)

    def edit(self, change: Any) -> None:
        file = self.folder / "params.yaml"
        content = YAML(typ="safe").load(file)
        change(content)
        YAML().dump(content, file)

    def git(self, *words: str) -> str:
        who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return self._run("git", *who, *words)

    def commit(self) -> None:
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "state")

    def dvc(self, *words: str) -> str:
        self.ran |= words[0] in ("repro", "commit")
        return self._run(sys.executable, "-m", "dvc", *words)

    def python(self, *words: str) -> str:
        return self._run(sys.executable, *words)

    def _run(self, *command: str) -> str:
        done = self.answer(*command)
        assert done.returncode == 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        return done.stdout

    def answer(self, *command: str) -> "subprocess.CompletedProcess[str]":
        environment = {
            **os.environ,
            "PYTHONPATH": str(self.folder),
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "OMP_NUM_THREADS": "1",
        }
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True
        )

    def changed(self) -> set[str]:
        """Stages whose own inputs changed, by DVC's word: `dvc status --json` in this process."""
        with contextlib.chdir(self.folder), Repo() as repo:
            return set(repo.status())

    def restore(self) -> None:
        """Put back what is in git, and what stages made."""
        self.git("checkout", "-q", ".")
        if self.ran:
            self.dvc("checkout", "--force")
        self.ran = False


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    study = Study(tmp_path_factory.mktemp("study"))
    study.dvc("repro")
    study.commit()
    return study


@pytest.fixture
def restored(study: Study) -> Iterator[Study]:
    study.ran = False
    yield study
    study.restore()


def test_the_run_ends_with_the_report(study: Study) -> None:
    report = (study.folder / "reports/index.html").read_text()
    assert "Findings" in report
    for link in set(re.findall(r'href="([\w/-]+/index\.html)"', report)):
        assert (study.folder / "reports" / link).exists(), link
    for name in ("fig2", "fig3", "fig5", "fig6", "fig7"):
        assert (study.folder / f"reports/figures/{name}.png").stat().st_size > 5000
        assert f'href="figures/{name}.svg"' in report
        assert (study.folder / f"reports/figures/{name}.svg").exists()
    notebooks = list(study.folder.glob("reports/**/notebook.ipynb"))
    assert len(notebooks) == len(STAGES) - 1 + 4, (
        "one per stage, two each of sa_icm and lic, and three of fusion"
    )
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        assert cells[-1].outputs, f"{path} ends with its finding"
        shown = [o.data for c in cells for o in c.get("outputs", ()) if "data" in o]
        named = [data for data in shown if data.get("text/plain", "").startswith("<Figure")]
        assert all("image/png" in data for data in named), f"{path} names a figure and draws none"


def test_every_page_opens_without_a_fault_or_the_network_and_fits_its_window(
    study: Study, tmp_path: Path
) -> None:
    study.python("-m", "sic.report.provenance")
    with chromium.browser(tmp_path) as window:
        for page in sorted((study.folder / "reports").rglob("*.html")):
            for width in (1366, 390):
                window.open(page, width)
                assert window.faults == [], page
                assert [a for a in window.requests if not a.startswith("file:")] == [], page
                assert window.value("document.documentElement.scrollWidth") <= width, page


def test_the_measurements_are_there_for_every_codec(study: Study) -> None:
    metrics = json.loads((study.folder / "results/metrics.json").read_text())
    assert {"SA-ICM", "LIC", "fusion", "difference", "JPEG", "WebP"} <= set(metrics)
    assert set(metrics["SA-ICM"]) == set(metrics["LIC"]) == {"q1", "q2"}
    assert set(metrics["fusion"]) == {"m1-q1", "m2-q1"}
    assert set(metrics["conditional FR"]) == {"m2-q1"}
    for points in metrics.values():
        for numbers in points.values():
            assert numbers["bpp"] == pytest.approx(
                numbers["bpp_base"] + numbers["bpp_additional"], abs=2e-4
            )


def test_nothing_is_left_to_do_and_git_is_clean(study: Study) -> None:
    assert study.changed() == set()
    assert "Running stage" not in study.dvc("repro")
    assert study.git("status", "--porcelain") == ""
    assert not list((study.folder / "checkpoints").glob("**/*.pt")), "finished runs leave no state"


def test_a_clone_with_the_cache_at_hand_runs_no_stage(study: Study, tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    study.git("clone", "-q", str(study.folder), str(clone))
    other = object.__new__(Study)
    other.folder = clone
    other.dvc("cache", "dir", "--local", str(study.folder / ".dvc/cache"))
    assert "Running stage" not in other.dvc("repro")
    assert (clone / "reports/index.html").read_bytes() == (
        study.folder / "reports/index.html"
    ).read_bytes()


def test_alpha_reruns_the_edges_and_never_the_segments(restored: Study) -> None:
    restored.edit(lambda content: content["edges"].update(alpha=0.5))
    assert restored.changed() == {"edges", "report"}, "the report names alpha"


def test_one_lambda_retrains_that_point_alone(restored: Study) -> None:
    restored.edit(lambda content: content["quality"]["q2"].update(lmbda=0.02))
    # One LIC trains, and a base on which no second layer stands; the others name rate points.
    assert restored.changed() == {"sa_icm@q2", "lic@q2", *NAMES_POINTS}


def test_another_base_retrains_what_stands_on_it_and_no_base(restored: Study) -> None:
    restored.edit(lambda content: content["sa_icm"].update(base="q2"))
    layers = {"fusion@m2-q1", "fusion@m1-q1", "fusion@cfr-m2-q1", "difference@q1"}
    assert restored.changed() == {*layers, "why", *NAMES_POINTS}


def test_metrics_diff_shows_what_a_changed_lambda_moved(restored: Study) -> None:
    restored.edit(lambda content: content["quality"]["q2"].update(lmbda=0.03))
    restored.dvc("repro", "evaluate")
    moved = json.loads(restored.dvc("metrics", "diff", "--json"))["results/metrics.json"]
    assert moved
    # After two steps from nothing the digits of one of the two may not have moved.
    assert {tuple(key.split(".")[:2]) for key in moved} <= {("SA-ICM", "q2"), ("LIC", "q2")}


def test_a_reviewer_pulls_every_result_and_has_nothing_to_run(study: Study, tmp_path: Path) -> None:
    study.dvc("remote", "add", "--local", "--force", "shelf", str(tmp_path / "shelf"))
    study.dvc("push", "--remote", "shelf")
    reviewer = object.__new__(Study)
    reviewer.folder = tmp_path / "reviewer"
    study.git("clone", "-q", str(study.folder), str(reviewer.folder))
    reviewer.dvc("remote", "add", "--local", "shelf", str(tmp_path / "shelf"))
    reviewer.dvc("pull", "--remote", "shelf")
    assert reviewer.changed() == set()
    for page in ("index.html", "pictures/index.html", "lic/q1/notebook.ipynb"):
        assert (reviewer.folder / "reports" / page).read_bytes() == (
            study.folder / "reports" / page
        ).read_bytes()


def test_the_bundle_opens_anywhere_and_is_refused_when_it_is_old(
    restored: Study, tmp_path: Path
) -> None:
    restored.python("-m", "sic.report.provenance", "bundle", str(tmp_path / "all.zip"))
    shutil.unpack_archive(tmp_path / "all.zip", tmp_path)
    report = (tmp_path / "all/reports/index.html").read_text()
    for link in set(re.findall(r'(?:href|src)="([\w./-]+)"', report)):
        assert (tmp_path / "all/reports" / link).exists(), link
    restored.edit(lambda content: content["edges"].update(alpha=0.5))
    with pytest.raises(AssertionError, match=r"edges, report would run anew"):
        restored.python("-m", "sic.report.provenance", "bundle", str(tmp_path / "old.zip"))
    assert not (tmp_path / "old.zip").exists()


def test_verify_passes_after_a_run_and_names_what_was_changed(restored: Study) -> None:
    def outside(code: int) -> list[str]:
        done = restored.answer(sys.executable, "-m", "sic.report.verify")
        assert done.returncode == code, done.stdout + done.stderr
        rows = [line for line in done.stdout.splitlines() if line.endswith("OUTSIDE")]
        return ["  ".join(re.split(r"\s{2,}", row.strip())[:-1]) for row in rows]

    restored.ran = True
    restored.python("-m", "sic.report.verify", "--accept")
    assert outside(0) == []
    edited = restored.folder / "results/rd.csv"
    content = edited.read_text()
    edited.unlink()  # it shares its bytes with the cache
    edited.write_text(content.replace("fusion", "difference", 1))
    remedy = "results/rd.csv: not what the run left; made again"
    assert outside(1) == [f"results  as the run left them  {remedy}"]
    (restored.folder / params.load(restored.folder / "params.yaml").segment.checkpoint).write_text(
        "!"
    )
    restored.edit(lambda content: content["quality"]["q2"].update(lmbda=0.03))
    rows = outside(1)  # and, below these, whatever numbers the other λ moved
    assert rows[0] == "params  as accepted  quality.q2.lmbda 0.03, not 0.01"
    assert rows[1] == "weights  as accepted  data/weights/none is another file"


def rerun_after(study: Study, *changes: tuple[str, str, str]) -> set[str]:
    """Stages that are to run after changes of modules' texts: module, old and new."""
    for module, old, new in changes:
        path = study.folder / "sic" / module
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
    study.dvc("repro", "code")
    return study.changed()


TRAINING = {
    "sa_icm@q1",
    "sa_icm@q2",
    "lic@q1",
    "lic@q2",
    "fusion@m2-q1",
    "fusion@m1-q1",
    "fusion@cfr-m2-q1",
    "difference@q1",
}
MASKS = {"data", "segment", "edges"}


def test_the_colour_of_a_training_curve_retrains_nothing(restored: Study) -> None:
    changed = rerun_after(restored, ("report/figures.py", '"train": "-"', '"train": ":"'))
    assert not changed & TRAINING


def test_comments_and_docstrings_rerun_nothing(restored: Study) -> None:
    edits = (('"""', '"""Well: '), ("\n\n\n", "\n\n\n# So.\n"))
    modules = ("codec/tcm.py", "training/loop.py", "masks/edges.py")
    changes = [(module, *edit) for module in modules for edit in edits]
    assert rerun_after(restored, *changes) == set()


def test_a_line_of_the_codec_retrains_every_codec_and_draws_no_mask(restored: Study) -> None:
    found = rerun_after(restored, ("codec/tcm.py", "HYPER_WINDOW = 4", "HYPER_WINDOW = 2"))
    assert found >= TRAINING
    assert not found & MASKS


def test_how_the_machine_works_reruns_nothing(restored: Study) -> None:
    restored.edit(lambda content: content["machine"].update(workers=2, validate_every=7))
    assert restored.changed() == set()


def test_more_resamplings_code_nothing_again(restored: Study) -> None:
    restored.edit(lambda content: content["compare"].update(bootstrap=10))
    assert restored.changed() == {"compare", "detect", "report"}


def test_another_step_is_tried_and_nothing_else_is_coded(restored: Study) -> None:
    restored.edit(lambda content: content["evaluate"].update(steps=[0.5, 2, 4]))
    assert restored.changed() == {"steps", "report"}


def test_a_notebook_saved_with_its_outputs_reruns_nothing_but_the_look_at_its_code(
    restored: Study,
) -> None:
    source = restored.folder / "notebooks/40_sa_icm.ipynb"
    shutil.copy(restored.folder / "reports/sa_icm/q1/notebook.ipynb", source)
    executed = nbformat.read(source, as_version=4)
    executed.cells = [c for c in executed.cells if "injected-parameters" not in c.metadata.tags]
    executed.cells[0].source += "\nMore prose."
    nbformat.write(executed, source)
    assert restored.changed() == {"code"}
    answer = restored.dvc("repro")
    assert re.findall(r"Running stage '(\w+)", answer) == ["code"]


def test_a_repeated_stage_gives_the_same_bytes(study: Study) -> None:
    study.dvc("repro", "--force", "--single-item", "lic@q1")
    assert study.git("status", "--porcelain") == "", "dvc.lock has the same hashes as before"


def test_a_misspelt_key_stops_the_run_with_one_line(restored: Study) -> None:
    file = restored.folder / "params.yaml"
    file.write_text(file.read_text().replace("alpha:", "alpa:"))
    with pytest.raises(AssertionError, match=r"sic: params.yaml: unknown key edges.alpa"):
        restored.dvc("repro", "edges")
