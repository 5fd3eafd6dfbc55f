"""ZooKeeper through kazoo: every call bounded, refused at once while not connected, honest about what is not known."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import (
    BadVersionError,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    RolledBackError,
    RuntimeInconsistency,
)  # fmt: skip
from kazoo.handlers.threading import KazooTimeoutError
from kazoo.protocol.states import KazooState, KeeperState

from failover.clock import boottime_s
from failover.coordination.base import (
    CheckOp,
    Committed,
    CreateOp,
    DeleteOp,
    Entry,
    LostRace,
    Op,
    SetOp,
    refuse_oversize,
)
from failover.coordination.kazoo_client import Once, acl_for, make_client
from failover.coordination.kazoo_mirror import KazooMirror
from failover.errors import Unknown, Unreachable, WrongCredentials

_log = logging.getLogger("failover.coordination")
_WHY = {BadVersionError: "version", NodeExistsError: "exists", NoNodeError: "missing", NotEmptyError: "exists"}
_BYSTANDERS = (RolledBackError, RuntimeInconsistency)  # operations before and after the one that failed


class ZooKeeperCoordinator:
    """One client, one session, of one ensemble or of one pinned server. Satisfies `base.Coordinator`.

    `hosts` are "address:port"; `connect_timeout_s` bounds an attempt at one server; `digest` is (user, password): with
    it every znode created is for that user alone. `session_s` is asked for, `negotiated_session_s()` was granted.
    A silent server is given up after `silence_s`, by default half of the granted session, also by a client that keeps
    sending.
    """

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        session_s: float,
        connect_timeout_s: float,
        digest: tuple[str, str] | None,
        name: str,
        silence_s: float | None = None,
    ) -> None:
        self._name = name
        self._acl = acl_for(digest)
        self._client, self._connection = make_client(hosts, session_s, connect_timeout_s, digest, silence_s)
        self._states: deque[str] = deque(maxlen=100)
        self._client.add_listener(self._states.append)
        self._closing = threading.Lock()
        self._closed = False

    @property
    def name(self) -> str:
        return self._name

    def start(self, deadline_s: float) -> None:
        self._client.start_async().wait(deadline_s)
        self._require_connection()

    def connected(self) -> bool:
        self._log_transitions()
        return bool(self._client.connected)

    def session(self) -> int | None:
        identity = self._client.client_id
        return identity[0] if identity else None

    def negotiated_session_s(self) -> float | None:
        return self._connection.negotiated_session_s

    def get(self, path: str, deadline_s: float) -> Entry | None:
        answer = self._read(self._client.get_async, path, deadline_s)
        if answer is None:
            return None
        data, stat = answer
        return Entry(path, data, stat.version, stat.ephemeralOwner, boottime_s(), stat.mzxid)

    def children(self, path: str, deadline_s: float) -> tuple[str, ...]:
        return tuple(sorted(self._read(self._client.get_children_async, path, deadline_s) or ()))

    def commit(self, ops: Sequence[Op], deadline_s: float) -> Committed:
        refuse_oversize(ops)
        self._require_connection()
        request = Once(_operations(self._client, ops, self._acl))
        result = self._client.handler.async_result()
        sent_at_s = boottime_s()
        self._client._call(request, result)
        try:
            answers = result.get(timeout=deadline_s)
        except (KazooTimeoutError, KazooException) as error:
            # Whatever the error says: only what never left this process is known not to have happened.
            if request.give_up():
                raise Unreachable(f"{self._name}: not sent: {_said(error)}") from error
            raise Unknown(f"{self._name}: sent, no answer: {_said(error)}") from error
        return Committed(sent_at_s, self._judge(ops, answers))

    def ensure(self, path: str, deadline_s: float) -> None:
        end_s = time.monotonic() + deadline_s
        there = path
        missing: list[str] = []
        while there and self._read(self._client.exists_async, there, end_s - time.monotonic()) is None:
            missing.append(there)
            there = there.rpartition("/")[0]
        for step in reversed(missing):
            try:
                self.commit([CreateOp(step, b"")], end_s - time.monotonic())
            except LostRace as lost:
                if lost.why != "exists":
                    raise Unknown(f"{self._name}: {step} was removed meanwhile") from lost

    def mirror(
        self, nodes: Sequence[str] = (), trees: Sequence[str] = (), changed: threading.Event | None = None
    ) -> KazooMirror:
        return KazooMirror(self._client, nodes, trees, changed or threading.Event())

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
            try:
                self._client.stop()
                self._client.close()
            except (KazooException, OSError) as error:
                _log.warning("%s: closed without a goodbye: %s", self._name, _said(error))

    def _require_connection(self) -> None:
        if not self.connected():
            raise Unreachable(f"{self._name}: not connected")

    def _read(self, ask: Callable[[str], Any], path: str, deadline_s: float) -> Any:
        """The answer, or None where there is no such znode. A read that gets no answer had no effect: Unreachable."""
        self._require_connection()
        try:
            return ask(path).get(timeout=max(deadline_s, 0))
        except NoNodeError:
            return None
        except NoAuthError as error:
            raise WrongCredentials(f"{self._name}: {path} is not readable for this user") from error
        except (KazooTimeoutError, KazooException) as error:
            raise Unreachable(f"{self._name}: {path}: {_said(error)}") from error

    def _judge(self, ops: Sequence[Op], answers: Sequence[Any]) -> tuple[int, ...]:
        """The new versions, or which operation did not hold: the ensemble's definite answer, nothing was done."""
        for index, (op, answer) in enumerate(zip(ops, answers, strict=True)):
            if not isinstance(answer, Exception) or isinstance(answer, _BYSTANDERS):
                continue
            if isinstance(answer, NoAuthError):
                raise WrongCredentials(f"{self._name}: {op.path} is not writable for this user")
            if type(answer) in _WHY:
                raise LostRace(index, op.path, _WHY[type(answer)])
            raise Unreachable(f"{self._name}: {op.path}: the ensemble refused: {_said(answer)}")
        return tuple(_version(op, answer) for op, answer in zip(ops, answers, strict=True))

    def _log_transitions(self) -> None:
        """Say what the listener noted. Here and not there: a log line may block, the connection thread must not."""
        while self._states:
            state = self._states.popleft()
            if state == KazooState.CONNECTED:
                _log.info("%s: connected, session %s s", self._name, self.negotiated_session_s())
            elif self._client.client_state == KeeperState.AUTH_FAILED:
                _log.error("%s: ZooKeeper refused the credentials; this client stays down", self._name)
            else:
                _log.warning("%s: %s", self._name, "session lost" if state == KazooState.LOST else "connection lost")


def _operations(client: KazooClient, ops: Sequence[Op], acl: list[Any]) -> list[Any]:
    transaction = client.transaction()
    for op in ops:
        match op:
            case CreateOp(path, data, ephemeral):
                transaction.create(path, data, acl=acl, ephemeral=ephemeral)
            case SetOp(path, data, version):
                transaction.set_data(path, data, version)
            case DeleteOp(path, version):
                transaction.delete(path, version)
            case CheckOp(path, version):
                transaction.check(path, version)
    return list(transaction.operations)


def _version(op: Op, answer: Any) -> int:
    match op:
        case CreateOp():
            return 0
        case SetOp():
            return int(answer.version)
        case DeleteOp():
            return -1
        case CheckOp():
            return op.version


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
