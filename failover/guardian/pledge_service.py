"""The guardian's end of the pledge port: gives pledges, asks for them, and knows which ways are open before they are needed.

One socket, bound to the member's own address, and one thread that reads it. Words are taken only from members' addresses and
answers go only to the address that the configuration gives the asker, whatever a datagram says about itself.
"""

from __future__ import annotations

import ipaddress
import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from failover.clock import boottime_s
from failover.core.pledge import PledgeAsk, PledgeWord
from failover.errors import Corrupt
from failover.guardian.pledge_wire import (
    ANOTHER_KEY,
    ASK,
    DATAGRAM_MAX_BYTES,
    HELLO,
    HI,
    WHY_MAX_CHARS,
    WORD,
    Freshness,
    Letter,
    Tally,
    Waiting,
    ask_of,
    family,
    seal,
    unseal,
    word_of,
)

log = logging.getLogger("failover.guardian.pledges")
AGAIN_S = 0.04  # a request that was not answered is sent again after this long
HELLO_S = 5.0
LOST_S = 2.5 * HELLO_S  # a way that answered no hello for this long is no way
LOOK_S = 0.25  # how soon the thread notices that it should stop
REOPEN_S = 1.0
TOLD_S = 60.0


@dataclass(frozen=True)
class Post:
    """Who we are on the pledge port. `peers`: the other guarded members' addresses by name."""

    cluster: str
    me: str
    address: str
    port: int
    peers: Mapping[str, str]
    key: bytes = field(repr=False)


class PledgePort:
    """A `Pledgers` over UDP, and the thread that answers. `give` judges a request and has noted the pledge when it returns."""

    def __init__(self, post: Post, give: Callable[[PledgeAsk], PledgeWord], reports: Callable[[str], bool]) -> None:
        """`reports(member)`: its guardian is heard of in ZooKeeper, so that a way to it that does not answer is a problem."""
        self._post, self._give, self._reports = post, give, reports
        self._names = {_plain(address): name for name, address in post.peers.items()}
        self._socket: socket.socket | None = None
        self._rounds: dict[str, Waiting] = {}
        self._lock = threading.Lock()
        self._fresh = Freshness()
        self._tally = Tally(lambda text: log.warning("%s", text), TOLD_S)
        began_s = boottime_s()
        self._answered_s = dict.fromkeys(post.peers, began_s)
        self._strange_s: dict[str, float] = {}
        self._closed_why: str | None = None
        self._process, self._greeting, self._greet_at_s = secrets.token_hex(8), 0, 0.0

    # --- asking -----------------------------------------------------------------------------------------------------
    def ask(self, ask: PledgeAsk, members: Sequence[str], budget_s: float) -> tuple[PledgeWord, ...]:
        """One round: sent to all, and again to who is silent, until all have spoken or the time is over."""
        if self._socket is None:
            return ()
        waiting, end_s = Waiting(members), boottime_s() + budget_s
        with self._lock:
            self._rounds[ask.round] = waiting
        try:
            while True:
                for member in waiting.silent():
                    self._send(Letter(ASK, ask.cluster, self._post.me, member, ask.round, ask.epoch))
                left_s = end_s - boottime_s()
                if waiting.wait(max(0.0, min(AGAIN_S, left_s))) or left_s <= AGAIN_S:
                    return waiting.words()
        finally:
            with self._lock:
                del self._rounds[ask.round]

    def problems(self) -> tuple[str, ...]:
        """What stands between us and the pledges of the others, for people, before they are needed."""
        if self._closed_why is not None:
            return (f"no pledges to or from this member: {self._closed_why}",)
        now_s = boottime_s()
        return tuple(
            f"no pledge path to {name}: {self._why_lost(name, now_s)}"
            for name, at_s in sorted(self._answered_s.items())
            if now_s - at_s > LOST_S and self._reports(name)
        )

    def _why_lost(self, name: str, now_s: float) -> str:
        if now_s - self._strange_s.get(name, -LOST_S) <= LOST_S:
            return "what it sends is sealed with another key"
        where = f"UDP {self._post.peers[name]} port {self._post.port}"
        return f"it does not answer on {where} (a firewall, another key there, or `pledges:` missing there)"

    # --- the thread -----------------------------------------------------------------------------------------------------
    def serve(self, stop: threading.Event) -> None:
        """Read and answer until `stop` is set; the socket is closed then. A socket that cannot be had is tried for again."""
        try:
            while not stop.is_set():
                if self._socket is None and not self.open():
                    stop.wait(REOPEN_S)
                    continue
                self._greet()
                self._receive()
        finally:
            self._close()

    def open(self) -> bool:
        """Bind the port. False, and said once, if that is not possible now."""
        post = self._post
        found = socket.socket(family(post.address), socket.SOCK_DGRAM)
        try:
            found.bind((post.address, post.port))
        except OSError as error:
            found.close()
            why = f"UDP {post.address} port {post.port} cannot be had: {error.strerror or type(error).__name__}"
            if why != self._closed_why:
                log.error("%s", why)
            self._closed_why = why
            return False
        found.settimeout(LOOK_S)
        self._socket, self._closed_why = found, None
        return True

    def _close(self) -> None:
        open_socket, self._socket = self._socket, None
        if open_socket is not None:
            open_socket.close()

    def _receive(self) -> None:
        """One datagram, or none within a moment."""
        here = self._socket
        assert here is not None
        try:
            datagram, source = here.recvfrom(DATAGRAM_MAX_BYTES + 1)
        except TimeoutError:
            return
        except OSError as error:  # the interface went away under us: begin anew
            log.warning("the pledge port failed: %s", error.strerror or type(error).__name__)
            self._close()
            return
        member = self._names.get(_plain(str(source[0])))
        if member is None:
            self._tally.drop("from no member", boottime_s())
            return
        try:
            letter = unseal(datagram, self._post.key)
            self._read(member, letter)
        except Corrupt as error:
            if str(error) == ANOTHER_KEY:
                self._strange_s[member] = boottime_s()
            self._tally.drop(str(error), boottime_s())

    def _read(self, member: str, letter: Letter) -> None:
        """A genuine letter. Raises Corrupt if it is not for us, or not from where it says, or was here before."""
        post = self._post
        if (letter.cluster, letter.sender, letter.to) != (post.cluster, member, post.me):
            raise Corrupt("not for us")
        if letter.kind == ASK:
            if not self._fresh.admits(member, letter.round):
                raise Corrupt("replayed")
            word = self._give(ask_of(letter))
            why = word.why[:WHY_MAX_CHARS]
            self._send(Letter(WORD, post.cluster, post.me, member, word.round, word.epoch, word.given, why))
        elif letter.kind == WORD:
            with self._lock:
                waiting = self._rounds.get(letter.round)
            if waiting is None:
                raise Corrupt("too late")
            waiting.hear(word_of(letter))
        elif letter.kind == HELLO:
            self._send(Letter(HI, post.cluster, post.me, member, letter.round))
        elif letter.kind == HI and letter.round == self._greeting_id():
            self._answered_s[member] = boottime_s()

    def _greet(self) -> None:
        """Harmless, every few seconds: a way that is shut shows before it is needed."""
        if boottime_s() < self._greet_at_s:
            return
        self._greeting, self._greet_at_s = self._greeting + 1, boottime_s() + HELLO_S
        for name in self._post.peers:
            self._send(Letter(HELLO, self._post.cluster, self._post.me, name, self._greeting_id()))

    def _greeting_id(self) -> str:
        return f"{self._process}-{self._greeting}"

    def _send(self, letter: Letter) -> None:
        """To the member's configured address and nowhere else. What cannot be sent is as good as lost on the way."""
        here, address = self._socket, self._post.peers.get(letter.to)
        if here is None or address is None:
            return
        try:
            here.sendto(seal(letter, self._post.key), (address, self._post.port))
        except OSError as error:
            self._tally.drop(f"not sent ({error.strerror or type(error).__name__})", boottime_s())


def _plain(address: str) -> str:
    """One spelling for each address; a scope (`%eth0`) says nothing about who it is."""
    return str(ipaddress.ip_address(address.partition("%")[0]))
