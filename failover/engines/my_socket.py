"""A socket that is done by a deadline, whatever the other side does: stops, drips single bytes, or never reads.

A time-out of a plain socket bounds each single call, so a server that sends one byte a second is never late. Here every call
waits only for what is left until `deadline_s` (CLOCK_BOOTTIME), and then raises Unknown.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import select
import socket
from pathlib import Path
from threading import Event
from typing import Any

from failover.clock import boottime_s
from failover.engines.connecting import Closed, OwnFault
from failover.errors import Unknown, Unreachable

_OWN = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EADDRNOTAVAIL, errno.EACCES, errno.EPERM)
_CLOSED = (errno.ECONNREFUSED, errno.ENOENT)
_UNDER_WAY = (errno.EINPROGRESS, errno.EINTR)
_AGAIN_S = 0.005
_KEEPALIVE = ((socket.TCP_KEEPIDLE, 1), (socket.TCP_KEEPINTVL, 1), (socket.TCP_KEEPCNT, 3))


class BoundedSocket(socket.socket):
    """What the driver needs of a socket: it reads through `makefile`, which calls `recv_into`, and writes with `sendall`.

    `heard`: at least one byte has come.
    """

    deadline_s = 0.0
    heard = False

    def settimeout(self, value: float | None) -> None:
        """The driver's own time-outs bound single calls only; the deadline counts."""

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        while True:
            self._wait(select.POLLIN)
            try:
                count = super().recv_into(buffer, nbytes, flags)
            except BlockingIOError:
                continue
            self.heard = self.heard or count > 0
            return count

    def sendall(self, data: Any, flags: int = 0) -> None:
        left = memoryview(data)
        while left:
            self._wait(select.POLLOUT)
            try:
                left = left[super().send(left, flags) :]
            except BlockingIOError:
                continue

    def open(self, address: Any) -> None:
        """Connect. Raises Closed, OwnFault, Unreachable, or Unknown at the deadline."""
        self.setblocking(False)
        while (code := self.connect_ex(address)) == errno.EAGAIN:  # a local server whose queue is full, perhaps a frozen one
            if boottime_s() >= self.deadline_s:
                raise Unknown("the server takes no connection in time")
            Event().wait(_AGAIN_S)
        if code in _UNDER_WAY:
            self._wait(select.POLLOUT)
            code = self.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise refusal(code)

    def _wait(self, events: int) -> None:
        left_s = self.deadline_s - boottime_s()
        poller = select.poll()  # select() cannot watch descriptors above 1023
        poller.register(self.fileno(), events)
        if left_s <= 0 or not poller.poll(max(1.0, left_s * 1000)):
            raise Unknown("the server gave no answer in time")


def refusal(code: int) -> Closed | OwnFault | Unreachable:
    """What the number of an error in connecting says."""
    words = os.strerror(code)
    if code in _CLOSED:
        return Closed(f"the server does not listen: {words}")
    if code in _OWN:
        return OwnFault(f"this host cannot open a connection: {words}")
    return Unreachable(f"the server cannot be reached: {words}")


def dial(local: Path | None, host: str, port: int, deadline_s: float) -> BoundedSocket:
    """A connection to the socket file `local` or, without one, to `host` (an IP address) and `port`."""
    family = socket.AF_UNIX if local else socket.AF_INET6 if ipaddress.ip_address(host).version == 6 else socket.AF_INET
    try:
        made = BoundedSocket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise refusal(error.errno or 0) from error
    made.deadline_s = deadline_s
    try:
        made.open(str(local) if local else (host, port))
        if not local:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for option, value in _KEEPALIVE:
                made.setsockopt(socket.IPPROTO_TCP, option, value)
    except OSError as error:
        made.close()
        raise refusal(error.errno or 0) from error
    except BaseException:
        made.close()
        raise
    return made
