"""Files that a dead server left behind and that would keep the next one from starting."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

from failover.errors import Refused

log = logging.getLogger("failover.engines")


def remove_stale(paths: Iterable[Path], data_dir: Path) -> None:
    """Remove them; called only after the proof that no process works in `data_dir`. Raises Refused if one stays.

    After a crash of the host pids start again, and a server takes a lock file that names a stranger for life.
    """
    for path in paths:
        try:
            path.unlink()
        except FileNotFoundError:
            continue
        except OSError as error:
            raise Refused(f"cannot remove the stale {path}: {error.strerror}") from error
        log.warning("stale %s removed: no process works in %s", path, data_dir)
