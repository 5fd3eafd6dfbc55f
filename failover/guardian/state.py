"""What a guardian remembers across restarts, on a file that cannot be half written and needs no free space.

Two slots of 4 KiB are allocated once. A store overwrites the older slot and syncs it, so the newest record that was
ever acknowledged is always whole in the other one: a power cut in the middle costs the store that was never
acknowledged and nothing else. A full disk does not matter, because no block is ever added.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import struct
import threading
from dataclasses import asdict, fields
from pathlib import Path
from types import TracebackType

from failover.errors import Corrupt, Refused, Unknown
from failover.guardian.base import Durable

SLOT_BYTES = 4096
_SLOTS = 2
_MAGIC = b"FOSTATE1"
_HEADER = struct.Struct(">8sQI")  # magic, sequence, length of the JSON that follows the digest
_DIGEST_BYTES = 32
_NEVER_LOWERED = ("closed", "highest", "followed", "wrote")


def encode_slot(sequence: int, durable: Durable) -> bytes:
    """One slot, padded to its full size. Raises Corrupt if the record does not fit."""
    text = json.dumps(asdict(durable), sort_keys=True, separators=(",", ":")).encode()
    header = _HEADER.pack(_MAGIC, sequence, len(text))
    whole = header + hashlib.sha256(header + text).digest() + text
    if len(whole) > SLOT_BYTES:
        raise Corrupt(f"a state record of {len(whole)} bytes does not fit in a slot of {SLOT_BYTES}")
    return whole.ljust(SLOT_BYTES, b"\0")


def decode_slot(raw: bytes) -> tuple[int, Durable] | None:
    """Sequence and record of a slot, or None if it is torn or was never written.

    A slot that is whole but says things this version does not know raises Corrupt: going back to the other slot would
    be forgetting a promise (a downgrade, for example), and forgetting is the one thing this file exists to prevent.
    """
    if len(raw) < _HEADER.size + _DIGEST_BYTES:
        return None
    magic, sequence, length = _HEADER.unpack_from(raw)
    start = _HEADER.size + _DIGEST_BYTES
    text = raw[start : start + length]
    digest = raw[_HEADER.size : start]
    if magic != _MAGIC or len(text) != length or hashlib.sha256(raw[: _HEADER.size] + text).digest() != digest:
        return None
    return sequence, _durable(text)


def _durable(text: bytes) -> Durable:
    try:
        record = json.loads(text)
    except ValueError as error:
        raise Corrupt("a state record has a good checksum and is no JSON") from error
    known = {field.name: type(field.default) for field in fields(Durable)}
    if not isinstance(record, dict):
        raise Corrupt("a state record is not a JSON object")
    for name, value in record.items():
        if known.get(name) is not type(value):
            raise Corrupt(f"a state record has a field {name!r} that this version cannot read")
    return Durable(**record)


class SlotStateFile:
    """The StateFile of one cluster on this host, held exclusively until `close()` or the end of the process.

    Raises Refused if another guardian holds it, Corrupt if it is there and unreadable, Unknown if the disk says no.
    `store` blocks for as long as the disk does: call it from a thread that no fence waits for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()
        self._lock_fd = _hold(lock_path(path))
        try:
            self._fd = _open(path)
        except BaseException:
            os.close(self._lock_fd)  # whatever the reason, the next one to try must not find the lock taken by us
            raise
        try:
            self._sequence, self._floor, self._target = self._newest()
        except BaseException:
            self.close()
            raise

    def load(self) -> Durable:
        """The newest whole record on the disk. Raises Corrupt if there is none."""
        with self._guard:
            return self._newest()[1]

    def store(self, durable: Durable) -> None:
        """Durable when it returns. Raises Corrupt if it takes back a promise, Unknown if the disk did not say so."""
        with self._guard:
            _only_forward(self._floor, durable)
            raw = encode_slot(self._sequence + 1, durable)
            # Counted before it is tried: after a failure the record may be on the disk all the same.
            self._sequence += 1
            self._floor = durable
            try:
                written = os.pwrite(self._fd, raw, self._target * SLOT_BYTES)
                os.fdatasync(self._fd)
            except OSError as error:
                raise Unknown(f"cannot say whether {self.path} was stored: {error.strerror}") from error
            if written != SLOT_BYTES:
                raise Unknown(f"cannot say whether {self.path} was stored: {written} of {SLOT_BYTES} bytes written")
            # Only now: after a failure the next store must hit the same doubtful slot, never the last good one.
            self._target = (self._target + 1) % _SLOTS

    def close(self) -> None:
        """Let go of the file; another guardian may hold it from here on. Idempotent."""
        for name in ("_fd", "_lock_fd"):
            descriptor = getattr(self, name)
            setattr(self, name, -1)
            if descriptor >= 0:
                os.close(descriptor)

    def __enter__(self) -> SlotStateFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _newest(self) -> tuple[int, Durable, int]:
        """Sequence and record of the newest whole slot, and the number of the slot that the next store overwrites."""
        try:
            raw = os.pread(self._fd, SLOT_BYTES * _SLOTS + 1, 0)
        except OSError as error:
            raise Corrupt(f"cannot read {self.path}: {error.strerror}") from error
        if len(raw) != SLOT_BYTES * _SLOTS:
            raise Corrupt(f"{self.path} has {len(raw)} bytes instead of {SLOT_BYTES * _SLOTS}")
        found = []
        for slot in range(_SLOTS):
            decoded = decode_slot(raw[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES])
            if decoded is not None:
                found.append((*decoded, (slot + 1) % _SLOTS))
        if not found:
            raise Corrupt(f"both slots of {self.path} are unreadable: what this host promised is not known")
        return max(found, key=lambda entry: entry[0])


def peek(path: Path) -> Durable:
    """What the state file says, without holding it: to look only. One that was never made says nothing yet. Raises Corrupt."""
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return Durable()
    except OSError as error:
        raise Corrupt(f"cannot read {path}: {error.strerror}") from error
    slots = [decode_slot(raw[at : at + SLOT_BYTES]) for at in range(0, SLOT_BYTES * _SLOTS, SLOT_BYTES)]
    found = [slot for slot in slots if slot is not None]
    if not found:
        raise Corrupt(f"both slots of {path} are unreadable: what this host promised is not known")
    return max(found, key=lambda slot: slot[0])[1]


def lock_path(path: Path) -> Path:
    """The lock beside a state file."""
    return path.with_name(path.name + ".lock")


def _only_forward(old: Durable, new: Durable) -> None:
    """A promise never becomes smaller; only a freeze ends, all at once (a later grant with a member was read)."""
    lowered = [name for name in _NEVER_LOWERED if getattr(new, name) < getattr(old, name)]
    if new.frozen and new.frozen < old.frozen:
        lowered.append("frozen")
    if lowered:
        raise Corrupt(
            "the guardian tried to take back what it promised: "
            + ", ".join(f"{name} {getattr(old, name)} -> {getattr(new, name)}" for name in lowered)
        )


def _hold(path: Path) -> int:
    """The lock that says "one guardian": given back by the kernel when the process ends, however it ends."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise Refused(f"cannot open the lock {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        os.close(descriptor)
        raise Refused(f"another guardian holds {path}: pid {holder}") from error
    try:
        # For people only, the flock decides. Padded, so that no digits of an earlier holder stay behind.
        os.pwrite(descriptor, f"{os.getpid():<15}\n".encode(), 0)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            os.close(descriptor)
            raise Refused(f"cannot write the lock {path}: {error.strerror}") from error
    return descriptor


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            _create(path)
            return os.open(path, flags)
    except OSError as error:
        raise Unknown(f"cannot open or make {path}: {error.strerror}") from error


def _create(path: Path) -> None:
    """Appears whole or not at all, with one good slot, so that from the first moment "no good slot" means damage."""
    temporary = path.with_name(path.name + ".new")
    temporary.unlink(missing_ok=True)  # left by a crash in here; we hold the lock, so nobody else is writing it
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, SLOT_BYTES * _SLOTS)
        written = os.pwrite(descriptor, encode_slot(1, Durable()) + bytes(SLOT_BYTES), 0)
        if written != SLOT_BYTES * _SLOTS:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.rename(temporary, path)
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
