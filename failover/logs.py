"""How log lines look and what never appears in them.

Everything logs through the standard library; `setup` is called once at the process edge. On a terminal a line is for a
person, elsewhere it is one JSON object for the journal. Whatever was registered with `hide` is blotted out of the
finished line, wherever it came from: a message, a field, a traceback of a driver.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import TextIO

_BLOT = "[secret]"
_SHORTEST = 4  # blotting out shorter ones would make every line unreadable
_secrets: set[str] = set()


def hide(secret: str) -> None:
    """From now on `secret` never appears in a log line of this process, as it is or as JSON writes it."""
    if len(secret) >= _SHORTEST:
        as_json = (json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1])
        _secrets.update((secret, repr(secret)[1:-1], *as_json))


def redact(text: str) -> str:
    """`text` without any known secret."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, _BLOT)
    return text


class _Redacting(logging.Formatter):
    """Blots out secrets after everything else has been rendered, so that nothing can slip past."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redact(self._inner.format(record))


def setup(level: str = "info", stream: TextIO | None = None, *, node: str = "", colour: bool | None = None) -> None:
    """Send all logging to `stream` (standard error): one-liners on a terminal, JSON lines elsewhere. Repeatable.

    kazoo and paramiko speak from WARNING on; a process that debugs asks for level "debug" and hears everything.
    """
    target = stream if stream is not None else sys.stderr
    people = target.isatty() if colour is None else colour
    handler = logging.StreamHandler(target)
    handler.setFormatter(_Redacting(_formatter(people, node)))
    root = logging.getLogger()
    for old in list(root.handlers):
        if isinstance(old.formatter, _Redacting):
            root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for library in ("kazoo", "paramiko"):
        logging.getLogger(library).setLevel(logging.DEBUG if level.lower() == "debug" else logging.WARNING)


def _formatter(people: bool, node: str) -> logging.Formatter:
    """structlog's renderers behind the standard library's interface; imported late, a command starts without it."""
    import structlog

    def name_parts(_: object, __: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        event.pop("message", None)  # set by other handlers that formatted this record before
        event["area"] = str(event.pop("logger", "")).removeprefix("failover.")
        if node:
            event["node"] = node
        return event

    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S.%f" if people else "iso", utc=True, key="ts"),
        name_parts,
    ]
    last: list[structlog.typing.Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if people:
        last.append(structlog.dev.ConsoleRenderer(timestamp_key="ts", pad_event_to=0))
    else:
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    return structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last)
