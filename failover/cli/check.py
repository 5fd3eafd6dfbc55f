"""`check`: look, live and read-only, at everything a failover will need. `config check`: the file alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from failover.cli import options
from failover.cli.options import Scope, Suggesting, common, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from failover.cli.reading import Look
    from failover.core.rules import Rules
    from failover.settings import ClusterSettings, Settings

LOOK_S = 3.0
ALONE_S = 10.0  # an agent without a guardian reads the configuration before it can look
PASS, WARN, FAIL = "PASS", "WARN", "FAIL"


@dataclass(frozen=True)
class Item:
    """One finding. `hint` is the next thing to do, empty when it is well."""

    area: str
    name: str
    verdict: str
    facts: str
    hint: str = ""


@click.command()
@common
def check(scope: Scope) -> int:
    """Look at everything that a failover will need: ZooKeeper, SSH, guardians, gates, databases, DNS, webhooks.

    Live and read-only. Run it on a controller host, with the rights of failoverd. Exit code 10 if anything is not PASS.
    """
    from failover.cli.printing import emit_json
    from failover.config import load

    settings = load(scope.config)
    cluster = settings.cluster(scope.cluster)
    items = examine(scope, settings, cluster)
    if scope.json:
        shown = [{"area": i.area, "name": i.name, "verdict": i.verdict, "facts": i.facts, "hint": i.hint} for i in items]
        emit_json({"cluster": cluster.name, "items": shown})
    else:
        _show(items, scope.color)
    return options.DONE if all(item.verdict == PASS for item in items) else options.PROBLEMS


def examine(scope: Scope, settings: Settings, cluster: ClusterSettings) -> list[Item]:
    """All items in a fixed order; everything that waits for somebody waits at the same time."""
    from concurrent.futures import ThreadPoolExecutor

    from failover.cli.reading import opened
    from failover.errors import FailoverError

    items = []
    look: Look | None = None
    try:
        with opened(scope) as view:
            look = view.watch()
            items += daemons(look, view.rules)
            items += ways(look, cluster)
    except FailoverError as error:
        items.append(Item("records", cluster.name, FAIL, str(error), "start ZooKeeper; the items below do without it"))
    looks: list[tuple[str, str, Callable[[], Iterable[Item]]]] = [
        *(("zookeeper", host, lambda h=host: (server(settings, cluster, h),)) for host in settings.zookeeper.hosts),
        ("zookeeper", "ACL", lambda: (openness(settings, cluster),)),
        ("ssh", cluster.name, lambda: agents(settings, cluster)),
        ("pledges", cluster.name, lambda: key_of_pledges(cluster)),
        *(("database", member.name, lambda m=member.name: (database(cluster, m),)) for member in cluster.members),
        *(("server", member.name, lambda m=member.name: (server_settings(cluster, m),)) for member in cluster.members),
        *(("rewind", member.name, lambda m=member.name: (rewind(cluster, m),)) for member in cluster.members),
        ("dns", cluster.name, lambda: (name_service(cluster, look),) if cluster.dns else ()),
        *(("webhook", "", lambda u=hook.url: (webhook(u),)) for hook in cluster.notify),
    ]
    say(f"looking at {len(looks)} things, {LOOK_S:g} s each at most, all at once")
    with ThreadPoolExecutor(max_workers=len(looks)) as pool:
        for future in [pool.submit(_whatever_happens, *one) for one in looks]:
            items += future.result()
    return items


def _whatever_happens(area: str, name: str, work: Callable[[], Iterable[Item]]) -> list[Item]:
    """An unreadable secret of one item is that item's finding; the others are looked at all the same."""
    from failover.errors import FailoverError

    try:
        return list(work())
    except FailoverError as error:
        return [Item(area, name, FAIL, str(error), "failoverctl config check; can this user read the secrets?")]


def daemons(look: Look, rules: Rules) -> list[Item]:
    """Who reports in ZooKeeper."""
    seen = look.seen
    here = [name for name in rules.controllers if name in seen.controllers]
    absent = [name for name in rules.controllers if name not in here]
    facts = f"{len(here)} of {len(rules.controllers)} are there, leader {look.leader or 'none'}"
    verdict = PASS if look.leader and not absent else FAIL if not look.leader else WARN
    hint = f"systemctl status failoverd on {', '.join(absent) or 'the controller hosts'}" if verdict != PASS else ""
    items = [Item("controllers", rules.cluster, verdict, facts, hint)]
    for member in rules.members:
        status = seen.status(member.name, rules.gone_s)
        if not member.guarded:
            facts = "none, as configured: no lease and no gate" if status else "no controller reaches its host agent"
            hint = "" if status else f"sshd and failover-hostagent on {member.name}"
            items.append(Item("guardian", member.name, PASS if status else FAIL, facts, hint))
            continue
        if status is None:
            told = "silent" if member.name in seen.members else "has never reported"
            hint = f"systemctl status failover-guardian on {member.name}"
            items.append(Item("guardian", member.name, FAIL, told, hint))
            continue
        well = status.gate in ("open", "shut") or seen.grant is None
        facts = "; ".join((f"{status.role.value}, gate {status.gate}: {status.guardian}", *status.problems))
        hint = "" if well and not status.problems else f"journalctl -u failover-guardian on {member.name}"
        items.append(Item("guardian", member.name, FAIL if not well else WARN if status.problems else PASS, facts, hint))
    return items


def ways(look: Look, cluster: ClusterSettings) -> list[Item]:
    """What each guardian says about its ways to the others' pledges."""
    if cluster.pledges is None:
        return []
    items = []
    hint = f"is UDP port {cluster.pledges.port} open between the members, and {cluster.pledges.key_file} the same on all of them?"
    for member in cluster.members:
        status = look.seen.status(member.name, LOOK_S)
        if member.guarded and status is not None:
            lacking = [text for text in status.problems if "pledge" in text]
            facts = "; ".join(lacking) or "every other guardian that reports can be asked"
            items.append(Item("pledges", member.name, WARN if lacking else PASS, facts, hint if lacking else ""))
    return items


def key_of_pledges(cluster: ClusterSettings) -> list[Item]:
    """The key, where this host has a member: a controller alone does not need it."""
    from failover.config import node_name
    from failover.errors import ConfigurationError
    from failover.secrets import read_key

    try:
        here = node_name()
    except ConfigurationError:  # no name that a member could have
        return []
    if cluster.pledges is None or here not in {member.name for member in cluster.members if member.guarded}:
        return []
    path = cluster.pledges.key_file
    try:
        read_key(path)
    except ConfigurationError as error:
        return [Item("pledges", "key", FAIL, error.faults[0], "the same file on every member's host, root's own, chmod 600")]
    return [Item("pledges", "key", PASS, f"{path} can be read here and is long enough")]


def server(settings: Settings, cluster: ClusterSettings, host: str) -> Item:
    """One ZooKeeper server by itself, and the session it grants."""
    from failover.bootstrap import coordinator
    from failover.errors import FailoverError

    wanted_s = cluster.timings.session_s
    client = coordinator(settings, (host,), wanted_s, f"check {host}")
    try:
        client.start(LOOK_S)
        client.children("/", LOOK_S)
        granted_s = client.negotiated_session_s()
    except FailoverError as error:
        return Item("zookeeper", host, FAIL, str(error), "is it running, and allowed through the firewall?")
    finally:
        client.close()
    if granted_s is None or not math.isclose(granted_s, wanted_s, rel_tol=0.01):
        hint = f"tickTime {cluster.timings.zookeeper_tick_s * 1000:.0f} on every ZooKeeper server (profile {settings.profile})"
        return Item("zookeeper", host, WARN, f"grants a session of {granted_s} s, not {wanted_s:g} s", hint)
    return Item("zookeeper", host, PASS, f"answers, grants a session of {granted_s:g} s")


def openness(settings: Settings, cluster: ClusterSettings) -> Item:
    """May a stranger read, and so forge, the records?"""
    from dataclasses import replace

    from failover.bootstrap import coordinator, ledger_of
    from failover.core.plan import Key, Kind
    from failover.errors import FailoverError, WrongCredentials

    hint = "set zookeeper.user and password_file, and give the existing znodes that ACL"
    stranger = replace(settings, zookeeper=replace(settings.zookeeper, user=None, password_file=None))
    client = coordinator(stranger, settings.zookeeper.hosts, cluster.timings.session_s, "check as a stranger")
    try:
        client.start(LOOK_S)
        found = ledger_of(settings, cluster, client).read(Key(Kind.TERM), LOOK_S)
    except WrongCredentials:
        return Item("zookeeper", "ACL", PASS, "a stranger may not read the records")
    except FailoverError as error:
        return Item("zookeeper", "ACL", WARN, f"cannot be told: {error}")
    finally:
        client.close()
    if found is None:
        return Item("zookeeper", "ACL", WARN, "no record is there yet: no controller has ever run", "start failoverd")
    return Item("zookeeper", "ACL", WARN, "anybody who reaches ZooKeeper may read and write the records", hint)


def agents(settings: Settings, cluster: ClusterSettings) -> list[Item]:
    """Every member's host agent over SSH, and what it sees of guardian and gate."""
    from concurrent.futures import ThreadPoolExecutor

    from failover.remote.ssh import Agents

    lines = Agents(settings.ssh, {member.name: member.address for member in cluster.members})
    try:
        with ThreadPoolExecutor(max_workers=len(cluster.members)) as pool:
            futures = [pool.submit(_agent, lines, cluster.name, m.name, m.guarded) for m in cluster.members]
            return [future.result() for future in futures]
    finally:
        lines.close()


def _agent(lines: object, cluster: str, member: str, guarded: bool) -> Item:
    from failover.errors import FailoverError, WrongCredentials
    from failover.remote.ssh import Agents

    assert isinstance(lines, Agents)
    try:
        hello = lines.call(member, "hello", {}, LOOK_S)
        found = lines.call(member, "status", {"cluster": cluster}, ALONE_S)
    except WrongCredentials as error:
        return Item("ssh", member, FAIL, str(error), f"compare ssh.known_hosts_file and the authorized key on {member}")
    except FailoverError as error:
        return Item("ssh", member, FAIL, str(error), f"sshd and failover-hostagent on {member}; can this host log in?")
    if not found.facts.get("guardian") and guarded:
        return _unguarded(member, hello.evidence, found.evidence, found.facts.get("gate"))
    return Item(
        "ssh", member, PASS, f"{hello.evidence}; gate {found.facts.get('gate')}, epoch {found.facts.get('closed')} closed"
    )


def _unguarded(member: str, hello: str, says: str, gate: object) -> Item:
    """A guardian belongs there and does not answer. The kernel keeps its gate, unless somebody flushed the ruleset."""
    hint = f"systemctl status failover-guardian on {member}"
    if gate == "none":
        facts = f"{hello}; no guardian answers it, and there is NO GATE: who reaches the port may write, whatever the grant says"
        return Item("ssh", member, FAIL, facts, f"{hint}; a guardian makes the gate, shut, when it starts")
    return Item("ssh", member, WARN, f"{hello}; no guardian answers it: {says}", hint)


def rewind(cluster: ClusterSettings, member: str) -> Item:
    """Could it be rewound when it comes back with log that nobody else has? If not, only a new copy brings it back."""
    from failover.bootstrap import rewind_faults
    from failover.errors import FailoverError

    try:
        faults = rewind_faults(cluster, member, LOOK_S)
    except FailoverError as error:
        return Item("rewind", member, WARN, f"cannot be told: {error}", "see its database above")
    if faults:
        return Item("rewind", member, WARN, f"not possible: {'; '.join(faults)}", "docs/install.md; until then: rejoin --reseed")
    return Item("rewind", member, PASS, "possible: nothing that it needs is missing")


def database(cluster: ClusterSettings, member: str) -> Item:
    """One member's database, as the controllers' probes see it."""
    from failover.bootstrap import probe_once
    from failover.errors import FailoverError

    hint = "from a controller host: users.monitor and its password_file, the hosts that the account may come from, the firewall"
    try:
        found = probe_once(cluster, member, max(cluster.timings.probe_bound_s, 1.0))
    except FailoverError as error:
        return Item("database", member, FAIL, str(error), hint)
    facts = f"{found.role.value} in {found.took_s * 1000:.0f} ms: {found.detail}"
    if found.took_s > cluster.timings.probe_bound_s / 2:
        return Item(
            "database", member, WARN, f"{facts}; the probe bound is {cluster.timings.probe_bound_s:g} s", "timings.probe_bound"
        )
    return Item(
        "database", member, PASS if found.alive else FAIL if found.alive is False else WARN, facts, "" if found.alive else hint
    )


def server_settings(cluster: ClusterSettings, member: str) -> Item:
    """Is that server what the configuration says, set up so that its log can be counted on?"""
    from failover.bootstrap import server_faults
    from failover.errors import FailoverError

    try:
        faults = server_faults(cluster, member, LOOK_S)
    except FailoverError as error:
        return Item("server", member, WARN, f"cannot be told: {error}", "see its database above")
    if faults:
        return Item("server", member, FAIL, "; ".join(faults), "docs/mysql.md")  # the one page of engines that look at this
    return Item("server", member, PASS, f"fit for engine {cluster.engine}")


def name_service(cluster: ClusterSettings, look: Look | None) -> Item:
    """Does the service name answer what it should, at every authoritative server?"""
    from failover.bootstrap import look_at_dns
    from failover.errors import FailoverError

    assert cluster.dns is not None
    name = f"{cluster.dns.name}.{cluster.dns.zone}"
    grant = look.seen.grant.value if look and look.seen.grant else None
    primary = cluster.member(grant.member) if grant and grant.member in cluster.names else None
    address = cluster.vip.address if cluster.vip else primary.address if primary else cluster.members[0].address
    try:
        seen = look_at_dns(cluster.dns, address, grant.epoch if grant else 0, LOOK_S)
    except FailoverError as error:
        return Item("dns", name, FAIL, str(error), "dns.server, its update policy, dns.tsig_name and tsig_key_file")
    if grant is None:
        return Item("dns", name, PASS, f"the server answers: {seen.evidence}")
    hint = "" if seen.there else "the leader corrects it by itself; if not: failoverctl status"
    return Item("dns", name, PASS if seen.there else WARN, seen.evidence, hint)


def webhook(url: str) -> Item:
    """Is somebody listening there? Nothing is sent. The path may hold a token, so only the host is named."""
    import socket
    from urllib.parse import urlsplit

    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)
    try:
        with socket.create_connection((host, port), LOOK_S):
            return Item("webhook", f"{host}:{port}", PASS, "somebody listens")
    except OSError as error:
        hint = "a notice is kept and sent until it is acknowledged; does the application listen there?"
        return Item("webhook", f"{host}:{port}", FAIL, f"no connection: {error.strerror or type(error).__name__}", hint)


def _show(items: list[Item], color: bool) -> None:
    from failover.cli.printing import paint, table

    shades = {PASS: "green", WARN: "yellow", FAIL: "red"}
    lines = table(("", "WHAT", "", "FACTS"), [(i.verdict, i.area, i.name, i.facts) for i in items]).splitlines()
    click.echo(lines[0])
    for item, line in zip(items, lines[1:], strict=True):
        click.echo(paint(line, shades[item.verdict], color))
        if item.hint and item.verdict != PASS:
            click.echo(f"      next: {item.hint}")
    bad = sum(item.verdict != PASS for item in items)
    click.echo(f"{len(items)} looked at, {bad} not well" if bad else f"{len(items)} looked at, all well")


# --- the file -------------------------------------------------------------------------------------------------------------
@click.group(cls=Suggesting)
def config() -> None:
    """Look at the configuration file."""


@config.command("check")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@common
def check_file(scope: Scope, file: Path | None) -> int:
    """Every fault of FILE with its line; or what it says in short, and the longest outage that its timers permit."""
    from failover.cli.printing import emit_json
    from failover.config import load

    settings = load(file or scope.config, secrets="controller")
    if scope.json:
        emit_json({
            "file": str(settings.source), "digest": settings.digest, "profile": settings.profile,
            "clusters": [_cluster_document(cluster) for cluster in settings.clusters],
        })  # fmt: skip
        return options.DONE
    click.echo(f"{settings.source}: no fault; digest {settings.digest[:8]}, profile {settings.profile}")
    click.echo(f"zookeeper: {', '.join(settings.zookeeper.hosts)}" + ("" if settings.zookeeper.user else "  (open: no user)"))
    click.echo("controllers: " + ", ".join(f"{c.name} {c.address}" for c in settings.controllers))
    for cluster in settings.clusters:
        _show_cluster(cluster)
    return options.DONE


def _show_cluster(cluster: ClusterSettings) -> None:
    from failover.cli.printing import table
    from failover.config_rules import away, cannot, worst_case_outage

    t = cluster.timings
    click.echo(f"\n{cluster.name}: {cluster.engine}, mode {cluster.mode.value}, replication {cluster.replication.value}")
    for member in cluster.members:
        alone = "" if member.guarded else ", no guardian"
        click.echo(f"  {member.name} {member.address}  priority {member.priority}, failover {member.failover.value}{alone}")
    vip = f"{cluster.vip.address}/{cluster.vip.prefix} on {cluster.vip.interface}" if cluster.vip else "none"
    dns = f"{cluster.dns.name}.{cluster.dns.zone} at {cluster.dns.server}" if cluster.dns else "none"
    click.echo(
        f"  VIP {vip}; DNS {dns}; guarded ports {', '.join(map(str, cluster.guarded_ports))}; webhooks {len(cluster.notify)}"
    )
    click.echo(
        f"  lease L {t.lease_s:g} s, wait W {t.wait_s:.2f} s, cool-down {t.cooldown_s:g} s; "
        f"ZooKeeper tick {t.zookeeper_tick_s:g} s"
    )
    click.echo(f"  {away(cluster)}")
    click.echo("\n  longest write outage that these timers permit; the usual one is far shorter:")
    rows = [(o.fault, _outage(o.seconds), o.how) for o in worst_case_outage(cluster)]
    click.echo(table(("FAULT", "AT MOST", "BECAUSE"), rows, indent="  "))
    sentences = cannot(cluster)
    if sentences:
        click.echo("\n  what this configuration cannot do:")
        for sentence in sentences:
            click.echo(f"  - {sentence}")


def _outage(seconds: float) -> str:
    return "no end" if math.isinf(seconds) else f"{seconds:.2f} s"


def _cluster_document(cluster: ClusterSettings) -> dict[str, object]:
    from failover.config_rules import cannot, worst_case_outage

    return {
        "name": cluster.name, "engine": cluster.engine, "mode": cluster.mode.value,
        "replication": cluster.replication.value,
        "members": [
            {"name": m.name, "address": m.address, "priority": m.priority, "failover": m.failover.value, "guardian": m.guarded}
            for m in cluster.members
        ],
        "pledges": {"port": cluster.pledges.port} if cluster.pledges else None,
        "cannot": cannot(cluster),
        "worst_case_outage": [
            {"fault": o.fault, "seconds": None if math.isinf(o.seconds) else round(o.seconds, 3), "how": o.how}
            for o in worst_case_outage(cluster)
        ],
    }  # fmt: skip
