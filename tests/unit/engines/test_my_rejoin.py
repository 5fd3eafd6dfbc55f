"""A copy takes the data's place: what is kept, what an interruption leaves. The copies themselves are in tests/contract."""

from __future__ import annotations

import os
import pwd
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from failover.engines.base import Upstream, Work
from failover.engines.my_connection import Rejected
from failover.engines.my_layout import MYSQL, Layout
from failover.engines.my_rejoin import MyRejoiner
from failover.errors import Refused, Unknown
from failover.settings import InstanceSettings

SOURCE = Upstream("db2", "10.0.0.2", 3306)
ME = pwd.getpwuid(os.getuid()).pw_name


class OnePlace(Layout):
    """A host where everything lies in the data directory, or is said not to."""

    refusal: Refused | None = None

    def demand_one_place(self) -> None:
        if self.refusal is not None:
            raise self.refusal


class FolderCopier:
    """Copies are made of one file; `during` happens before one is whole."""

    def __init__(self, during: Callable[[], None] = lambda: None) -> None:
        self.during = during
        self.made = 0

    def obstacle(self) -> str | None:
        return None

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        assert not list(into.iterdir())
        (into / "begun").touch()
        self.during()
        self.made += 1
        (into / "ibdata1").write_text(f"copy {self.made}")
        (into / "server-key.pem").write_text("made with the copy")
        (into / "begun").unlink()


class Member:
    def __init__(self, home: Path) -> None:
        self.data = home / "data"
        self.data.mkdir(mode=0o750)
        for name, text in (("ibdata1", "old"), ("auto.cnf", "uuid"), ("server-key.pem", "own"), ("mysqld-auto.cnf", "{}")):
            (self.data / name).write_text(text)
        instance = InstanceSettings(3306, self.data, home, "direct", None, home, ME, "failover", None)
        self.copier, self.layout = FolderCopier(), OnePlace(instance, MYSQL)
        self.rejoiner = MyRejoiner(instance, self.layout, self.copier, "db1", lambda statement, budget_s: [])

    def rewind(self) -> None:
        self.rejoiner.rewind(SOURCE, Work(threading.Event(), lambda words: None))

    def what(self) -> str:
        return (self.data / "ibdata1").read_text()

    def beside(self) -> list[str]:
        return sorted(path.name for path in self.data.parent.iterdir())


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member(tmp_path)


def test_the_copy_takes_the_place_with_the_hosts_own_configuration_and_without_its_uuid(member: Member) -> None:
    member.rewind()
    assert member.what() == "copy 1" and member.beside() == ["data"]
    assert sorted(path.name for path in member.data.iterdir()) == ["ibdata1", "mysqld-auto.cnf", "server-key.pem"]
    assert (member.data / "server-key.pem").read_text() == "own"
    assert member.data.stat().st_mode & 0o777 == 0o750
    member.rewind()
    assert member.what() == "copy 2" and (member.data / "server-key.pem").read_text() == "own"


def test_without_data_the_copy_is_all_there_is(member: Member) -> None:
    shutil.rmtree(member.data)
    member.rewind()
    assert member.what() == "copy 1"


def test_a_copy_that_fails_leaves_the_old_data_and_no_rest(member: Member) -> None:
    def fail() -> None:
        raise Unknown("the source went away")

    member.copier.during = fail
    with pytest.raises(Unknown, match="went away"):
        member.rewind()
    assert member.what() == "old" and member.beside() == ["data"]


def test_what_the_copys_server_refuses_may_be_tried_again(member: Member) -> None:
    def refuse() -> None:
        raise Rejected(1227, "the server refused: 1227 Access denied")

    member.copier.during = refuse
    with pytest.raises(Unknown, match="1227"):
        member.rewind()


@pytest.mark.parametrize("left", [("data.copy",), ("data.old",), ("data.copy", "data.old")])
def test_what_an_interruption_leaves_goes(member: Member, left: tuple[str, ...]) -> None:
    for name in left:
        (member.data.parent / name).mkdir()
    member.rewind()
    assert member.what() == "copy 1" and member.beside() == ["data"]


def test_data_that_was_put_aside_and_not_replaced_comes_back(member: Member) -> None:
    """Killed between the two renames: the last copy of anything is not what is forgotten."""
    member.data.rename(member.data.parent / "data.old")
    (member.data.parent / "data.copy").mkdir()
    member.rejoiner.forget()
    assert member.what() == "old" and member.beside() == ["data"]
    member.data.rename(member.data.parent / "data.old")
    member.rewind()
    assert member.what() == "copy 1" and (member.data / "server-key.pem").read_text() == "own"


def test_where_a_copy_cannot_take_the_place_nothing_is_touched(member: Member) -> None:
    member.layout.refusal = Refused("log-bin is elsewhere")
    with pytest.raises(Refused, match="elsewhere"):
        member.rewind()
    member.layout.refusal = None
    real = member.data.with_name("elsewhere")
    member.data.rename(real)
    member.data.symlink_to(real)
    obstacle = member.rejoiner.obstacle()
    assert obstacle is not None and "symbolic link" in obstacle
    with pytest.raises(Refused, match="symbolic link"):
        member.rewind()
    assert member.copier.made == 0


def test_a_wish_to_stop_is_heard_before_the_data_goes(member: Member) -> None:
    stop = threading.Event()
    member.copier.during = stop.set
    with pytest.raises(Unknown, match="stopped"):
        member.rejoiner.rewind(SOURCE, Work(stop, lambda words: None))
    assert member.what() == "old" and member.beside() == ["data"]
