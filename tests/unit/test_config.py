"""The file as a person writes it, with the mistakes people make: each is named, placed and explained, in one pass."""

from __future__ import annotations

import hashlib
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from failover import config_schema, logs
from failover.config import Outage, load, node_name, worst_case_outage
from failover.config_rules import away, cannot
from failover.config_shape import _section
from failover.core.model import Mode, Replication, Willingness
from failover.errors import ConfigurationError
from failover.secrets import read_secret

EXAMPLE = Path(__file__).parents[2] / "docs" / "failover.example.yml"

SMALL = """\
zookeeper: {hosts: [10.77.0.11:2181, 10.77.0.12:2181, 10.77.0.13:2181]}
controllers: {db1: 10.77.0.11, db2: 10.77.0.12, db3: 10.77.0.13}
ssh: {user: failover, key_file: /etc/failover/key, known_hosts_file: /etc/failover/known_hosts}
profile: lan
clusters:
  orders:
    engine: postgresql
    replication: strict
    instance: {data_dir: /data, bin_dir: /bin, service: direct}
    guarded_ports: [5432]
    users: {monitor: {name: m}, operator: {name: o}, replication: {name: r}}
    members:
      db1: {address: 10.77.0.11, priority: 100}
      db2: {address: 10.77.0.12}
    vip: {address: 10.77.0.100/24, interface: eth0}
"""


def faults(tmp_path: Path, text: str | bytes) -> list[str]:
    """The messages for a file with this text, without the file's own name."""
    path = tmp_path / "failover.yml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert all(fault.startswith(f"{path}:") for fault in caught.value.faults)
    return [fault.removeprefix(f"{path}:") for fault in caught.value.faults]


def fault(tmp_path: Path, old: str, new: str) -> str:
    """The one message for SMALL with one mistake in it."""
    assert old in SMALL
    found = faults(tmp_path, SMALL.replace(old, new, 1))
    assert len(found) == 1, found
    return found[0]


def missing_keys(section: type[config_schema.Section], written: Any, path: tuple[str | int, ...] = ()) -> list[str]:
    """Keys of the schema that `written` does not show."""
    found = [".".join(map(str, (*path, key))) for key in section.model_fields if key not in written]
    for key, value in written.items():
        inner = _section((*path, key))
        children = {key: value} if inner else {}
        if isinstance(value, dict) and not inner:
            children = {f"{key}.{name}": entry for name, entry in value.items() if isinstance(entry, dict)}
        for name, child in children.items():
            where = (*path, *name.split("."))
            known = _section(where)
            if known:
                found += missing_keys(known, child, where)
    return found


# --- what is right ----------------------------------------------------------------------------------------------------


def test_the_example_file_loads_and_shows_every_key_there_is() -> None:
    load(EXAMPLE)
    written = YAML(typ="safe", pure=True).load(EXAMPLE.read_text())
    orders, catalog = (written["clusters"].pop(name) for name in ("orders", "catalog"))
    assert not written["clusters"]
    orders["instance"] |= {key: value for key, value in catalog["instance"].items() if key not in orders["instance"]}
    assert missing_keys(config_schema.File, {**written, "clusters": {"orders": orders}}) == []


def test_the_example_shows_the_keys_of_list_entries_too() -> None:
    webhook = YAML(typ="safe", pure=True).load(EXAMPLE.read_text())["clusters"]["orders"]["notify"][0]
    assert set(webhook) == set(config_schema.Webhook.model_fields)


def test_the_example_writes_out_the_numbers_of_its_profile(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    start, end = text.index("timings:"), text.index("state_dir:")
    plain = tmp_path / "plain.yml"
    plain.write_text(text[:start] + text[end:])
    assert load(EXAMPLE).clusters[0].timings == load(plain).clusters[0].timings


@pytest.mark.parametrize("engine", ["mysql", "mariadb"])
def test_the_instance_has_the_defaults_of_its_engine(tmp_path: Path, engine: str) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL.replace("engine: postgresql", f"engine: {engine}").replace("5432", "3306"))
    instance = load(path).cluster().instance
    assert (instance.port, instance.os_user, instance.database) == (3306, "mysql", "failover")
    assert instance.socket_dir == Path("/run/mysqld") and instance.config_file is None


def test_a_small_file_gets_the_documented_defaults(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    loaded = load(path)
    cluster = loaded.cluster()
    assert cluster.mode is Mode.OBSERVE
    assert cluster.replication is Replication.STRICT
    assert cluster.on_clean_stop_wait_s == 10.0
    assert cluster.crash_recovery_max_s == 300.0
    assert cluster.lag_max_bytes == 16 * 1024 * 1024
    assert cluster.switchover_deadline_s == 5.0
    assert cluster.standby_reads
    assert cluster.fencing.order == ("guardian", "ssh")
    assert not cluster.fencing.has_command and all(member.guarded for member in cluster.members)
    assert cluster.instance.socket_dir == Path("/var/run/postgresql")
    assert (cluster.instance.provider, cluster.instance.unit) == ("direct", None)
    assert cluster.member("db1").failover is Willingness.AUTOMATIC
    assert cluster.vip is not None
    assert (cluster.vip.address, cluster.vip.prefix) == ("10.77.0.100", 24)
    assert loaded.state_dir == Path("/var/lib/failover")
    assert loaded.ssh.port == 22


def test_the_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    assert load(path).digest == hashlib.sha256(SMALL.encode()).hexdigest()
    path.write_text(SMALL + "# a remark\n")
    assert load(path).digest != hashlib.sha256(SMALL.encode()).hexdigest()


def test_the_path_comes_from_the_environment(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    assert load(env={"FAILOVER_CONFIG": str(path)}).source == path


def test_every_setting_knows_its_line(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    assert load(path).origins["clusters.orders.members.db1.address"] == f"{path}:13"


def test_systemd_units_and_clean_stops_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(
        SMALL.replace("service: direct", "service: systemd:postgresql@15-main") + "    on_clean_stop: failover\n"
    )
    cluster = load(path).cluster()
    assert (cluster.instance.provider, cluster.instance.unit) == ("systemd", "postgresql@15-main")
    assert cluster.on_clean_stop_wait_s == 0.0


def test_one_timing_can_be_replaced(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL + "timings: {lease: 4s, cooldown: 1min}\n")
    timings = load(path).cluster().timings
    assert (timings.lease_s, timings.cooldown_s, timings.renew_s) == (4.0, 60.0, 0.5)


def test_ipv6_addresses_are_normalised(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    text = SMALL.replace("10.77.0.11:2181", '"[fd00:0::B]:2181"').replace("db1: 10.77.0.11", 'db1: "fd00:0:0::b"')
    path.write_text(text)
    loaded = load(path)
    assert loaded.zookeeper.hosts[0] == "[fd00::b]:2181"
    assert loaded.controllers[0].address == "fd00::b"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5s", 5), ("500ms", 0.5), ("1.5s", 1.5), ("5min", 300), ("2h", 7200), ("1d", 86400), ("250 ms", 0.25)],
)
def test_durations(text: str, seconds: float) -> None:
    assert config_schema.duration(text) == seconds


@pytest.mark.parametrize(("text", "count"), [("16MB", 16 * 2**20), ("1kB", 1024), ("3GB", 3 * 2**30), ("7 B", 7)])
def test_sizes(text: str, count: int) -> None:
    assert config_schema.size(text) == count


# --- what is wrong, one by one ----------------------------------------------------------------------------------------


def test_a_bare_number_is_told_its_unit(tmp_path: Path) -> None:
    found = fault(tmp_path, "profile: lan", "profile: lan\ntimings: {lease: 5}")
    assert found == '5:18: timings.lease: 5 has no unit: write "5s" if seconds are meant (ms, s, min, h, d)'
    assert '"16MB"' in fault(tmp_path, "    vip:", "    lag_max: 16\n    vip:")


def test_minutes_and_milliseconds_are_not_confused(tmp_path: Path) -> None:
    assert "write min or ms" in fault(tmp_path, "    vip:", "    crash_recovery_max: 5m\n    vip:")


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("profile: lan", "profle: lan\nprofile: lan", "4:1: profle", "did you mean 'profile'?"),
        ("priority: 100", "prority: 1", "13:34: clusters.orders.members.db1.prority", "did you mean 'priority'?"),
        (
            "interface: eth0",
            "interface: eth0, colour: red",
            "15:53: clusters.orders.vip.colour",
            "known here: address, ",
        ),
        ("profile: lan", "profile: lam", "4:10: profile", "did you mean 'lan'?"),
        ("replication: strict", "replication: on", "8:18: clusters.orders.replication", "one of async, sync, strict"),
        ("engine: postgresql", "engine: mysqld", "7:13: clusters.orders.engine", "did you mean 'mysql'?"),
        ("{data_dir", "{config_file: /m, data_dir", "clusters.orders.instance.config_file", "is for mysql and mariadb"),
        (
            "    vip:",
            "    on_process_death: restart\n    vip:",
            "15:23: clusters.orders.on_process_death",
            "not built yet",
        ),
        (
            "    vip:",
            "    fencing: {order: [guardian, command]}\n    vip:",
            "fencing.order[1]",
            "no fencing.command is given",
        ),
        ("    vip:", "    fencing: {command: [/sbin/x]}\n    vip:", "fencing.command", "add command to fencing.order"),
        (
            "    vip:",
            "    fencing: {order: [command], command: [ipmitool]}\n    vip:",
            "fencing.command[0]",
            "must be an absolute path",
        ),
        ("    vip:", "    fencing: {order: [ssh, ssh]}\n    vip:", "fencing.order[1]", "ssh is listed twice"),
        ("address: 10.77.0.12}", "address: 10.77.0.12, guardian: maybe}", "members.db2.guardian", "write true or false"),
        ("data_dir: /data, ", "", "9:5: clusters.orders.instance.data_dir", "missing"),
        ("data_dir: /data", "data_dir: data", "9:26: clusters.orders.instance.data_dir", "absolute path"),
        ("service: direct", "service: docker", "clusters.orders.instance.service", 'write "direct" or "systemd:"'),
        ("address: 10.77.0.12", "address: db2.example", "14:22: clusters.orders.members.db2.address", "no IP address"),
        ("address: 10.77.0.12", "address: 0.0.0.0", "members.db2.address", "cannot be the address of a host"),
        ("priority: 100", 'priority: "100"', "13:44: clusters.orders.members.db1.priority", "whole number"),
        ("db2: {address: 10.77.0.12}", "db_2: {address: 10.77.0.12}", "14:7: clusters.orders.members.db_2", "no name"),
        ("10.77.0.100/24", "10.77.0.100", "clusters.orders.vip.address", "needs the length of the subnet"),
        ("10.77.0.13:2181", "zk3:2181", "1:55: zookeeper.hosts[2]", "need DNS at the moment it may be down"),
        ("10.77.0.13:2181", "10.77.0.13:99999", "zookeeper.hosts[2]", "no port"),
        ("    vip:", "    standby_reads: yes\n    vip:", "clusters.orders.standby_reads", "write true or false"),
        ("    vip:", "    on_clean_stop: 10s\n    vip:", "clusters.orders.on_clean_stop", '"wait 10s" or "failover"'),
        ("    vip:", "    notify: [{webhook: ftp://x}]\n    vip:", "clusters.orders.notify[0].webhook", "https://"),
        ("guarded_ports: [5432]", "guarded_ports: []", "clusters.orders.guarded_ports", "must not be empty"),
        ("profile: lan", "profile:", "profile", "nothing is written here"),
    ],
)
def test_each_mistake_is_placed_and_explained(tmp_path: Path, old: str, new: str, place: str, words: str) -> None:
    found = fault(tmp_path, old, new)
    assert place in found
    assert words in found


def test_a_duplicate_key_is_a_fault_and_hides_nothing(tmp_path: Path) -> None:
    found = faults(tmp_path, SMALL + "profile: default\nstat_dir: /x\n")
    assert found == [
        "16:1: profile: duplicate key; first written at line 4",
        "17:1: stat_dir: unknown key; did you mean 'state_dir'?",
    ]


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("a: [1,\nb: }", "2:4: not YAML: "),
        ("a:\n\t- x", "2:1: not YAML: "),
        ("", "1:1: the file is empty"),
        ("# nothing\n", "1:1: the file is empty"),
        ("- a\n", "1:1: the file must hold keys and values"),
        (b"a: 1\nb: \xff\n", "2:1: not UTF-8 text"),
        ("a: &a {b: *a}", "1:4: a"),
        ("? [x]\n: 1\n", "1:3: a key must be a word"),
        ("d: 2026-01-01\n", "1:4: d: the YAML tag"),
        ("a: 1\n---\nb: 2\n", "2:1: not YAML: "),
        ("x: *nowhere\n", "1:4: not YAML: "),
    ],
)
def test_broken_yaml_has_the_same_form(tmp_path: Path, text: str | bytes, begins: str) -> None:
    assert any(found.startswith(begins) for found in faults(tmp_path, text))


def test_a_missing_file_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        load(tmp_path / "nowhere.yml")


def test_a_password_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    text = SMALL.replace("{name: m}", "{name: m, password: hunter22}").replace(
        "{name: o}", "{name: o, password_file: hunter22}"
    )
    found = faults(tmp_path, text.replace("    vip:", '    notify: [{webhook: "hunter22"}]\n    vip:'))
    assert len(found) == 3
    assert "password_file" in found[0]
    assert "hunter22" not in "\n".join(found)


# --- what takes two values to see -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        (", db3: 10.77.0.13", "", "2:14: controllers", "no quorum possible"),
        ("db3: 10.77.0.13}", "db3: 10.77.0.13, db4: 10.77.0.14}", "controllers", "use 3 or 5"),
        ("db3: 10.77.0.13}", "db3: 10.77.0.12}", "controllers.db3", "same address as db2"),
        (", 10.77.0.13:2181", "", "1:20: zookeeper.hosts", "no quorum possible"),
        ("10.77.0.13:2181", "10.77.0.12:2181", "zookeeper.hosts[2]", "listed twice"),
        ("hosts: [", "user: x, hosts: [", "zookeeper", "go together"),
        (
            "{address: 10.77.0.12}",
            "{address: 10.77.0.12, failover: never}",
            "orders.members",
            "nothing could take over: only db1",
        ),
        ("{address: 10.77.0.12}", "{address: 10.77.0.11}", "members.db2.address", "already the address of db1"),
        ("10.77.0.100/24", "10.77.0.12/24", "vip.address", "is the address of member db2"),
        ("10.77.0.100/24", "10.77.0.13/24", "vip.address", "is the address of controller db3"),
        ("10.77.0.100/24", "10.77.0.255/24", "vip.address", "which no host can have"),
        ("guarded_ports: [5432]", "guarded_ports: [6432]", "guarded_ports", "own port 5432"),
        ("guarded_ports: [5432]", "guarded_ports: [5432, 5432]", "guarded_ports[1]", "listed twice"),
    ],
)
def test_each_rule(tmp_path: Path, old: str, new: str, place: str, words: str) -> None:
    found = fault(tmp_path, old, new)
    assert place in found
    assert words in found


def test_a_vip_outside_the_members_network_names_each_of_them(tmp_path: Path) -> None:
    found = faults(tmp_path, SMALL.replace("10.77.0.100/24", "10.78.0.100/24"))
    assert len(found) == 2
    assert all("is not in 10.78.0.0/24" in one for one in found)


def test_members_that_only_a_person_may_promote_are_no_automatic_failover(tmp_path: Path) -> None:
    text = SMALL.replace("priority: 100", "failover: manual").replace(
        "10.77.0.12}\n    vip", "10.77.0.12, failover: manual}\n    vip"
    )
    assert "by itself" in faults(tmp_path, text)[0]


def test_two_clusters_share_nothing_that_is_exclusive(tmp_path: Path) -> None:
    second = SMALL[SMALL.index("  orders:") :].replace("orders", "stock")
    found = "\n".join(faults(tmp_path, SMALL + second))
    for words in ("port 5432 on 10.77.0.11", "/data on 10.77.0.12", "the VIP 10.77.0.100"):
        assert f"{words} already belongs to cluster orders" in found


@pytest.mark.parametrize(
    ("timings", "place", "words"),
    [
        ("lease: 1.9s", "5:18: timings.lease", "T2 is violated: R 0.5s + k 2 x Q 0.5s + F 0.5s = 2s > L 1.9s"),
        ("attempts: 1", "5:21: timings.attempts", "k 1 < 2"),
        (
            "coordinator_outage: 2.1s",
            "timings.coordinator_outage",
            "E 2.1s (a ZooKeeper election) > L 3s - F 0.5s - R 0.5s = 2s",
        ),
        ("coordinator_outage: 1s", "timings.coordinator_outage", "tick 0.2s x sync limit 5 + 0.44s = 1.44s"),
        ("probes_lost: 1", "timings.probes_lost", "T4"),
        (
            "cooldown: 13s",
            "timings.cooldown",
            "T5 is violated: cool-down 13s < 3 x (W 3.361s + promote 0.5s + route 0.5s) = 13.082s",
        ),
        ("session: 5s", "timings.session", "not S 5s"),
        (
            "session: 300ms",
            "timings.session",
            "T6 is violated: ZooKeeper at tick 0.2s grants sessions of 0.4s to 4s, not S 0.3s",
        ),
    ],
)
def test_every_violated_inequality_prints_its_numbers(tmp_path: Path, timings: str, place: str, words: str) -> None:
    found = "\n".join(faults(tmp_path, SMALL.replace("profile: lan", f"profile: lan\ntimings: {{{timings}}}")))
    assert f"{place}: " in found
    assert words in found


def test_profile_fast_is_refused_without_pledges(tmp_path: Path) -> None:
    found = fault(tmp_path, "profile: lan", "profile: fast")
    assert found.startswith(
        "4:10: profile: fast: T3 is violated: E 1.67s (a ZooKeeper election) > L 1.2s - F 0.3s - R 0.2s = 0.7s"
    )
    assert "write `pledges:` in every cluster" in found


# --- pledges ----------------------------------------------------------------------------------------------------------
PLEDGED = SMALL.replace("    vip:", "    pledges: {key_file: /etc/failover/pledge.key}\n    vip:")


def test_pledges_are_optional_and_their_port_has_a_default(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    assert load(path).cluster().pledges is None
    path.write_text(PLEDGED)
    pledges = load(path).cluster().pledges
    assert pledges is not None and (pledges.port, pledges.key_file) == (7433, Path("/etc/failover/pledge.key"))


def test_with_pledges_profile_fast_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(PLEDGED.replace("profile: lan", "profile: fast"))
    assert load(path).cluster().timings.lease_s == 1.2


def test_one_cluster_without_pledges_keeps_the_common_clock_to_t3(tmp_path: Path) -> None:
    second = SMALL[SMALL.index("  orders:") :].replace("orders", "stock").replace("[5432]", "[5433]").replace("/data", "/stock")
    second = second.replace("instance: {", "instance: {port: 5433, ").replace("10.77.0.100", "10.77.0.101")
    found = faults(tmp_path, (PLEDGED + second).replace("profile: lan", "profile: fast"))
    assert len(found) == 1 and "T3 is violated" in found[0]


def test_a_renewal_and_the_round_after_it_must_fit_into_the_lease(tmp_path: Path) -> None:
    found = faults(tmp_path, PLEDGED.replace("profile: lan", "profile: lan\ntimings: {lease: 1.9s}"))
    assert any("T2 is violated: R 0.5s + k 2 x Q 0.5s + F 0.5s = 2s > L 1.9s" in line for line in found)
    found = faults(tmp_path, PLEDGED.replace("profile: lan", "profile: lan\ntimings: {attempts: 1}"))
    assert any("k 1 < 2" in line for line in found)


@pytest.mark.parametrize(
    ("old", "new", "place", "words"),
    [
        ("{key_file", "{port: 5432, key_file", "orders.pledges.port", "5432 is a guarded port"),
        ("{key_file", "{port: 0, key_file", "orders.pledges.port", "out of range"),
        ("pledges: {", "pledges: {key: abc, ", "orders.pledges.key", "key_file"),
        ("key_file: /etc/failover/pledge.key", "port: 7433", "orders.pledges.key_file", "missing"),
        (
            "{address: 10.77.0.12}", '{address: "fd00::c", failover: never}\n      db3: {address: 10.77.0.13}',
            "orders.pledges", "some IPv6",
        ),
    ],
)  # fmt: skip
def test_mistakes_about_pledges_are_placed_and_explained(tmp_path: Path, old: str, new: str, place: str, words: str) -> None:
    assert old in PLEDGED
    found = faults(tmp_path, PLEDGED.replace(old, new, 1))
    assert len(found) == 1 and place in found[0] and words in found[0], found


def test_two_clusters_have_pledge_ports_of_their_own(tmp_path: Path) -> None:
    second = PLEDGED[PLEDGED.index("  orders:") :].replace("orders", "stock")
    found = "\n".join(faults(tmp_path, PLEDGED + second))
    assert "UDP port 7433 on 10.77.0.11 already belongs to cluster orders" in found


def test_the_key_is_the_guardians_business_and_must_be_long_enough(tmp_path: Path) -> None:
    key, path = tmp_path / "pledge.key", tmp_path / "f.yml"
    path.write_text(PLEDGED.replace("/etc/failover/pledge.key", str(key)))

    def said(who: str) -> str:
        try:
            load(path, secrets=who)
        except ConfigurationError as error:
            return "\n".join(line for line in error.faults if "pledges" in line)
        return ""

    assert "cannot be read" in said("guardian") and said("controller") == "", "a controller's host has no such file"
    key.touch(mode=0o600)
    key.write_text("too short\n")
    assert "9 bytes are too short for a key, at least 32" in said("guardian") and "too short\n" not in said("guardian")
    key.write_text("x" * 44 + "\n")
    assert said("guardian") == ""
    key.chmod(0o640)
    assert "chmod 600" in said("guardian")


def test_what_keeps_the_primary_without_zookeeper_is_told(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    assert away(load(path).cluster()) == (
        "no pledges: T3 must hold by itself: E 1.67s <= L 3s - F 0.5s - R 0.5s = 2s; a ZooKeeper away for longer ends the writes"
    )
    path.write_text(PLEDGED)
    cluster = load(path).cluster()
    assert away(cluster) == "pledges on UDP port 7433: they bridge a ZooKeeper that is away, for E 1.67s or for days"
    path.write_text(PLEDGED.replace("profile: lan", "profile: fast", 1))
    assert away(load(path).cluster()).endswith("not where its leader and a standby are lost with one host: keep them apart")
    found = {outage.fault: outage for outage in worst_case_outage(cluster)}
    assert found["ZooKeeper without a majority"].seconds == 0.0
    both = found["and such a standby away too"]
    assert both.seconds == math.inf and "maintenance on" in both.how


def test_a_mistake_in_one_place_does_not_hide_those_elsewhere(tmp_path: Path) -> None:
    text = (
        SMALL.replace("user: failover", "usr: failover")
        .replace(", db3: 10.77.0.13", "")
        .replace("10.77.0.100/24", "10.77.0.12/24")
        .replace("data_dir: /data", "data_dir: data")
        .replace("profile: lan", "profile: fast")
    )
    found = faults(tmp_path, text)
    for words in ("ssh.usr", "ssh.user: missing", "no quorum", "of member db2", "absolute path", "T3 is violated"):
        assert any(words in one for one in found), words
    lines = [int(one.split(":")[0]) for one in found]
    assert lines == sorted(lines)


def test_an_unknown_key_does_not_hide_what_else_is_wrong_in_its_section(tmp_path: Path) -> None:
    text = SMALL.replace("10.77.0.100/24", "10.77.0.12/24, colour: red").replace(
        "bin_dir: /bin", "bin_dir: /bin, port: x"
    )
    found = "\n".join(faults(tmp_path, text.replace("[5432]", "[6432]")))
    for words in (
        "vip.colour: unknown key",
        "is the address of member db2",
        "instance.port: write a whole",
        "own port 5432",
    ):
        assert words in found


# --- the outage that the timers imply ---------------------------------------------------------------------------------


def test_the_worst_case_is_made_of_the_timers(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(SMALL)
    found = {outage.fault: outage for outage in worst_case_outage(load(path).cluster())}
    silent = found["host crashed or cut off"]
    assert silent.seconds == pytest.approx(3.361 + 0.5 + 0.5 + 1.5 + 1.0, abs=0.001), "detection hides behind W + R"
    assert "W 3.361s + R 0.5s) + seal 0.5s + 3 writes 1.5s" in silent.how
    assert found["database frozen"].seconds == pytest.approx((3 + 1) * 0.75 + 1.5 + 1.0)
    assert found["ZooKeeper without a majority"].seconds == math.inf


# --- members without a guardian, and the command that switches hosts off ------------------------------------------------
ASYNC = SMALL.replace("replication: strict", "replication: async")
AGENTLESS = ASYNC.replace("priority: 100}", "priority: 100, guardian: false}")


def outages(tmp_path: Path, text: str) -> tuple[dict[str, Outage], list[str]]:
    path = tmp_path / "f.yml"
    path.write_text(text)
    cluster = load(path).cluster()
    return {outage.fault: outage for outage in worst_case_outage(cluster)}, cannot(cluster)


def test_a_guardian_belongs_beside_every_member_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    path = tmp_path / "f.yml"
    path.write_text(AGENTLESS)
    assert [(m.name, m.guarded) for m in load(path).cluster().members] == [("db1", False), ("db2", True)]


def test_what_a_member_without_a_guardian_costs_is_said(tmp_path: Path) -> None:
    found, sentences = outages(tmp_path, AGENTLESS)
    assert found["host of db1 silent"].seconds == math.inf and "no clock is evidence" in found["host of db1 silent"].how
    assert found["host crashed or cut off"].seconds == math.inf, "beside db2 nobody has a guardian, so nobody pledges"
    said = "\n".join(sentences)
    assert "db1 has no guardian: no lease, no gate: the clock is no evidence; if its host is silent" in said
    assert "there is no STONITH: held" in said
    assert "only db2 could take over" in said and "service direct" in said


def test_with_a_command_the_silent_host_has_an_end(tmp_path: Path) -> None:
    command = "    fencing: {order: [guardian, ssh, command], command: [/bin/true, --now]}\n    vip:"
    found, sentences = outages(tmp_path, AGENTLESS.replace("    vip:", command))
    silent = found["host of db1 silent"]
    detection_s = found["database frozen"].seconds - (1.5 + 1.0)
    assert silent.seconds == pytest.approx(detection_s + 31.0 + 0.5 + 1.5 + 1.0) and "STONITH must read back off" in silent.how
    assert any("only STONITH that reads back off counts" in sentence for sentence in sentences)
    assert any("must not start by itself" in sentence for sentence in sentences)


def test_a_whole_guarded_cluster_has_nothing_to_confess(tmp_path: Path) -> None:
    found, sentences = outages(tmp_path, SMALL)
    assert sentences == [] and not any(fault.startswith("host of") for fault in found)


@pytest.mark.parametrize("replication", ["strict", "sync"])
def test_a_commit_never_rests_on_a_member_that_cannot_testify(tmp_path: Path, replication: str) -> None:
    """Sound is: async, or two with a guardian and the others plain standbys that are never chosen."""
    text = AGENTLESS.replace("replication: async", f"replication: {replication}")
    found = faults(tmp_path, text)
    assert len(found) == 2
    assert any("members.db1.guardian" in line and "replication: async, or failover: never for db1" in line for line in found)
    assert any("it takes two members with a guardian" in line for line in found)
    plain = text.replace("guardian: false", "guardian: false, failover: never")
    third = "{address: 10.77.0.12}\n      db3: {address: 10.77.0.13}"
    path = tmp_path / "sound.yml"
    path.write_text(plain.replace("{address: 10.77.0.12}", third))
    assert load(path).cluster().replication.value == replication


def test_somebody_with_a_guardian_must_be_able_to_take_over(tmp_path: Path) -> None:
    nobody = AGENTLESS.replace("{address: 10.77.0.12}", "{address: 10.77.0.12, guardian: false}")
    assert "nothing could take over: db1, db2 without a guardian" in faults(tmp_path, nobody)[0]
    by_hand = AGENTLESS.replace("{address: 10.77.0.12}", "{address: 10.77.0.12, failover: manual}")
    assert "no member with a guardian has failover: automatic" in faults(tmp_path, by_hand)[0]


def unsafe(tmp_path: Path, program: Path) -> list[str]:
    """What a controller says of this command at its start, and `config check` with it."""
    path = tmp_path / "command.yml"
    path.write_text(SMALL.replace("    vip:", f"    fencing: {{order: [command], command: [{program}]}}\n    vip:"))
    load(path)  # who does not run it does not need it
    with pytest.raises(ConfigurationError) as caught:
        load(path, secrets="controller")
    return [line for line in caught.value.faults if "fencing.command[0]" in line]


def test_a_command_that_cannot_be_run_is_refused_before_it_is_needed(tmp_path: Path) -> None:
    assert "No such file" in unsafe(tmp_path, tmp_path / "nowhere")[0]
    assert "not a plain file" in unsafe(tmp_path, tmp_path)[0]
    program = tmp_path / "fence"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)
    assert "cannot be executed" in unsafe(tmp_path, program)[0]
    assert unsafe(tmp_path, Path("/bin/true")) == [], "the example's other secrets are missing, this is well"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make files of root")
@pytest.mark.parametrize("spoil", ["group", "others", "owner", "folder", "link"])
def test_a_command_that_another_could_exchange_is_refused(tmp_path: Path, spoil: str) -> None:
    """Whoever can change it, or put another in its place, becomes root."""
    folder = tmp_path / "sbin"
    folder.mkdir(mode=0o755)
    program = folder / "fence"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    assert unsafe(tmp_path, program) == []
    if spoil == "owner":
        os.chown(program, 65534, 0)
    elif spoil == "link":
        (tmp_path / "open").mkdir()
        (tmp_path / "open").chmod(0o777)
        program = tmp_path / "open/fence"
        program.symlink_to(folder / "fence")
    else:
        where, mode = {"group": (program, 0o775), "others": (program, 0o757), "folder": (folder, 0o777)}[spoil]
        where.chmod(mode)
    assert "can be written by others than root" in unsafe(tmp_path, program)[0]


# --- secrets and names ------------------------------------------------------------------------------------------------


def secret_file(tmp_path: Path, content: bytes, mode: int = 0o600) -> Path:
    path = tmp_path / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


def test_a_secret_loses_only_its_line_end_and_is_hidden_from_the_logs(tmp_path: Path) -> None:
    assert read_secret(secret_file(tmp_path, b" s3cret w0rd \r\n")) == " s3cret w0rd "
    assert logs.redact("password= s3cret w0rd ;") == "password=[secret];"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o660, 0o644, 0o610])
def test_a_secret_that_others_can_touch_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigurationError, match="chmod 600") as caught:
        read_secret(secret_file(tmp_path, b"s3cret w0rd\n", mode))
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"\n", b"  \n"])
def test_an_empty_secret_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        read_secret(secret_file(tmp_path, content))


def test_a_secret_that_is_no_text_is_refused_without_quoting_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_secret(secret_file(tmp_path, b"s3cret\xff\n"))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_missing_secret_a_directory_and_a_pipe_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_secret(tmp_path / "nowhere")
    with pytest.raises(ConfigurationError, match="not a plain file"):
        read_secret(tmp_path)
    os.mkfifo(tmp_path / "pipe", 0o600)
    with pytest.raises(ConfigurationError, match="not a plain file"):
        read_secret(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_secret_of_somebody_else_is_refused(tmp_path: Path) -> None:
    path = secret_file(tmp_path, b"s3cret w0rd")
    os.chown(path, 65534, 65534)
    with pytest.raises(ConfigurationError, match="belongs to user 65534"):
        read_secret(path)


def test_a_node_is_named_by_the_environment_or_its_host() -> None:
    assert node_name({"FAILOVER_NODE": "db1"}) == "db1"
    assert "." not in node_name({})
    with pytest.raises(ConfigurationError, match="FAILOVER_NODE"):
        node_name({"FAILOVER_NODE": "db/1"})


# --- whatever is written ----------------------------------------------------------------------------------------------

LINE = re.compile(r":\d+:\d+: \S")


def judged(path: Path, data: bytes) -> None:
    """Loading either works or answers with placed faults; nothing else comes out."""
    path.write_bytes(data)
    try:
        load(path)
    except ConfigurationError as error:
        assert error.faults
        for one in error.faults:
            assert LINE.match(one.removeprefix(str(path))), one
            assert "\n" not in one


@given(data=st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_no_bytes_make_it_stumble(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    judged(tmp_path_factory.getbasetemp() / "any.yml", data)


WRONG = [
    "",
    "~",
    "5",
    "-1",
    "1.5",
    "true",
    "text",
    "5s",
    "[]",
    "[1, a]",
    "{}",
    "{a: 1}",
    "&a [*a]",
    "!!set {a}",
    '"\\u0000"',
]


@settings(max_examples=150)
@given(which=st.integers(0, 400), wrong=st.sampled_from(WRONG))
def test_any_value_can_be_anything(tmp_path_factory: pytest.TempPathFactory, which: int, wrong: str) -> None:
    """Every single value of the example replaced by something that does not belong there."""
    text = EXAMPLE.read_text()
    spots = list(re.finditer(r"(?<=: )[^\s{},\[\]#][^\s,}\]#]*", text))
    spot = spots[which % len(spots)]
    judged(tmp_path_factory.getbasetemp() / "one.yml", f"{text[: spot.start()]}{wrong}{text[spot.end() :]}".encode())


@pytest.mark.parametrize("number", range(len(SMALL.splitlines())))
def test_any_line_can_be_missing(tmp_path: Path, number: int) -> None:
    lines = SMALL.splitlines(keepends=True)
    judged(tmp_path / "f.yml", "".join(lines[:number] + lines[number + 1 :]).encode())
