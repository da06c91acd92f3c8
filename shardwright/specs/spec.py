"""What all nouns share: they are frozen, valid or not constructed, and have errors of one line."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from shardwright.base import SpecError, nearest, read_json


def _no_boolean(value: object) -> object:
    """pydantic takes `true` for 1."""
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


_NOT_BOOLEAN = BeforeValidator(_no_boolean)
PositiveInt = Annotated[int, Field(gt=0), _NOT_BOOLEAN]
NonNegativeInt = Annotated[int, Field(ge=0), _NOT_BOOLEAN]
PositiveFloat = Annotated[float, Field(gt=0, le=1e30, allow_inf_nan=False), _NOT_BOOLEAN]
NonNegativeFloat = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False), _NOT_BOOLEAN]
Rate = Annotated[PositiveFloat, Field(ge=1, le=1e21)]
"""Bytes/s or FLOP/s of one device or link: an exaflop/s of one device would be 1e18."""
Latency = Annotated[NonNegativeFloat, Field(le=1e3)]
"""Seconds until the first byte or the start of a kernel."""
Capacity = Annotated[PositiveFloat, Field(ge=1, le=1e21)]
"""Bytes of a memory."""


def _whole_where_it_is(value: float) -> float:
    """0 and 1 as whole numbers, as people write them."""
    return int(value) if value in (0, 1) else value


Fraction = Annotated[float, Field(ge=0, le=1), _NOT_BOOLEAN, AfterValidator(_whole_where_it_is)]


SomeSpec = TypeVar("SomeSpec", bound="Spec")


class Spec(BaseModel):
    """A frozen value object that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __str__(self) -> str:
        return repr(self)

    @classmethod
    def parse(cls, data: object, *, source: str) -> Self:
        """Build from plain data that was read from `source`, such as a file's name.

        Raises:
            SpecError: one line naming the source, the field, what was given and what is allowed.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise SpecError(f"{source}: {_one_line(cls, error)}") from None
        except UnicodeEncodeError as error:
            raise SpecError(f"{source}: {error.object!r} is not text in UTF-8") from None


def read_document(document: type[SomeSpec], path: Path, *, name: str, make: str, again: str) -> SomeSpec:
    """Read a file of a spec that states its `kind` and `schema_version`.

    Errors use three texts: `name` is the kind in words, `make` says how to get such a file, `again` how to get another.

    Raises:
        SpecError: the file is of another kind, has a newer schema, or is not valid.
    """
    return parse_document(document, read_json(path), str(path), name=name, make=make, again=again)


def parse_document(
    document: type[SomeSpec], data: object, source: str, *, name: str, make: str, again: str
) -> SomeSpec:
    """Check what was read, as `read_document` does. `source` begins every message.

    Raises:
        SpecError: see `read_document`.
    """
    kind, newest = (document.model_fields[field].default for field in ("kind", "schema_version"))
    if not isinstance(data, dict) or data.get("kind") != kind:
        raise SpecError(f'{source}: is not a {name} file (no "kind": "{kind}"); {make}')
    version = data.get("schema_version")
    if isinstance(version, int) and version > newest:
        raise SpecError(
            f"{source}: has {name} schema version {version}; this shardwright reads up to {newest}. Upgrade shardwright or {again}"
        )
    return document.parse(data, source=source)


def _one_line(cls: type[Spec], error: ValidationError) -> str:
    mistakes = error.errors()
    places = [mistake["loc"] for mistake in mistakes]
    # a list whose only item is wrong is also said to be too short: what follows from a mistake inside is none of its own
    own = [m for m in mistakes if not any(place[: len(m["loc"])] == m["loc"] != place for place in places)]
    first = next((m for m in own if _explains(m, own[0])), own[0])
    path = [part for part in first["loc"] if not (isinstance(part, str) and part.startswith("function-"))]
    where = ".".join(str(part) for part in path)
    more = len(own) - 1
    tail = f" (and {more} more)" if more else ""
    if first["type"] == "extra_forbidden":
        allowed = _keys_at(cls, path[:-1])
        listed = f"; allowed: {', '.join(sorted(allowed))}" if allowed else ""
        return f"unknown key '{where}'{listed}.{nearest(str(path[-1]), allowed)}{tail}"
    if first["type"] == "missing":
        return f"key '{where}' is missing{tail}"
    message = first["msg"].removeprefix("Value error, ")
    if not where:
        return f"{message}{tail}"
    shown = repr(first["input"])
    if len(shown) > 60 or isinstance(first["input"], Mapping):
        return f"'{where}': {message}{tail}"
    return f"'{where}' is {shown}: {message}{tail}"


def _explains(mistake: ErrorDetails, missing: ErrorDetails) -> bool:
    """Whether a key beside a missing one is unknown: it may be that key, misspelt."""
    kinds = (mistake["type"], missing["type"])
    return kinds == ("extra_forbidden", "missing") and mistake["loc"][:-1] == missing["loc"][:-1]


def _keys_at(cls: type[BaseModel], path: list[str | int]) -> list[str]:
    """The keys of the model at `path` below `cls`; empty where the path leads to no model."""
    models: list[type[BaseModel]] = [cls]
    for part in path:
        if isinstance(part, int):
            continue
        below = [field for model in models if (field := model.model_fields.get(part)) is not None]
        if below:  # a part that is no field is the tag of a union: stay among its members
            models = [model for field in below for model in _models_in(field.annotation)]
        elif tagged := [model for model in models if part in _literals(model) or part == model.__name__]:
            models = tagged
    return [name for model in models for name in model.model_fields]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def _literals(model: type[BaseModel]) -> list[str]:
    return [
        str(value)
        for field in model.model_fields.values()
        for value in get_args(field.annotation)
        if isinstance(value, str)
    ]
