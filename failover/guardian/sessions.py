"""Ends client connections in the kernel, also those of a stopped or killed server, through SOCK_DESTROY (`ss -K`).

Every state but listening is ended, not only established ones: a killed backend leaves its socket behind in FIN-WAIT
with the answer still to be sent, and that answer would leave the host when the port opens again under a later epoch.
"""

from __future__ import annotations

import socket
import subprocess

from failover.errors import Refused, Unknown, Unreachable
from failover.guardian.base import Guarded

_DEADLINE_S = 2.0
_NO_DESTROY = "this kernel does not end sockets for others (CONFIG_INET_DIAG_DESTROY): client sessions stay"


def cut_sessions(guarded: Guarded) -> int:
    """Reset every client connection to the guarded ports but those of peers and over loopback.

    Returns how many were established. Raises Refused if the kernel leaves them alive, Unreachable or Unknown
    if `ss` does not run or end.
    """
    condition = _condition(guarded)
    ended = _ss("-K", "state", "connected", condition)
    left = _ss("state", "established", condition)
    if left and not ended:
        raise Refused(f"{_NO_DESTROY} ({len(left)} of them)")
    if left:  # one that was still being accepted while the others were ended
        ended += _ss("-K", "state", "connected", condition)
    return sum(line.startswith("ESTAB") for line in ended)


def cut_upstream(address: str, port: int) -> int:
    """End every connection of this host *to* the database at `address`. How many; where the kernel cannot, none."""
    return len(_ss("-K", "state", "connected", f"( dport = :{port} and dst {_literal(address)} )"))


def kernel_can_destroy() -> bool:
    """Whether `cut_sessions` works here: tried on a connection of our own over loopback. For `check`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=1.0):
            accepted, _ = server.accept()
            with accepted:
                return bool(_ss("-K", "state", "established", f"( sport = :{port} )"))


def _condition(guarded: Guarded) -> str:
    """The filter of ss. A v4 client of a dual-stack server is ::ffff:a.b.c.d there; `dst a.b.c.d` matches it too."""
    ports = " or ".join(f"sport = :{port}" for port in sorted(set(guarded.ports)))
    spared = [f"not dst {_literal(peer)}" for peer in dict.fromkeys(guarded.peers)]
    loopback = ["not dst 127.0.0.0/8", "not dst [::1]"]
    return f"( {ports} ) and {' and '.join(spared + loopback)}"


def _literal(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _ss(*arguments: str) -> list[str]:
    """The sockets ss lists (with -K: those it ended), one line each."""
    try:
        done = subprocess.run(
            ["ss", "-Htn", *arguments], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_DEADLINE_S
        )
    except FileNotFoundError as error:
        raise Unreachable("the program ss (iproute2) is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise Unknown(f"ss did not end within {_DEADLINE_S:.0f} s: client sessions may still be there") from error
    if done.returncode != 0:
        raise Refused(f"ss refused: {(done.stderr.strip().splitlines() or ['no reason given'])[0]}")
    return [line for line in done.stdout.splitlines() if line.strip()]
