"""What runs on the lab's hosts: how each service is started, recognised and configured.

Real programs, Debian's own: OpenSSH, ZooKeeper, PostgreSQL, BIND, and this product's daemons. Files are written by the
functions here; nothing is started by them.
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

from failover.lab.commands import LabError, private_file
from failover.lab.processes import Process

Inode = tuple[int, int]
PGROOT = "/var/lib/failover-lab/postgresql"  # mounted: what lies in it can be renamed
PGDATA = f"{PGROOT}/main"
ZKDATA = "/var/lib/failover-lab/zookeeper"
FAILPOINTS = "/run/failover/failpoints"  # empty unless a test lays one: see failpoints.py
JARS = Path("/usr/share/java")


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
    "postmaster": Role(
        lambda p: Path(p.executable).name == "postgres" and not p.argv[0].startswith("postgres:"), in_data_dir=True
    ),
    "postgres_all": Role(lambda p: True, in_data_dir=True, whole_tree=True),
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
def postgres_bin() -> Path:
    """Directory of the newest installed PostgreSQL server."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    if not found:
        raise LabError("no PostgreSQL server under /usr/lib/postgresql")
    return max(found, key=lambda path: int(path.parent.name))


def entry_point(name: str) -> str:
    """A command of this product, installed beside the interpreter that runs us."""
    return str(Path(sys.executable).parent / name)


def missing_programs() -> list[str]:
    """What the lab needs and this machine does not have, in words; empty when it can boot."""
    needed = ["/usr/sbin/sshd", "/usr/sbin/named", "/usr/bin/java", "/usr/sbin/ip", "/usr/sbin/nft", "/usr/bin/nsenter"]
    faults = [f"{path} is not installed" for path in needed if not os.access(path, os.X_OK)]
    if not (JARS / "zookeeper.jar").exists():
        faults.append("ZooKeeper's jars are not installed (package libzookeeper-java)")
    if not list(Path("/usr/lib/postgresql").glob("*/bin/postgres")):
        faults.append("no PostgreSQL server is installed")
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


# --- PostgreSQL ----------------------------------------------------------------------------------------------------
POSTGRESQL_CONF = """
# --- lab ---
listen_addresses = '*'
port = 5432
unix_socket_directories = '/run/postgresql'
wal_level = replica
max_wal_senders = 20
max_replication_slots = 20
wal_log_hints = on
hot_standby = on
wal_keep_size = '256MB'
max_wal_size = '512MB'
max_connections = 60
superuser_reserved_connections = 5
shared_buffers = '64MB'
wal_receiver_timeout = '5s'
wal_sender_timeout = '5s'
wal_receiver_status_interval = '1s'
wal_retrieve_retry_interval = '100ms'
fsync = on
logging_collector = off
log_line_prefix = '%m [%p] %q%u@%d '
log_checkpoints = off
log_replication_commands = on
lc_messages = 'C'
"""


def postgresql_hba(hosts: Sequence[str], network: str) -> str:
    """Service users only from the database hosts, the application from the whole network, postgres only locally."""
    users = "failover_monitor,failover_operator,failover_rewind,failover_replication"
    lines = ["local all postgres peer", f"local all {users} scram-sha-256", "local app app scram-sha-256"]
    for address in hosts:
        lines.append(f"host replication failover_replication {address}/32 scram-sha-256")
        lines.append(f"host all {users} {address}/32 scram-sha-256")
        lines.append(f"host app app {address}/32 reject")  # these addresses pass the gate: service users only (G7)
    return "\n".join([*lines, f"host app app {network} scram-sha-256", ""])


def accounts_sql(password: Callable[[str], str]) -> str:
    """Statements that make every account with the privileges it needs and no more. Holds secrets: feed it by stdin."""
    rewind = ["pg_ls_dir(text, boolean, boolean)", "pg_stat_file(text, boolean)", "pg_read_binary_file(text)",
              "pg_read_binary_file(text, bigint, bigint, boolean)"]  # fmt: skip
    return "\n".join(
        [
            f"CREATE ROLE failover_monitor LOGIN PASSWORD '{password('failover_monitor')}';",
            "GRANT pg_monitor TO failover_monitor;",
            f"CREATE ROLE failover_operator LOGIN SUPERUSER PASSWORD '{password('failover_operator')}';",
            f"CREATE ROLE failover_replication LOGIN REPLICATION PASSWORD '{password('failover_replication')}';",
            f"CREATE ROLE failover_rewind LOGIN PASSWORD '{password('failover_rewind')}';",
            *(f"GRANT EXECUTE ON FUNCTION pg_catalog.{function} TO failover_rewind;" for function in rewind),
            f"CREATE ROLE app LOGIN PASSWORD '{password('app')}';",
            "CREATE DATABASE app OWNER app;",
        ]
    )


def postgres_service() -> Service:
    """The database, started by hand as the lab does before any guardian is there. Ready when it accepts connections."""
    program = postgres_bin()
    ready = [str(program / "pg_isready"), "-q", "-h", "/run/postgresql", "-t", "2"]
    return Service("postmaster", [str(program / "postgres"), "-D", PGDATA], "postgres", stop_signal=signal.SIGINT,
                   ready=ready)  # fmt: skip


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
