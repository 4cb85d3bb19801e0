"""Read YAML files from untrusted sources, with `__include__` and a record of the file that set each value.

Size and depth are limited; see `yaml_loaders.py` for other differences from plain PyYAML.
"""

from pathlib import Path
from typing import Any, NamedTuple

import yaml

from rtdetr.errors import ConfigError
from rtdetr.expected import shown_value
from rtdetr.text_files import decode_text
from rtdetr.yaml_loaders import ValuesLoader

YAML_SUFFIXES = (".yaml", ".yml")
INCLUDE = "__include__"
_LARGEST_FILE = 1_000_000  # bytes
_MAX_VALUES = 100_000  # aliases expanded
_DEEPEST = 50  # levels of nesting, and files that include each other
KeyPath = tuple[str, ...]  # keys from the top of a document


class Document(NamedTuple):
    """The merged content of a file and the files that it includes.

    values: the merged content.
    origins: path of keys -> the file that last set the value; a list counts as one value.
    """

    values: dict[str, Any]
    origins: dict[KeyPath, Path]

    def origin(self, path: KeyPath) -> Path:
        """Return the file that set a value, or the nearest section around it."""
        while path not in self.origins:
            path = path[:-1]
        return self.origins[path]


def parse_yaml(text: str) -> Any:
    """Parse a YAML text.

    Raises:
        yaml.YAMLError: the text is not valid YAML, or is nested too deeply or too large.
    """
    try:
        value = yaml.load(text, Loader=ValuesLoader)
    except (RecursionError, ValueError, OverflowError, AttributeError, TypeError, KeyError) as error:
        raise yaml.YAMLError(f"{type(error).__name__}: {error}"[:200]) from None
    _check_size(value)
    return value


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML (or JSON) file with a mapping at its top level; an empty file gives an empty mapping.

    Raises:
        ConfigError: the file is missing, broken, or contains something else; the message names file and line.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the YAML file {path}: {error.strerror}") from None
    if len(content) > _LARGEST_FILE:
        raise ConfigError(f"{path}: expected a YAML file of at most {_LARGEST_FILE} bytes, got {len(content)}")
    text = decode_text(content, source=path, error=ConfigError)
    try:
        values = parse_yaml(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}{not_yaml(error)}") from None
    if values is None:
        return {}
    if isinstance(values, dict) and (wrong := [key for key in values if not isinstance(key, str)]):
        raise ConfigError(f"{path}: expected 'key: value' lines with text as keys, got the key {shown_value(wrong[0])}")
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected 'key: value' lines, got {shown_value(values)}")
    return values


def not_yaml(error: Exception) -> str:
    """Return what follows the name of a file that is not valid YAML in a message: the line and the problem."""
    mark = getattr(error, "problem_mark", None)
    where = "" if mark is None else f", line {mark.line + 1}"
    problem = getattr(error, "problem", None) or str(error)
    return f"{where}: not valid YAML: {' '.join(problem.split())}"


def read_with_includes(path: Path, *, including: tuple[Path, ...] = ()) -> Document:
    """Read a file and merge it over the files that it includes.

    Included files are merged in the order of the list, each over the previous ones, then the file itself. Mappings are
    merged key by key; all other values, including lists, are replaced. Relative paths start from the folder of the
    including file.

    Raises:
        ConfigError: as for `read_yaml`, and files that include each other.
    """
    if path.resolve() in including or len(including) >= _DEEPEST:
        raise ConfigError(f"{path}: circular {INCLUDE}; the file includes itself, directly or through others")
    body = read_yaml(path)
    names = body.pop(INCLUDE, None) or []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"{path}: {INCLUDE}: expected a list of files, got {shown_value(names)}")
    merged: dict[str, Any] = {}
    origins: dict[KeyPath, Path] = {}
    for name in names:
        included = read_with_includes(path.parent / Path(name).expanduser(), including=(*including, path.resolve()))
        _merge(merged, included.values)
        origins |= included.origins
    _merge(merged, body)
    return Document(merged, origins | dict.fromkeys(_paths(body, ()), path))


def _merge(base: dict[str, Any], over: dict[str, Any]) -> None:
    for key, value in over.items():
        if not isinstance(value, dict):
            base[key] = value
        else:  # a copy, as aliases share the mapping
            old = base.get(key)
            base[key] = dict(old) if isinstance(old, dict) else {}
            _merge(base[key], value)


def _paths(value: Any, at: KeyPath) -> list[KeyPath]:
    inside = [_paths(part, (*at, key)) for key, part in value.items()] if isinstance(value, dict) else []
    return [at, *(path for paths in inside for path in paths)]


def _check_size(value: Any) -> None:
    """Reject values that are nested deeper or, with aliases expanded, larger than any configuration."""
    count, level = 0, [value]
    for _ in range(_DEEPEST):
        parts: list[Any] = []
        for one in level:
            if isinstance(one, dict | list):
                parts += one.values() if isinstance(one, dict) else one
            count += 1
            if count + len(parts) > _MAX_VALUES:
                raise yaml.YAMLError(f"more than {_MAX_VALUES} values")
        if not parts:
            return
        level = parts
    raise yaml.YAMLError(f"more than {_DEEPEST} levels of nesting")
