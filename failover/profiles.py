"""The four clocks. Each sets every field of `Timings`; `timings:` in the file replaces single ones.

Where the numbers come from, all measured with one ZooKeeper client pinned to each server:

- E (`coordinator_outage_s`) is how long no renewal can be written while ZooKeeper elects: its leader killed 0.4 to
  0.8 s, its leader *cut off* 1.24 to 1.67 s at tick 200 ms, 2.94 s at tick 500 ms and 10.4 s at 2000 ms with sync limit
  5. That is tick x sync limit + 0.44 s, and up to 0.23 s of spread. `wan` (tick 1 s) is reckoned by it, not measured.
- The primary's host is the ZooKeeper leader's host one time in three, so a lease must outlive E: T3 is E <= L - F - R. Or
  pledges between members bridge it.
- S is short: a session that expires by mistake only changes the leading controller.
- n probes of interval + bound are the silence that makes a vote (T4). A blip of up to n x (interval + bound) - interval is
  never one: 4 s in `default`, 2 s in `lan`, 0.8 s in `fast`, 11 s in `wan`; a silent host is voted lost after at most
  (n + 1) x (interval + bound): 6, 3, 1.5 and 15 s. That is within W, which runs meanwhile, so it costs a silent host nothing.
- The cool-down is at least three whole failovers (T5), rounded up to what a person can follow.

`config_rules` checks T1 to T6 for the clock that results.
"""

from __future__ import annotations

from failover.settings import Timings

ELECTION_BASE_S = 0.44  # of E, beyond tick x sync limit; see above

PROFILES: dict[str, Timings] = {
    # Machines that share disks and cores, VMs that are paused for snapshots. W = 6.62 s.
    "default": Timings(
        lease_s=6.0,
        renew_s=1.0,
        attempt_s=1.0,
        attempts=3,
        soft_fence_s=1.0,
        margin_s=0.5,
        clock_rate_error=0.01,
        session_s=2.0,
        zookeeper_tick_s=0.5,
        zookeeper_sync_limit=5,
        probe_interval_s=0.5,
        probe_bound_s=1.0,
        probes_lost=3,
        coordinator_outage_s=3.17,
        cooldown_s=60.0,
    ),
    # One switched network, ZooKeeper on its own disk or on one with quick fsync. W = 3.36 s.
    "lan": Timings(
        lease_s=3.0,
        renew_s=0.5,
        attempt_s=0.5,
        attempts=2,
        soft_fence_s=0.5,
        margin_s=0.3,
        clock_rate_error=0.01,
        session_s=1.0,
        zookeeper_tick_s=0.2,
        zookeeper_sync_limit=5,
        probe_interval_s=0.25,
        probe_bound_s=0.5,
        probes_lost=3,
        coordinator_outage_s=1.67,
        cooldown_s=20.0,
    ),
    # One switch, idle hosts. W = 1.52 s. Breaks T3 by itself (1.67 > 0.7), so it takes pledges.
    "fast": Timings(
        lease_s=1.2,
        renew_s=0.2,
        attempt_s=0.25,
        attempts=2,
        soft_fence_s=0.3,
        margin_s=0.3,
        clock_rate_error=0.01,
        session_s=1.0,
        zookeeper_tick_s=0.2,
        zookeeper_sync_limit=5,
        probe_interval_s=0.2,
        probe_bound_s=0.3,
        probes_lost=2,
        coordinator_outage_s=1.67,
        cooldown_s=15.0,
    ),
    # Sites apart, lossy lines. W = 16.30 s.
    "wan": Timings(
        lease_s=15.0,
        renew_s=2.0,
        attempt_s=2.0,
        attempts=3,
        soft_fence_s=2.0,
        margin_s=1.0,
        clock_rate_error=0.01,
        session_s=4.0,
        zookeeper_tick_s=1.0,
        zookeeper_sync_limit=5,
        probe_interval_s=1.0,
        probe_bound_s=2.0,
        probes_lost=4,
        coordinator_outage_s=5.67,
        cooldown_s=120.0,
    ),
}
