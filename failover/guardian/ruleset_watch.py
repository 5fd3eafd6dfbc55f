"""Notices at once that somebody removed a table: `nft flush ruleset` is line one of Debian's nftables.conf.

A read-back at each renewal finds it too, but only then, and a missing table is an open port until it is found.
"""

from __future__ import annotations

import errno
import socket
import struct

from failover.clock import boottime_s
from failover.errors import Unreachable

_NETLINK_NETFILTER = 12
_NFTABLES_GROUP = 1 << 6
_HEADER = struct.Struct("=IHHII")
_TABLE_DELETED = 10 << 8 | 2
_BUFFER_BYTES = 1 << 16


class RulesetWatch:
    """Listens to the kernel's own notices of the network namespace it is made in. For one thread.

    Raises Unreachable if the kernel does not let us listen.
    """

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.bind((0, _NFTABLES_GROUP))
        except OSError as error:
            raise Unreachable(f"the kernel does not report changes of nftables: {error.strerror}") from error

    def wait(self, timeout_s: float) -> bool:
        """True as soon as some table was removed, or notices were lost: read the gate back now. False at the time-out.

        Our own `shut` writes the table anew and wakes it too; a read-back costs less than telling them apart.
        """
        end = boottime_s() + timeout_s
        while (left_s := end - boottime_s()) > 0:
            self._socket.settimeout(left_s)
            try:
                notices = self._socket.recv(_BUFFER_BYTES)
            except TimeoutError:
                return False
            except OSError as error:
                if error.errno == errno.ENOBUFS:
                    return True
                raise Unreachable(f"the kernel's reports of nftables ended: {error.strerror}") from error
            if _tells_of_removal(notices):
                return True
        return False

    def close(self) -> None:
        self._socket.close()


def _tells_of_removal(notices: bytes) -> bool:
    offset = 0
    while offset + _HEADER.size <= len(notices):
        length, kind, *_ = _HEADER.unpack_from(notices, offset)
        if kind == _TABLE_DELETED:
            return True
        offset += max(_HEADER.size, (length + 3) & ~3)
    return False
