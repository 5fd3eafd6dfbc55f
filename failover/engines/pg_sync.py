"""What a commit waits for, in PostgreSQL's words: `synchronous_standby_names`.

The product writes one form only, `ANY 1 ("db2", "db3")`, and reads the others as well as they can be read.
"""

from __future__ import annotations

import re

from failover.core.model import SyncSet
from failover.errors import Refused

_LIST = re.compile(r"\s*(?:(?:(?:ANY|FIRST)\s+)?(?P<count>\d+)\s*\((?P<inner>.*)\)|(?P<plain>.*))\s*", re.I | re.S)
_NAME = re.compile(r'\s*("(?:[^"]|"")+"|[^\s",()]+)\s*(?:,|$)')


def render(sync: SyncSet | None) -> str:
    """The setting's text; None waits for nobody. Raises Refused for what the product has no proof for (w other than 1).
    """
    if sync is None:
        return ""
    if sync.w != 1 or not sync.names:
        raise Refused(f"a sync set needs w = 1 and at least one name, not w = {sync.w} of {len(sync.names)}")
    return f"ANY 1 ({', '.join(map(_quote, sync.names))})"


def parse(text: str, history: str = "") -> SyncSet | None:
    """What the setting promises: w of these names have each commit. None: it waits for nobody.

    `FIRST w (...)` and the plain list promise at least this much. A text that is not understood reads as no promise.
    """
    match = _LIST.fullmatch(text)
    if not text.strip() or match is None:
        return None
    inner = match["inner"] if match["count"] else match["plain"]
    names = _names(inner)
    if not names:
        return None
    return SyncSet(int(match["count"] or 1), tuple(names), history)


def _names(inner: str) -> list[str]:
    names, at = [], 0
    while at < len(inner):
        match = _NAME.match(inner, at)
        if match is None:
            return []
        names.append(_unquote(match[1]))
        at = match.end()
    return names


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _unquote(text: str) -> str:
    return text[1:-1].replace('""', '"') if text.startswith('"') else text
