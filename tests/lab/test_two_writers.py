"""One writer at every instant, also where losing a write is allowed; what is lost is reported; and the measurement can say no."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from failover.lab.acts import ACTS, Stage, control_run, run
from tests.support.lab_cluster import Cluster

pytestmark = pytest.mark.timeout(240)


def test_asynchronous_replication_has_one_writer_and_the_control_run_shows_two(own_cluster: Callable[..., Cluster]) -> None:
    """The act that loses most: until its lease ends, a host that is cut off acknowledges writes that nobody else will have.
    Then, in the same lab, the gates are released and the old primary is made a primary by hand."""
    cluster = own_cluster(replication="async")
    cluster.make_whole()
    with cluster.traffic() as load:
        row = run(Stage(cluster.lab, load.traffic, print), ACTS["host_cut"])
        print(row.as_dict())
        assert row.replication == "async" and row.promoted is not None
        assert row.dual_writer_ms == 0.0 and row.vip_ok
        assert row.lost > 0, "nothing was at stake, so this shows nothing"
        assert row.result == "ok" and row.reported is not None and row.reported >= row.lost
        both_ms = control_run(cluster.lab, load.traffic)
        print(f"the control run: two writers for {both_ms:.0f} ms")
        assert both_ms > 0
