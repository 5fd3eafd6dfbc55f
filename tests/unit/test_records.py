"""Records survive the way to ZooKeeper and back, and whatever else is stored there is Corrupt, never a guess."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from failover.coordination.records import FORMAT, SHAPES, SIZE_MAX_BYTES, decode, encode
from failover.core.model import (
    Answer,
    Claim,
    ControllerStatus,
    Decision,
    Grant,
    Handover,
    Lease,
    Maintenance,
    MemberStatus,
    MemberVote,
    Mode,
    Notice,
    Operation,
    OperationKind,
    Policy,
    Problem,
    Receipt,
    Rejoin,
    RejoinWay,
    Request,
    RequestKind,
    Role,
    Seal,
    Step,
    SyncSet,
    Votes,
)
from failover.core.plan import Guard, Kind, Verdict
from failover.errors import Corrupt

SYNC = SyncSet(1, ("db2", "db3"), "1")
SAMPLES: dict[Kind, object] = {
    Kind.TERM: 41,
    Kind.LEADER: "ctl1",
    Kind.GRANT: Grant(None, 7, ("db2",), (SYNC, SyncSet(2, ())), "0/3000", Claim("db1", 6, 12, "op-1"), "7423"),
    Kind.LEASE: Lease("db1", 6, ("db2", "db3")),
    Kind.RECEIPT: Receipt("db1", 6, "process gone", True, "2026-11-20T12:00:00.000Z"),
    Kind.SEAL: Seal("db2", 7, "1 0/3000", True),
    Kind.HANDOVER: Handover("db1", "op-1", "stopped", "1 0/3000", "clean"),
    Kind.MEMBER: MemberStatus(
        "db1", Role.PRIMARY, "7423", "1 0/1", 0, None, True, "open", 6, True, True, (6, 99), 1, SYNC, problems=("p",)
    ),
    Kind.VOTES: Votes("ctl1", (("db1", MemberVote(True, "no", "no", Role.DOWN, "refused", ("db2", "ZooKeeper"))),), "db3"),
    Kind.OPERATION: Operation("op", OperationKind.FAILOVER, "open", "db1", 6, "lost", "c1", rejected=(("db3", "lag"),)),
    Kind.POLICY: Policy(Mode.AUTOMATIC, 60.0, "patch", "ann", "", (Maintenance("db3", 5.0, "disk", "ann"),), "op-0"),
    Kind.REQUEST: Request("r1", RequestKind.REJOIN, "ann", "patch", "db2", 1.5, "db1", True, RejoinWay.RESEED, "now"),
    Kind.ANSWER: Answer("r1", False, ("paused", "no candidate"), None, "ctl1"),
    Kind.NOTICE: Notice("k", "http://app/", "primary", "orders", 7, "op-1", "db1", "db2", "10.0.0.2", ""),
    Kind.CONTROLLER: ControllerStatus("ctl1", "sha256", "1.0", (Problem("clock", "runs", "look"),)),
    Kind.REJOIN: Rejoin(
        "db1", 7, RejoinWay.REWIND, "done", "1 0/2000", "1 0/3000", 2, ("740: lab.writes 1",), (("lab.writes", 2),), "/saved"
    ),
    Kind.DECISION: Decision(
        "ctl1", 41, "db1 is well", (Guard("receipt", Verdict.UNKNOWN, "none"),), "", Decision("ctl1", 40, "in doubt")
    ),
    Kind.JOURNAL: Step("op-1", 3, "claim", "DONE", "ctl1", 41, "claimed", (("version", "12"),), ""),
}


def test_there_is_a_sample_of_every_kind() -> None:
    assert set(SAMPLES) == set(Kind) == set(SHAPES)


@pytest.mark.parametrize("kind", Kind)
def test_a_record_comes_back_as_it_went(kind: Kind) -> None:
    stored = encode(kind, SAMPLES[kind])
    back = decode(kind, stored)
    assert back == SAMPLES[kind] and type(back) is type(SAMPLES[kind])
    assert encode(kind, back) == stored, "one value has one stored form"


@pytest.mark.parametrize("kind", Kind)
def test_the_stored_form_is_one_readable_line(kind: Kind) -> None:
    outer = json.loads(encode(kind, SAMPLES[kind]))
    assert outer["format"] == FORMAT and set(outer) == {"format", kind.value}


names = st.text(min_size=1, max_size=20)
counts = st.integers(min_value=0, max_value=2**53)
syncs = st.builds(SyncSet, counts, st.lists(names, max_size=4).map(tuple), names)
claims = st.builds(Claim, names, counts, counts, names)
grants = st.builds(
    Grant, st.none() | names, counts, st.lists(names, max_size=4).map(tuple), st.lists(syncs, max_size=3).map(tuple),
    st.none() | names, st.none() | claims, names,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(grants)
def test_any_grant_comes_back_as_it_went(grant: Grant) -> None:
    assert decode(Kind.GRANT, encode(Kind.GRANT, grant)) == grant


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(Kind))
def test_any_bytes_are_a_record_or_corrupt_and_nothing_else(data: bytes, kind: Kind) -> None:
    with pytest.raises(Corrupt):
        decode(kind, data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(json_values, st.sampled_from(Kind))
def test_any_json_in_the_right_wrapping_is_a_record_or_corrupt(value: object, kind: Kind) -> None:
    try:
        found = decode(kind, json.dumps({"format": FORMAT, kind.value: value}).encode())
    except Corrupt:
        return
    assert isinstance(found, SHAPES[kind])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"[]",
        b"7",
        b'{"format":1}',
        b'{"grant":{"member":null,"epoch":1}}',
        b'{"format":2,"grant":{"member":null,"epoch":1}}',
        b'{"format":1,"lease":{"member":"db1","epoch":1}}',
        b'{"format":1,"grant":{"member":null}}',
        b'{"format":1,"grant":{"member":null,"epoch":"many"}}',
        b'{"format":1,"grant":{"member":7,"epoch":1}}',
        b"[" * 100_000,
        b"\xff\xfe",
    ],
    ids=lambda data: data[:40].decode(errors="replace"),
)
def test_the_wrong_shape_is_corrupt(data: bytes) -> None:
    with pytest.raises(Corrupt):
        decode(Kind.GRANT, data)


def test_too_large_is_corrupt_before_it_is_parsed() -> None:
    with pytest.raises(Corrupt, match="too large"):
        decode(Kind.LEADER, b'{"format":1,"leader":"' + b"x" * SIZE_MAX_BYTES + b'"}')


def test_the_message_never_repeats_the_content() -> None:
    with pytest.raises(Corrupt) as said:
        decode(Kind.GRANT, b'{"format":1,"grant":{"member":"hunter2","epoch":"hunter2"}}')
    assert "hunter2" not in str(said.value) and said.value.__cause__ is None


def test_a_value_of_another_kind_is_our_own_bug_and_caught_early() -> None:
    with pytest.raises(Corrupt):
        encode(Kind.GRANT, SAMPLES[Kind.LEASE])
