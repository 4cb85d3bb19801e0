"""A section of a YAML file. Keys are removed when they are read, so that unread keys can be reported at the end."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtdetr.errors import ConfigError, nearest
from rtdetr.yaml_files import Document, KeyPath

REQUIRED = object()
_ALLOWED = object()
Kind = Callable[[Any], Any]  # returns the converted value, or raises ValueError with what was expected


class Section:
    """The keys of one mapping in a document.

    Attributes:
        values: values that have not been read yet.
        at: path of the mapping in the document.
        known: all keys that were requested, for messages about unknown ones.
    """

    def __init__(self, document: Document, values: Mapping[str, Any], at: KeyPath) -> None:
        self.document = document
        self.values = {str(key): value for key, value in values.items()}
        self.at = at
        self.known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def take(self, key: str, kind: Kind, default: Any = REQUIRED) -> Any:
        """Return a value and remove it.

        Raises:
            ConfigError: the value is missing and has no default, or is invalid.
        """
        self.known.append(key)
        if key not in self.values:
            if default is REQUIRED:
                raise self.error(f"missing key {key!r}")
            return default
        value = self.values.pop(key)
        try:
            return kind(value)
        except ValueError as error:
            raise self.error(f"expected {error}, got {_short(value)}", key) from None

    def only(self, key: str, *allowed: Any, why: str, left_out: Any = _ALLOWED) -> None:
        """Read a value that is fixed in this library.

        Args:
            key: key of the value.
            allowed: supported values.
            why: the reason, for messages.
            left_out: default of the published class if the key is omitted, if that is not supported.

        Raises:
            ConfigError: the value is not supported.
        """
        self.known.append(key)
        if key in self.values:
            value = self.values.pop(key)
            if not any(type(value) is type(one) and value == one for one in allowed):
                raise self.error(f"{why}, so {_short(value)} is not supported; expected {_either(allowed)}", key)
        elif left_out is not _ALLOWED:
            raise self.error(f"{why}, but the default is {left_out!r}; expected {_either(allowed)}", key)

    def ignore(self, *keys: str) -> None:
        """Remove keys that have no effect here; docs/training.md explains why."""
        self.known += keys
        for key in keys:
            self.values.pop(key, None)

    def inside(self, key: str) -> "Section | None":
        """Return the mapping under a key; None if it is missing or null.

        Raises:
            ConfigError: the value is not a mapping.
        """
        values = self.take(key, _mapping_or_none, None)
        return None if values is None else Section(self.document, values, (*self.at, key))

    def finish(self) -> None:
        """Check that all keys have been read.

        Raises:
            ConfigError: a key is unknown; the message names its file and suggests the nearest known key.
        """
        for key in self.values:
            known = ", ".join(sorted(set(self.known)))
            guess = self._elsewhere(key) or nearest(key, self.known)
            raise self._error(f"unknown key {key!r}.{guess} Known: {known}.", self.at, key)

    def _elsewhere(self, key: str) -> str:
        """Suggest the section of a key that is at the top of the document by mistake."""
        paths = [] if self.at else [path for path in self.document.origins if path[-1:] == (key,) and len(path) > 1]
        return f" Did you mean {'.'.join(paths[0])!r}?" if paths else ""

    def error(self, problem: str, key: str | None = None) -> ConfigError:
        """Return an error that names the file and the path in it."""
        at = self.at if key is None else (*self.at, key)
        return self._error(problem, at)

    def _error(self, problem: str, at: KeyPath, *below: str) -> ConfigError:
        where = "".join(f"{key}." for key in at)[:-1]
        return ConfigError(f"{self.document.origin((*at, *below))}: {where + ': ' if where else ''}{problem}")


def whole(least: int = 0) -> Kind:
    """Expect a whole number."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return check


def number(value: Any) -> float:
    """Expect a finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("a number of at least 0")
    return float(value)


def flag(value: Any) -> bool:
    """Expect True or False."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(value: Any) -> str:
    """Expect a text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def list_of(kind: Kind) -> Kind:
    """Expect a list of values of one kind."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("a list")
        return [kind(one) for one in value]

    return check


def or_none(kind: Kind) -> Kind:
    """Expect a value of a kind, or null."""
    return lambda value: None if value is None else kind(value)


def one_of(*names: str) -> Kind:
    """Expect one of several texts."""

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(_either(names))
        return value

    return check


def mapping(value: Any) -> dict[str, Any]:
    """Expect a mapping."""
    if not isinstance(value, dict):
        raise ValueError("'key: value' lines")
    return value


def anything(value: Any) -> Any:
    """Accept any value."""
    return value


def _mapping_or_none(value: Any) -> dict[str, Any] | None:
    return None if value is None else mapping(value)


def _either(values: Sequence[Any]) -> str:
    return " or ".join(repr(value) for value in values)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
