"""Words for the values that a setting accepts, such as "a whole number of at least 1", for messages."""

import types
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Union, get_args, get_origin

_BOUNDS = ("gt", "ge", "lt", "le", "multiple_of")
_EXACT = 2**53  # the upper limit of all sizes; nobody needs to hear of it, except about a larger number
_PLAIN: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BY_PROBLEM = {
    "bool": "true or false",
    "dict": "'key: value' lines",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "mapping": "'key: value' lines",
    "model": "'key: value' lines",
    "string": "text",
    "tuple": "a list",
}


def kind_of(value: Any) -> str:
    """Return what kind of value a file holds, in words, such as "text" or "a list"."""
    if value is None:
        return "nothing"
    if isinstance(value, Mapping):
        return "'key: value' lines"
    if isinstance(value, list | tuple):
        return "a list"
    return _PLAIN.get(type(value), type(value).__name__)


def shown_value(value: Any) -> str:
    """Return a value from a file and its kind, for a message: "text 'a'"."""
    return kind_of(value) if value is None or isinstance(value, Mapping) else f"{kind_of(value)} {repr(value)[:100]}"


def expected_value(annotation: Any, bounds: Mapping[str, Any] | None = None, *, got: Any = None) -> str | None:
    """Return the values that a type accepts, in words; None if there are none for it.

    Args:
        annotation: the type, such as `int | None` or `Annotated[float, Field(gt=0)]`.
        bounds: limits of a number: gt, ge, lt, le or multiple_of.
        got: the refused value.
    """
    bounds = dict(bounds or {})
    while get_origin(annotation) is Annotated:
        annotation, *details = get_args(annotation)
        for detail in details:
            bounds |= bounds_of([detail, *getattr(detail, "metadata", ())])
    arguments = get_args(annotation)
    if get_origin(annotation) is Literal:
        return any_of([repr(one) for one in arguments])
    if get_origin(annotation) in (Union, types.UnionType):
        return _any_kind([one for one in arguments if one is not type(None)], bounds, got)
    if annotation in (int, float):
        return _number(_PLAIN[annotation], bounds, got)
    if get_origin(annotation) in (tuple, list) and arguments:
        return _list_of(arguments)
    return _PLAIN.get(annotation)


def inner_type(annotation: Any) -> Any:
    """Return the type of the values in a list, or the type itself if it is not that of a list."""
    for one in (annotation, *get_args(annotation)):
        if get_origin(one) in (tuple, list):
            return get_args(one)[0]
    return annotation


def expected_by(problem: Mapping[str, Any]) -> str:
    """Return what one of pydantic's problems expected, in words."""
    kind, limits = str(problem["type"]), problem.get("ctx") or {}
    if found := {name: limits[name] for name in _BOUNDS if name in limits}:
        return _number("a number", found, None)
    if kind == "literal_error":
        return str(limits["expected"])
    known = _BY_PROBLEM.get(kind.partition("_")[0])
    return known or str(problem["msg"]).removeprefix("Input should be ")


def any_of(names: Sequence[str]) -> str:
    """Return names as "a, b or c"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def bounds_of(details: Sequence[Any]) -> dict[str, Any]:
    """Return the limits of a number among the details of a field or annotation."""
    pairs = ((name, getattr(one, name, None)) for one in details for name in _BOUNDS)
    return {name: value for name, value in pairs if value is not None}


def _any_kind(kinds: Sequence[Any], bounds: Mapping[str, Any], got: Any) -> str | None:
    found: list[str] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            found += [repr(one) for one in get_args(kind)]
        elif text := expected_value(kind, bounds, got=got):
            found.append(text)
        else:
            return None
    return any_of(found)


def _list_of(arguments: Sequence[Any]) -> str:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        count, inner = "", expected_value(arguments[0])
    else:
        count, inner = f"{len(arguments)} values", expected_value(arguments[0]) if len(set(arguments)) == 1 else None
    each = "" if inner is None else f", each {inner}"
    return f"a list{f' of {count}' if count else ''}{each}"


def _number(what: str, bounds: Mapping[str, Any], got: Any) -> str:
    low, high = bounds.get("ge"), bounds.get("le")
    if high == _EXACT and not (isinstance(got, int | float) and got > _EXACT):
        high = None
    if what == _PLAIN[int] and bounds.get("gt") is not None:
        low = bounds["gt"] + 1
    if bounds.get("multiple_of") is not None and (low or 0) <= 1 and high is None:
        return f"a positive multiple of {bounds['multiple_of']}"
    if low is not None and high is not None:
        return f"{what} from {_short(low)} to {_short(high)}"
    limits = [f"of at least {_short(low)}"] if low is not None else []
    if low is None and bounds.get("gt") is not None:
        limits.append(f"greater than {_short(bounds['gt'])}")
    if bounds.get("lt") is not None:
        limits.append(f"less than {_short(bounds['lt'])}")
    if high is not None:
        limits.append(f"of at most {_short(high)}")
    return " and ".join([f"{what} {limits[0]}", *limits[1:]]) if limits else what


def _short(number: float) -> str:
    return str(number) if isinstance(number, int) else f"{number:g}"
