"""One zip for reviewers: the report with its executed notebooks, and what it was made from.

python -m sic.bundle [FILE.zip]
"""

import argparse
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

from sic import pages, params, provenance
from sic.errors import SicError, exit_on_error
from sic.files import replacing
from sic.params import Params

NAME = Path("sic-bundle.zip")
_REPORT = Path("reports")
_SOURCES = ("params.yaml", "requirements.lock", "dvc.yaml", "dvc.lock")
_EPOCH = (1980, 1, 1, 0, 0, 0)  # of every entry, so that equal files give an equal zip


def files(study: Params) -> Iterator[Path]:
    """What goes into the zip, below the study's folder: the report's pages that params.yaml asks
    for, figures, measurements, notebooks' sources, settings and lock.

    Raises:
        SicError: if a page has not been made.
    """
    index = _REPORT / "index.html"
    if not index.is_file():
        raise SicError(f"no report: {index} has not been made; run python3 study.py first")
    yield from map(Path, _SOURCES)
    yield from sorted(Path("notebooks").glob("*.ipynb"))
    # dvc.lock keeps what an earlier dvc.yaml left, too.
    measured = (product.path for product in provenance.products())
    yield from sorted({p for p in measured if p.parts[0] == "results" and p.is_file()})
    yield from (index, _REPORT / "notebook.ipynb", provenance.PAGE)
    for folder in ("figures", *pages.names(study)):
        found = sorted(path for path in (_REPORT / folder).rglob("*") if path.is_file())
        if not found:
            raise SicError(
                f"the report has no {_REPORT / folder}, which params.yaml asks for; "
                "run python3 study.py first"
            )
        yield from found


def bundle(path: Path) -> int:
    """Write the zip, whole or not at all; everything lies in one folder of the zip's name.

    Returns:
        Bytes of the zip.

    Raises:
        SicError: if the report has not been made, or not from what lies here now.
    """
    study = params.load()
    wanted = list(files(study))
    if changed := _changed():
        raise SicError(
            f"the report is older than what lies here ({', '.join(changed)} would run anew); "
            "run python3 study.py first"
        )
    provenance.write()
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for file in wanted:
            entry = zipfile.ZipInfo(f"{path.stem}/{file.as_posix()}", _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, file.read_bytes())
    return path.stat().st_size


def _changed() -> list[str]:
    """Stages that DVC would run, or whose products were changed by hand."""
    answer = subprocess.run(
        [sys.executable, "-m", "dvc", "status", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode:
        raise SicError(f"dvc status failed: {answer.stderr.strip().splitlines()[-1]}")
    return sorted(json.loads(answer.stdout))


def main() -> None:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="python3 study.py bundle", description=__doc__)
    parser.add_argument("zip", type=Path, nargs="?", default=NAME, help=f"default: {NAME}")
    path = parser.parse_args().zip
    size = bundle(path)
    print(f"{path}: {size / 1e6:.1f} MB; unpack it and open {path.stem}/reports/index.html")


if __name__ == "__main__":
    exit_on_error(main)
