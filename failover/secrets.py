"""Secrets come from files that only their owner can touch, and from then on no log line shows them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from failover.errors import ConfigurationError
from failover.logs import hide

_SECRET_BYTES_MAX = 64 * 1024
KEY_BYTES_LEAST = 32


def read_secret(path: Path) -> str:
    """The secret in `path`, without the newline at its end; from now on no log line of this process shows it.

    Raises ConfigurationError if the file is missing, empty, not a file, or can be touched by others: it must belong to
    this process's user or to root and give group and others nothing (`chmod 600`), else anybody here could become us.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {_reason(error)}"]) from error
    try:
        fault = _why_unsafe(os.fstat(descriptor))  # the open file: it cannot be exchanged between the look and the read
        data = b"" if fault else os.read(descriptor, _SECRET_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigurationError([f"{path}: cannot be read: {_reason(error)}"]) from error
    finally:
        os.close(descriptor)
    if fault:
        raise ConfigurationError([f"{path}: {fault}"])
    try:
        secret = data.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise ConfigurationError([f"{path}: is not UTF-8 text"]) from None  # the cause would quote the content
    if not secret.strip():
        raise ConfigurationError([f"{path}: is empty"])
    if len(data) > _SECRET_BYTES_MAX or "\0" in secret:
        raise ConfigurationError([f"{path}: is no secret: too long, or with a NUL byte in it"])
    hide(secret)
    return secret


def read_key(path: Path) -> bytes:
    """The key in `path`, as `read_secret`; the content itself is the key, so it must be long enough that nobody guesses it.

    Raises ConfigurationError also if it has fewer than 32 bytes.
    """
    key = read_secret(path).encode()
    if len(key) < KEY_BYTES_LEAST:
        raise ConfigurationError([
            f"{path}: {len(key)} bytes are too short for a key, at least {KEY_BYTES_LEAST}: "
            f"(umask 077; head -c 32 /dev/urandom | base64 > {path})"
        ])  # fmt: skip
    return key


def why_no_program(path: Path) -> str | None:
    """Why a root process should not run the program at `path`, or None: whoever can change it, or put another in its place,
    becomes root. Everything on the way to it must belong to root and be writable by nobody else.
    """
    try:
        real = path.resolve(strict=True)
        found = real.stat()
        if not stat.S_ISREG(found.st_mode):
            return "is not a plain file"
        if not found.st_mode & 0o111 or not os.access(real, os.X_OK):
            return "cannot be executed; chmod 755 it"
        for place in dict.fromkeys((real, *real.parents, *path.parents)):
            at = place.stat()
            sticky = stat.S_ISDIR(at.st_mode) and at.st_mode & stat.S_ISVTX  # others cannot replace what is root's in there
            if at.st_uid != 0 or (at.st_mode & 0o022 and not sticky):
                what = "it" if place == real else str(place)
                return f"{what} can be written by others than root (uid {at.st_uid}, mode {stat.S_IMODE(at.st_mode):04o})"
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        return f"cannot be used: {_reason(error) if isinstance(error, OSError) else 'links in a circle'}"
    return None


def _why_unsafe(found: os.stat_result) -> str | None:
    """Why this file cannot hold a secret, or None."""
    mode = stat.S_IMODE(found.st_mode)
    if not stat.S_ISREG(found.st_mode):
        return "is not a plain file"
    if mode & 0o077:
        return f"group or others have rights on this secret (mode {mode:04o}); chmod 600 it"
    if found.st_uid not in (0, os.geteuid()):
        return f"belongs to user {found.st_uid}, who could change it; chown it to the user of this process"
    return None


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
