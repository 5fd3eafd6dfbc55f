"""YAML text to plain values, and where each of them stands.

Built on the node tree of ruamel.yaml's round-trip loader, so that a duplicate key, a tag or an odd key is one more
fault with its line, not an exception that hides the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

Path = tuple[str | int, ...]
Value = None | bool | int | float | str | list["Value"] | dict[str, "Value"]

_NODES_MAX = 20_000  # a file of a few clusters has some hundred; aliases could unfold without end
_DEPTH_MAX = 32
_TAG = "tag:yaml.org,2002:"


@dataclass(frozen=True, order=True)
class Mark:
    """A place in the file, counted from 1 as editors do."""

    line: int = 1
    column: int = 1


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong: where in the file, which setting, and what to do about it."""

    mark: Mark
    path: Path
    message: str

    def text(self, source: str) -> str:
        where = f"{source}:{self.mark.line}:{self.mark.column}"
        return f"{where}: {path_text(self.path)}: {self.message}" if self.path else f"{where}: {self.message}"


@dataclass
class Document:
    """What a file says. `keys` has the place of each key, `values` that of each value."""

    root: Value = None
    keys: dict[Path, Mark] = field(default_factory=dict)
    values: dict[Path, Mark] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)

    def mark(self, path: Path, *, key: bool = False) -> Mark:
        """The place of `path`, or of the nearest thing around it that stands in the file."""
        if key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark())


def path_text(path: Path) -> str:
    """`clusters.orders.notify[0].webhook`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).lstrip(".")


def read(data: bytes) -> Document:
    """Parse one YAML document. Never raises for what the bytes contain: everything wrong is in `faults`."""
    document = Document()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        document.faults.append(Fault(Mark(line), (), "not UTF-8 text"))
        return document
    try:
        node = YAML().compose(text)
    except YAMLError as error:
        document.faults.append(_syntax_fault(error))
        return document
    if node is None:
        document.faults.append(Fault(Mark(), (), "the file is empty"))
        return document
    document.root = _Walk(document).value(node, (), 0)
    return document


def _syntax_fault(error: YAMLError) -> Fault:
    """One line from ruamel's several; its snippet of the file is left out, it might hold a secret."""
    if not isinstance(error, MarkedYAMLError):
        return Fault(Mark(), (), "not YAML: " + (str(error).strip().splitlines() or ["unreadable"])[0])
    at = error.problem_mark or error.context_mark
    mark = Mark(at.line + 1, at.column + 1) if at else Mark()
    words = " ".join(str(part) for part in (error.context, error.problem) if part)
    return Fault(mark, (), f"not YAML: {words or 'syntax error'}")


class _Walk:
    """Turns nodes into values and collects faults on the way."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0

    def value(self, node: Node, path: Path, depth: int) -> Value:
        self.document.values[path] = _mark(node)
        self.count += 1
        if depth > _DEPTH_MAX or self.count > _NODES_MAX:
            if not any(fault.message.startswith("nested too deep") for fault in self.document.faults):
                self.fault(node, path, "nested too deep or an alias that unfolds without end")
            return None
        if isinstance(node, MappingNode):
            return self.mapping(node, path, depth)
        if isinstance(node, SequenceNode):
            return [self.value(item, (*path, index), depth + 1) for index, item in enumerate(node.value)]
        return self.scalar(node, path)

    def mapping(self, node: MappingNode, path: Path, depth: int) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, ScalarNode):
                self.fault(key_node, path, "a key must be a word")
                continue
            key = str(key_node.value)
            if _tag(key_node) != "str":
                hint = "write the keys out" if key == "<<" else f'write "{key}" in quotes if it is a name'
                self.fault(key_node, path, f"{key!r} cannot be a key; {hint}")
                continue
            if key in found:
                first = self.document.keys[(*path, key)]
                self.fault(key_node, (*path, key), f"duplicate key; first written at line {first.line}")
                continue
            self.document.keys[(*path, key)] = _mark(key_node)
            found[key] = self.value(value_node, (*path, key), depth + 1)
        return found

    def scalar(self, node: Node, path: Path) -> Value:
        tag = _tag(node)
        convert = _SCALARS.get(tag)
        if convert is None:
            self.fault(node, path, f"the YAML tag {tag!r} means nothing here; write plain text, quoted if need be")
            return None
        try:
            return convert(str(node.value))
        except ValueError:
            self.fault(node, path, "not a number; write it in quotes if it is text")
            return None

    def fault(self, node: Node, path: Path, message: str) -> None:
        self.document.faults.append(Fault(_mark(node), path, message))


def _mark(node: Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)


def _tag(node: Node) -> str:
    return str(node.tag).removeprefix(_TAG)


_SCALARS: dict[str, Callable[[str], Value]] = {
    "str": str,
    "null": lambda text: None,
    "bool": lambda text: text.lower() == "true",
    "int": lambda text: int(text.replace("_", ""), 0 if text.lower().lstrip("+-").startswith(("0x", "0o")) else 10),
    "float": lambda text: float(text.replace("_", "")),
}
