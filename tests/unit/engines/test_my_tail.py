"""What is in a tail, from what mysqlbinlog prints. The real tools are in tests/contract/test_my_rejoin.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from failover.engines.gtid import GtidPosition
from failover.engines.maria_gtid import MariaPosition
from failover.engines.mariadb_backup import state_at
from failover.engines.my_tail import Listing, described, files, fork, head, missing
from failover.errors import Corrupt, Refused

A, B = "aaaaaaaa-0000-4000-8000-00000000000a", "bbbbbbbb-0000-4000-8000-00000000000b"
_AT = "#261128 9:08:07 server id 1  end_log_pos 324 CRC32 0x1b5197a1 \t"
ROWS = (
    _AT + "Query\tthread_id=12\texec_time=0", "SET TIMESTAMP=1/*!*/;", "BEGIN", "/*!*/;", "# at 9",
    _AT + "Table_map: `app`.`t` mapped to number 106", "# at 10",
    _AT + "Write_rows: table id 106 flags: STMT_END_F",
    "### INSERT INTO `app`.`t`", "### SET", "###   @1='### INSERT INTO `no`.`no`'", "### INSERT INTO `app`.`t`", "### SET",
    _AT + "Xid = 16", "COMMIT/*!*/;",
)  # fmt: skip


def mysql_at(gtid: str) -> tuple[str, ...]:
    return (_AT + "GTID\tlast_committed=4\tsequence_number=5", f"SET @@SESSION.GTID_NEXT= '{gtid}'/*!*/;")


def listed(listing: Listing, *lines: str) -> list[str]:
    return [words for line in lines if (words := listing.feed(line)) is not None] + [w for w in [listing.end()] if w]


def mysql_listing(log: str) -> Listing:
    return Listing(missing(GtidPosition.parse("@"), GtidPosition.parse(f"{log}@")), "failover")


def test_rows_are_counted_by_table_for_the_transactions_that_are_missing() -> None:
    listing = mysql_listing(f"{A}:2-3:batch:1")
    said = listed(listing, *mysql_at(f"{A}:1"), *ROWS, *mysql_at(f"{A}:2"), *ROWS, *mysql_at(f"{A}:batch:1"), *ROWS)
    assert said == [f"{A}:2 2026-11-28 09:08:07 UTC: app.t 2", f"{A}:batch:1 2026-11-28 09:08:07 UTC: app.t 2"]
    found = listing.result("")
    assert (found.commits, dict(found.tables)) == (2, {"app.t": 4})
    assert found.unread == "1 of 3 transactions are in no file of log"


def test_what_a_relay_log_repeats_counts_once() -> None:
    listing = mysql_listing(f"{A}:1")
    assert len(listed(listing, *mysql_at(f"{A}:1"), *ROWS, *mysql_at(f"{A}:1"), *ROWS)) == 1
    assert listing.result("").commits == 1


def test_what_cannot_be_counted_is_still_named() -> None:
    listing = mysql_listing(f"{A}:1")
    (said,) = listed(listing, *mysql_at(f"{A}:1"), _AT + "Incident", "# at 7")
    assert said.endswith("UTC: Incident")


def test_a_transaction_of_mariadb_is_named_in_its_event() -> None:
    listing = Listing(missing(MariaPosition.parse("0-1-4@1"), MariaPosition.parse("0-1-6@1")), "failover")
    begin = "START TRANSACTION"
    said = listed(listing, *(x for n in (4, 5, 6) for x in (f"{_AT}GTID 0-1-{n} trans", begin, *ROWS)))
    assert [line.split(" ")[0] for line in said] == ["0-1-5", "0-1-6"]
    assert listing.result("").unread == ""


def test_a_statement_on_our_own_schema_is_nobodys_loss() -> None:
    for statement in ("CREATE TABLE failover.heartbeat (e INT)", "CREATE DATABASE IF NOT EXISTS `failover`", "DELETE FROM x"):
        listing = mysql_listing(f"{A}:1")
        lines = (_AT + "Query\tthread_id=12", "use `failover`/*!*/;", "SET TIMESTAMP=1/*!*/;", statement, "/*!*/;", "# at 5")
        assert listed(listing, *mysql_at(f"{A}:1"), *lines) == [], statement


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("INSERT INTO app.t VALUES ('secret')", ("INSERT", "app.t")),
        ("insert ignore into `app` . `t` values (1)", ("INSERT", "app.t")),
        ("UPDATE t SET w = 'secret'", ("UPDATE", "t")),
        ("DELETE FROM app.t", ("DELETE", "app.t")),
        ("CREATE TABLE IF NOT EXISTS app.t (id INT)", ("CREATE TABLE", "app.t")),
        ("CREATE OR REPLACE VIEW v AS SELECT 'secret'", ("CREATE OR REPLACE VIEW", "v")),
        ("CREATE USER u IDENTIFIED BY 'secret'", ("CREATE USER", "")),
        ("ALTER USER u IDENTIFIED BY 'secret'", ("ALTER USER", "")),
        ("SET PASSWORD FOR u = 'secret'", ("SET", "")),
        ("GRANT ALL ON *.* TO u", ("GRANT", "")),
        ("'secret'", ("a statement", "")),
    ],
)
def test_a_statement_is_told_without_its_text(statement: str, says: tuple[str, str]) -> None:
    assert described(statement) == says


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            (_AT + "Start: binlog v 4", "# at 127", _AT + "Previous-GTIDs", f"# {A}:1-6,", f"# {B}:1", "SET @@SESSION"),
            f"{A}:1-6,{B}:1",
        ),
        ((_AT + "Previous-GTIDs", "# [empty]", "# at 158"), ""),
        ((_AT + "Gtid list [0-1-7,", "# 7-1-1]", "# at 315"), "0-1-7,7-1-1"),
        ((_AT + "Gtid list []", "# at 285"), ""),
        ((_AT + "Start: binlog v 4", "# at 127"), None),
        ((), None),
    ],
)
def test_what_stands_before_a_file(lines: tuple[str, ...], says: str | None) -> None:
    assert head(lines) == says


def test_the_fork_of_two_sets_leaves_the_strays_out() -> None:
    mine, theirs = GtidPosition.parse(f"{A}:1-10,{B}:1-3@{A}"), GtidPosition.parse(f"{A}:1-8,{B}:1-2@{B}")
    shared = fork(mine, theirs)
    assert shared.text() == f"{A}:1-8,{B}:1-3@{A}", "what the primary itself wrote it has"
    assert missing(shared, mine).text() == f"{A}:9-10"
    with pytest.raises(Refused, match="cannot have"):
        fork(theirs, theirs)


def test_the_fork_of_two_lines_is_the_last_transaction_that_both_have() -> None:
    mine, theirs = MariaPosition.parse("0-1-103,7-1-2@1 0-3-60 0~0 7~0"), MariaPosition.parse("0-2-150@2 0-1-100 0~100")
    shared = fork(mine, theirs)
    assert shared.text() == "0-1-100@1 0-3-60 0~0"
    gone = missing(shared, mine)
    assert gone.text() == "domain 0 after 100 up to 103, domain 7 after 0 up to 2"
    assert [gone.wants(g) for g in ("0-1-100", "0-1-101", "0-1-104", "7-1-1", "8-1-1")] == [False, True, False, True, False]
    assert gone.stands_before("0-1-101") and not gone.stands_before("0-1-100,0-3-60")
    assert gone.executed("0-1-103,7-1-2") and not gone.executed("0-1-103")
    with pytest.raises(Refused, match="share no history"):
        fork(mine, GtidPosition.parse(f"{A}:1@{A}"))
    with pytest.raises(Refused, match="share no history"):
        fork(MariaPosition.parse("0-5-900@5"), MariaPosition.parse("0-2-150@2"))


def test_the_files_of_an_index(tmp_path: Path) -> None:
    (tmp_path / "binlog.index").write_text("./binlog.000001\n/var/log/binlog.000002\n")
    assert files(tmp_path / "binlog.index", tmp_path) == (tmp_path / "binlog.000001", Path("/var/log/binlog.000002"))
    with pytest.raises(Corrupt):
        files(tmp_path / "none.index", tmp_path)


@pytest.mark.parametrize(
    ("before", "after", "end", "state"),
    [
        ("0-1-100,0-2-150", "0-1-100,0-2-170", "0-2-160", "0-1-100,0-2-160"),
        ("0-1-100", "0-1-100", "0-1-100", "0-1-100"),
        ("", "", "0-1-100", "0-1-100"),
        ("0-1-100,0-2-150", "0-1-180,0-2-170", "0-2-160", ""),  # another one wrote meanwhile
        ("0-1-100,7-1-5,7-2-9", "0-1-120,7-1-5,7-2-9", "0-1-110,7-2-9", "0-1-110,7-1-5,7-2-9"),
        ("0-2-150,0-1-100", "0-2-150,0-1-100,0-3-151", "0-3-151", "0-1-100,0-2-150,0-3-151"),
    ],
)
def test_the_state_at_the_end_of_a_backup(before: str, after: str, end: str, state: str) -> None:
    assert state_at(before, after, end) == state
