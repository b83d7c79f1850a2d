"""Profiles: sizes of the same study; only the numbers differ.

A profile is a small YAML file in ``profiles/`` with the keys in which the sizes differ.  DVC reads
params.yaml alone, so choosing a profile means writing its numbers there.
"""

import sys
from collections.abc import Mapping
from itertools import takewhile
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from sic.errors import SicError, exit_on_error
from sic.files import replacing
from sic.params import PARAMS, load

PROFILES = Path("profiles")


def apply(name: str, params: Path = PARAMS, profiles: Path = PROFILES) -> None:
    """Put the numbers of ``profiles/NAME.yaml`` into params.yaml.

    Raises:
        SicError: for an unknown profile, and as :func:`put`.
    """
    source = profiles / f"{name}.yaml"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in profiles.glob("*.yaml"))) or "none"
        raise SicError(f"no profile {name}: there are {known}")
    put(round_trip().load(source.read_text(encoding="utf-8")), str(source), params)


def put(values: Mapping[str, Any], source: str, params: Path = PARAMS) -> None:
    """Overwrite keys of params.yaml, section by section; comments and the rest stay.

    Raises:
        SicError: for a key that is not there, and for a params.yaml wrong before or after.
    """
    load(params)
    yaml = round_trip()
    content = yaml.load(params.read_text(encoding="utf-8"))
    _put(content, values, source)
    with replacing(params) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        try:
            load(temporary)
        except SicError as error:
            raise SicError(str(error).replace(str(temporary), source)) from None


def main() -> None:
    """``python -m sic.profile NAME``: put it in place and say what it needs."""
    if len(sys.argv) != 2:
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*.yaml")))
        raise SicError(f"name one profile: {known}")
    apply(sys.argv[1])
    text = (PROFILES / f"{sys.argv[1]}.yaml").read_text(encoding="utf-8")
    head = takewhile(lambda line: line.startswith("#"), text.splitlines())
    print("\n".join(line.removeprefix("#").removeprefix(" ") for line in head), end="\n\n")
    print(f"params.yaml now has the numbers of profiles/{sys.argv[1]}.yaml")


def round_trip() -> YAML:
    """A reader and writer that keeps comments, spacing and the spelling of numbers."""
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    # Its own way to write null is to write nothing.
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _put(target: CommentedMap, values: Mapping[str, Any], source: str, path: str = "") -> None:
    """Overwrite keys of ``target``, section by section; a profile brings no new ones."""
    for key, value in values.items():
        if key not in target:
            raise SicError(f"{source}: params.yaml has no key {path}{key}")
        # The names of the codecs are the profile's own: its list takes the place of the other.
        if isinstance(value, dict) and key != "codecs":
            _put(target[key], value, source, f"{path}{key}.")
        else:
            target[key] = value


if __name__ == "__main__":
    exit_on_error(main)
