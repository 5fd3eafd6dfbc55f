"""A warm line to the agent on every database host: SSH opened beforehand, pinned host keys, one JSON line each way.

A call on a warm line costs under a millisecond, a fresh connection 100-300, so lines are opened before they are needed
and kept alive by asking `hello`. What a failure means is decided in one place: not sent is `Unreachable`, sent and not
answered is `Unknown` (R5), a wrong key on either side is `WrongCredentials`, which says nothing about life or death.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import NamedTuple, NoReturn

import paramiko
from tenacity import Retrying, retry_if_exception_type, stop_when_event_set, wait_random_exponential
from tenacity.nap import sleep_using_event

from failover.clock import boottime_s
from failover.core.model import Problem
from failover.errors import Corrupt, FailoverError, Refused, Unknown, Unreachable, WrongCredentials
from failover.remote.wire import ANSWER_MAX_BYTES, Reply, next_id, read_answer, request_line
from failover.settings import SshSettings

_log = logging.getLogger("failover.ssh")

COMMAND = "failover-hostagent"  # sshd's forced command decides; this is what it would log

KEEPALIVE_S = 5.0  # a line is asked `hello` this often; paramiko's own keepalive never looks for an answer
ANSWER_S = 2.0  # a `hello` that takes longer means the line is dead
CONNECT_S = 2.0  # TCP
HANDSHAKE_S = 5.0  # each of banner, key exchange, login, channel
START_S = 10.0  # the agent's first answer: sshd starts an interpreter, slowly on a loaded host
OPEN_S = 20.0  # how long the background waits for one attempt; a call never waits past its own deadline

# Offered by paramiko 5 and broken or weak: CBC modes (plaintext recovery), SHA-1 and MD5.
_WEAK: dict[str, list[str]] = {
    "ciphers": ["aes128-cbc", "aes192-cbc", "aes256-cbc", "3des-cbc"],
    "macs": ["hmac-sha1", "hmac-sha1-96", "hmac-md5", "hmac-md5-96"],
    "kex": ["diffie-hellman-group1-sha1", "diffie-hellman-group14-sha1", "diffie-hellman-group-exchange-sha1"],
    "keys": ["ssh-rsa", "ssh-dss"],
    "pubkeys": ["ssh-rsa", "ssh-dss"],
}


def reopening(stop: threading.Event) -> Retrying:
    """How a lost line is opened again: for ever, soon at first, then with jitter up to 5 s, until `stop`."""
    return Retrying(
        retry=retry_if_exception_type((Unreachable, WrongCredentials)),
        wait=wait_random_exponential(multiplier=0.2, max=5.0),
        stop=stop_when_event_set(stop),
        sleep=sleep_using_event(stop),
        reraise=True,
    )


class AgentChannel:
    """The line to one host. Thread-safe; calls go side by side and are matched by id."""

    def __init__(self, host: str, address: str, ssh: SshSettings) -> None:
        self._host = host
        self._address = address
        self._ssh = ssh
        self._lock = threading.Lock()
        self._line: _Line | None = None
        self._attempt: Future[_Line] | None = None
        self._failure: FailoverError | None = None
        self._stop = threading.Event()
        self._look = threading.Event()
        self._keeper: threading.Thread | None = None

    def call(self, verb: str, fields: Mapping[str, object], deadline_s: float) -> Reply:
        """What the agent read back.

        Raises Refused, Unreachable (not sent, or nobody there to do it), Unknown (sent, no answer), WrongCredentials.
        """
        until_s = boottime_s() + deadline_s
        line = self._connected(until_s)
        try:
            return line.ask(verb, fields, until_s)
        except Unknown:
            # Only silence condemns the line; an agent that itself answers "unknown" is well.
            if not line.trusted:
                self._drop(line)
            raise

    def warm(self) -> None:
        """Open the line now and keep it open, in the background. Returns at once."""
        with self._lock:
            if self._keeper is None and not self._stop.is_set():
                self._keeper = threading.Thread(target=self._keep, name=f"ssh-{self._host}", daemon=True)
                self._keeper.start()

    @property
    def is_warm(self) -> bool:
        with self._lock:
            return self._line is not None and self._line.trusted

    @property
    def failure(self) -> FailoverError | None:
        """Why the last attempt to open failed; None while the line is open or was never tried."""
        with self._lock:
            return self._failure

    def close(self) -> None:
        self._stop.set()
        self._look.set()
        with self._lock:
            line, self._line = self._line, None
        if line is not None:
            line.close()
        if self._keeper is not None:
            self._keeper.join(timeout=2.0)

    def _keep(self) -> None:
        while not self._stop.is_set():
            try:
                for attempt in reopening(self._stop):
                    with attempt:
                        self._connected(boottime_s() + OPEN_S)
                self.call("hello", {}, ANSWER_S)
            except FailoverError as error:
                _log.info("the line to %s: %s", self._host, error)
            self._look.wait(KEEPALIVE_S)
            self._look.clear()

    def _connected(self, until_s: float) -> _Line:
        """The open line, or what comes of the one attempt under way, waited for until then."""
        with self._lock:
            if self._line is not None and self._line.trusted:
                return self._line
            if self._stop.is_set():
                raise Unreachable(f"{self._host}: the SSH line is closed")
            if self._attempt is None or self._attempt.done():
                self._attempt = Future()
                threading.Thread(target=self._open, args=(self._attempt,), name=f"ssh-open-{self._host}", daemon=True).start()
            attempt = self._attempt
        try:
            return attempt.result(timeout=max(0.0, until_s - boottime_s()))
        except TimeoutError as error:
            raise Unreachable(f"{self._host}: no SSH line to {self._address} in time") from error

    def _open(self, attempt: Future[_Line]) -> None:
        """Runs in its own thread, because no bound inside an SSH library covers all of a connection."""
        try:
            line = _open_line(self._host, self._address, self._ssh, self._look)
        except (Unreachable, WrongCredentials) as error:
            with self._lock:
                self._failure = error
            attempt.set_exception(error)
            return
        except Exception as error:  # whatever a library makes of another host's bytes: the line is not there, try again
            _log.exception("opening the line to %s failed", self._host)
            attempt.set_exception(Unreachable(f"{self._host}: opening the SSH line failed: {type(error).__name__}"))
            return
        with self._lock:
            self._failure = None
            if not self._stop.is_set():
                self._line = line
        if self._stop.is_set():
            line.close()
        attempt.set_result(line)

    def _drop(self, line: _Line) -> None:
        """No new calls on it; it closes itself once the calls still under way have their answer or their deadline."""
        with self._lock:
            if self._line is line:
                self._line = None
        self._look.set()


class Agents:
    """One line for each host. `members` maps a member's name to its address."""

    def __init__(self, ssh: SshSettings, members: Mapping[str, str]) -> None:
        self._channels = {name: AgentChannel(name, address, ssh) for name, address in members.items()}

    def warm(self) -> None:
        """Open all lines and keep them open in the background. Returns at once."""
        for channel in self._channels.values():
            channel.warm()

    def call(self, member: str, verb: str, fields: Mapping[str, object], deadline_s: float) -> Reply:
        """Raises as `AgentChannel.call`; Refused for a member that is not configured."""
        return self._channel(member).call(verb, fields, deadline_s)

    def is_warm(self, member: str) -> bool:
        return self._channel(member).is_warm

    def problems(self) -> tuple[Problem, ...]:
        """What `status` should show: lines that cannot be opened, and why."""
        failures = {name: channel.failure for name, channel in self._channels.items()}
        return tuple(_problem(name, failure) for name, failure in failures.items() if failure is not None)

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()

    def _channel(self, member: str) -> AgentChannel:
        if member not in self._channels:
            raise Refused(f"no member {member!r} to reach over SSH")
        return self._channels[member]


def _problem(name: str, failure: FailoverError) -> Problem:
    if isinstance(failure, WrongCredentials):
        hint = f"compare the keys of {name}, then: failoverctl check --only ssh"
        return Problem("ssh-credentials", str(failure), hint)
    return Problem("ssh-unreachable", str(failure), f"look at sshd and failover-hostagent on {name}")


class _Waiter:
    def __init__(self) -> None:
        self.ready = threading.Event()
        self.outcome: Reply | FailoverError | None = None

    def give(self, outcome: Reply | FailoverError) -> None:
        self.outcome = outcome
        self.ready.set()


class _Line:
    """One SSH session with the host agent running in it. Once it has failed it is never used again."""

    def __init__(
        self,
        host: str,
        sock: socket.socket,
        client: paramiko.SSHClient,
        channel: paramiko.Channel,
        lost: threading.Event,
    ) -> None:
        self._host = host
        self._sock = sock
        self._client = client
        self._channel = channel
        self._lost = lost
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiter] = {}
        self._complaint = ""
        self.trusted = True
        threading.Thread(target=self._read, name=f"ssh-read-{host}", daemon=True).start()

    def ask(self, verb: str, fields: Mapping[str, object], until_s: float) -> Reply:
        """Raises Unknown if there is no answer by then; `trusted` is False if that was the line's fault."""
        id = next_id()
        line = request_line(id, verb, fields)
        waiter = _Waiter()
        with self._lock:
            if not self.trusted:
                raise Unreachable(f"{self._host}: the SSH line was lost before {verb} was sent: {self._complaint}")
            self._waiting[id] = waiter
        try:
            self._channel.sendall(line)
            waiter.ready.wait(max(0.0, until_s - boottime_s()))
        except (OSError, EOFError, paramiko.SSHException) as error:
            raise Unknown(f"{self._host}: the SSH line broke while {verb} was sent") from error
        finally:
            with self._lock:
                self._waiting.pop(id, None)
                if waiter.outcome is None:
                    self.trusted = False
                forsaken = not self.trusted and not self._waiting
            if forsaken:
                self.close()
        if waiter.outcome is None:
            raise Unknown(f"{self._host}: {verb} was sent over SSH and not answered in time")
        if isinstance(waiter.outcome, FailoverError):
            raise waiter.outcome
        return waiter.outcome

    @property
    def complaint(self) -> str:
        """The last thing the remote end wrote on stderr or how it ended, one short line."""
        return self._complaint

    def close(self) -> None:
        """Returns at once: the reading thread wakes up and clears away. A goodbye to a frozen sshd could block."""
        self.trusted = False
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def _read(self) -> None:
        unread = b""
        try:
            while True:
                try:
                    chunk = self._channel.recv(65536)
                except TimeoutError:
                    self._hear_complaints()
                    continue
                if not chunk:
                    break
                *whole, unread = (unread + chunk).split(b"\n")
                if len(unread) > ANSWER_MAX_BYTES:
                    raise Corrupt("an endless answer")
                for line in whole:
                    self._deliver(line)
        except (OSError, EOFError, Corrupt) as error:
            self._complaint = f"{error}"
        self._end()

    def _deliver(self, line: bytes) -> None:
        id, outcome = read_answer(line)
        with self._lock:
            waiter = self._waiting.get(id) if id is not None else None
        if waiter is not None:
            waiter.give(outcome)
        else:
            _log.info("%s answered request %s, for which nobody waits", self._host, id)

    def _hear_complaints(self) -> None:
        """Empties stderr, which shares the channel's window: unread, it would stop the answers too."""
        while self._channel.recv_stderr_ready():
            text = self._channel.recv_stderr(4096).decode(errors="replace").strip()
            if text:
                self._complaint = " ".join(text.splitlines()[-1].split())[:200]

    def _end(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            self._hear_complaints()
        if self._channel.exit_status_ready():
            status = self._channel.recv_exit_status()
            self._complaint = f"the agent ended with status {status} {self._complaint}".strip()
        with self._lock:
            self.trusted = False
            waiting = list(self._waiting.values())
        why = self._complaint or "closed"
        for waiter in waiting:
            waiter.give(Unknown(f"{self._host}: the SSH line was lost before the answer: {why}"))
        self._lost.set()
        _shut(self._client, self._sock)


class _OnlyPinned(paramiko.RejectPolicy):
    """A host that is not in the pinned file is refused, in words that name both."""

    def __init__(self, host: str, ssh: SshSettings) -> None:
        self._host = host
        self._ssh = ssh

    def missing_host_key(self, client: paramiko.SSHClient, hostname: str, key: paramiko.PKey) -> NoReturn:
        pinned = self._ssh.known_hosts_file
        raise WrongCredentials(f"{self._host}: no host key for {hostname} is in {pinned}; it offers {key.fingerprint}")


class AgentSession(NamedTuple):
    """The agent of one host, started, with the way to it. Nothing was asked yet."""

    sock: socket.socket
    client: paramiko.SSHClient
    channel: paramiko.Channel

    def close(self) -> None:
        """Returns at once."""
        _shut(self.client, self.sock)


def open_session(host: str, address: str, ssh: SshSettings) -> AgentSession:
    """Raises Unreachable, WrongCredentials."""
    sock = _tcp(host, address, ssh.port)
    client = paramiko.SSHClient()
    try:
        _log_in(client, sock, host, address, ssh)
        transport = client.get_transport()
        if transport is None:
            raise Unreachable(f"{host}: sshd closed the connection at once")
        transport.set_keepalive(int(KEEPALIVE_S))
        channel = transport.open_session(timeout=HANDSHAKE_S)
        channel.settimeout(HANDSHAKE_S)
        channel.exec_command(COMMAND)
        channel.settimeout(1.0)  # how often stderr is emptied; answers come at once
    except (paramiko.SSHException, OSError, EOFError) as error:
        _shut(client, sock)
        raise Unreachable(f"{host}: no SSH session at {address} port {ssh.port}: {_words(error)}") from error
    except BaseException:  # whatever it was, no half-open connection stays behind
        _shut(client, sock)
        raise
    return AgentSession(sock, client, channel)


def _open_line(host: str, address: str, ssh: SshSettings, lost: threading.Event) -> _Line:
    """A line whose agent has answered `hello`. Raises Unreachable, WrongCredentials."""
    line = _Line(host, *open_session(host, address, ssh), lost)
    try:
        line.ask("hello", {}, boottime_s() + START_S)
    except FailoverError as error:
        line.close()
        why = line.complaint or str(error)
        raise Unreachable(f"{host}: SSH works but the host agent does not answer: {why}") from error
    return line


def _tcp(host: str, address: str, port: int) -> socket.socket:
    """Our own socket: TCP_NODELAY is 40 ms a call, the user timeout ends a line whose packets are not acknowledged."""
    try:
        sock = socket.create_connection((address, port), timeout=CONNECT_S)
    except OSError as error:
        raise Unreachable(f"{host}: no connection to {address} port {port}: {_words(error)}") from error
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(KEEPALIVE_S * 1000))
    return sock


def _log_in(client: paramiko.SSHClient, sock: socket.socket, host: str, address: str, ssh: SshSettings) -> None:
    """Raises WrongCredentials, and paramiko's errors for everything that is not about keys."""
    client.set_missing_host_key_policy(_OnlyPinned(host, ssh))
    try:
        client.load_system_host_keys(str(ssh.known_hosts_file))
        key = paramiko.PKey.from_path(ssh.key_file)
    except (OSError, paramiko.SSHException, ValueError) as error:
        raise WrongCredentials(f"{host}: cannot read the SSH key or the pinned host keys: {_words(error)}") from error
    try:
        client.connect(
            address,
            ssh.port,
            username=ssh.user,
            pkey=key,
            sock=sock,
            timeout=HANDSHAKE_S,
            banner_timeout=HANDSHAKE_S,
            auth_timeout=HANDSHAKE_S,
            channel_timeout=HANDSHAKE_S,
            allow_agent=False,
            look_for_keys=False,
            disabled_algorithms=_WEAK,
        )
    except paramiko.BadHostKeyException as error:
        offers = error.key.fingerprint
        raise WrongCredentials(
            f"{host}: the host key of {address} is not the one in {ssh.known_hosts_file}; it offers {offers}"
        ) from error
    except paramiko.AuthenticationException as error:
        if _is_silence(error):
            raise
        raise WrongCredentials(f"{host}: sshd refuses user {ssh.user} with the key in {ssh.key_file}") from error


def _is_silence(error: paramiko.AuthenticationException) -> bool:
    """paramiko raises one type for "no", for silence and for a connection lost during login; only its words differ."""
    return str(error).startswith(("Authentication timeout", "Authentication failed: transport shut down"))


def _shut(client: paramiko.SSHClient, sock: socket.socket) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        client.close()
    sock.close()


def _words(error: BaseException) -> str:
    """One line about a driver's error; some carry none of their own."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
