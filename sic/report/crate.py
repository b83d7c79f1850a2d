"""ro-crate-metadata.json of the bundle, RO-Crate 1.1, which archives understand: whose study it is,
its files and inputs with checksums and licences, and each stage as an action with what it read and
left."""

import json
import mimetypes
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rocrate.model.contextentity import ContextEntity
from rocrate.rocrate import ROCrate
from ruamel.yaml import YAML

from sic.errors import SicError
from sic.files import sha256

NAME = Path("ro-crate-metadata.json")
CITATION = Path("CITATION.cff")
_MIT = "https://opensource.org/licenses/MIT"
_BY_2 = "https://creativecommons.org/licenses/by/2.0/"
_BY_4 = "https://creativecommons.org/licenses/by/4.0/"
_APACHE = "https://www.apache.org/licenses/LICENSE-2.0"
_RESEARCH = "#research-use"
#: Licences by the beginning of a path, the longest that fits; all else is the study's own.
_LICENCES = {
    "": _MIT,
    "data/pictures/coco": _BY_2,
    "data/pictures/coco/instances.json": _BY_4,
    "data/weights": _RESEARCH,
    "data/weights/detector": _APACHE,
    "reports": _BY_2,
}
_NAMES = {
    _MIT: "MIT",
    _BY_2: "CC BY 2.0",
    _BY_4: "CC BY 4.0",
    _APACHE: "Apache-2.0",
    _RESEARCH: "research use, as data/weights/README.md says",
}


def metadata(files: Iterable[Path], lock: Path, date: str, packages: Iterable[str]) -> str:
    """The file's content: ``files`` are those of the bundle, ``lock`` is dvc.lock, ``date`` the day
    of the run as YYYY-MM-DD, and ``packages`` are names with their versions.  Raises SicError if
    CITATION.cff is not there."""
    citation = _citation()
    crate = ROCrate(version="1.1")
    crate.metadata.extra_terms["sha256"] = "https://schema.org/sha256"  # 1.1 is older
    crate.name = citation["title"]
    crate.description = (
        "Report, measurements, settings and notebooks of one run. Open reports/index.html; "
        "docs/artifact.md says how to run it again."
    )
    crate.datePublished = date
    crate.license = _licence(crate, "")
    crate.keywords = ", ".join(citation.get("keywords", []))
    crate.creator = [_person(crate, author) for author in citation["authors"]]
    if doi := citation.get("doi"):
        crate.root_dataset["identifier"] = f"https://doi.org/{doi}"
    _cite(crate, citation.get("references", []))
    inside = {}
    for path in files:
        about = _about(crate, path)
        # Its source is not read: bundle() writes the files.
        inside[path.as_posix()] = crate.add_file(dest_path=path.as_posix(), properties=about)
    software = [
        _add(crate, f"#{name}", "SoftwareApplication", name=name) for name in sorted(packages)
    ]
    stages = YAML(typ="safe", pure=True).load(lock.read_text(encoding="utf-8"))["stages"]
    actions = [_action(crate, name, stage, inside, software) for name, stage in stages.items()]
    crate.root_dataset["mentions"] = actions
    return json.dumps(crate.metadata.generate(), indent=1, ensure_ascii=False, default=str) + "\n"


def _citation() -> dict[str, Any]:
    if not CITATION.is_file():
        raise SicError(f"{CITATION} is not there; bring it back with `git checkout {CITATION}`")
    found: dict[str, Any] = YAML(typ="safe", pure=True).load(CITATION.read_text(encoding="utf-8"))
    return found


def _add(crate: ROCrate, key: str, kind: str, **properties: Any) -> ContextEntity:
    """The entity of this name, made at first."""
    found = crate.dereference(key)
    return found or crate.add(ContextEntity(crate, key, properties={"@type": kind, **properties}))


def _person(crate: ROCrate, author: dict[str, str]) -> ContextEntity:
    """An author as CITATION.cff has them, by ORCID or name."""
    whole = " ".join(filter(None, (author.get("given-names"), author.get("family-names"))))
    name = whole or author["name"]
    kind = "Person" if whole else "Organization"
    return _add(crate, author.get("orcid") or f"#{name}", kind, name=name)


def _cite(crate: ROCrate, papers: Iterable[dict[str, Any]]) -> None:
    """The papers that CITATION.cff refers to."""
    for paper in papers:
        values = [one["value"] for one in paper.get("identifiers", [])]
        article = _add(crate, f"#{values[0] if values else paper['title']}", "ScholarlyArticle")
        article["name"] = paper["title"]
        crate.root_dataset.append_to("citation", article)


def _licence(crate: ROCrate, path: str) -> ContextEntity:
    begins = [key for key in _LICENCES if path == key or path.startswith(f"{key}/") or not key]
    key = _LICENCES[max(begins, key=len)]
    return _add(crate, key, "CreativeWork", name=_NAMES[key])


def _about(crate: ROCrate, path: Path) -> dict[str, Any]:
    kind = mimetypes.guess_type(path.name)[0]
    about: dict[str, Any] = {"name": path.as_posix(), "sha256": sha256(path)}
    about |= {"contentSize": str(path.stat().st_size)}
    about |= {"encodingFormat": kind} if kind else {}
    return about | {"license": {"@id": _licence(crate, path.as_posix()).id}}


def _action(
    crate: ROCrate,
    name: str,
    stage: dict[str, Any],
    inside: dict[str, Any],
    software: list[ContextEntity],
) -> ContextEntity:
    """A stage of dvc.lock as a CreateAction: its notebook, what it read and what it left."""
    notebook = [inside[word] for word in stage["cmd"].split() if word in inside]
    action = _add(crate, f"#stage/{name}", "CreateAction", name=name, description=stage["cmd"])
    action["instrument"] = [*notebook, *software]
    action["object"] = [_data(crate, dep, inside) for dep in stage.get("deps", [])]
    action["result"] = [_data(crate, out, inside) for out in stage.get("outs", [])]
    return action


def _data(crate: ROCrate, entry: dict[str, Any], inside: dict[str, Any]) -> Any:
    """A file or folder of dvc.lock: that of the bundle, or a note on one that is not in it, with
    its licence, DVC's hash and, of a folder that lies here, the SHA-256 of each file."""
    path = entry["path"]
    if path in inside:
        return inside[path]
    key = f"#{path}"
    if found := crate.dereference(key):
        return found
    folder = Path(path)
    data = _add(crate, key, "CreativeWork", name=path, identifier=f"md5:{entry['md5']}")
    data["license"] = _licence(crate, path)
    if path.startswith(("data/weights", "data/pictures")):
        parts = [
            _add(crate, f"#{file.as_posix()}", "CreativeWork", **_about(crate, file))
            for file in sorted(folder.rglob("*"))
            if file.is_file()
        ]
        if parts:
            data["hasPart"] = parts
        elif folder.is_file():
            data["sha256"] = sha256(folder)
    return data
