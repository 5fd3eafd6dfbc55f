"""The guardian's way into the server beside it: the operator over the socket file, one kept session and others for single works.

A statement that we stop waiting for would go on in the server and hold its locks; so its session is ended there too. Never only
its statement: MariaDB tells a commit that waits for an acknowledgement "done" when its statement is ended.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Lock
from typing import TypeVar

from failover.clock import boottime_s
from failover.core.model import Member, Replication, Willingness
from failover.engines.connecting import Full
from failover.engines.my_config import Config
from failover.engines.my_connection import Login, Rejected, Session
from failover.engines.my_flavour import dialect_of, wrong_flavour
from failover.errors import FailoverError, Refused, Unknown
from failover.settings import ClusterSettings

log = logging.getLogger("failover.engines")

PROGRAM = "failover guardian"
_PROGRAMS = {"mysql": ("mysqld",), "mariadb": ("mariadbd", "mysqld")}
SOCKET = "mysqld.sock"
_RESERVE_S = 0.25  # of a budget, for ending what hangs
_RESERVE_SHARE = 0.25
_AGAIN_S = 0.02
T = TypeVar("T")


class Access:
    """Sessions of the operator, and what the file says of this member `me`. Thread-safe."""

    def __init__(self, cluster: ClusterSettings, me: str) -> None:
        self.cluster, self.me = cluster, me
        self.engine = cluster.engine
        self._login = Login(
            cluster.users.operator.name, cluster.users.operator.password, self.socket, program=PROGRAM
        )  # fmt: skip
        instance = cluster.instance
        self.programs = tuple(instance.bin_dir / name for name in _PROGRAMS[self.engine])
        self.config = Config(self.program, instance.config_file)
        self._kept: Session | None = None
        self._keeping = Lock()
        self._ours: set[int] = set()
        self._counting = Lock()

    @property
    def socket(self) -> Path:
        return self.cluster.instance.socket_dir / SOCKET

    @property
    def program(self) -> Path:
        """The server's own: MariaDB's has had two names."""
        return next((path for path in self.programs if path.exists()), self.programs[0])

    @property
    def others(self) -> tuple[Member, ...]:
        return tuple(member for member in self.cluster.members if member.name != self.me)

    @property
    def waits(self) -> bool:
        """Commits wait for somebody in this cluster, as it is configured."""
        return self.cluster.replication is not Replication.ASYNC

    @property
    def acknowledges(self) -> bool:
        """This member may acknowledge what it receives: it could be chosen, and its guardian answers for it."""
        return self.waits and any(may_acknowledge(member) for member in self.cluster.members if member.name == self.me)

    def name_at(self, address: str) -> str | None:
        return next((member.name for member in self.cluster.members if member.address == address), None)

    def open(self, deadline_s: float) -> Session:
        session = Session(self._login, deadline_s)
        with self._counting:
            self._ours.add(session.id)
        return session

    def close(self, session: Session) -> None:
        session.close()
        with self._counting:
            self._ours.discard(session.id)

    @property
    def ours(self) -> frozenset[int]:
        """The sessions that this guardian has now."""
        with self._counting:
            return frozenset(self._ours)

    def kept(self, ask: Callable[[Session], T], deadline_s: float) -> T:
        """Ask over the kept session; one that turns out to have died meanwhile is replaced once."""
        with self._held(deadline_s):
            reused = self._kept is not None
            try:
                return self._ask(ask, deadline_s)
            except Unknown:
                if not reused or boottime_s() >= deadline_s:
                    raise
                return self._ask(ask, deadline_s)

    @contextmanager
    def work(self, deadline_s: float) -> Iterator[Session]:
        """A session for one piece of work, on a server of the right kind. Raises Refused for one of the other kind."""
        with self.single(deadline_s) as session:
            if (fault := wrong_flavour(self.engine, dialect_of(session))) is not None:
                raise Refused(fault)
            yield session

    @contextmanager
    def single(self, deadline_s: float, answer_s: float | None = None) -> Iterator[Session]:
        """A session of its own. What has not answered by `answer_s` (a share of the time, if it is not given) is ended on the
        server too, and for that there is time until `deadline_s`."""
        left_s = deadline_s - boottime_s()
        share_s = deadline_s - min(_RESERVE_S, left_s * _RESERVE_SHARE)
        session = self._open_patiently(share_s if answer_s is None else min(share_s, answer_s))
        try:
            yield session
        except Unknown:
            if session.lost:
                self.end(session.id, deadline_s)
            raise
        finally:
            self.close(session)

    def _open_patiently(self, deadline_s: float) -> Session:
        """The server keeps one place for administrators when all others are taken; another work of ours may have it, or a client
        that is just being refused."""
        while True:
            try:
                return self.open(deadline_s)
            except Full:
                if boottime_s() + _AGAIN_S >= deadline_s:
                    raise
                Event().wait(_AGAIN_S)

    def end(self, number: int, deadline_s: float) -> None:
        """End one session of ours that hangs, if that can be told to the server in time."""
        try:
            self.kept(lambda session: session.run(f"KILL {number}"), deadline_s)
        except (FailoverError, Rejected) as error:
            log.debug("session %d not ended: %s", number, error)

    @contextmanager
    def _held(self, deadline_s: float) -> Iterator[None]:
        if not self._keeping.acquire(timeout=max(0.0, deadline_s - boottime_s())):
            raise Unknown("the kept session is busy")
        try:
            yield
        finally:
            self._keeping.release()

    def _ask(self, ask: Callable[[Session], T], deadline_s: float) -> T:
        if self._kept is None:
            self._kept = self._open_patiently(deadline_s)
        self._kept.deadline_s = deadline_s
        try:
            return ask(self._kept)
        except Rejected:
            raise  # an answer: the session is as good as before
        except BaseException:  # whatever it was, what is left in that session is no answer to the next question
            self.close(self._kept)
            self._kept = None
            raise


def may_acknowledge(member: Member) -> bool:
    return member.guarded and member.failover is not Willingness.NEVER


