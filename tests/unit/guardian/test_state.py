"""A guardian's memory: what was promised once is never forgotten, whatever happens to the disk in between."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from failover.errors import Corrupt, Refused, Unknown
from failover.guardian.base import Durable
from failover.guardian.state import SLOT_BYTES, SlotStateFile, decode_slot, encode_slot

PROMISE = Durable(closed=4, frozen=5, frozen_against="10.0.0.1", highest=5, followed=7)


def stored(path: Path) -> Durable:
    with SlotStateFile(path) as file:
        return file.load()


def damage(path: Path, slot: int, at: int = 60, with_bytes: bytes = b"XX") -> None:
    descriptor = os.open(path, os.O_WRONLY)
    os.pwrite(descriptor, with_bytes, slot * SLOT_BYTES + at)
    os.close(descriptor)


def newest_slot(path: Path) -> int:
    raw = path.read_bytes()
    sequences = []
    for slot in (0, 1):
        decoded = decode_slot(raw[slot * SLOT_BYTES : (slot + 1) * SLOT_BYTES])
        sequences.append(decoded[0] if decoded else 0)
    return sequences.index(max(sequences))


def test_a_new_file_remembers_nothing_and_is_preallocated(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    assert stored(path) == Durable()
    assert path.stat().st_size == 2 * SLOT_BYTES
    assert path.stat().st_blocks * 512 >= 2 * SLOT_BYTES
    assert path.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob("*.new"))


def test_what_was_stored_is_there_after_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(PROMISE)
        assert file.load() == PROMISE
    assert stored(path) == PROMISE


def test_many_stores_alternate_the_slots_and_the_newest_counts(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    slots = []
    with SlotStateFile(path) as file:
        for counter in range(1, 12):
            file.store(Durable(followed=counter))
            slots.append(newest_slot(path))
    assert slots == [1, 0] * 5 + [1]
    assert stored(path).followed == 11


@pytest.mark.parametrize("stores", [1, 2])
def test_a_torn_write_costs_only_the_store_that_was_torn(tmp_path: Path, stores: int) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(Durable(closed=3))
        for _ in range(stores):
            file.store(Durable(closed=4))
            kept = Durable(closed=3) if stores == 1 else Durable(closed=4)
    damage(path, newest_slot(path))
    assert stored(path) == kept


def test_after_a_torn_write_the_next_store_repairs_the_torn_slot(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(Durable(closed=3))
        file.store(Durable(closed=4))
    torn = newest_slot(path)
    damage(path, torn)
    with SlotStateFile(path) as file:
        file.store(Durable(closed=5))
    assert newest_slot(path) == torn
    damage(path, torn)
    assert stored(path) == Durable(closed=3)


@pytest.mark.parametrize("cut_at", [0, 1, 8, 15, 16, 20, 52, 53, 100, -2])
def test_a_write_cut_anywhere_never_yields_a_made_up_record(tmp_path: Path, cut_at: int) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(Durable(closed=3, followed=1))
        file.store(Durable(closed=4, followed=2))
    older = 1 - newest_slot(path)
    whole = encode_slot(4, Durable(closed=9, followed=3, released=True)).rstrip(b"\0")
    damage(path, older, 0, whole[:cut_at])
    assert stored(path) == Durable(closed=4, followed=2)


def test_two_damaged_slots_are_reported_and_never_taken_for_a_fresh_start(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(PROMISE)
    damage(path, 0)
    damage(path, 1)
    with pytest.raises(Corrupt, match="both slots"):
        SlotStateFile(path)
    with pytest.raises(Corrupt):  # and the failed attempt gave the lock back
        SlotStateFile(path)


@pytest.mark.parametrize("content", [b"", bytes(2 * SLOT_BYTES), bytes(2 * SLOT_BYTES + 1)])
def test_an_empty_or_zeroed_or_longer_file_is_damage_because_we_never_make_one(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "orders.state"
    path.write_bytes(content)
    with pytest.raises(Corrupt):
        SlotStateFile(path)


def test_a_record_of_a_newer_version_is_refused_and_not_skipped_for_the_older_slot(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(Durable(closed=3))
    text = encode_slot(9, Durable(closed=4))
    header_and_digest = 52
    length = int.from_bytes(text[16:20], "big")
    body = text[header_and_digest : header_and_digest + length].replace(b'"closed"', b'"claudo"')
    import hashlib

    header = text[:20]
    damage(path, 0, 0, header + hashlib.sha256(header + body).digest() + body)
    with pytest.raises(Corrupt, match="claudo"):
        SlotStateFile(path)


@pytest.mark.parametrize(
    ("change", "name"),
    [({"closed": 3}, "closed"), ({"highest": 4}, "highest"), ({"followed": 6}, "followed"), ({"frozen": 4}, "frozen")],
)
def test_a_promise_is_never_taken_back(tmp_path: Path, change: dict[str, int], name: str) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(PROMISE)
        with pytest.raises(Corrupt, match=name):
            file.store(replace(PROMISE, **change))  # type: ignore[arg-type]  # a parametrised field name
        assert file.load() == PROMISE
    with SlotStateFile(path) as file, pytest.raises(Corrupt, match=name):  # nor after a restart
        file.store(replace(PROMISE, **change))  # type: ignore[arg-type]  # a parametrised field name


def test_a_freeze_ends_when_it_is_thawed(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    thawed = replace(PROMISE, frozen=0, frozen_against="", highest=6, released=True)
    with SlotStateFile(path) as file:
        file.store(PROMISE)
        file.store(thawed)
    assert stored(path) == thawed


def test_a_record_too_long_for_a_slot_is_refused_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(PROMISE)
        with pytest.raises(Corrupt, match="fit"):
            file.store(replace(PROMISE, frozen_against="x" * SLOT_BYTES))
        file.store(PROMISE)
        assert file.load() == PROMISE


def test_a_second_guardian_is_refused_and_told_who_holds_the_file(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    program = (
        "import sys; from pathlib import Path; from failover.guardian.state import SlotStateFile\n"
        "file = SlotStateFile(Path(sys.argv[1])); print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    try:
        assert other.stdout is not None and other.stdout.readline() == b"held\n"
        with pytest.raises(Refused, match=f"pid {other.pid}$"):
            SlotStateFile(path)
    finally:
        other.kill()
        other.communicate(timeout=10)
    assert stored(path) == Durable()  # SIGKILL gave the lock back


def test_a_failing_disk_makes_the_outcome_unknown_and_the_last_good_slot_survives(tmp_path: Path) -> None:
    path = tmp_path / "orders.state"
    with SlotStateFile(path) as file:
        file.store(PROMISE)
        good = newest_slot(path)
        real, file._fd = file._fd, os.open(path, os.O_RDONLY)  # a descriptor that cannot be written: the driver's edge
        try:
            for closed in (5, 6):
                with pytest.raises(Unknown):
                    file.store(replace(PROMISE, closed=closed))
        finally:
            os.close(file._fd)
            file._fd = real
        with pytest.raises(Corrupt, match="closed"):  # 6 may be on the disk: 5 would take it back
            file.store(replace(PROMISE, closed=5))
        file.store(replace(PROMISE, closed=7))
        assert newest_slot(path) == 1 - good
        assert file.load().closed == 7


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting a small ext4 disk needs root")
    image, disk = tmp_path / "disk.img", tmp_path / "disk"
    disk.mkdir()
    image.write_bytes(bytes(4 << 20))
    made = subprocess.run(["mkfs.ext4", "-q", "-F", "-m0", str(image)], capture_output=True, timeout=20, check=False)
    mounted = (
        made.returncode == 0
        and subprocess.run(
            ["mount", "-o", "loop", str(image), str(disk)], capture_output=True, timeout=20, check=False
        ).returncode
        == 0
    )
    if not mounted:  # no loop devices: a tmpfs is full in the same way, only without a journal
        mounted = (
            subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(disk)], timeout=20, check=False
            ).returncode
            == 0
        )
    if not mounted:
        pytest.skip("neither a loop device nor a tmpfs can be mounted here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], timeout=20, check=True)


def test_a_full_disk_does_not_stop_a_promise_from_becoming_durable(small_disk: Path) -> None:
    path = small_disk / "orders.state"
    with SlotStateFile(path) as file:
        with pytest.raises(OSError, match="No space"), (small_disk / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))
        for closed in range(1, 50):
            file.store(Durable(closed=closed))
    assert stored(path) == Durable(closed=49)
    with pytest.raises(Unknown, match="No space"):  # a second file has no room, and no half of it is left
        SlotStateFile(small_disk / "other.state")
    assert not (small_disk / "other.state").exists()
