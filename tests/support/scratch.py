"""Where test servers keep their files."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def scratch(prefix: str) -> Path:
    """A new directory, in memory where that is possible: what is tested is not the disk, and a busy one makes servers slow."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/tmp"  # a short name: sockets lie in it
    return Path(tempfile.mkdtemp(prefix=prefix, dir=memory))
