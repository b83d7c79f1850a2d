"""Profiles: sizes of the same study; only the numbers differ.

A profile is a small YAML file in ``profiles/`` with the keys in which the sizes differ.  DVC reads
params.yaml alone, so choosing a profile means writing its numbers there.
"""

import sys
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap

from sic.errors import SicError, exit_on_error
from sic.files import replacing
from sic.params import PARAMS, load

PROFILES = Path("profiles")


def apply(name: str, params: Path = PARAMS, profiles: Path = PROFILES) -> None:
    """Put the numbers of ``profiles/NAME.yaml`` into params.yaml; comments and the rest stay.

    The result is checked before it takes the place of the old file.

    Raises:
        SicError: for an unknown profile, and for a params.yaml that is wrong before or after.
    """
    source = profiles / f"{name}.yaml"
    if not source.is_file():
        known = ", ".join(sorted(path.stem for path in profiles.glob("*.yaml"))) or "none"
        raise SicError(f"no profile {name}: there are {known}")
    load(params)
    yaml = _round_trip()
    content = yaml.load(params.read_text(encoding="utf-8"))
    _put(content, yaml.load(source.read_text(encoding="utf-8")), source)
    with replacing(params) as temporary:
        with temporary.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        load(temporary)


def main() -> None:
    """``python -m sic.profile NAME``."""
    if len(sys.argv) != 2:
        known = ", ".join(sorted(path.stem for path in PROFILES.glob("*.yaml")))
        raise SicError(f"name one profile: {known}")
    apply(sys.argv[1])
    print(f"params.yaml now has the numbers of profiles/{sys.argv[1]}.yaml")


def _round_trip() -> YAML:
    """A reader and writer that keeps comments, spacing and the spelling of numbers."""
    yaml = YAML()
    yaml.width = 4096
    yaml.preserve_quotes = True
    # Its own way to write null is to write nothing.
    yaml.representer.add_representer(
        type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    return yaml


def _put(target: CommentedMap, values: Any, source: Path, path: str = "") -> None:
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
