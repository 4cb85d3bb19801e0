"""Frozen settings that refuse unknown names and invalid values; every message says what would be valid."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rtdetr.errors import ConfigError, nearest
from rtdetr.expected import any_of, bounds_of, expected_by, expected_value, inner_type


class Strict(BaseModel):
    """Base of frozen settings; every mistake is a `ConfigError` that says where it is and what would be valid."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
    section: ClassVar[str | None] = None  # prefix of its fields in messages; None: the class name

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _explain(type(self), error) from None

    @model_validator(mode="before")
    @classmethod
    def _no_value(cls, values: Any) -> Any:
        """Read the word "none" as no value in optional fields, except in those that contain a name or path."""
        if not isinstance(values, dict):
            return values
        kinds = {name: get_args(field.annotation) for name, field in cls.model_fields.items()}
        free = {name for name, kind in kinds.items() if type(None) in kind and str not in kind}
        return {k: None if k in free and isinstance(v, str) and v.lower() == "none" else v for k, v in values.items()}

    def replace(self, **changes: Any) -> Self:
        """Return a validated copy with some fields changed; a dict changes fields of a nested model."""
        values = self.model_dump()
        for key, value in changes.items():
            old, value = values.get(key), with_kind(value)
            if isinstance(value, dict) and isinstance(old, dict) and value.get("kind") in (None, old.get("kind")):
                value = {**old, **value}  # settings of another kind have other fields
            values[key] = value
        return type(self)(**values)

    @classmethod
    def from_record(cls, values: Mapping[str, Any]) -> Self:
        """Read settings that `model_dump` wrote to a file.

        Raises:
            ConfigError: a setting is invalid or has the wrong type, such as a number written as text. (Users can write
                numbers as text; files written by rtdetr never contain them.)
        """
        settings = cls(**{str(key): value for key, value in values.items()})
        settings.check_types(values)
        return settings

    def check_types(self, values: Mapping[str, Any]) -> None:
        """Reject values that were converted to another type to become these settings.

        Raises:
            ConfigError: a value has another type than its setting; the message names the first one.
        """
        for path, found, setting in _retyped(values, self.model_dump(mode="json")):
            kinds = f"the {_KINDS[type(setting)]} %s, got the {_KINDS.get(type(found), 'value')} %s"
            raise InvalidSettingError(type(self), path, f"expected {kinds % (_json(setting), _json(found))}.")


def with_kind(value: Any) -> Any:
    """The settings of a backbone; {"timm": NAME} stands for {"kind": "timm", "timm": NAME}."""
    return {"kind": "timm", **value} if isinstance(value, dict) and "timm" in value else value


_KINDS = {
    bool: "switch",
    int: "number",
    float: "number",
    str: "text",
    list: "list",
    tuple: "list",
    dict: "object",
    type(None): "value",
}


def _retyped(found: Any, setting: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the values that differ in type from their settings: path, value, setting."""
    if isinstance(found, Mapping) and isinstance(setting, Mapping):
        for key in [key for key in found if key in setting]:
            yield from _retyped(found[key], setting[key], f"{path}.{key}".removeprefix("."))
    elif isinstance(found, list | tuple) and isinstance(setting, list | tuple):
        for number, pair in enumerate(zip(found, setting, strict=False)):
            yield from _retyped(*pair, f"{path}.{number}".removeprefix("."))
    elif _KINDS.get(type(found)) != _KINDS[type(setting)]:
        yield path, found, setting


def _json(value: Any) -> str:
    return json.dumps(value, default=repr, ensure_ascii=False)[:100]


class InvalidSettingError(ConfigError):
    """A problem with a setting.

    Attributes:
        path: path to the field from the settings being read.
        problem: what is wrong, without the name of the setting.
        name: full name, such as "train.loss.bbox_weight".
    """

    def __init__(self, model: type[Strict], path: str, problem: str) -> None:
        section = model.__name__ if model.section is None else model.section
        self.name = ".".join(part for part in (section, path) if part)
        super().__init__(f"{self.name}: {problem}" if self.name else problem)
        self.path, self.problem = path, problem


@contextlib.contextmanager
def naming(spelled: Mapping[str, str]) -> Iterator[None]:
    """Name settings in errors of the block as a user wrote them.

    Args:
        spelled: by full name of a setting, what the user wrote, such as "lr (--lr)" for "train.lr". It also applies to
            settings within it.
    """
    try:
        yield
    except InvalidSettingError as error:
        parts = error.name.split(".")
        for count in range(len(parts), 0, -1):
            if text := spelled.get(".".join(parts[:count])):
                inner = "".join(f".{part}" for part in parts[count:])
                text = text.replace(" (", f"{inner} (", 1) if text.endswith(")") else text + inner
                raise ConfigError(f"{text}: {error.problem}") from None
        raise


def _explain(model: type[Strict], error: ValidationError) -> ConfigError:
    """Explain the first problem that pydantic found; an unknown name comes first, as it can explain a missing one."""
    problems = error.errors()
    first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
    field, *rest = map(str, first["loc"] or ("",))
    if first["type"] == "extra_forbidden":
        known = sorted(model.model_fields)
        inner = next((path for path in _inner_fields(model) if path.rpartition(".")[2] == field), None)
        guess = f" Did you mean {inner!r}?" if inner else nearest(field, known)
        return InvalidSettingError(model, "", f"unknown setting {field!r}.{guess} Known: {', '.join(known)}.")
    same = [problem for problem in problems if problem["loc"][:1] == first["loc"][:1]]
    cause = (first.get("ctx") or {}).get("error")
    # a field's name is followed by a list index, or by pydantic's name of a union member
    path = ".".join([field, *(part for part in rest if part.isdecimal())])
    if isinstance(cause, InvalidSettingError):
        return InvalidSettingError(model, ".".join(part for part in (path, cause.path) if part), cause.problem)
    if isinstance(cause, ConfigError):
        return ConfigError(f"{path}: {cause}" if path else str(cause))
    if first["type"] == "missing" and not path.rpartition(".")[2].isdecimal():
        return InvalidSettingError(model, path, "expected a value, got none")
    if first["type"] == "missing":  # a list that is too short
        path = path.rpartition(".")[0]
    if first["type"] == "union_tag_invalid":
        limits = first.get("ctx") or {}
        known = any_of(str(limits["expected_tags"]).split(", "))
        return InvalidSettingError(model, f"{path}.kind", f"expected {known}; got {limits['tag']!r}.")
    more = f" ({len(problems) - len(same)} more)" if len(problems) > len(same) else ""
    got = repr(first.get("input"))[:200]
    return InvalidSettingError(model, path, f"expected {_expected(model, path, same, first)}; got {got}.{more}")


def _expected(model: type[Strict], path: str, problems: list[Any], first: Mapping[str, Any]) -> str:
    """Return what a field accepts, in words: by its type, or else by what pydantic found wrong."""
    field, *rest = path.split(".")
    info = model.model_fields.get(field)
    if info is not None and len(rest) <= 1:
        annotation, bounds = info.annotation, bounds_of(info.metadata)
        if rest:
            annotation, bounds = inner_type(annotation), {}
        if found := expected_value(annotation, bounds, got=first.get("input")):
            return found
    return " or ".join(dict.fromkeys(map(expected_by, problems)))


def _inner_fields(model: type[Strict]) -> Iterator[str]:
    """Yield the dotted names of all settings one level down."""
    for name, field in model.model_fields.items():
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Strict):
                yield from (f"{name}.{inner}" for inner in kind.model_fields)
