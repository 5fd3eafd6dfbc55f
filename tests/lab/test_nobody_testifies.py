"""The old primary's host says nothing: its guardian is stopped and it is cut off from every database host and controller, while
the application still reaches it. Only the lease, the kernel and the clock W are left, and they must be enough."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from failover.clock import boottime_s
from failover.lab.verdict import Probe
from failover.profiles import PROFILES
from tests.support.lab_cluster import Cluster, Load

pytestmark = pytest.mark.timeout(240)
IN_FLIGHT_S = 6.0  # longer than any lease of the profile: this statement ends when the port is shut
LOOKS_S = 0.25  # the prober's interval and its deadline for one answer


@contextmanager
def forsaken(cluster: Cluster, primary: str) -> Iterator[float]:
    """Stop the guardian and cut the host off from everybody but the application; the moment at which that was so."""
    host, lab = cluster.lab.host(primary), cluster.lab
    others = [*cluster.standbys(), "dns"]
    host.freeze("guardian")
    lab.cut(primary, *others)
    try:
        yield boottime_s()
    finally:
        lab.heal()
        host.thaw("guardian")


def successes(load: Load, member: str, since: float) -> list[Probe]:
    return [p for p in load.traffic.probes() if p.host == member and p.outcome == "ok" and p.done > since]


def test_the_kernel_ends_the_lease_and_nobody_is_promoted_before_w(cluster: Cluster) -> None:
    clock = PROFILES[cluster.options.profile]
    with cluster.traffic() as load:
        old = cluster.primary()
        in_flight = load.traffic.busy(old, IN_FLIGHT_S)
        with forsaken(cluster, old) as cut_at:
            took_s = load.flows(30.0, cut_at, "writes on another member")
            new = next(name for name in cluster.options.members if successes(load, name, cut_at) and name != old)
            cluster.lab.wait(lambda: boottime_s() > cut_at + IN_FLIGHT_S + 1.0, 10.0, "a second after the statement ended")
        cluster.lab.wait(lambda: in_flight.poll() is not None, 30.0, "the client's end: the fence resets what still hangs")
        load.traffic.stop_client(in_flight)

        last_of_old = max(p.done for p in successes(load, old, 0.0))
        first_of_new = min(p.done for p in successes(load, new, cut_at))
        print(
            f"cut off: the old one's last success {last_of_old - cut_at:.2f} s later, the new one's first "
            f"{first_of_new - cut_at:.2f} s later (L {clock.lease_s} s, W {clock.wait_s:.2f} s), writes after {took_s:.2f} s"
        )
        assert last_of_old > cut_at, "the application reached it and it went on under its lease"
        assert last_of_old <= cut_at + clock.lease_s + LOOKS_S, "the kernel cuts at the lease's end, with nobody there to ask it"
        assert first_of_new - last_of_old >= clock.wait_s - clock.lease_s, "no promotion earlier than W allows"
        long_ones = [p for p in load.traffic.probes() if p.host == old and p.done - p.invoke > clock.lease_s]
        assert long_ones and all(p.outcome != "ok" for p in long_ones), "a statement in flight gets no acknowledgement"
        assert load.dual_writer_ms() == 0.0 and load.lost(new) == []
        confirmed = next(step for step in cluster.answer("timeline")["steps"] if step["name"] == "confirm.done")
        assert confirmed["facts"]["by"] == "clock", json.dumps(confirmed)
    cluster.wait_whole(cooldown=False)


def test_without_the_gate_the_same_story_has_two_writers(cluster: Cluster) -> None:
    """The control run: with the kernel's table gone the old primary goes on beside the new one, and the lab sees it.

    Documented in docs/guarantees.md: `nft flush ruleset` under a *stopped* guardian opens the port."""
    with cluster.traffic() as load:
        old = cluster.primary()
        with forsaken(cluster, old) as cut_at:
            cluster.lab.host(old).run(["nft", "flush", "ruleset"])
            others = cluster.standbys()
            cluster.lab.wait(lambda: any(successes(load, name, cut_at) for name in others), 30.0, "a second writer")
            cluster.lab.wait(lambda: load.dual_writer_ms() > 0.0, 5.0, "the old primary's successes beside the new one's")
        print(f"without the gate: two writers for {load.dual_writer_ms():.0f} ms")
    cluster.wait_whole(cooldown=False)
