"""Where the report's numbers come from: commit, settings, versions, and DVC's hash of each product.

A page beside the report, written anew after each run.  It is no product of a stage: a commit
changes when no number does, and equal inputs must give equal products.
"""

import argparse
import json
import platform
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from datetime import date
from html import escape
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

from sic import params, work
from sic.errors import SicError, exit_on_error
from sic.files import replacing, sha256, write_text
from sic.params import Params
from sic.report import crate, pages
from sic.report.page import page

PAGE = Path("reports/provenance.html")
LOCK = Path("dvc.lock")
NAME = Path("sic-bundle.zip")
_REPORT = Path("reports")
_RUN = ("params.yaml", "expected.yaml", "requirements.lock", "dvc.yaml", "dvc.lock")
_SOURCES = (*_RUN, "CITATION.cff", "LICENSE", "docs/artifact.md")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal files give an equal zip
_PACKAGES = ("torch", "numpy", "constriction", "imageio-ffmpeg", "pillow")


def products() -> pd.DataFrame:
    """What the stages left: a row per file or folder, with its hash (of a folder, of its list).
    Raises SicError if nothing has run yet."""
    if not LOCK.is_file():
        raise SicError(f"no {LOCK}: nothing has run yet; run python3 study.py first")
    stages = YAML(typ="safe", pure=True).load(LOCK.read_text())["stages"]
    rows = [
        (stage, out["path"], f"{out['size'] / 1e6:.3f}", out["md5"])
        for stage, entry in stages.items()
        for out in entry.get("outs", [])
    ]
    return pd.DataFrame(rows, columns=["stage", "product", "MB", "MD5 in dvc.lock"])


def commit() -> str:
    """The commit that lies here, and what differs from it; or that there is no git history."""
    if not work.has_git():
        return "no git history here (a download)"
    found = work.git("log", "-1", "--format=%H of %cs")
    if not found:
        return "no commit yet"
    changed = [line[3:] for line in work.git("status", "--porcelain").splitlines()]
    return f"{found}, with changes since in {', '.join(changed)}" if changed else found


def _packages() -> list[str]:
    return [f"{name} {version(name)}" for name in _PACKAGES]


def _day() -> str:
    """The day of the commit that lies here, without git that of the last stage's lock."""
    found = work.git("log", "-1", "--format=%cs")
    return found or date.fromtimestamp(LOCK.stat().st_mtime).isoformat()


def write() -> None:
    """Write the page, from the study's folder.  Raises SicError if nothing has run yet, or
    params.yaml is wrong."""
    study = params.load()
    devices = {"training": study.machine.device, "coding": study.machine.coding_device}
    facts = {
        "git commit": commit(),
        "params.yaml": f"SHA-256 {sha256(params.PARAMS)}",
        "requirements.lock": f"SHA-256 {sha256(Path('requirements.lock'))}",
        "seed": f"{study.seed}, of crops, new weights and noise",
        "devices asked for": ", ".join(f"{name}: {device}" for name, device in devices.items()),
        "environment": f"Python {platform.python_version()}, {', '.join(_packages())}; "
        f"{platform.system()} {platform.machine()}",
    }
    found = pd.DataFrame(facts.items(), columns=["what", "which"])
    body = f"""<h1>Provenance</h1>
<p>Written after the last run, from what lies in the study's folder. No product of the study depends
on this page, so that equal inputs give equal products, in whatever commit.</p>
<div class="words wide">{found.to_html(index=False, border=0)}</div>
<h2>What each stage left</h2>
<p><code>dvc.lock</code> has, beside these, the hash of all that each stage read: photos, code and
the numbers of params.yaml. <code>python3 study.py status</code> says whether all of it still
agrees with what lies in the folder.</p>
<div class="words wide">{products().to_html(index=False, border=0)}</div>
<h2>params.yaml</h2>
<details><summary>Every number of the study</summary>
<pre class="wide">{escape(params.PARAMS.read_text())}</pre></details>"""
    write_text(PAGE, page("Provenance", body, '<a href="index.html">report</a>'))


def files(study: Params) -> Iterator[Path]:
    """What goes into the zip, below the study's folder: the report's pages that params.yaml asks
    for, figures, measurements, notebooks' sources, settings and lock.  Raises SicError if a page
    has not been made."""
    index = _REPORT / "index.html"
    if not index.is_file():
        raise SicError(f"no report: {index} has not been made; run python3 study.py first")
    yield from map(Path, _SOURCES)
    yield from sorted(Path("notebooks").glob("*.ipynb"))
    # dvc.lock keeps what an earlier dvc.yaml left, too.
    measured = map(Path, products()["product"])
    yield from sorted({p for p in measured if p.parts[0] == "results" and p.is_file()})
    yield from (index, _REPORT / "notebook.ipynb", PAGE)
    for folder in ("figures", *pages.names(study)):
        found = sorted(path for path in (_REPORT / folder).rglob("*") if path.is_file())
        if not found:
            raise SicError(
                f"the report has no {_REPORT / folder}, which params.yaml asks for; "
                "run python3 study.py first"
            )
        yield from found


def bundle(path: Path) -> int:
    """Write the zip, whole or not at all, and return its bytes; everything lies in one folder of
    its name.  Raises SicError if the report has not been made, or not from what lies here now."""
    study = params.load()
    wanted = list(files(study))
    if changed := sorted(status()):
        raise SicError(
            f"the report is older than what lies here ({', '.join(changed)} would run anew); "
            "run python3 study.py first"
        )
    write()
    packages = [f"Python {platform.python_version()}", *_packages()]
    about = crate.metadata(wanted, LOCK, _day(), packages)
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        _put(archive, f"{path.stem}/{crate.NAME}", about.encode())
        for file in wanted:
            _put(archive, f"{path.stem}/{file.as_posix()}", file.read_bytes())
    return path.stat().st_size


def _put(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.compress_type = zipfile.ZIP_DEFLATED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def status() -> dict[str, list[Any]]:
    """What DVC says of each stage that it would run, or whose products were changed by hand."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise SicError(f"dvc status failed: {answer.stderr.strip().splitlines()[-1]}")
    found: dict[str, list[Any]] = json.loads(answer.stdout)
    return found


def main() -> None:
    """Write the page; with the word ``bundle``, the zip as well: ``bundle [FILE.zip]``."""
    if sys.argv[1:2] != ["bundle"]:
        write()
        return
    parser = argparse.ArgumentParser(prog="python3 study.py bundle", description=bundle.__doc__)
    parser.add_argument("zip", type=Path, nargs="?", default=NAME, help=f"default: {NAME}")
    path = parser.parse_args(sys.argv[2:]).zip
    size = bundle(path)
    print(f"{path}: {size / 1e6:.1f} MB; unpack it and open {path.stem}/reports/index.html")


if __name__ == "__main__":
    exit_on_error(main)
