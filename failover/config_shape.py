"""What pydantic found, in words a person can act on, and the parts that are sound enough for the rules."""

from __future__ import annotations

import copy
import difflib
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from failover.config_schema import INSTANCE_DEFAULTS, File, Section
from failover.config_yaml import Document, Fault, Path, Value

T = TypeVar("T")

_PLAIN = {
    "string_type": "write text here",
    "int_type": "write a whole number here, without quotes",
    "int_from_float": "write a whole number here",
    "float_type": "write a number here, without quotes",
    "bool_type": "write true or false",
    "list_type": "write a list here: [a, b]",
    "dict_type": "write keys and values here",
    "model_type": "write keys and values here",
    "too_short": "must not be empty",
    "string_too_short": "must not be empty",
}


class Shape:
    """The document measured against the schema. `faults` has everything that is wrong with single values."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._root = _with_engine_defaults(document.root)
        self._errors: list[ErrorDetails] = []
        self.file: File | None = None
        try:
            self.file = File.model_validate(self._root)
        except ValidationError as error:
            self._errors = error.errors(include_url=False)
        self.faults = [self._fault(error) for error in self._errors]
        self._sound = self._without_errors()

    def part(self, wanted: type[T], *path: str | int) -> T | None:
        """The value at `path` as `wanted`, or None if it is missing or wrong in a way that leaves holes.

        An unknown key, or a bad value of an optional one, leaves no hole: the rest is judged as if it were not there.
        """
        found = _at(self._sound, path)
        try:
            return TypeAdapter(wanted).validate_python(found)
        except ValidationError:
            return None

    def _without_errors(self) -> Value:
        sound = copy.deepcopy(self._root)
        for error in self._errors:
            *parent, last = _location(error)
            section = _section(tuple(parent))
            holder = _at(sound, tuple(parent))
            if section is None or not isinstance(holder, dict) or not isinstance(last, str):
                continue
            known = section.model_fields.get(last)
            if known is None or not known.is_required():
                holder.pop(last, None)
        return sound

    def _fault(self, error: ErrorDetails) -> Fault:
        path = _location(error)
        if error["type"] == "extra_forbidden":
            return Fault(self._document.mark(path, key=True), path, _unknown_key(path))
        if error["type"] == "missing":
            return Fault(self._document.mark(path[:-1], key=True), path, "missing; it has no default")
        about_key = bool(error["loc"]) and error["loc"][-1] == "[key]"
        return Fault(self._document.mark(path, key=about_key), path, _message(error))


def _with_engine_defaults(root: Value) -> Value:
    """The document with what an engine other than PostgreSQL has for a default in `instance`."""
    filled = copy.deepcopy(root)
    clusters = _at(filled, ("clusters",))
    for cluster in clusters.values() if isinstance(clusters, dict) else ():
        instance, engine = _at(cluster, ("instance",)), _at(cluster, ("engine",))
        if isinstance(instance, dict) and isinstance(engine, str):
            for key, value in INSTANCE_DEFAULTS.get(engine, {}).items():
                instance.setdefault(key, value)
    return filled


def _message(error: ErrorDetails) -> str:
    kind, value, context = error["type"], error["input"], error.get("ctx", {})
    if value is None:
        return "nothing is written here"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        choices = [word.strip().strip("'") for word in str(context["expected"]).replace(" or ", ", ").split(",")]
        return f"{value!r} is not one of {', '.join(choices)}{_suggestion(str(value), choices)}"
    if kind in ("greater_than_equal", "less_than_equal", "greater_than"):
        return f"{value} is out of range: {error['msg'].removeprefix('Input should be ')}"
    return _PLAIN.get(kind) or error["msg"]


def _unknown_key(path: Path) -> str:
    section = _section(path[:-1])
    known = sorted(section.model_fields) if section else []
    word = str(path[-1])
    if word in ("password", "secret", "key", "tsig_key"):
        other = next((key for key in known if key == f"{word}_file"), None)
        if other:
            return f"unknown key; secrets stand in files of their own: {other}"
    return f"unknown key{_suggestion(word, known) or '; known here: ' + ', '.join(known)}"


def _suggestion(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def _location(error: ErrorDetails) -> Path:
    loc = error["loc"]
    return tuple(loc[:-1] if loc and loc[-1] == "[key]" else loc)


def _at(value: Value, path: Path) -> Value:
    for part in path:
        if isinstance(value, dict) and isinstance(part, str):
            value = value.get(part)
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
        else:
            return None
    return value


def _section(path: Path) -> type[Section] | None:
    """The class that describes the mapping at `path`, or None where names are free (members, controllers)."""
    current: Any = File
    for part in path:
        current = _bare(current)
        if isinstance(current, type) and issubclass(current, Section):
            known = current.model_fields.get(str(part))
            if known is None:
                return None
            current = known.annotation
        elif get_origin(current) in (dict, list):
            current = get_args(current)[-1]
        else:
            return None
    current = _bare(current)
    return current if isinstance(current, type) and issubclass(current, Section) else None


def _bare(annotation: Any) -> Any:
    """Without Annotated[...] and without `| None`."""
    while True:
        if get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        elif get_origin(annotation) in (Union, UnionType):
            annotation = next(arg for arg in get_args(annotation) if arg is not type(None))
        else:
            return annotation
