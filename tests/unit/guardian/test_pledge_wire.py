"""Pledges over real sockets on loopback: three members at 127.0.0.x, one port, and whatever an unfriendly network does."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from failover.core.pledge import PledgeAsk, PledgeWord, complete
from failover.errors import Corrupt
from failover.guardian import pledge_service
from failover.guardian.pledge_service import PledgePort, Post
from failover.guardian.pledge_wire import ASK, DATAGRAM_MAX_BYTES, HELLO, WORD, Freshness, Letter, Tally, seal, unseal

KEY, OTHER_KEY = b"k" * 44, b"o" * 44
ADDRESSES = {"db1": "127.0.53.1", "db2": "127.0.53.2", "db3": "127.0.53.3"}
BUDGET_S = 2.0


@dataclass
class Station:
    """One member's end of the wire. `says`: its answer. `asked`: what it was asked."""

    name: str
    port: int
    key: bytes = KEY
    says: Callable[[PledgeAsk], bool] = lambda ask: True
    asked: list[PledgeAsk] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        peers = {name: address for name, address in ADDRESSES.items() if name != self.name}
        post = Post("main", self.name, ADDRESSES[self.name], self.port, peers, self.key)
        self.end = PledgePort(post, self.give, lambda member: True)
        self.thread = threading.Thread(target=self.end.serve, args=(self.stop,), daemon=True)

    def give(self, ask: PledgeAsk) -> PledgeWord:
        self.asked.append(ask)
        return PledgeWord(self.name, ask.epoch, ask.round, self.says(ask), "as told")

    def start(self) -> Station:
        assert self.end.open()
        self.thread.start()
        return self

    def close(self) -> None:
        self.stop.set()
        if self.thread.is_alive():
            self.thread.join(5.0)
        assert not self.thread.is_alive()


Net = Callable[..., Station]


def free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.53.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def net(monkeypatch: pytest.MonkeyPatch) -> Iterator[Net]:
    """Makes and starts stations, all on one free port; closes them."""
    monkeypatch.setattr(pledge_service, "LOOK_S", 0.02)
    port, made = free_port(), list[Station]()

    def make(name: str, start: bool = True, **how: object) -> Station:
        station = Station(name, port, **how)  # type: ignore[arg-type]  # the fields of a Station
        made.append(station)
        return station.start() if start else station

    yield make
    for station in made:
        station.close()


@pytest.fixture
def stranger() -> Iterator[Callable[[bytes, Station, str], None]]:
    """Sends any bytes to a station, from any loopback address."""
    opened: list[socket.socket] = []

    def send(data: bytes, to: Station, source: str = "127.0.53.9") -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(sock)
        sock.bind((source, 0))
        sock.sendto(data, (ADDRESSES[to.name], to.port))

    yield send
    for sock in opened:
        sock.close()


def asking(epoch: int = 3, round_: str = "p-1") -> PledgeAsk:
    return PledgeAsk("main", "db1", epoch, round_)


def until(true: Callable[[], bool], within_s: float = 5.0) -> None:
    end_s = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < end_s, "it does not come about"
        threading.Event().wait(0.005)


# --- a healthy network ------------------------------------------------------------------------------------------------
def test_a_round_brings_everybodys_word_and_returns_as_soon_as_all_have_spoken(net: Net) -> None:
    db1, _, _ = net("db1"), net("db2"), net("db3")
    began_s = time.monotonic()
    words = db1.end.ask(asking(), ("db2", "db3"), BUDGET_S)
    assert complete(asking(), words, ("db2", "db3")) and time.monotonic() - began_s < BUDGET_S / 2


def test_a_refusal_comes_back_with_its_reason(net: Net) -> None:
    db1, _ = net("db1"), net("db2", says=lambda ask: False)
    assert db1.end.ask(asking(), ("db2",), BUDGET_S) == (PledgeWord("db2", 3, "p-1", False, "as told"),)


def test_who_is_silent_is_missing_when_the_time_is_over_and_not_before(net: Net) -> None:
    db1, _ = net("db1"), net("db2")
    began_s = time.monotonic()
    words = db1.end.ask(asking(), ("db2", "db3"), 0.3)
    assert [word.member for word in words] == ["db2"] and 0.25 < time.monotonic() - began_s < 0.6


def test_a_lost_request_is_sent_again_within_the_same_round(net: Net) -> None:
    db1, db2 = net("db1"), net("db2", start=False)
    late = threading.Timer(0.15, db2.start)
    late.start()
    words = db1.end.ask(asking(), ("db2",), BUDGET_S)
    late.join()
    assert complete(asking(), words, ("db2",)) and {ask.round for ask in db2.asked} == {"p-1"}


def test_a_lost_word_is_asked_for_again_and_the_later_pledge_counts(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    db1, db2 = net("db1"), net("db2")
    send, lost = db2.end._send, list[Letter]()

    def lossy(letter: Letter) -> None:
        if letter.kind == WORD and len(lost) < 3:
            lost.append(letter)
        else:
            send(letter)

    monkeypatch.setattr(db2.end, "_send", lossy)
    assert complete(asking(), db1.end.ask(asking(), ("db2",), BUDGET_S), ("db2",))
    assert len(lost) == 3 and len(db2.asked) >= 4


def test_stopping_closes_the_port_at_once(net: Net) -> None:
    db2 = net("db2")
    db2.close()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
        again.bind((ADDRESSES["db2"], db2.port))
    assert db2.end.ask(asking(), ("db1",), BUDGET_S) == (), "and nobody waits for words that cannot come"


def test_a_port_that_is_taken_is_a_problem_and_is_tried_for_again(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pledge_service, "REOPEN_S", 0.05)
    db1, db2 = net("db1"), net("db2", start=False)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as squatter:
        squatter.bind((ADDRESSES["db2"], db2.port))
        db2.thread.start()
        until(lambda: bool(db2.end.problems()))
        assert "cannot be had: Address already in use" in db2.end.problems()[0]
    until(lambda: not db2.end.problems())
    assert complete(asking(), db1.end.ask(asking(), ("db2",), BUDGET_S), ("db2",))


# --- an unfriendly one ----------------------------------------------------------------------------------------------------
def test_a_word_sealed_with_another_key_is_no_word(net: Net) -> None:
    db1, db2 = net("db1"), net("db2", key=OTHER_KEY)
    assert db1.end.ask(asking(), ("db2",), 0.3) == () and db2.asked == []


def test_a_genuine_word_from_a_wrong_address_is_dropped(net: Net, stranger: Callable[..., None]) -> None:
    db1, _ = net("db1"), net("db2")
    word = Letter(WORD, "main", "db3", "db1", "p-1", 3, True)
    forging = threading.Timer(0.05, lambda: stranger(seal(word, KEY), db1, "127.0.53.9"))
    from_db2 = threading.Timer(0.05, lambda: stranger(seal(replace(word, sender="db3"), KEY), db1, "127.0.53.12"))
    forging.start()
    from_db2.start()
    words = db1.end.ask(asking(), ("db2", "db3"), 0.4)
    assert [given.member for given in words] == ["db2"]


def test_an_answer_goes_to_the_configured_address_whoever_asked(net: Net) -> None:
    db2 = net("db2")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pretender:
        pretender.bind((ADDRESSES["db1"], 0))  # on the right host, not the guardian
        pretender.settimeout(0.3)
        pretender.sendto(seal(Letter(ASK, "main", "db1", "db2", "p-1", 3), KEY), (ADDRESSES["db2"], db2.port))
        until(lambda: bool(db2.asked))
        with pytest.raises(TimeoutError):
            pretender.recvfrom(2048)


@pytest.mark.parametrize(
    "change", [{"cluster": "other"}, {"to": "db3"}, {"sender": "db3"}, {"version": 2}, {"kind": "order"}, {"round": ""}]
)
def test_what_is_not_for_us_is_not_judged(net: Net, stranger: Callable[..., None], change: dict[str, object]) -> None:
    db2 = net("db2")
    letter = replace(Letter(ASK, "main", "db1", "db2", "p-1", 3), **change)  # type: ignore[arg-type]  # replace checks
    stranger(seal(letter, KEY), db2, ADDRESSES["db1"])
    until(lambda: db2.end._tally.total == 1)
    assert db2.asked == []


def test_a_recorded_request_of_an_earlier_round_costs_no_quiet(net: Net, stranger: Callable[..., None]) -> None:
    db2 = net("db2")
    recorded = seal(Letter(ASK, "main", "db1", "db2", "p-1", 3), KEY)
    stranger(recorded, db2, ADDRESSES["db1"])
    stranger(seal(Letter(ASK, "main", "db1", "db2", "p-2", 3), KEY), db2, ADDRESSES["db1"])
    until(lambda: len(db2.asked) == 2)
    stranger(recorded, db2, ADDRESSES["db1"])
    until(lambda: db2.end._tally.total == 1)
    assert [ask.round for ask in db2.asked] == ["p-1", "p-2"]


def test_a_recorded_word_does_not_answer_a_later_round(net: Net, stranger: Callable[..., None]) -> None:
    db1, _ = net("db1"), net("db2", says=lambda ask: False)
    recorded = seal(Letter(WORD, "main", "db2", "db1", "p-1", 3, True), KEY)
    replaying = threading.Timer(0.05, lambda: stranger(recorded, db1, ADDRESSES["db2"]))
    replaying.start()
    words = db1.end.ask(asking(round_="p-2"), ("db2", "db3"), 0.3)
    assert [(word.member, word.given) for word in words] == [("db2", False)]


def test_a_flood_of_rubbish_holds_up_no_round(net: Net, stranger: Callable[..., None], caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("WARNING")
    db1, db2 = net("db1"), net("db2")
    stop = threading.Event()

    def flood() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((ADDRESSES["db3"], 0))  # a member's address: everything is looked at
            while not stop.is_set():
                for _ in range(20):
                    sock.sendto(b"secret rubbish" * 20, (ADDRESSES["db2"], db2.port))
                stop.wait(0.002)

    flooding = threading.Thread(target=flood, daemon=True)
    flooding.start()
    try:
        number = 0
        while number < 5 or db2.end._tally.total < 1000:
            number += 1
            ask = asking(round_=f"p-{number}")
            assert complete(ask, db1.end.ask(ask, ("db2",), 10.0), ("db2",)), "sent again until one gets through"
    finally:
        stop.set()
        flooding.join(5.0)
    said = [record.message for record in caplog.records if "dropped" in record.message]
    assert len(said) == 1 and "rubbish" not in said[0]


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, DATAGRAM_MAX_BYTES + 1])
def test_datagrams_of_impossible_sizes_are_dropped_and_the_port_lives_on(
    net: Net, stranger: Callable[..., None], size: int
) -> None:
    db1, db2 = net("db1"), net("db2")
    stranger(b"x" * size, db2, ADDRESSES["db3"])
    assert complete(asking(), db1.end.ask(asking(), ("db2",), BUDGET_S), ("db2",))


# --- the letter ----------------------------------------------------------------------------------------------------------
LETTER = Letter(WORD, "main", "db2", "db1", "p-1", 3, True, "")


def test_a_letter_comes_out_as_it_went_in() -> None:
    assert unseal(seal(LETTER, KEY), KEY) == LETTER


@pytest.mark.parametrize("cut", [1, 33, 60])
def test_a_truncated_letter_is_not_read(cut: int) -> None:
    with pytest.raises(Corrupt):
        unseal(seal(LETTER, KEY)[:-cut], KEY)


def test_every_changed_bit_is_noticed() -> None:
    whole = seal(replace(LETTER, given=False), KEY)
    for number in range(len(whole)):
        changed = whole[:number] + bytes([whole[number] ^ 1]) + whole[number + 1 :]
        with pytest.raises(Corrupt, match="another key"):
            unseal(changed, KEY)


@pytest.mark.parametrize(
    "fields",
    [
        {"given": 1}, {"epoch": True}, {"epoch": "3"}, {"round": 7}, {"round": "x" * 65}, {"extra": 1}, {"kind": None},
        {"version": 1.0},
    ],
)  # fmt: skip
def test_a_genuine_seal_around_a_wrong_shape_is_refused(fields: dict[str, object]) -> None:
    body = {**json.loads(seal(LETTER, KEY)[32:]), **fields}
    with pytest.raises(Corrupt, match="wrong shape"):
        unseal(_sealed(body), KEY)


@pytest.mark.parametrize("body", [b"[1]", b"{}", b'{"a":', b"\xff", b"[" * 900, b"null"])
def test_a_genuine_seal_around_nonsense_is_refused(body: bytes) -> None:
    from failover.guardian.pledge_wire import _mac

    with pytest.raises(Corrupt):
        unseal(_mac(KEY, body) + body, KEY)


def _sealed(body: dict[str, object]) -> bytes:
    from failover.guardian.pledge_wire import _mac

    text = json.dumps(body).encode()
    return _mac(KEY, text) + text


def test_rounds_only_go_up_and_a_process_that_was_followed_is_over() -> None:
    fresh = Freshness()
    assert fresh.admits("db1", "p-5") and fresh.admits("db1", "p-5"), "the same again is a retransmission"
    assert not fresh.admits("db1", "p-4") and fresh.admits("db1", "p-6")
    assert fresh.admits("db1", "q-1"), "its guardian was started anew"
    assert not fresh.admits("db1", "p-7")
    assert not any(fresh.admits("db1", odd) for odd in ("", "q", "q-", "q-x", "-3", "q-²"))


def test_what_is_dropped_is_told_at_most_once_in_a_while_and_counted_always() -> None:
    said: list[str] = []
    tally = Tally(said.append, 60.0)
    for number in range(100):
        tally.drop("another key", 1000.0 + number / 10)
    tally.drop("wrong size", 1061.0)
    assert tally.total == 101 and len(said) == 2 and "99 another key" in said[1] and "1 wrong size" in said[1]


# --- before it is needed ----------------------------------------------------------------------------------------------------
@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pledge_service, "HELLO_S", 0.05)
    monkeypatch.setattr(pledge_service, "LOST_S", 0.3)


def test_a_hello_shows_a_way_that_is_open_and_promises_nothing(net: Net, hurried: None) -> None:
    db1, db2, db3 = net("db1"), net("db2"), net("db3")
    threading.Event().wait(0.6)
    assert db1.end.problems() == db2.end.problems() == db3.end.problems() == ()
    assert db2.asked == [] and db3.asked == []


def test_a_way_that_is_shut_shows_before_it_is_needed_and_is_forgotten_when_it_opens(net: Net, hurried: None) -> None:
    db1, _ = net("db1"), net("db2")
    until(lambda: bool(db1.end.problems()))
    problem = db1.end.problems()[0]
    assert problem.startswith("no pledge path to db3: it does not answer on UDP 127.0.53.3 port") and len(db1.end.problems()) == 1
    net("db3")
    until(lambda: not db1.end.problems())


def test_another_key_is_called_by_its_name(net: Net, hurried: None) -> None:
    db1, _, _ = net("db1"), net("db2"), net("db3", key=OTHER_KEY)
    until(lambda: bool(db1.end.problems()))
    assert db1.end.problems() == ("no pledge path to db3: what it sends is sealed with another key",)


def test_a_member_whose_guardian_is_gone_altogether_is_not_told_about_twice(net: Net, hurried: None) -> None:
    db1 = net("db1")
    until(lambda: len(db1.end.problems()) == 2)
    db1.end._reports = lambda member: member == "db2"
    assert [problem[:22] for problem in db1.end.problems()] == ["no pledge path to db2:"]


def test_a_recorded_answer_to_a_hello_opens_no_way(net: Net, hurried: None, stranger: Callable[..., None]) -> None:
    db1 = net("db1")
    stop = threading.Event()

    def replay() -> None:
        while not stop.wait(0.02):
            stranger(seal(Letter("hi", "main", "db2", "db1", "old-1"), KEY), db1, ADDRESSES["db2"])
            stranger(seal(Letter(HELLO, "main", "db2", "db1", "old-1"), KEY), db1, ADDRESSES["db2"])

    thread = threading.Thread(target=replay, daemon=True)
    thread.start()
    try:
        until(lambda: any("db2" in problem for problem in db1.end.problems()))
    finally:
        stop.set()
        thread.join(5.0)


def test_the_key_is_in_no_text() -> None:
    post = Post("main", "db1", "127.0.53.1", 7433, {}, KEY)
    assert "kkk" not in repr(post)
