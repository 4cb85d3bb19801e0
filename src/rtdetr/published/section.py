"""A part of a YAML file whose keys are taken out one by one, so that at the end none is left that nobody read."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rtdetr.errors import ConfigError, nearest
from rtdetr.yaml_files import Document, KeyPath

REQUIRED = object()
_ALLOWED = object()
Kind = Callable[[Any], Any]  # returns the value as it should be, or raises ValueError with what was expected


class Section:
    """The keys of one mapping in a document.

    Attributes:
        values: those that have not been taken yet.
        at: where the mapping stands.
        known: every key that was asked for, for the message about one that was not.
    """

    def __init__(self, document: Document, values: Mapping[str, Any], at: KeyPath) -> None:
        self.document = document
        self.values = {str(key): value for key, value in values.items()}
        self.at = at
        self.known: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self.values

    def take(self, key: str, kind: Kind, default: Any = REQUIRED) -> Any:
        """Return a value and leave it out from then on.

        Raises:
            ConfigError: it is missing without a default, or not of its kind.
        """
        self.known.append(key)
        if key not in self.values:
            if default is REQUIRED:
                raise self.error(f"expected the key {key!r}")
            return default
        value = self.values.pop(key)
        try:
            return kind(value)
        except ValueError as error:
            raise self.error(f"expected {error}, got {_short(value)}", key) from None

    def only(self, key: str, *allowed: Any, why: str, left_out: Any = _ALLOWED) -> None:
        """Take a value that we have no choice of.

        Args:
            key: whose value it is.
            allowed: what it may be.
            why: what is built in.
            left_out: what the published class takes where the key is left out, if that is none of those allowed.

        Raises:
            ConfigError: it is another one.
        """
        self.known.append(key)
        if key in self.values:
            value = self.values.pop(key)
            if not any(type(value) is type(one) and value == one for one in allowed):
                raise self.error(f"{why}, so {_short(value)} cannot be had; expected {_either(allowed)}", key)
        elif left_out is not _ALLOWED:
            raise self.error(f"{why}, but left out it means {left_out!r}; expected {_either(allowed)}", key)

    def ignore(self, *keys: str) -> None:
        """Take keys that mean nothing here; docs/training.md says why."""
        self.known += keys
        for key in keys:
            self.values.pop(key, None)

    def inside(self, key: str) -> "Section | None":
        """Return the mapping under a key, None where there is none or it is null.

        Raises:
            ConfigError: something else is there.
        """
        values = self.take(key, _mapping_or_none, None)
        return None if values is None else Section(self.document, values, (*self.at, key))

    def finish(self) -> None:
        """Check that no key is left.

        Raises:
            ConfigError: one is; the message names its file and the nearest known one.
        """
        for key in self.values:
            known = ", ".join(sorted(set(self.known)))
            guess = self._elsewhere(key) or nearest(key, self.known)
            raise self._error(f"unknown key {key!r}.{guess} Known: {known}.", self.at, key)

    def _elsewhere(self, key: str) -> str:
        """A hint at the section that has a key which stands at the top of the document by mistake."""
        paths = [] if self.at else [path for path in self.document.origins if path[-1:] == (key,) and len(path) > 1]
        return f" Did you mean {'.'.join(paths[0])!r}?" if paths else ""

    def error(self, problem: str, key: str | None = None) -> ConfigError:
        """Return an error that says in which file and where in it."""
        at = self.at if key is None else (*self.at, key)
        return self._error(problem, at)

    def _error(self, problem: str, at: KeyPath, *below: str) -> ConfigError:
        where = "".join(f"{key}." for key in at)[:-1]
        return ConfigError(f"{self.document.origin((*at, *below))}: {where + ': ' if where else ''}{problem}")


def whole(least: int = 0) -> Kind:
    """A whole number."""

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"a whole number of at least {least}")
        return value

    return check


def number(value: Any) -> float:
    """A finite number that is not negative."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError("a number of at least 0")
    return float(value)


def flag(value: Any) -> bool:
    """True or False."""
    if not isinstance(value, bool):
        raise ValueError("True or False")
    return value


def text(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise ValueError("a text")
    return value


def list_of(kind: Kind) -> Kind:
    """A list of values of one kind."""

    def check(value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValueError("a list")
        return [kind(one) for one in value]

    return check


def or_none(kind: Kind) -> Kind:
    """A value of a kind, or null."""
    return lambda value: None if value is None else kind(value)


def one_of(*names: str) -> Kind:
    """One of some texts."""

    def check(value: Any) -> str:
        if value not in names:
            raise ValueError(_either(names))
        return value

    return check


def mapping(value: Any) -> dict[str, Any]:
    """A mapping."""
    if not isinstance(value, dict):
        raise ValueError("'key: value' lines")
    return value


def anything(value: Any) -> Any:
    """Whatever is there."""
    return value


def _mapping_or_none(value: Any) -> dict[str, Any] | None:
    return None if value is None else mapping(value)


def _either(values: Sequence[Any]) -> str:
    return " or ".join(repr(value) for value in values)


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else shown[:77] + "..."
