"""The demo's acts, judged by the demo's own code, on a whole cluster under traffic.

One command, one death that somebody testifies to, and of those that nobody does: a host that dies, one that lives on beside its
clients, a database that stands still. `power_off` and `frozen_postmaster` are played by `./demo`.
"""

from __future__ import annotations

import pytest

from failover.lab.acts import ACTS, Stage, run
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)

PLAYED = ("switchover", "process_kill", "host_crash", "host_cut", "frozen")


@pytest.mark.parametrize("act", PLAYED)
def test_an_act_loses_nothing_has_one_writer_and_leads_every_client_to_the_new_primary(cluster: Cluster, act: str) -> None:
    """How long it took is printed, not judged: on a loaded machine the demo's limits are the demo's."""
    old = cluster.primary()
    with cluster.traffic() as load:
        row = run(Stage(cluster.lab, load.traffic, print), ACTS[act])
    print(row.as_dict())
    assert row.result == "ok"
    assert (row.lost, row.dual_writer_ms) == (0, 0.0)
    assert row.vip_ok and row.dns_ok and row.notified
    assert row.promoted == cluster.primary() != old
    assert row.acked > 100
