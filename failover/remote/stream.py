"""A verb whose answer is followed by bytes, on an SSH session of its own: a guardian fetches a copy from another host."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import paramiko

from failover.clock import boottime_s
from failover.errors import Corrupt, FailoverError, Unknown, Unreachable
from failover.remote.ssh import AgentSession, open_session
from failover.remote.wire import FrameReader, Reply, next_id, read_answer, request_line
from failover.settings import SshSettings

BEGIN_S = 60.0  # sshd starts an interpreter, which reads the configuration and asks its database
SILENCE_S = 600.0  # a backup waits for the locks of others, but not for ever
_LOOK_S = 0.5
_CHUNK = 1 << 18


@contextmanager
def stream(
    host: str, address: str, ssh: SshSettings, verb: str, fields: Mapping[str, object], stop: threading.Event
) -> Iterator[AgentStream]:
    """The agent's bytes. Raises Unreachable and WrongCredentials (not begun), Refused, Unknown (also once `stop` is set)."""
    session = open_session(host, address, ssh)
    try:
        session.channel.settimeout(_LOOK_S)
        made = AgentStream(host, session, stop)
        made.begin(verb, fields)
        yield made
    finally:
        session.close()


class AgentStream:
    """`begun` is the first answer. Iterate over the bytes to their end; `ended` is the last answer then."""

    def __init__(self, host: str, session: AgentSession, stop: threading.Event) -> None:
        self._host, self._channel, self._stop = host, session.channel, stop
        self._reader = FrameReader()
        self._id = next_id()
        self._complaint = ""
        self.begun = self.ended = Reply("", {})

    def begin(self, verb: str, fields: Mapping[str, object]) -> None:
        try:
            self._channel.sendall(request_line(self._id, verb, fields))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Unreachable(f"{self._host}: the SSH session broke before {verb} was asked for") from error
        self.begun = self._answer(BEGIN_S)

    def __iter__(self) -> Iterator[bytes]:
        more = b""
        while True:
            try:
                yield from self._reader.frames(more)
            except Corrupt as error:
                raise Unknown(f"{self._host}: {error}") from error
            if self._reader.over:
                break
            more = self._receive(SILENCE_S)
        self.ended = self._answer(SILENCE_S)

    def _answer(self, within_s: float) -> Reply:
        more = b""
        try:
            while (line := self._reader.line(more)) is None:
                more = self._receive(within_s)
            id, answer = read_answer(line)
        except Corrupt as error:
            raise Unknown(f"{self._host}: {error}") from error
        if id not in (self._id, None):
            raise Unknown(f"{self._host} answered another request")
        if isinstance(answer, FailoverError):
            raise answer
        return answer

    def _receive(self, within_s: float) -> bytes:
        """At least one byte. Raises Unknown."""
        until_s = boottime_s() + within_s
        while not self._stop.is_set():
            try:
                data = self._channel.recv(_CHUNK)
            except TimeoutError:
                self._hear_complaints()
                if boottime_s() > until_s:
                    raise Unknown(f"{self._host} said nothing for {within_s:.0f} s {self._complaint}".strip()) from None
                continue
            except (OSError, EOFError, paramiko.SSHException) as error:
                raise Unknown(f"{self._host}: the SSH session broke: {error}") from error
            if self._channel.recv_stderr_ready():
                self._hear_complaints()
            if data:
                return data
            self._hear_complaints()
            raise Unknown(f"{self._host}: the agent ended in the middle: {self._complaint or 'it did not say why'}")
        raise Unknown("stopped before its end")

    def _hear_complaints(self) -> None:
        """Empties stderr, which shares the channel's window: unread, it would stop the bytes too."""
        with contextlib.suppress(OSError, EOFError):
            while self._channel.recv_stderr_ready():
                text = self._channel.recv_stderr(4096).decode(errors="replace").strip()
                self._complaint = " ".join(text.splitlines()[-1].split())[:200] if text else self._complaint
