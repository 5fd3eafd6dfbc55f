"""What takes more than one value to see: who could vote, who could take over, and whether the clock keeps its promises.

Every rule is a function of the parts it needs and yields all it found as (path, message), with the numbers in it.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from failover.config_schema import Cluster, Fencing, Instance, MemberEntry, Pledges, Vip, ZooKeeper
from failover.config_yaml import Path
from failover.profiles import ELECTION_BASE_S
from failover.settings import ClusterSettings, Timings

Found = Iterator[tuple[Path, str]]

# Upper bounds used for sums only; measured: promotion 16 to 60 ms, VIP and DNS together some 20 ms.
PROMOTE_S = 0.5
ROUTE_S = 0.5
SEAL_S = 0.5
STONITH_AFTER_S = 1.0  # as core/rules.py: power is the last word
STONITH_S = 30.0  # switching off and reading back; bootstrap gives the command no more
_VOTERS = (1, 3, 5)


class Outage(NamedTuple):
    """The longest write outage that the timers permit for one fault. `seconds` is `math.inf` where unbounded."""

    fault: str
    seconds: float
    how: str


def quorum(controllers: Mapping[str, str]) -> Found:
    """An even number of voters survives no more than one less, and two survive nothing."""
    path: Path = ("controllers",)
    if len(controllers) not in _VOTERS:
        yield path, f"{len(controllers)} controllers: {_quorum_advice(len(controllers))}"
    for name, address in controllers.items():
        twin = _first(controllers, address)
        if twin != name:
            yield (*path, name), f"same address as {twin}: one lost host would take two votes"


def ensemble(zookeeper: ZooKeeper) -> Found:
    """The same for ZooKeeper's own servers, and a user goes with a password."""
    path: Path = ("zookeeper", "hosts")
    hosts = zookeeper.hosts
    if len(set(hosts)) == len(hosts) and len(hosts) % 2 == 0:
        yield path, f"{len(hosts)} servers: {_quorum_advice(len(hosts))}"
    for index, host in enumerate(hosts):
        if hosts.index(host) != index:
            yield (*path, index), f"{host} is listed twice"
    if (zookeeper.user is None) != (zookeeper.password_file is None):
        yield ("zookeeper",), "user and password_file go together: write both, or neither for an open ensemble"


def members(cluster: str, entries: Mapping[str, MemberEntry]) -> Found:
    """Somebody else must be able to take over."""
    path: Path = ("clusters", cluster, "members")
    willing = [name for name, entry in entries.items() if entry.failover != "never"]
    unguarded = [name for name, entry in entries.items() if not entry.guardian]
    able = [name for name in willing if name not in unguarded]
    if unguarded and not able:
        yield path, f"nothing could take over: {', '.join(unguarded)} without a guardian, and nobody else may become primary"
    elif not unguarded and len(willing) < 2:
        who = f"only {willing[0]} may" if willing else "no member may"
        yield path, f"nothing could take over: {who} become primary; it takes two with failover: automatic or manual"
    elif not any(entries[name].failover == "automatic" for name in able):
        yield path, "nothing could take over by itself: no member with a guardian has failover: automatic"
    addresses = {name: entry.address for name, entry in entries.items()}
    for name, address in addresses.items():
        twin = _first(addresses, address)
        if twin != name:
            yield (*path, name, "address"), f"{address} is already the address of {twin}"


def vip(cluster: str, wanted: Vip, entries: Mapping[str, MemberEntry], others: Mapping[str, str]) -> Found:
    """The VIP must belong to nobody and fit the network of all who may hold it. `others`: address -> what it is."""
    path: Path = ("clusters", cluster, "vip", "address")
    interface = ipaddress.ip_interface(wanted.address)
    text = str(interface.ip)
    for name, entry in entries.items():
        member = ipaddress.ip_address(entry.address)
        if member == interface.ip:
            yield path, f"{text} is the address of member {name} itself; a VIP must be free to move"
        elif entry.failover != "never" and member not in interface.network:
            yield path, f"{text} is outside the network of {name}: {entry.address} is not in {interface.network}"
    owner = others.get(text)
    if owner and not any(entry.address == text for entry in entries.values()):
        yield path, f"{text} is the address of {owner}; a VIP must be free to move"
    if interface.network.num_addresses > 2 and text in _edges(interface.network):
        yield path, f"{text} is the first or last address of {interface.network}, which no host can have"


def ports(cluster: str, instance: Instance, guarded: list[int]) -> Found:
    """A port left out of the gate is a way to write around it."""
    path: Path = ("clusters", cluster, "guarded_ports")
    if instance.port not in guarded:
        yield path, f"must contain the database's own port {instance.port}: the gate closes only what is listed"
    for index, port in enumerate(guarded):
        if guarded.index(port) != index:
            yield (*path, index), f"port {port} is listed twice"


def instance(cluster: str, engine: str, wanted: Instance) -> Found:
    """What only some engines have."""
    if engine == "postgresql" and wanted.config_file is not None:
        yield ("clusters", cluster, "instance", "config_file"), "is for mysql and mariadb; PostgreSQL finds its own configuration"


def pledges(cluster: str, wanted: Pledges, entries: Mapping[str, MemberEntry], taken: Iterable[int]) -> Found:
    """A port of its own, and one address family, because one socket serves it. `taken`: the database's and the guarded ports."""
    path: Path = ("clusters", cluster, "pledges")
    if wanted.port in taken:
        yield (*path, "port"), f"{wanted.port} is a guarded port of the database; pledges need a UDP port of their own"
    kinds = {ipaddress.ip_address(entry.address).version for entry in entries.values() if entry.guardian}
    if len(kinds) > 1:
        yield path, "some members have IPv4 addresses and some IPv6: they could not ask each other"


def fencing(cluster: str, wanted: Fencing) -> Found:
    """The command and its place in the order go together."""
    path: Path = ("clusters", cluster, "fencing")
    if "command" in wanted.order and not wanted.command:
        yield (*path, "order", wanted.order.index("command")), "no fencing.command is given: its path and arguments, as a list"
    elif wanted.command and "command" not in wanted.order:
        yield (*path, "command"), "would never run: add command to fencing.order"
    if wanted.command and not wanted.command[0].startswith("/"):
        yield (*path, "command", 0), "must be an absolute path: nothing is looked up in PATH, and no shell reads it"
    for index, word in enumerate(wanted.order):
        if wanted.order.index(word) != index:
            yield (*path, "order", index), f"{word} is listed twice"


def agentless(cluster: str, whole: Cluster) -> Found:
    """Under `strict` and `sync` a commit rests on members that can testify (seal) and primaries that can prove their sync names.

    A member without a guardian can do neither, so there it is a plain standby that no commit waits for, or nothing.
    """
    path: Path = ("clusters", cluster, "members")
    unguarded = [name for name, entry in whole.members.items() if not entry.guardian]
    if not unguarded or whole.replication == "async":
        return
    for name in unguarded:
        if whole.members[name].failover != "never":
            yield (
                (*path, name, "guardian"),
                f"replication {whole.replication}: nobody beside {name} could prove sync names: write replication: async,"
                f" or failover: never for {name}, a standby that no commit waits for",
            )
    able = [name for name, entry in whole.members.items() if entry.guardian and entry.failover != "never"]
    if len(able) < 2:
        yield path, f"replication {whole.replication}: it takes two members with a guardian, one to write and one to acknowledge"


def between(clusters: Mapping[str, Cluster]) -> Found:
    """Two clusters share no database, no guarded port on one host, no VIP and no service name."""
    claimed: dict[tuple[object, ...], str] = {}
    for name, cluster in clusters.items():
        path: Path = ("clusters", name)
        for key, where, says in _claims(cluster):
            if key in claimed and claimed[key] != name:
                yield (*path, *where), f"{says} already belongs to cluster {claimed[key]}"
            claimed.setdefault(key, name)


def _claims(cluster: Cluster) -> Iterator[tuple[tuple[object, ...], Path, str]]:
    for name, member in cluster.members.items():
        for port in dict.fromkeys([cluster.instance.port, *cluster.guarded_ports]):
            yield ("port", member.address, port), ("members", name, "address"), f"port {port} on {member.address}"
        if cluster.pledges and member.guardian:
            port = cluster.pledges.port
            yield ("UDP", member.address, port), ("pledges", "port"), f"UDP port {port} on {member.address}"
        directory = cluster.instance.data_dir
        yield ("dir", member.address, directory), ("instance", "data_dir"), f"{directory} on {member.address}"
    if cluster.vip:
        address = cluster.vip.address.partition("/")[0]
        yield ("vip", address), ("vip", "address"), f"the VIP {address}"
    if cluster.dns:
        service = f"{cluster.dns.name}.{cluster.dns.zone}"
        yield ("dns", service), ("dns", "name"), f"the service name {service}"


def clock(timings: Timings, pledged: bool = False) -> Iterator[tuple[str, str]]:
    """T1 to T6 (docs/guarantees.md) as (field that is to blame, message with the numbers).

    `pledged`: pledges bridge a ZooKeeper that is away, so T3 need not hold by itself. A renewal that fails and the round of
    pledges after it must fit then: R + 2 Q + F <= L, which is T2, because k is at least 2.
    """
    t = timings
    needed = t.renew_s + t.attempts * t.attempt_s + t.soft_fence_s
    if t.attempts < 2:
        yield "attempts", f"T2 is violated: k {t.attempts} < 2; one lost packet would fence a healthy primary"
    if _less(t.lease_s, needed):
        yield (
            "lease_s",
            f"T2 is violated: R {_s(t.renew_s)} + k {t.attempts} x Q {_s(t.attempt_s)} + F {_s(t.soft_fence_s)}"
            f" = {_s(needed)} > L {_s(t.lease_s)}",
        )
    spare = t.lease_s - t.soft_fence_s - t.renew_s
    if _less(spare, t.coordinator_outage_s) and not pledged:
        yield (
            "coordinator_outage_s",
            f"T3 is violated: E {_s(t.coordinator_outage_s)} (a ZooKeeper election) > L {_s(t.lease_s)}"
            f" - F {_s(t.soft_fence_s)} - R {_s(t.renew_s)} = {_s(spare)}: the primary would fence itself while"
            " ZooKeeper elects; only pledges between members bridge that: write `pledges:` in every cluster",
        )
    election = t.zookeeper_tick_s * t.zookeeper_sync_limit + ELECTION_BASE_S
    if _less(t.coordinator_outage_s, election):
        yield (
            "coordinator_outage_s",
            f"T3 is understated: E {_s(t.coordinator_outage_s)} < tick {_s(t.zookeeper_tick_s)}"
            f" x sync limit {t.zookeeper_sync_limit} + {_s(ELECTION_BASE_S)} = {_s(election)}, as measured",
        )
    yield from _clock_of_controllers(t)


def _clock_of_controllers(t: Timings) -> Iterator[tuple[str, str]]:
    if t.probes_lost < 2:
        yield "probes_lost", (
            f"T4 is violated: n {t.probes_lost} < 2; one lost probe proves nothing, and no silence longer than n x (interval"
            f" {_s(t.probe_interval_s)} + bound {_s(t.probe_bound_s)}) - interval = {_s(t.blip_s)} would be tolerated"
        )
    least = 3 * (t.wait_s + PROMOTE_S + ROUTE_S)
    if _less(t.cooldown_s, least):
        yield (
            "cooldown_s",
            f"T5 is violated: cool-down {_s(t.cooldown_s)} < 3 x (W {_s(t.wait_s)} + promote {_s(PROMOTE_S)}"
            f" + route {_s(ROUTE_S)}) = {_s(least)}",
        )
    low, high = 2 * t.zookeeper_tick_s, 20 * t.zookeeper_tick_s
    if _less(t.session_s, low) or _less(high, t.session_s):
        yield (
            "session_s",
            f"T6 is violated: ZooKeeper at tick {_s(t.zookeeper_tick_s)} grants sessions of {_s(low)} to {_s(high)},"
            f" not S {_s(t.session_s)}",
        )


def worst_case_outage(cluster: ClusterSettings) -> list[Outage]:
    """The longest write outage per fault that the timers permit; the usual one is far shorter (docs/guarantees.md)."""
    t = cluster.timings
    detect = t.detection_s
    commits = 3 * t.attempt_s  # receipt or claim, candidate, grant
    after = commits + PROMOTE_S + ROUTE_S
    tail = f"3 writes {_s(commits)} + promote {_s(PROMOTE_S)} + route {_s(ROUTE_S)}"
    return [
        Outage("database process killed", after, tail),
        *_silent_hosts(cluster, detect, after, tail),
        Outage("database frozen", detect + after, f"detection {_s(detect)} + {tail}"),
        Outage("database stopped by hand", cluster.on_clean_stop_wait_s + after, "on_clean_stop + " + tail),
        Outage("crash recovery in place", cluster.crash_recovery_max_s + after, "crash_recovery_max + " + tail),
        Outage("planned switchover", cluster.switchover_deadline_s, "switchover_deadline, then writes are given back"),
        *_without_zookeeper(cluster),
    ]


def bridged(timings: Timings) -> bool:
    """T3 holds by itself: an election of ZooKeeper fits into the lease."""
    return not _less(timings.lease_s - timings.soft_fence_s - timings.renew_s, timings.coordinator_outage_s)


def away(cluster: ClusterSettings) -> str:
    """What keeps the primary when ZooKeeper is away, for `config check`."""
    t, outage = cluster.timings, f"E {_s(cluster.timings.coordinator_outage_s)}"
    if cluster.pledges is not None:
        words = f"pledges on UDP port {cluster.pledges.port}: they bridge a ZooKeeper that is away, for {outage} or for days"
        return words if bridged(t) else f"{words}; not where its leader and a standby are lost with one host: keep them apart"
    spare = f"L {_s(t.lease_s)} - F {_s(t.soft_fence_s)} - R {_s(t.renew_s)} = {_s(t.lease_s - t.soft_fence_s - t.renew_s)}"
    return f"no pledges: T3 must hold by itself: {outage} <= {spare}; a ZooKeeper away for longer ends the writes"


def _without_zookeeper(cluster: ClusterSettings) -> Iterator[Outage]:
    outage = f"E {_s(cluster.timings.coordinator_outage_s)}"
    fits = f"{outage} fits into the lease (T3)" if bridged(cluster.timings) else f"{outage} is bridged by pledges"
    yield Outage("ZooKeeper elects", 0.0, f"none: {fits}")
    if cluster.pledges is None:
        yield Outage("ZooKeeper without a majority", math.inf, "until it is back: the primary fences itself")
        return
    yield Outage("ZooKeeper without a majority", 0.0, "none: every standby that may be chosen pledges")
    yield Outage(
        "and such a standby away too", math.inf, "until either is back: the primary fences itself; `failoverctl maintenance on`"
        " for that standby beforehand avoids it",
    )  # fmt: skip


def _silent_hosts(cluster: ClusterSettings, detect: float, after: float, tail: str) -> Iterator[Outage]:
    """A host that says nothing. The clock runs from the last renewal, so detection and W overlap; unguarded, none runs."""
    t, able = cluster.timings, _able(cluster)
    silent = max(detect, t.wait_s + t.renew_s)
    how = f"max(detection {_s(detect)}, W {_s(t.wait_s)} + R {_s(t.renew_s)}) + seal {_s(SEAL_S)} + {tail}"
    if len(able) > 1:
        yield Outage("host crashed or cut off", silent + SEAL_S + after, how)
    elif able:
        how = f"held: nobody with a guardian may take over from {able[0]}, and only their pledges make the clock evidence"
        yield Outage("host crashed or cut off", math.inf, how)
    for member in cluster.members:
        if member.guarded:
            continue
        fault = f"host of {member.name} silent"
        if cluster.fencing.has_command:
            seconds = detect + STONITH_AFTER_S + STONITH_S + SEAL_S + after
            says = f"detection {_s(detect)} + command {_s(STONITH_AFTER_S + STONITH_S)} + seal {_s(SEAL_S)} + {tail}; else held"
            yield Outage(fault, seconds, f"no guardian, so STONITH must read back off: {says}")
        else:
            yield Outage(fault, math.inf, "held: no guardian, so no clock is evidence, and there is no STONITH")


def cannot(cluster: ClusterSettings) -> list[str]:
    """What this configuration does not do, one sentence each, for `config check`."""
    stonith = cluster.fencing.has_command
    found = []
    for member in cluster.members:
        if member.guarded:
            continue
        silent = "only STONITH that reads back off counts" if stonith else "there is no STONITH: held"
        found.append(
            f"{member.name} has no guardian: no lease, no gate: the clock is no evidence; if its host is silent, {silent}."
            " It is never chosen as the new primary, and what is fenced comes back by hand"
        )
        if stonith:
            found.append(
                f"{member.name}: once switched off, its database must not start by itself when the host does: nothing there knows"
                " that the grant has moved, until a controller reaches it and fences it"
            )
        if cluster.instance.provider == "direct":
            found.append(
                f"{member.name}, service direct: after a fence only standby.signal and the shut gate keep it from writing;"
                " with systemd the unit refuses the start too"
            )
    able = _able(cluster)
    if len(able) == 1:
        found.append(f"only {able[0]} could take over: once it is primary, nobody is left")
    return found


def _able(cluster: ClusterSettings) -> list[str]:
    """Who may ever be chosen."""
    return [m.name for m in cluster.members if m.guarded and m.failover.value != "never"]


def _quorum_advice(count: int) -> str:
    if count == 2:
        return "no quorum possible after the loss of either; use 3"
    if count % 2 == 0:
        return f"an even number survives no more losses than {count - 1}; use {count - 1} or {count + 1}"
    return "use 3 or 5 (1 for a trial)"


def _edges(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> tuple[str, ...]:
    if network.version == 6:
        return (str(network.network_address),)
    return str(network.network_address), str(network.broadcast_address)


def _first(addresses: Mapping[str, str], address: str) -> str:
    return next(name for name, known in addresses.items() if known == address)


def _less(left: float, right: float) -> bool:
    """left < right, with the rounding of decimal fractions forgiven."""
    return left < right - 1e-9


def _s(seconds: float) -> str:
    return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
