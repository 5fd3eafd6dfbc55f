"""What a data directory and my.cnf say of a server that is not running."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from failover.engines import my_files
from failover.engines.my_config import boots_writable, parse_options, start_options
from failover.errors import Corrupt

HERE = pwd.getpwuid(os.geteuid()).pw_name


def binary_log(path: Path, flags: int, magic: bytes = b"\xfebin") -> Path:
    header = bytes(4) + bytes([15]) + (3).to_bytes(4, "little") + bytes(4) + bytes(4) + flags.to_bytes(2, "little")
    path.write_bytes(magic + header + bytes(90))
    return path


def test_a_log_in_use_was_not_closed_in_order(tmp_path: Path) -> None:
    assert my_files.closed_in_order(binary_log(tmp_path / "a", 0)) is True
    assert my_files.closed_in_order(binary_log(tmp_path / "a", 1)) is False
    assert my_files.closed_in_order(binary_log(tmp_path / "a", 0x41)) is False


def test_a_log_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    assert my_files.closed_in_order(binary_log(tmp_path / "a", 0, b"\xfdbin")) is None, "encrypted"
    (tmp_path / "short").write_bytes(b"\xfebin123")
    assert my_files.closed_in_order(tmp_path / "short") is None
    assert my_files.closed_in_order(tmp_path / "absent") is None


@pytest.mark.parametrize(
    ("engine", "base", "index"),
    [("mysql", "", "binlog.index"), ("mysql", "log/of-db1", "log/of-db1.index"), ("mariadb", "", "db1-bin.index"),
     ("mariadb", "binlog", "binlog.index")],
)  # fmt: skip
def test_the_last_log_is_the_last_line_of_the_index(tmp_path: Path, engine: str, base: str, index: str) -> None:
    (tmp_path / index).parent.mkdir(exist_ok=True)
    (tmp_path / index).write_text("./x.000001\n./x.000002\n\n")
    assert my_files.last_log(engine, tmp_path, base) == tmp_path / "x.000002"
    (tmp_path / index).write_text("")
    assert my_files.last_log(engine, tmp_path, base) is None


def test_a_directory_without_system_tables_holds_no_database(tmp_path: Path) -> None:
    for engine, file in (("mysql", "mysql.ibd"), ("mariadb", "ibdata1")):
        with pytest.raises(Corrupt):
            my_files.check_database(engine, tmp_path)
        (tmp_path / file).touch()
        with pytest.raises(Corrupt):
            my_files.check_database(engine, tmp_path)
        (tmp_path / "mysql").mkdir()
        my_files.check_database(engine, tmp_path)
        (tmp_path / "mysql").rmdir()


VERSION_1 = {
    "Version": 1,
    "mysql_server": {
        "read_only": {"Value": "OFF", "Metadata": {"Timestamp": 1, "User": "root", "Host": "localhost"}},
        "max_connections": {"Value": "50", "Metadata": {}},
        "mysql_server_static_options": {"skip_slave_start": {"Value": "OFF", "Metadata": {}}},
    },
}
VERSION_2 = {
    "Version": 2,
    "mysql_static_variables": {"skip_replica_start": {"Value": "OFF", "Metadata": {}}},
    "mysql_dynamic_variables": {
        "super_read_only": {"Value": "OFF", "Metadata": {}}, "read_only": {"Value": "ON", "Metadata": {}},
        "max_connections": {"Value": "50", "Metadata": {}},
    },
}  # fmt: skip
NAMES = ("read_only", "super_read_only", "skip_replica_start", "skip_slave_start")


@pytest.mark.parametrize("kept", [VERSION_1, VERSION_2])
def test_what_was_persisted_as_off_is_taken_out_and_the_rest_stays(tmp_path: Path, kept: dict[str, object]) -> None:
    path = tmp_path / "mysqld-auto.cnf"
    path.write_text(json.dumps(kept))
    assert my_files.forget_persisted(tmp_path, NAMES, HERE) is True
    text = path.read_text()
    assert '"OFF"' not in text and json.loads(text)["Version"] == kept["Version"] and '"50"' in text
    assert ("read_only" in text) == (kept is VERSION_2), "what is persisted as ON may stay"
    before = path.stat().st_mtime_ns
    assert my_files.forget_persisted(tmp_path, NAMES, HERE) is False
    assert path.stat().st_mtime_ns == before


def test_nothing_persisted_and_a_file_that_nobody_can_read(tmp_path: Path) -> None:
    assert my_files.forget_persisted(tmp_path, NAMES, HERE) is False
    (tmp_path / "mysqld-auto.cnf").write_text("{")
    with pytest.raises(Corrupt):
        my_files.forget_persisted(tmp_path, NAMES, HERE)


@contextmanager
def server(program: Path, data_dir: Path) -> Iterator[int]:
    """A process that looks like one: this program, working there."""
    with subprocess.Popen([program, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, cwd=data_dir) as process:
        yield process.pid
        process.kill()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    shutil.copy(os.path.realpath(sys.executable), tmp_path / "bin/mysqld")
    return tmp_path / "bin/mysqld"


def test_the_main_process_is_known_by_its_program_and_its_directory(tmp_path: Path, program: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "other").mkdir()
    found = my_files.Processes(tmp_path / "data", [program])
    assert found.main() is None
    with server(program, tmp_path / "other"), server(Path(sys.executable), tmp_path / "data"):
        assert found.main() is None
        with server(program, tmp_path / "data") as pid:
            assert found.main() == pid == found.main()
        assert found.main() is None, "the one remembered has ended"
        with server(program, tmp_path / "data") as another:
            assert found.main() == another


def test_a_lock_goes_unless_a_server_of_this_kind_holds_it(tmp_path: Path, program: Path) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    for folder in (data, run):
        folder.mkdir()
    socket, lock = run / "mysqld.sock", run / "mysqld.sock.lock"

    def leave_behind(owner: int) -> None:
        for path in (socket, lock, data / "db1.pid"):
            path.write_text(f"{owner}\n")

    leave_behind(os.getpid())  # after a boot of the host a stranger has that pid
    my_files.remove_stale_files(data, socket, [program])
    assert not any(path.exists() for path in (socket, lock, data / "db1.pid"))
    with server(program, tmp_path) as pid:
        leave_behind(pid)
        my_files.remove_stale_files(data, socket, [program])
        assert socket.exists() and lock.exists() and not (data / "db1.pid").exists()
    my_files.remove_stale_files(data, socket, [program])
    assert not lock.exists()


PRINTED = """/usr/sbin/mysqld would have been started with the following arguments:
--datadir=/var/lib/mysql --loose-read-only --super_read_only=1 --log-bin=binlog --read_only=OFF --skip-replica-start
"""


def test_options_are_read_as_the_server_prints_them_and_the_last_word_counts() -> None:
    options = parse_options(PRINTED)
    assert options == {
        "datadir": "/var/lib/mysql", "read_only": "OFF", "super_read_only": "1", "log_bin": "binlog", "skip_replica_start": "ON",
    }  # fmt: skip
    assert [fault.split(" ")[0] for fault in boots_writable("mysql", options)] == ["read_only"]


def test_a_my_cnf_that_says_nothing_boots_writable() -> None:
    assert [fault.split(" ")[0] for fault in boots_writable("mysql", {})] == ["read_only", "super_read_only", "replication"]
    assert [fault.split(" ")[0] for fault in boots_writable("mariadb", {})] == ["read_only", "replication"]
    assert boots_writable("mariadb", {"read_only": "ON", "skip_slave_start": "ON"}) == []
    assert boots_writable("mariadb", {"read_only": "NO_LOCK", "skip_slave_start": "ON"}), "up to 11.8 that word means OFF"


def test_every_start_is_a_standbys_in_the_words_of_the_version() -> None:
    assert "--skip-replica-start=ON" in start_options("mysql", (9, 7, 4))
    assert "--skip-slave-start=ON" in start_options("mysql", (8, 0, 25))
    for engine, version in (("mysql", (9, 7, 4)), ("mariadb", (10, 11, 19))):
        assert "--read-only=ON" in start_options(engine, version)  # type: ignore[arg-type]
    assert "--rpl-semi-sync-slave-enabled=OFF" in start_options("mariadb", (10, 11, 19))
