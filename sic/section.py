"""What the sections of params.yaml have in common: strictness, and the kinds of their values."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(gt=0, lt=1)]
Device = Literal["auto", "cpu", "cuda"]
PointName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


def once(values: list[Any]) -> list[Any]:
    """A list in which each value stands once, as it must in a sweep.

    Raises:
        ValueError: naming a value that stands there twice.
    """
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} stands there more than once")
    return values


def _split(value: Any) -> Any:
    """One sentence for the three kinds of split, where Pydantic has one for each."""
    number = type(value) is int and value > 0
    names = isinstance(value, list) and value and all(type(name) in (str, int) for name in value)
    if not (number or names or value == "all"):
        raise ValueError(f"give a list of names, a number of images above 0, or all, not {value!r}")
    return value


def _number(value: Any) -> Any:
    """As _split: one sentence for both kinds."""
    if not ((type(value) is int and value > 0) or value == "all"):
        raise ValueError(f"give a number of images above 0, or all, not {value!r}")
    return value


Split = Annotated[list[str | int] | int | Literal["all"], BeforeValidator(_split)]
Number = Annotated[int | Literal["all"], BeforeValidator(_number)]
Points = Annotated[list[PointName], Field(min_length=1), AfterValidator(once)]
Qp = Annotated[int, Field(ge=0, le=63)]
Quality = Annotated[int, Field(ge=0, le=100)]
Qps = Annotated[list[Qp], AfterValidator(once)]
Qualities = Annotated[list[Quality], AfterValidator(once)]


class Section(BaseModel):
    """A section of params.yaml: no unknown keys, no coercion between types, read-only."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)
