"""Where test servers keep their files."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

_ENOUGH_BYTES = 4 << 30  # a container may have 64 MiB there, and one MySQL needs more


def scratch(prefix: str) -> Path:
    """A new directory, in memory where that is possible: what is tested is not the disk, and a busy one makes servers slow."""
    roomy = os.access("/dev/shm", os.W_OK) and shutil.disk_usage("/dev/shm").free >= _ENOUGH_BYTES
    return Path(tempfile.mkdtemp(prefix=prefix, dir="/dev/shm" if roomy else "/tmp"))  # short names: sockets lie in it
