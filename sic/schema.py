"""What sections of params.yaml have in common: strictness, kinds of values, words of faults."""

import difflib
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError


def _once(values: list[Any]) -> list[Any]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} stands there more than once")
    return values


def _is_number(value: Any) -> bool:
    return value == "all" or (type(value) is int and value > 0)


def _number(value: Any) -> Any:
    if not _is_number(value):
        raise ValueError(f"give a number of images above 0, or all, not {value!r}")
    return value


def _split(value: Any) -> Any:
    several = isinstance(value, list) and len(value) > 0
    names = several and all(type(name) in (str, int) for name in value)
    if not (names or _is_number(value)):
        # YAML reads 1.5, 2024-01-01 and true as numbers, dates and so on.
        quote = "; write names that are no words in quotes" if several else ""
        wanted = "give a list of names, a number of images above 0, or all"
        raise ValueError(f"{wanted}, not {value!r}{quote}")
    return value


Once = AfterValidator(_once)  # for a list of values in which each stands once, as in a sweep
Positive = Annotated[int, Field(gt=0)]
Natural = Annotated[int, Field(ge=0)]
Above0 = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Unit = Annotated[float, Field(ge=0, le=1)]
Device = Literal["auto", "cpu", "cuda"]
PointName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
Split = Annotated[list[str | int] | int | Literal["all"], BeforeValidator(_split)]
Number = Annotated[int | Literal["all"], BeforeValidator(_number)]
Points = Annotated[list[PointName], Field(min_length=1), Once]
Qps = Annotated[list[Annotated[int, Field(ge=0, le=63)]], Once]
Qualities = Annotated[list[Annotated[int, Field(ge=0, le=100)]], Once]


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no coercion between types, read-only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


# Where Pydantic speaks of Python, readers of YAML need other words.
_PLAIN = {
    "model_type": "input should be keys of its own, as in the committed params.yaml",
    "tuple_type": "input should be a list",
    "list_type": "input should be a list",
    "too_short": "too few entries",
    "too_long": "too many entries",
}


def describe(error: ValidationError, whole: type[Section]) -> str:
    """The gravest fault in one line: an unknown key first, with the closest known one."""
    problem = min(error.errors(), key=lambda e: e["type"] != "extra_forbidden")
    # Pydantic adds "[key]" where the name of a key is wrong; users know keys only.
    location = [part for part in problem["loc"] if part != "[key]"]
    key = ".".join(str(part) for part in location)
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(str(location[-1]), _known_keys(whole, location[:-1]))
        hint = f"; did you mean {close[0]}?" if close else "; remove it"
        return f"unknown key {key}{hint}"
    if problem["type"] == "missing":
        named = isinstance(location[-1], str)
        return f"key {key} is missing" if named else f"{key.rpartition('.')[0]}: too few entries"
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        return f"{key}: {message}" if key else message
    message = _PLAIN.get(problem["type"], problem["msg"])
    return f"{key}: {message[0].lower()}{message[1:]}, not {problem['input']!r}"


def _known_keys(whole: type[Section], location: list[int | str]) -> list[str]:
    """Keys of the section at ``location`` in params.yaml."""
    kind: Any = whole
    for part in location:
        # A mapping whose keys are the user's own (`quality`) has sections for values.
        user = get_origin(kind) is dict
        kind = get_args(kind)[1] if user else kind.model_fields[part].annotation
    return list(kind.model_fields)
