"""TLS on a bounded socket, for servers and accounts that demand it: every byte still passes the deadline.

The server is not authenticated: monitor and operator send no secret but their password, which the protocol protects by itself.
"""

from __future__ import annotations

import io
import ssl
from typing import Any

from failover.engines.my_socket import BoundedSocket

_CHUNK = 1 << 14


def _context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


class BoundedTls:
    """What the driver needs of an encrypted socket. It stands where the driver expects a context, too: `wrap_socket`."""

    def __init__(self) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = _context().wrap_bio(self._incoming, self._outgoing)
        self._link: BoundedSocket | None = None

    def wrap_socket(self, link: BoundedSocket, server_hostname: str = "") -> BoundedTls:
        self._link = link
        self._until_done(self._object.do_handshake)
        return self

    def sendall(self, data: Any, flags: int = 0) -> None:
        self._object.write(data)
        self._flush()

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        try:
            return int(self._until_done(lambda: self._object.read(len(buffer), buffer)))
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return 0

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self))

    def settimeout(self, value: float | None) -> None:
        """As the socket below: the deadline counts."""

    def close(self) -> None:
        if self._link is not None:
            self._link.close()

    def _until_done(self, step: Any) -> Any:
        while True:
            try:
                done = step()
                self._flush()
                return done
            except ssl.SSLWantReadError:
                self._flush()
                self._fill()

    def _flush(self) -> None:
        assert self._link is not None
        if data := self._outgoing.read():
            self._link.sendall(data)

    def _fill(self) -> None:
        assert self._link is not None
        room = bytearray(_CHUNK)
        count = self._link.recv_into(room)
        if count:
            self._incoming.write(room[:count])
        else:
            self._incoming.write_eof()


class _Reader(io.RawIOBase):
    def __init__(self, tls: BoundedTls) -> None:
        self._tls = tls

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._tls.recv_into(buffer)
