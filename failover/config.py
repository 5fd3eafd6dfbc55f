"""Reading the one file, and saying everything that is wrong with it at once.

`load` gives a `Settings` or raises ConfigurationError with every fault as `file:line:col: path: message`. A mistake in
one section does not hide what is wrong in another: each rule runs as soon as the parts it needs have the right shape.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from failover import config_rules as rules
from failover import config_schema as schema
from failover import settings
from failover.config_rules import Outage, worst_case_outage
from failover.config_shape import Shape
from failover.config_yaml import Document, Fault, path_text, read
from failover.config_yaml import Path as Where
from failover.core.model import Member, Mode, Replication, Willingness
from failover.errors import ConfigurationError
from failover.profiles import PROFILES
from failover.secrets import read_key, read_secret, why_no_program

__all__ = ["DEFAULT_FILE", "Outage", "load", "node_name", "worst_case_outage"]

DEFAULT_FILE = Path("/etc/failover/failover.yml")
SECRET_KEYS = ("password_file", "key_file", "tsig_key_file", "secret_file")


def load(path: Path | None = None, env: Mapping[str, str] = os.environ, secrets: str | None = None) -> settings.Settings:
    """The checked settings of `path`, of FAILOVER_CONFIG, or of the default file. Raises ConfigurationError.

    `secrets`: also try every file that a "controller" or a "guardian" will need, now and not on the night it is needed.
    """
    source = path or Path(env.get("FAILOVER_CONFIG") or DEFAULT_FILE)
    try:
        data = source.read_bytes()
    except OSError as error:
        raise ConfigurationError([f"{source}: cannot be read: {error.strerror or type(error).__name__}"]) from error
    document = read(data)
    faults = list(document.faults)
    shape: Shape | None = None
    if isinstance(document.root, dict):
        shape = Shape(document)
        faults += shape.faults
        faults += [_placed(document, where, message) for where, message in _broken_rules(shape, document)]
        if secrets is not None:
            faults += [_placed(document, where, message) for where, message in _unusable(document.root, (), secrets)]
            if secrets == "controller":
                faults += [_placed(document, where, message) for where, message in _unsafe_commands(shape)]
    elif not faults:
        faults.append(Fault(document.mark(()), (), "the file must hold keys and values: zookeeper:, clusters:, ..."))
    if faults or shape is None or shape.file is None:
        ordered = sorted(set(faults), key=lambda fault: (fault.mark, path_text(fault.path), fault.message))
        raise ConfigurationError([fault.text(str(source)) for fault in ordered])
    return _settings(shape.file, document, source, hashlib.sha256(data).hexdigest())


def node_name(env: Mapping[str, str] = os.environ) -> str:
    """Who this host is: FAILOVER_NODE, else the host name without its domain. Raises ConfigurationError."""
    given = env.get("FAILOVER_NODE")
    word = given or socket.gethostname().partition(".")[0]
    try:
        return schema.name(word)
    except ValueError as error:
        origin = "FAILOVER_NODE" if given else "the host name (set FAILOVER_NODE)"
        raise ConfigurationError([f"{origin}: {error}"]) from error


def _placed(document: Document, where: Where, message: str) -> Fault:
    return Fault(document.mark(where), where, message)


def _broken_rules(shape: Shape, document: Document) -> Iterator[tuple[Where, str]]:
    """Every rule whose parts are sound."""
    zookeeper = shape.part(schema.ZooKeeper, "zookeeper")
    controllers = shape.part(dict[schema.Name, schema.Address], "controllers")
    if zookeeper:
        yield from rules.ensemble(zookeeper)
    if controllers:
        yield from rules.quorum(controllers)
    yield from _broken_clock(shape, document)
    written = document.root.get("clusters") if isinstance(document.root, dict) else None
    names = list(written) if isinstance(written, dict) else []
    taken = _taken(controllers or {}, zookeeper.hosts if zookeeper else ())
    for name in names:
        yield from _broken_in_cluster(shape, name, taken)
    whole = {name: shape.part(schema.Cluster, "clusters", name) for name in names}
    yield from rules.between({name: cluster for name, cluster in whole.items() if cluster})


def _unusable(section: Mapping[str, object], at: Where, who: str) -> Iterator[tuple[Where, str]]:
    """Secret files that cannot be used. A guardian needs ZooKeeper's, the database accounts' and the key of the pledges, which
    a controller does not need; a controller needs all others."""
    for key, value in section.items():
        where = (*at, key)
        if isinstance(value, Mapping):
            yield from _unusable(value, where, who)
        elif isinstance(value, list):
            for number, item in enumerate(value):
                if isinstance(item, Mapping):
                    yield from _unusable(item, (*where, number), who)
        elif isinstance(value, str) and key in SECRET_KEYS and _needed_by(who, where):
            try:
                (read_key if _is_pledge_key(where) else read_secret)(Path(value))
            except ConfigurationError as error:
                yield where, error.faults[0]


def _needed_by(who: str, where: Where) -> bool:
    return where[-1] == "password_file" or (who == "guardian") == _is_pledge_key(where)


def _is_pledge_key(where: Where) -> bool:
    return where[-2:] == ("pledges", "key_file")


def _unsafe_commands(shape: Shape) -> Iterator[tuple[Where, str]]:
    """STONITH commands that a controller could not run, or that others than root could exchange."""
    if shape.file is None:
        return
    for name, cluster in shape.file.clusters.items():
        program = Path(cluster.fencing.command[0]) if cluster.fencing.command else None
        fault = why_no_program(program) if program is not None and program.is_absolute() else None
        if fault:
            yield ("clusters", name, "fencing", "command", 0), f"{program}: {fault}"


def _broken_in_cluster(shape: Shape, name: str, taken: Mapping[str, str]) -> Iterator[tuple[Where, str]]:
    at = ("clusters", name)
    members = shape.part(dict[schema.Name, schema.MemberEntry], *at, "members")
    instance = shape.part(schema.Instance, *at, "instance")
    guarded = shape.part(list[schema.Port], *at, "guarded_ports")
    vip = shape.part(schema.Vip, *at, "vip")
    dns = shape.part(schema.Dns, *at, "dns")
    if members:
        yield from rules.members(name, members)
    if members and vip:
        others = {**taken, dns.server: "the DNS server"} if dns else taken
        yield from rules.vip(name, vip, members, others)
    if instance and guarded:
        yield from rules.ports(name, instance, guarded)
    pledges = shape.part(schema.Pledges, *at, "pledges")
    if pledges and members:
        taken_ports = {instance.port, *(guarded or ())} if instance else set(guarded or ())
        yield from rules.pledges(name, pledges, members, taken_ports)
    fencing = shape.part(schema.Fencing, *at, "fencing")
    if fencing:
        yield from rules.fencing(name, fencing)
    whole = shape.part(schema.Cluster, *at)
    if whole:
        yield from rules.instance(name, whole.engine, whole.instance)
        yield from rules.agentless(name, whole)


def _broken_clock(shape: Shape, document: Document) -> Iterator[tuple[Where, str]]:
    """T1 to T6 for the profile with its overrides; the fault stands where the number was written."""
    overrides = shape.part(schema.TimingOverrides, "timings") or schema.TimingOverrides()
    profile = document.root.get("profile", "default") if isinstance(document.root, dict) else None
    if not isinstance(profile, str) or profile not in PROFILES:
        return
    for blamed, message in rules.clock(_timings(profile, overrides), _pledged(shape, document)):
        written: Where = ("timings", blamed.removesuffix("_s"))
        yield (written, message) if written in document.values else (("profile",), f"{profile}: {message}")


def _pledged(shape: Shape, document: Document) -> bool:
    """Every cluster has pledges: only then may the clock, which is the same for all, rest on them."""
    written = document.root.get("clusters") if isinstance(document.root, dict) else None
    names = list(written) if isinstance(written, dict) else []
    return bool(names) and all(shape.part(schema.Pledges, "clusters", name, "pledges") for name in names)


def _taken(controllers: Mapping[str, str], hosts: Iterable[str]) -> dict[str, str]:
    """Addresses that belong to a host of ours, and what it is, for messages."""
    servers = {host.rpartition(":")[0].strip("[]"): "a ZooKeeper server" for host in hosts}
    return servers | {address: f"controller {name}" for name, address in controllers.items()}


def _timings(profile: str, overrides: schema.TimingOverrides) -> settings.Timings:
    written = overrides.model_dump(exclude_none=True)
    return replace(PROFILES[profile], **{schema.timings_field(key): value for key, value in written.items()})


def _settings(file: schema.File, document: Document, source: Path, digest: str) -> settings.Settings:
    timings = _timings(file.profile, file.timings)
    return settings.Settings(
        zookeeper=settings.ZooKeeperSettings(
            tuple(file.zookeeper.hosts), file.zookeeper.prefix, file.zookeeper.user, file.zookeeper.password_file
        ),
        controllers=tuple(settings.ControllerSettings(name, address) for name, address in file.controllers.items()),
        ssh=settings.SshSettings(file.ssh.user, file.ssh.port, file.ssh.key_file, file.ssh.known_hosts_file),
        clusters=tuple(_cluster(name, cluster, timings) for name, cluster in file.clusters.items()),
        state_dir=file.state_dir,
        run_dir=file.run_dir,
        profile=file.profile,
        digest=digest,
        source=source,
        origins={path_text(where): f"{source}:{mark.line}" for where, mark in document.values.items() if where},
    )


def _cluster(name: str, cluster: schema.Cluster, timings: settings.Timings) -> settings.ClusterSettings:
    return settings.ClusterSettings(
        name=name,
        engine=cluster.engine,
        mode=Mode(cluster.mode),
        replication=Replication(cluster.replication),
        on_clean_stop_wait_s=cluster.on_clean_stop,
        crash_recovery_max_s=cluster.crash_recovery_max,
        instance=_instance(cluster.instance),
        guarded_ports=tuple(cluster.guarded_ports),
        users=_accounts(cluster.users),
        members=tuple(
            Member(member, entry.address, entry.priority, Willingness(entry.failover), entry.guardian)
            for member, entry in cluster.members.items()
        ),
        timings=timings,
        vip=_vip(cluster.vip) if cluster.vip else None,
        dns=_dns(cluster.dns) if cluster.dns else None,
        notify=tuple(settings.WebhookSettings(hook.webhook, hook.secret_file) for hook in cluster.notify),
        fencing=settings.FencingSettings(tuple(cluster.fencing.order), tuple(cluster.fencing.command)),
        standby_reads=cluster.standby_reads,
        switchover_deadline_s=cluster.switchover_deadline,
        lag_max_bytes=cluster.lag_max,
        pledges=settings.PledgeSettings(cluster.pledges.port, cluster.pledges.key_file) if cluster.pledges else None,
        rejoin_automatic=cluster.rejoin == "automatic",
    )


def _instance(entry: schema.Instance) -> settings.InstanceSettings:
    provider, _, unit = entry.service.partition(":")
    return settings.InstanceSettings(
        port=entry.port,
        data_dir=entry.data_dir,
        bin_dir=entry.bin_dir,
        provider=provider,
        unit=unit or None,
        socket_dir=entry.socket_dir,
        os_user=entry.os_user,
        database=entry.database,
        config_file=entry.config_file,
    )


def _accounts(users: schema.Users) -> settings.Accounts:
    def account(entry: schema.AccountEntry) -> settings.Account:
        return settings.Account(entry.name, entry.password_file)

    rewind = account(users.rewind) if users.rewind else None
    return settings.Accounts(account(users.monitor), account(users.operator), account(users.replication), rewind)


def _vip(entry: schema.Vip) -> settings.VipSettings:
    interface = ipaddress.ip_interface(entry.address)
    return settings.VipSettings(str(interface.ip), interface.network.prefixlen, entry.interface)


def _dns(entry: schema.Dns) -> settings.DnsSettings:
    return settings.DnsSettings(
        server=entry.server,
        port=entry.port,
        zone=entry.zone,
        name=entry.name,
        ttl_s=entry.ttl,
        tsig_name=entry.tsig_name,
        tsig_key_file=entry.tsig_key_file,
        tsig_algorithm=entry.tsig_algorithm,
    )
