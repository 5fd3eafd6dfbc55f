"""MariaDB positions, against a model that keeps every line of every server (tests/support/maria_lines.py)."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.engines.maria_gtid import MAX_CHARS, MariaPosition, parse_gtids
from failover.errors import Corrupt
from tests.support.maria_lines import DOMAINS, STEPS, Lines, Server, lines

WITHOUT_BACKUPS = tuple(step for step in STEPS if step != "seed")
many = settings(max_examples=300)


def at(server: int, state: str, slave_pos: str = "", received: str = "") -> MariaPosition:
    ends = {g.domain: str(g) for g in sorted(parse_gtids(state), key=lambda g: g.number)}
    return MariaPosition.reported(server, state, ",".join(ends.values()), slave_pos, received)


def reigned_again(one: Server, other: Server) -> bool:
    """The one thing that is not told apart: who wrote the other's last transaction has written on, on another line."""

    def hidden(domain: int) -> bool:
        mine, theirs = one.lines[domain], other.lines[domain]
        return bool(theirs) and len(mine) > len(theirs) and theirs[-1] in mine[len(theirs) :]

    return any(hidden(domain) for domain in DOMAINS if one.lines[domain][: len(other.lines[domain])] != other.lines[domain])


@many
@given(lines())
def test_what_is_covered_is_there(made: Lines) -> None:
    for one, other in itertools.product(made.servers, repeat=2):
        if one.position().covers(other.position()):
            assert one.has_all_of(other) or reigned_again(one, other)


@many
@given(lines(WITHOUT_BACKUPS))
def test_without_backups_and_relay_logs_everything_is_known(made: Lines) -> None:
    for server in made.servers:
        server.apply()
    for one, other in itertools.product(made.servers, repeat=2):
        if not reigned_again(one, other):
            assert one.position().covers(other.position()) == one.has_all_of(other)


@many
@given(lines())
def test_only_a_stray_is_called_diverged(made: Lines) -> None:
    """Whatever has the primary's log or a part of it, received, applied or from a backup, against every picture of it."""
    for server, picture in itertools.product(made.servers, made.pictures):
        if server.position().diverged_from(picture):
            assert not made.primary.has_all_of(server)


@many
@given(lines(WITHOUT_BACKUPS))
def test_a_stray_is_called_diverged_by_a_primary_that_knows_its_whole_log(made: Lines) -> None:
    theirs = made.primary.position()
    for server in made.servers:
        if not (made.primary.has_all_of(server) or reigned_again(made.primary, server)):
            unknown = [d for d in theirs.domains if server.lines[d.last.domain] and len(server.lines[d.last.domain]) <= d.since]
            assert server.position().diverged_from(theirs) or unknown


@many
@given(lines())
def test_covers_is_a_partial_order_as_far_as_it_is_known(made: Lines) -> None:
    positions = [server.position() for server in made.servers]
    for a, b, c in itertools.product(positions, repeat=3):
        assert a.covers(a)
        assert not (a.covers(b) and b.covers(a)) or [d.last for d in a.domains] == [d.last for d in b.domains]
        assert not (a.covers(b) and a.diverged_from(b) and b.covers(a))
        if a.covers(b) and b.covers(c) and not a.covers(c):
            assert any(server.seeded or server.applied != _all(server) for server in made.servers)


@many
@given(lines())
def test_the_distance_is_zero_exactly_for_what_is_covered(made: Lines) -> None:
    for one, other in itertools.product(made.servers, repeat=2):
        mine, theirs = one.position(), other.position()
        behind = mine.behind(theirs)
        assert (behind == 0) == mine.covers(theirs)
        if behind is not None and other.has_all_of(one):
            assert behind == sum(len(line) for line in other.lines.values()) - sum(len(line) for line in one.lines.values())


@given(lines())
def test_the_stored_form_reads_back(made: Lines) -> None:
    for server in made.servers:
        assert MariaPosition.parse(server.position().text()) == server.position()


def _all(server: Server) -> dict[int, int]:
    return {domain: len(line) for domain, line in server.lines.items()}


# --- by example -----------------------------------------------------------------------------------------------------------
def test_the_documented_form() -> None:
    primary = at(1, "0-1-105,0-3-60,7-1-9", slave_pos="0-3-60")
    assert primary.text() == "0-1-105,7-1-9@1 0-3-60 0~60 7~0"
    assert MariaPosition.parse("0-1-105,7-1-9@1 0-3-60 0~60 7~0") == primary
    assert at(2, "", slave_pos="0-1-100").text() == "0-1-100@2"
    assert at(2, "").text() == "@2"


def test_the_highest_number_is_not_the_answer() -> None:
    """Pacemaker compares the third field of a GTID."""
    new, old = at(2, "0-1-100,0-2-110", slave_pos="0-1-100"), at(1, "0-1-150")
    assert not old.covers(new) and not new.covers(old)
    assert old.behind(new) is None and new.behind(old) is None
    assert old.diverged_from(new) and not new.covers(at(1, "0-1-105"))


def test_one_domain_is_not_the_answer() -> None:
    """replication-manager compares one."""
    both, one = at(2, "", slave_pos="0-1-100,7-1-50"), at(3, "", slave_pos="0-1-120,7-1-40")
    assert not both.covers(one) and not one.covers(both)
    assert one.behind(both) == 10
    assert at(3, "", slave_pos="0-1-120").behind(both) == 50


def test_one_number_of_two_servers() -> None:
    primary = at(2, "0-1-100,0-2-101", slave_pos="0-1-100")
    assert at(1, "0-1-101").diverged_from(primary)
    assert not primary.covers(at(1, "0-1-101"))


def test_lag_is_not_divergence_whatever_the_picture_of_the_primary() -> None:
    primary, before = at(1, "0-1-150"), at(1, "0-1-90")
    lagging = at(2, "0-1-100", slave_pos="0-1-100")
    assert primary.covers(lagging) and not before.covers(lagging)
    assert not lagging.diverged_from(primary) and not lagging.diverged_from(before)


def test_a_server_made_from_a_backup_lags_like_any_other() -> None:
    """gtid_binlog_state is empty there, and knows nothing older ever after."""
    primary, fresh = at(1, "0-1-150,0-3-60", slave_pos="0-3-60"), at(2, "", slave_pos="0-1-140")
    assert primary.covers(fresh) and not fresh.diverged_from(primary)
    promoted = at(2, "0-1-150,0-2-170", slave_pos="0-1-150")
    lagging, ancient = at(1, "0-1-145,0-3-60", slave_pos="0-3-60"), at(3, "0-3-20")
    assert promoted.covers(lagging) and not lagging.diverged_from(promoted)
    assert not promoted.covers(ancient) and not ancient.diverged_from(promoted)  # unknown, and 1236 for it


def test_accounts_made_before_a_server_was_put_in_its_place_are_no_divergence() -> None:
    standby = at(2, "0-2-3,0-1-100", slave_pos="0-1-100")
    assert at(1, "0-1-150").covers(standby) and not standby.diverged_from(at(1, "0-1-150"))
    promoted = at(2, "0-2-170,0-1-150", slave_pos="0-1-150")
    assert promoted.covers(standby)
    seeded = at(2, "0-2-3,0-1-150", slave_pos="0-1-150")
    assert not at(3, "0-3-20").diverged_from(seeded)


def test_what_was_received_behind_a_stray_does_not_hide_it() -> None:
    """Replication stops there (1950): the relay log after it is never applied."""
    stray = at(2, "0-1-100,0-2-101", slave_pos="0-1-100", received="0-1-140")
    assert stray.text().startswith("0-2-101@2")
    assert stray.diverged_from(at(1, "0-1-150")) and stray.strays(at(1, "0-1-150")) == "0-2-101"


def test_received_and_not_applied_counts() -> None:
    lagging = at(2, "0-1-100", slave_pos="0-1-100", received="0-1-900")
    assert lagging.covers(at(3, "0-1-800", slave_pos="0-1-800"))


def test_what_is_in_a_relay_log_between_two_writers_is_not_known() -> None:
    lagging = at(3, "0-1-100", slave_pos="0-1-100", received="0-2-200")
    assert not lagging.covers(at(4, "0-1-150", slave_pos="0-1-150"))
    assert not at(4, "0-1-150", slave_pos="0-1-150").diverged_from(lagging)


def test_an_old_primary_below_the_end_of_the_new_one() -> None:
    """Its tail has lower numbers than the new primary has reached since."""
    new = at(2, "0-1-100,0-2-900", slave_pos="0-1-100")
    assert at(1, "0-1-103").strays(new) == "0-1-103"
    assert new.covers(at(1, "0-1-100"))


def test_another_domain_is_no_hiding_place() -> None:
    assert at(2, "0-1-100,7-2-1", slave_pos="0-1-100").strays(at(1, "0-1-150")) == "7-2-1"


def test_the_other_kinds_of_position_are_not_compared() -> None:
    class Other:
        pass

    assert not at(1, "0-1-1").covers(Other())  # type: ignore[arg-type]
    assert at(1, "0-1-1").behind(Other()) is None  # type: ignore[arg-type]
    assert not at(1, "0-1-1").diverged_from(Other())  # type: ignore[arg-type]
    assert at(1, "").descends_from("anything") and at(1, "").history_id() == ""


@pytest.mark.parametrize(
    "text",
    ["", "@", "0-1-1", "0-1-1@", "0-1-1@x", "0-1-1@4294967296", "0-1-1@01", "0-1-0@1", "0-1@1", "4294967296-1-1@1",
     "0-1-1,0-2-2@1", "7-1-1,0-1-1@1", "0-1-1@1 ", "0-1-1@1 0-2-1", "0-1-5@1 0-1-4", "0-1-5@1 0-2-6", "0-1-5@1 0~6",
     "0-1-5@1 0~5", "0-1-5@1 7~0", "0-1-5@1 7-1-1", "0-1-5@1 0-2-4 0-2-3", "0-1-5@1 0-3-4 0-2-3", "0-1-5@1 0~1 0-2-4",
     "0-1-5@1 0~1 0~1", "0-1-5@1\n", "0-1-5 @1", "0-1-05@1", "0-\u0661-5@1", "0-1-18446744073709551616@1",
     "0-1-1," * MAX_CHARS + "@1"],
)  # fmt: skip
def test_anything_else_is_corrupt(text: str) -> None:
    with pytest.raises(Corrupt):
        MariaPosition.parse(text)


@given(st.text(alphabet="0123-,@~ ", max_size=40) | st.text(max_size=40))
def test_no_text_raises_anything_but_corrupt(text: str) -> None:
    for candidate in (text, f"0-1-5@1 {text}", f"{text}@1"):
        try:
            MariaPosition.parse(candidate)
        except Corrupt:
            pass


def test_the_longest_readable_positions_are_compared_at_once() -> None:
    text = ",".join(f"{domain}-1-1" for domain in range(1500))
    position = MariaPosition.reported(1, text, text, "")
    assert position.covers(position) and position.behind(MariaPosition((), 2)) == 0
