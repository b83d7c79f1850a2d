"""The bundle and the page of provenance: whole, of one state, and clear about what is missing."""

import json
import shutil
import subprocess
import zipfile
from importlib import resources
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sic import params
from sic.errors import SicError
from sic.files import sha256
from sic.report import pages, provenance

ROOT = Path(__file__).parents[1]
LOCK = """schema: '2.0'
stages:
  evaluate:
    cmd: python -m sic.report.notebook notebooks/50_evaluate.ipynb reports/evaluate
    outs:
    - {path: reports/evaluate, hash: md5, md5: 0123.dir, size: 2500000, nfiles: 2}
    - {path: results/metrics.json, hash: md5, md5: 4567, size: 12}
  lic@q1:
    cmd: python -m sic.report.notebook notebooks/41_lic.ipynb reports/lic/q1 quality=q1
    outs:
    - {path: results/of_an_older_study.csv, hash: md5, md5: 89ab, size: 12}
"""


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that looks as after a run of the committed params.yaml."""
    (tmp_path / "docs").mkdir()
    copied = ("params.yaml", "expected.yaml", "requirements.lock", "dvc.yaml", "CITATION.cff")
    for name in (*copied, "LICENSE", "docs/artifact.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "notebooks", tmp_path / "notebooks")
    (tmp_path / "dvc.lock").write_text(LOCK)
    made = ["index.html", "notebook.ipynb", "figures/fig2.png"]
    made += [f"{name}/index.html" for name in pages.names(params.load())]
    for name in (*made, "lic/q9/index.html"):
        (tmp_path / "reports" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "reports" / name).write_text(f"content of {name}")
    (tmp_path / "results").mkdir()
    (tmp_path / "results/metrics.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    # DVC's word; tests/test_pipeline.py has it say.
    monkeypatch.setattr(provenance, "status", dict)
    return tmp_path


def test_the_zip_has_the_report_and_what_it_was_made_from(study: Path) -> None:
    size = provenance.bundle(Path("for_you.zip"))
    assert size == Path("for_you.zip").stat().st_size
    with zipfile.ZipFile("for_you.zip") as archive:
        assert archive.testzip() is None
        assert archive.read("for_you/reports/index.html") == b"content of index.html"
        names = {name.removeprefix("for_you/") for name in archive.namelist()}
    wanted = {"params.yaml", "requirements.lock", "dvc.yaml", "dvc.lock", "results/metrics.json"}
    wanted |= {"notebooks/70_report.ipynb", "reports/notebook.ipynb", "reports/provenance.html"}
    wanted |= {f"reports/{page}/index.html" for page in pages.names(params.load())}
    assert wanted <= names
    assert "reports/lic/q9/index.html" not in names, "params.yaml does not ask for this codec"


def test_equal_files_give_an_equal_zip_and_a_failed_one_leaves_the_old(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    provenance.bundle(Path("a/same.zip"))
    provenance.bundle(Path("b/same.zip"))
    before = Path("a/same.zip").read_bytes()
    assert before == Path("b/same.zip").read_bytes()

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(SicError, match=r"cannot write a/same.zip: No space left.*free some space"):
        provenance.bundle(Path("a/same.zip"))
    assert [path.name for path in Path("a").iterdir()] == ["same.zip"]
    assert Path("a/same.zip").read_bytes() == before


def test_what_has_not_been_made_is_named(study: Path) -> None:
    shutil.rmtree("reports/pictures")
    with pytest.raises(SicError, match=r"no reports/pictures, which params.yaml asks for"):
        provenance.bundle(Path("a.zip"))
    Path("reports/index.html").unlink()
    with pytest.raises(SicError, match=r"no report: reports/index.html.*run python3 study.py"):
        provenance.bundle(Path("a.zip"))
    assert not Path("a.zip").exists()


def test_a_report_older_than_params_is_refused(
    study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provenance, "status", lambda: {"report": [], "lic@q2": []})
    with pytest.raises(SicError, match=r"lic@q2, report would run anew.*run python3 study.py"):
        provenance.bundle(Path("a.zip"))


# ---- what archives read ----


@pytest.fixture
def crate(study: Path) -> dict[str, Any]:
    """The entities of the bundle's crate by their names; the bundle is unpacked into `here`."""
    weights = Path("data/weights/lic/q1.safetensors")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    Path("dvc.lock").write_text(LOCK + DEPS)
    provenance.bundle(Path("here.zip"))
    shutil.unpack_archive("here.zip", ".")
    content = json.loads(Path("here/ro-crate-metadata.json").read_text())
    return {entity["@id"]: entity for entity in content["@graph"]}


DEPS = """    deps:
    - {path: data/weights/lic, hash: md5, md5: cdef.dir, size: 7, nfiles: 1}
    - {path: results/metrics.json, hash: md5, md5: '4567', size: 12}
"""


def listed(value: Any) -> list[dict[str, str]]:
    """References, of which JSON-LD writes a single one without brackets."""
    return value if isinstance(value, list) else [value]


class Answer:
    """The context that the package rocrate has, of a later version, in place of an address."""

    status_code = 200
    headers: ClassVar = {"Content-Type": "application/ld+json"}
    text = (resources.files("rocrate") / "data/ro-crate.jsonld").read_text()

    def json(self) -> Any:
        return json.loads(self.text)


def test_the_crate_is_valid(
    crate: dict[str, Any], study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rocrate_validator import models, services
    from rocrate_validator.utils.http import HttpRequester

    asked: list[str] = []

    def get(self: HttpRequester, url: str, **_: Any) -> Answer:
        asked.append(url)
        return Answer()

    monkeypatch.setattr(HttpRequester, "get", get, raising=False)
    settings = services.ValidationSettings(
        rocrate_uri=str(study / "here"),
        profile_identifier="ro-crate-1.1",
        requirement_severity=models.Severity.REQUIRED,
        offline=True,
    )
    found = services.validate(settings)
    assert [str(issue.message) for issue in found.get_issues()] == []
    assert set(asked) == {"https://w3id.org/ro/crate/1.1/context"}


def test_the_crate_says_whose_what_and_from_what(crate: dict[str, Any]) -> None:
    root = crate["./"]
    assert [crate[one["@id"]]["name"] for one in listed(root["creator"])] == ["The sic authors"]
    assert crate[root["license"]["@id"]]["name"] == "MIT"
    assert [one["@id"] for one in listed(root["citation"])] == ["#arXiv:2405.09152"]
    numbers = crate["results/metrics.json"]
    assert numbers["sha256"] == sha256(Path("results/metrics.json"))
    stage = crate["#stage/lic@q1"]
    notebook = crate["notebooks/41_lic.ipynb"]
    assert notebook["license"]["@id"] == crate["results/metrics.json"]["license"]["@id"]
    assert {"@id": "notebooks/41_lic.ipynb"} in stage["instrument"]
    assert any(one["@id"].startswith("#torch ") for one in stage["instrument"])
    given, also = (crate[one["@id"]] for one in stage["object"])
    assert also is numbers
    assert crate[given["license"]["@id"]]["name"].startswith("research use")
    (file,) = [crate[one["@id"]] for one in listed(given["hasPart"])]
    assert file["sha256"] == sha256(Path("data/weights/lic/q1.safetensors"))
    assert {"@id": "results/metrics.json"} in listed(crate["#stage/evaluate"]["result"])


def test_every_file_of_the_bundle_is_in_the_crate(crate: dict[str, Any]) -> None:
    files = {str(p.relative_to("here")) for p in Path("here").rglob("*") if p.is_file()}
    assert files - {"ro-crate-metadata.json"} == {one["@id"] for one in crate["./"]["hasPart"]}


def test_without_citation_the_bundle_is_one_line(study: Path) -> None:
    Path("CITATION.cff").unlink()
    with pytest.raises(SicError, match=r"CITATION.cff is not there; bring it back"):
        provenance.bundle(Path("a.zip"))


# ---- provenance ----


def git(*words: str) -> None:
    who = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
    subprocess.run(["git", *who, *words], check=True, capture_output=True)


def test_the_page_names_commit_settings_and_products(study: Path) -> None:
    git("init", "-q", "-b", "main")
    git("add", "params.yaml")
    git("commit", "-q", "-m", "state")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout
    provenance.write()
    page = provenance.PAGE.read_text()
    assert commit.strip() in page
    assert "with changes since" in page, "most files here are not committed"
    for part in ("lic@q1", "reports/evaluate", "0123.dir", "2.500", "torch "):
        assert part in page
    assert "multiplies 255²" in page, "params.yaml itself"
    provenance.write()
    assert provenance.PAGE.read_text() == page


def test_a_download_without_git_has_a_page_too(study: Path) -> None:
    provenance.write()
    assert "no git history here" in provenance.PAGE.read_text()


def test_before_the_first_run_there_is_nothing_to_tell(study: Path) -> None:
    Path("dvc.lock").unlink()
    with pytest.raises(SicError, match=r"no dvc.lock: nothing has run yet"):
        provenance.write()
