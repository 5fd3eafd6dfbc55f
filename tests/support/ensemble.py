"""What is done to ZooKeeper: all of its servers stopped, started in some order, or one of them cut off from everybody.

Only ZooKeeper's own ports are cut: the host goes on replicating and answering as before.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from failover.lab.lab import Lab
from failover.lab.services import ZOOKEEPER_MODE

PORTS = (2181, 2888, 3888)  # clients, followers, elections


def zookeeper_stop(lab: Lab, names: Sequence[str] = ()) -> None:
    """Stop the named servers, or all, at once; returns when they are gone."""
    hosts = [lab.host(name) for name in names or lab.options.members]
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        list(pool.map(lambda host: host.stop("zookeeper"), hosts))


def zookeeper_start(lab: Lab, names: Sequence[str] = (), apart_s: float = 0.0) -> None:
    """Start the named servers, or all, in that order; returns when each follows or leads, so a majority must be there then."""
    hosts = [lab.host(name) for name in names or lab.options.members]
    pause = threading.Event()
    with ThreadPoolExecutor(max_workers=len(hosts)) as pool:
        started = []
        for host in hosts:
            started.append(pool.submit(host.start, "zookeeper"))
            pause.wait(apart_s)
        for one in started:
            one.result()


def zookeeper_leaders(lab: Lab) -> list[str]:
    """Whose servers say that they lead, each asked on its own host, whatever is cut. One that was cut off says so for a while."""
    modes = {host.name: host.run(["bash", "-c", ZOOKEEPER_MODE], 5.0, check=False).stdout.strip() for host in lab.databases_hosts}
    return [name for name, mode in modes.items() if mode == "leader"]


@contextmanager
def zookeeper_cut(lab: Lab, name: str) -> Iterator[None]:
    """Nobody but its own host hears that server, nor it anybody, until the block ends."""
    others = [other for other in lab.options.members if other != name]
    try:
        for port in PORTS:
            lab.cut(name, port=port)
            for other in others:
                lab.cut(other, name, port=port)
        yield
    finally:
        for port in PORTS:
            lab.heal(name, port=port)
            for other in others:
                lab.heal(other, name, port=port)
