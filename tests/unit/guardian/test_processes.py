"""Handles and scans on real processes: the right one is found and ended, and never another one that has its number."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from failover.clock import boottime_s
from failover.guardian.deathwatch import PidfdDeathwatch
from failover.guardian.processes import DirectoryProcesses, turn

Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start() -> Iterator[Start]:
    started: list[subprocess.Popen[bytes]] = []

    def begin(*argv: str, cwd: Path = Path("/")) -> subprocess.Popen[bytes]:
        started.append(subprocess.Popen(argv or ("sleep", "300"), cwd=cwd, stdout=subprocess.PIPE))
        return started[-1]

    yield begin
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate(timeout=10)


def soon(condition: Callable[[], object]) -> None:
    end_s = boottime_s() + 10
    while not condition():
        assert boottime_s() < end_s, "the condition did not come true in time"
        threading.Event().wait(0.002)


def found(directory: Path, main: int | None = None) -> list[int]:
    return [seen.pid for seen in DirectoryProcesses(directory).scan(main)]


def state_of(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_a_watch_fires_when_the_process_ends_also_before_it_is_reaped(start: Start) -> None:
    process = start()
    watch = PidfdDeathwatch.open(process.pid, lambda: True)
    assert watch is not None and watch.wait(0) is False and watch.wait(0.01) is False
    process.kill()
    assert watch.wait(5) is True and state_of(process.pid) == "Z"
    process.wait()
    assert watch.wait(0) is True and watch.send(signal.SIGKILL) is False
    watch.close()
    watch.close()
    assert watch.wait(0) is True


def test_a_process_that_was_replaced_while_the_handle_was_taken_gets_no_handle(start: Start) -> None:
    before = len(os.listdir("/proc/self/fd"))
    assert PidfdDeathwatch.open(start().pid, lambda: False) is None
    gone = start("true")
    gone.wait()
    assert PidfdDeathwatch.open(gone.pid, lambda: True) is None
    assert len(os.listdir("/proc/self/fd")) == before + 2, "two pipes of ours, no descriptor left behind"


def test_only_processes_of_the_directory_are_found_by_whatever_name_it_has(start: Start, tmp_path: Path) -> None:
    inside, beside, link = tmp_path / "data", tmp_path / "data2", tmp_path / "link"
    inside.mkdir()
    beside.mkdir()
    link.symlink_to(inside)
    (inside / "base").mkdir()
    ours = start(cwd=inside)
    start(cwd=beside)
    start(cwd=inside / "base")
    assert found(inside) == found(link) == [ours.pid]


def test_a_zombie_is_no_process_any_more(start: Start, tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    assert found(tmp_path) == [process.pid]
    process.kill()
    soon(lambda: state_of(process.pid) == "Z")
    assert found(tmp_path) == []


def test_a_server_whose_first_thread_has_ended_counts_while_another_works(start: Start, tmp_path: Path) -> None:
    program = (
        "import ctypes, threading, time\n"
        "threading.Thread(target=time.sleep, args=(300,)).start()\n"
        "print(1, flush=True)\n"
        f"ctypes.CDLL(None).syscall({_exit_number()}, 0)\n"
    )
    process = start(sys.executable, "-c", program, cwd=tmp_path)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    soon(lambda: state_of(process.pid) == "Z")
    assert found(tmp_path) == [process.pid]
    (seen,) = DirectoryProcesses(tmp_path).scan(None)
    seen.kill()
    assert process.wait(5) == -signal.SIGKILL
    assert found(tmp_path) == []


def _exit_number() -> int:
    """exit(2) of one thread only, by architecture."""
    return {"x86_64": 60, "aarch64": 93}[os.uname().machine]


def test_children_of_the_main_process_belong_to_it_wherever_they_work(start: Start, tmp_path: Path) -> None:
    main = start("sh", "-c", "cd / && sh -c 'sleep 300 & echo $!; wait'; :", cwd=tmp_path)
    assert main.stdout is not None
    grandchild = int(main.stdout.readline())
    try:
        assert found(tmp_path) == []
        assert grandchild in found(tmp_path, main.pid) and found(tmp_path, main.pid)[0] == main.pid
        assert start().pid not in found(tmp_path, main.pid)
    finally:
        os.kill(grandchild, signal.SIGKILL)


def test_children_that_ended_and_were_not_reaped_do_not_count(start: Start, tmp_path: Path) -> None:
    """It must not end before its shell has become a `sleep`: a shell reaps."""
    os.mkfifo(tmp_path / "fifo")
    main = start("sh", "-c", "cat fifo & echo $!; exec sleep 300", cwd=tmp_path)
    assert main.stdout is not None
    child = int(main.stdout.readline())
    soon(lambda: Path(f"/proc/{main.pid}/comm").read_text() == "sleep\n")
    (tmp_path / "fifo").write_text("")
    soon(lambda: state_of(child) == "Z")
    assert found(tmp_path, main.pid) == [main.pid]


def test_a_pid_that_was_given_to_another_process_is_not_killed(start: Start, tmp_path: Path) -> None:
    process = start(cwd=tmp_path)
    (seen,) = DirectoryProcesses(tmp_path).scan(None)
    replace(seen, ticks=seen.ticks - 1).kill()  # the process seen began earlier than the one that has its pid now
    assert process.poll() is None and found(tmp_path) == [process.pid]
    seen.kill()
    assert process.wait(5) == -signal.SIGKILL
    seen.kill()


def test_the_guardian_never_counts_itself(start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = start(cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    assert found(tmp_path) == [process.pid]
    assert os.getpid() not in found(tmp_path, os.getppid())


def test_a_directory_that_cannot_be_seen_now_is_remembered_and_an_unknown_one_has_nobody(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    processes = DirectoryProcesses(tmp_path / "data")
    process = start(cwd=tmp_path / "data")
    assert [seen.pid for seen in processes.scan(None)] == [process.pid]
    (tmp_path / "data").rename(tmp_path / "moved")
    assert [seen.pid for seen in processes.scan(None)] == [process.pid]
    assert found(tmp_path / "data") == []


def test_a_stopped_process_takes_no_turn_and_waits_for_none_and_a_busy_one_does() -> None:
    busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        deadline_s = boottime_s() + 5.0
        while (first := turn(busy.pid)) is None or first[0] == 0:
            assert boottime_s() < deadline_s
        while (later := turn(busy.pid)) is not None and later[0] == first[0] and boottime_s() < deadline_s:
            continue
        assert later is not None and later[0] > first[0]
        os.kill(busy.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, busy.pid, os.WSTOPPED)
        soon(lambda: turn(busy.pid) == turn(busy.pid))  # it tells that it stops while it is still on its processor
        stopped = turn(busy.pid)
        assert stopped is not None and not stopped[1] and turn(busy.pid) == stopped
    finally:
        busy.kill()
        busy.wait()
    assert turn(busy.pid) is None


def test_a_process_moves_if_any_of_its_threads_does(start: Start, tmp_path: Path) -> None:
    """A MySQL server's first thread waits for connections and does nothing else."""
    program = "import threading\nt = threading.Thread(target=lambda: [0 for _ in iter(int, 1)])\nt.start()\nt.join()"
    threaded = start(sys.executable, "-c", program, cwd=tmp_path)
    soon(lambda: len(list(Path(f"/proc/{threaded.pid}/task").iterdir())) == 2)
    first = turn(threaded.pid)
    soon(lambda: turn(threaded.pid) != first)
    os.kill(threaded.pid, signal.SIGSTOP)
    soon(lambda: state_of(threaded.pid) == "T" and turn(threaded.pid) == turn(threaded.pid))
    stopped = turn(threaded.pid)
    assert stopped is not None and not stopped[1] and turn(threaded.pid) == stopped
