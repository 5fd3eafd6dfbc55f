"""What runs on the lab's hosts: how each service is started, recognised and configured.

Real programs, Debian's own: OpenSSH, ZooKeeper, BIND, and this product's daemons; the databases are in databases.py. Files are
written by the functions here; nothing is started by them.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from failover.lab.commands import private_file
from failover.lab.processes import Process

Inode = tuple[int, int]
ZKDATA = "/var/lib/failover-lab/zookeeper"
FAILPOINTS = "/run/failover/failpoints"  # empty unless a test lays one: see failpoints.py
JARS = Path("/usr/share/java")
DATABASES = ("postgres", "mariadbd", "mysqld")


@dataclass(frozen=True)
class Role:
    """How the processes of a role are recognised. `whole_tree`: all of them, not only the main one."""

    recognise: Callable[[Process], bool]
    in_data_dir: bool = False
    whole_tree: bool = False

    def matches(self, process: Process, data_dir: Inode | None) -> bool:
        if self.in_data_dir and (data_dir is None or process.cwd != data_dir):
            return False
        return self.recognise(process)


def _runs(name: str, *words: str) -> Callable[[Process], bool]:
    """`name` is the program, or the script that the interpreter runs, with all of `words` among its arguments."""

    def recognise(process: Process) -> bool:
        heads = {Path(arg).name for arg in process.argv[:2]}
        return name in heads and all(word in process.argv for word in words)

    return recognise


ROLES: Mapping[str, Role] = {
    "sshd": Role(lambda p: p.executable == "/usr/sbin/sshd"),
    "zookeeper": Role(lambda p: any(arg.endswith("QuorumPeerMain") for arg in p.argv)),
    "named": Role(lambda p: p.executable == "/usr/sbin/named"),
    "database": Role(
        lambda p: Path(p.executable).name in DATABASES and not p.argv[0].startswith("postgres:"), in_data_dir=True
    ),
    "database_all": Role(lambda p: True, in_data_dir=True, whole_tree=True),
    "guardian": Role(_runs("failover-guardian", "run")),
    "controller": Role(_runs("failoverd")),
}


@dataclass(frozen=True)
class Service:
    """A command that stays. Ready once it listens on `port` (if given) and `ready`, run on the host, exits with 0."""

    role: str
    argv: Sequence[str]
    user: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    stop_signal: int = signal.SIGTERM
    port: int | None = None
    ready: Sequence[str] | None = None


# --- programs ------------------------------------------------------------------------------------------------------
def entry_point(name: str) -> str:
    """A command of this product, installed beside the interpreter that runs us."""
    return str(Path(sys.executable).parent / name)


def missing_programs() -> list[str]:
    """What the lab needs and this machine does not have, its database left out, in words; empty when it can boot."""
    needed = ["/usr/sbin/sshd", "/usr/sbin/named", "/usr/bin/java", "/usr/sbin/ip", "/usr/sbin/nft", "/usr/bin/nsenter"]
    faults = [f"{path} is not installed" for path in needed if not os.access(path, os.X_OK)]
    if not (JARS / "zookeeper.jar").exists():
        faults.append("ZooKeeper's jars are not installed (package libzookeeper-java)")
    if os.geteuid() != 0:
        faults.append("network namespaces need root")
    return faults


# --- sshd ----------------------------------------------------------------------------------------------------------
def write_sshd(host_dir: Path, node: str, public_key: str) -> Service:
    """sshd that admits one key for one forced command. Host key: `<host_dir>/ssh/host_key`, made by the caller."""
    folder = host_dir / "ssh"
    agent = entry_point("failover-hostagent")
    (folder / "authorized_keys").write_text(f'restrict,command="{agent}" {public_key}\n')
    (folder / "sshd_config").write_text(
        f"""\
Port 22
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PermitRootLogin forced-commands-only
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
PrintMotd no
PidFile /run/sshd.pid
MaxStartups 50:30:100
ClientAliveInterval 5
SetEnv FAILOVER_CONFIG=/etc/failover/failover.yml FAILOVER_NODE={node}
"""
    )
    argv = ["/usr/sbin/sshd", "-D", "-e", "-f", str(folder / "sshd_config")]
    return Service("sshd", argv, port=22)


# --- ZooKeeper -----------------------------------------------------------------------------------------------------
ZOOKEEPER_MODE = "exec 3<>/dev/tcp/127.0.0.1/2181 && printf srvr >&3 && sed -n 's/^Mode: //p' <&3 | grep ."


def write_zookeeper(host_dir: Path, number: int, addresses: Sequence[str], tick_ms: int, sync_limit: int) -> Service:
    """One server of the ensemble. Ready when it follows or leads."""
    data = host_dir / "zookeeper"
    data.mkdir(exist_ok=True)
    (data / "myid").write_text(f"{number}\n")
    servers = "\n".join(f"server.{n}={address}:2888:3888" for n, address in enumerate(addresses, 1))
    (host_dir / "zoo.cfg").write_text(
        f"""\
tickTime={tick_ms}
initLimit=10
syncLimit={sync_limit}
minSessionTimeout=1000
maxSessionTimeout=60000
dataDir={ZKDATA}
clientPort=2181
quorumListenOnAllIPs=true
maxClientCnxns=0
cnxTimeout=1000
admin.enableServer=false
4lw.commands.whitelist=ruok,srvr,mntr
autopurge.purgeInterval=0
standaloneEnabled=false
{servers}
"""
    )
    argv = [
        "/usr/bin/java", "-Xms64m", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto",
        "-XX:-UsePerfData", "-Dzookeeper.preAllocSize=8192",
        "-Djava.net.preferIPv4Stack=true", "-Dzookeeper.jmx.log4j.disable=true",
        "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true",
        "-cp", f"{JARS}/zookeeper.jar:{JARS}/slf4j-simple.jar",
        "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(host_dir / "zoo.cfg"),
    ]  # fmt: skip
    return Service("zookeeper", argv, port=2181, ready=["bash", "-c", ZOOKEEPER_MODE])


# --- BIND ----------------------------------------------------------------------------------------------------------
def write_named(host_dir: Path, zone: str, address: str, record: tuple[str, str], tsig: tuple[str, str]) -> Service:
    """An authoritative server for `zone`, updated only with the TSIG key (name, secret); `record` is (name, address).

    Files lie where Debian's AppArmor profile lets named work (/etc/bind, /var/cache/bind, /run/named), each host's own.
    """
    etc, cache = host_dir / "overlay/etc/bind", host_dir / "cache-bind"
    for folder in (etc, cache):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.chown(folder, "bind", "bind")
    (cache / f"db.{zone}").write_text(
        f"$TTL 5\n@ IN SOA ns.{zone}. hostmaster.{zone}. 1 60 30 3600 5\n@ IN NS ns\nns IN A {address}\n"
        f"{record[0]} IN A {record[1]}\n"
    )
    shutil.chown(cache / f"db.{zone}", "bind", "bind")
    private_file(
        etc / "named.conf",
        f"""\
key "{tsig[0]}" {{ algorithm hmac-sha256; secret "{tsig[1]}"; }};
controls {{ }};
options {{
  directory "/var/cache/bind";
  listen-on {{ any; }}; listen-on-v6 {{ none; }};
  recursion no; dnssec-validation no; notify no;
  pid-file "/run/named/named.pid"; session-keyfile "/run/named/session.key";
}};
zone "{zone}" {{ type primary; file "/var/cache/bind/db.{zone}"; allow-update {{ key "{tsig[0]}"; }}; }};
""",
    )
    shutil.chown(etc / "named.conf", "bind", "bind")
    return Service("named", ["/usr/sbin/named", "-u", "bind", "-n", "1", "-g", "-c", "/etc/bind/named.conf"], port=53)


# --- our daemons ---------------------------------------------------------------------------------------------------
def controller_service() -> Service:
    return Service("controller", [entry_point("failoverd")], env={"FAILOVER_FAILPOINTS": FAILPOINTS})


def guardian_service(cluster: str) -> Service:
    return Service("guardian", [entry_point("failover-guardian"), "run", "--cluster", cluster])


def listening(init_pid: int, port: int) -> bool:
    """True if something in that process's network namespace listens on the TCP port, read from /proc."""
    wanted = re.compile(rf"^\s*\d+: [0-9A-F]+:{port:04X} [0-9A-F]+:0000 0A ", re.MULTILINE)
    for name in ("tcp", "tcp6"):
        try:
            if wanted.search(Path(f"/proc/{init_pid}/net/{name}").read_text()):
                return True
        except OSError:
            continue
    return False
