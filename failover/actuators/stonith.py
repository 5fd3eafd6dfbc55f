"""STONITH: the operator's own command switches a host off, and what counts is only what is read back.

`command... off MEMBER ADDRESS` is run, then `command... status MEMBER ADDRESS` must exit with 0 and print the one word `off`
and nothing else. And because a command may lie, or may have switched off another host: nothing at that address may answer
afterwards, not even to refuse a connection; a kernel that refuses is a kernel that lives.

What is left if the command lies *and* the network is silent: of a guarded member the gate, which the kernel shuts by itself
at the lease's end (so no two writers longer than that), of a member without a guardian nothing. What the command prints may
hold secrets: it is never repeated beyond the state word and the exit code; one bounded, redacted line of its stderr is logged.
"""

from __future__ import annotations

import logging
import os
import re
import selectors
import signal
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO

from failover.actuators.base import Seen
from failover.clock import boottime_s
from failover.core.plan import Stonith
from failover.errors import Refused, Unknown
from failover.logs import redact

log = logging.getLogger("failover.stonith")

OFF = "off"
STATES = (OFF, "on", "unknown")  # the only words of its output that are ever repeated
OUTPUT_MAX_BYTES = 4096
READ_BACK_SHARE = 1 / 3  # of the budget: kept for asking, however long switching off takes
ANSWERS_S = 1.5
_SECRET = re.compile(r"(?i)((?:pass(?:word|wd)?|secret|token|key|community)\S*?\s*[=:\s]\s*)\S+|(://[^:/\s]+:)[^@\s]+(?=@)")

Answers = Callable[[str, float], str | None]
"""Does anything at this member's host answer within so many seconds? What did, in words, or None for silence."""


@dataclass(frozen=True)
class Ran:
    """What came of one run. `code` None: it was ended at its deadline. `whole`: its output stayed within the bound."""

    code: int | None
    output: bytes
    whole: bool
    complaint: str

    def state(self) -> str | None:
        """The state word it printed and nothing else, if it is one we know."""
        lines = self.output.split(b"\n", 1)
        word = lines[0].strip().lower().decode("ascii", "replace")
        alone = not (lines[1].strip() if len(lines) > 1 else b"")
        return word if self.whole and alone and word in STATES else None

    def words(self) -> str:
        """For the journal: exit code and state word, nothing else of it."""
        ended = "ended at its deadline" if self.code is None else f"exit {self.code}"
        size = "" if self.whole else f", more than {OUTPUT_MAX_BYTES} bytes"
        return f"{ended}, says {self.state() or 'no state'}{size}"


class CommandStonith:
    """`addresses` maps members to their hosts' addresses; `answers` is the second opinion, asked after the read-back."""

    def __init__(self, command: Sequence[str], cluster: str, addresses: Mapping[str, str], answers: Answers) -> None:
        self._command, self._cluster = tuple(command), cluster
        self._addresses, self._answers = dict(addresses), answers

    def inspect(self, action: Stonith, budget_s: float) -> Seen:
        """Is the host off: by the command's word, and by its silence? Raises Unknown when that cannot be told, or Refused."""
        until_s = boottime_s() + budget_s
        asked = self._run("status", action.member, max(0.1, budget_s - ANSWERS_S))
        if not _says_off(asked):
            return Seen(False, f"{action.member}: status {asked.words()}")
        alive = self._answers(action.member, _left(until_s))
        return Seen(alive is None, alive or f"{action.member}: status {asked.words()}, and nothing at its host answers")

    def apply(self, action: Stonith, budget_s: float) -> str:
        """Raises Unknown for everything that is no proof, Refused if the command cannot be run at all."""
        until_s = boottime_s() + budget_s
        done = self._run(OFF, action.member, budget_s * (1 - READ_BACK_SHARE))
        asked = self._run("status", action.member, max(0.1, _left(until_s) - ANSWERS_S))
        if not _says_off(asked):
            raise Unknown(f"no proof that {action.member} is off: off {done.words()}; status {asked.words()}")
        alive = self._answers(action.member, max(0.1, min(ANSWERS_S, _left(until_s))))
        if alive is not None:
            raise Unknown(f"the command says off, but {action.member} answers: {alive}")
        return f"{action.member}: off {done.words()}; read back: {asked.words()}; nothing at its host answers"

    def _run(self, verb: str, member: str, budget_s: float) -> Ran:
        address = self._addresses.get(member)
        if address is None:
            raise Refused(f"no member {member!r} to switch off")
        env = {
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8",
            "FAILOVER_CLUSTER": self._cluster, "FAILOVER_MEMBER": member, "FAILOVER_ADDRESS": address,
        }  # fmt: skip
        log.warning("%s %s %s at %s", self._command[0], verb, member, address)
        ran = _bounded((*self._command, verb, member, address), env, budget_s)
        log.warning("%s %s: %s%s", verb, member, ran.words(), f"; stderr: {ran.complaint}" if ran.complaint else "")
        return ran


def first_answer(address: str, ports: Sequence[int], budget_s: float) -> str | None:
    """What any of the TCP ports says within the budget, all asked at once; None if all are silent.

    A handshake is the least that a host agent over SSH or a database needs, so it also sees a host whose daemons hang. A
    refusal is an answer too: a kernel sent it.
    """
    with ThreadPoolExecutor(max_workers=len(ports), thread_name_prefix="alive") as pool:
        said = list(pool.map(lambda port: _knock(address, port, budget_s), ports))
    return next((text for text in said if text), None)


def _knock(address: str, port: int, budget_s: float) -> str | None:
    try:
        socket.create_connection((address, port), timeout=budget_s).close()
    except ConnectionRefusedError:
        return f"port {port} refuses, so a kernel is alive there"
    except ConnectionResetError:
        return f"port {port} resets, so a kernel is alive there"
    except (TimeoutError, OSError) as error:
        log.debug("%s port %d: %s", address, port, error)
        return None
    return f"port {port} takes connections"


def _says_off(ran: Ran) -> bool:
    return ran.code == 0 and ran.state() == OFF


def _left(until_s: float) -> float:
    return max(0.0, until_s - boottime_s())


def _bounded(argv: Sequence[str], env: Mapping[str, str], budget_s: float) -> Ran:
    """Run to its end or to the deadline, at which its whole process group is killed. Raises Refused if it cannot be started.

    Its end is seen by a pidfd, not by the end of its output: a grandchild that keeps the pipe open holds nothing up, and
    the group is killed while its leader is not reaped yet, so that its number cannot mean anybody else.
    """
    until_s = boottime_s() + budget_s
    try:
        process = subprocess.Popen(
            argv, env=dict(env), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise Refused(f"{argv[0]} cannot be run: {getattr(error, 'strerror', None) or type(error).__name__}") from error
    assert process.stdout is not None and process.stderr is not None
    watch = os.pidfd_open(process.pid)
    try:
        heard = _listen(watch, process.stdout, process.stderr, until_s)
        if not heard.ended:
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait(timeout=5.0)
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"{argv[0]} was killed at its deadline and has not ended yet") from error
    finally:
        os.close(watch)
        process.stdout.close()
        process.stderr.close()
    out, err = heard.texts
    return Ran(code if heard.ended else None, out[:OUTPUT_MAX_BYTES], len(out) <= OUTPUT_MAX_BYTES, _one_line(err))


@dataclass
class _Heard:
    ended: bool
    texts: tuple[bytes, bytes]


def _listen(watch: int, stdout: IO[bytes], stderr: IO[bytes], until_s: float) -> _Heard:
    """Read both pipes until the process has ended or the time has; past the bound what it says is read and thrown away."""
    kept = {stdout.fileno(): b"", stderr.fileno(): b""}
    ended = False
    with selectors.DefaultSelector() as selector:
        selector.register(watch, selectors.EVENT_READ)
        for descriptor in kept:
            os.set_blocking(descriptor, False)
            selector.register(descriptor, selectors.EVENT_READ)
        while not ended and (left_s := _left(until_s)) > 0:
            ready = {key.fd for key, _ in selector.select(left_s)}
            ended = watch in ready
            for descriptor in kept:
                if (descriptor in ready or ended) and not _read(descriptor, kept, until_s) and not ended:
                    selector.unregister(descriptor)
    return _Heard(ended, (kept[stdout.fileno()], kept[stderr.fileno()]))


def _read(descriptor: int, kept: dict[int, bytes], until_s: float) -> bool:
    """Take what is there now. False at the end of the pipe."""
    while _left(until_s) > 0:
        try:
            chunk = os.read(descriptor, 65536)
        except BlockingIOError:
            return True
        if not chunk:
            return False
        kept[descriptor] = (kept[descriptor] + chunk)[: OUTPUT_MAX_BYTES + 1]
    return True


def _one_line(text: bytes) -> str:
    """The first line of what it complained of, short, printable, without what looks like a secret."""
    first = next((line for line in text.decode("utf-8", "replace").splitlines() if line.strip()), "")
    printable = "".join(c if c.isprintable() else "?" for c in first.strip())
    return redact(_SECRET.sub(lambda found: (found[1] or found[2]) + "...", printable))[:200]
