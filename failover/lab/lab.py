"""A whole cluster on one machine: three database hosts, a name server and an application host, all real programs.

>>> with Lab.boot(LabOptions(), print) as lab:
...     lab.host("db1").kill("database")
...     lab.wait(lambda: lab.primary() not in (None, "db1"), 10, "another primary")
"""

from __future__ import annotations

import atexit
import os
import secrets as random_source
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

from failover.clock import boottime_s
from failover.lab import configuration as conf
from failover.lab import leftovers, services
from failover.lab.commands import LabError, run, wait
from failover.lab.databases import Databases, dialect
from failover.lab.host import Host
from failover.lab.network import Cut, Switch, ip_batch, namespace_name
from failover.profiles import PROFILES

Progress = Callable[[str], None]
PREFIX_LENGTH = conf.NETWORK.split("/")[1]


@dataclass(frozen=True)
class LabOptions:
    """What to boot. `daemons=False`: no controllers, no guardians. `root`: where the lab's directory is made.

    `agentless` members are configured, and left, without a guardian; `fencing` is that key's value in the file.
    """

    engine: str = "postgresql"
    replication: str = "strict"
    profile: str = "lan"
    members: tuple[str, ...] = ("db1", "db2", "db3")
    daemons: bool = True
    mode: str = "automatic"
    agentless: tuple[str, ...] = ()
    fencing: str = conf.FENCING
    root: Path | None = None


class Lab:
    """A booted lab. Make one with `Lab.boot`; `close()` (or leaving the `with`) removes every trace of it.

    `timings` are the seconds each step of the boot took; `secrets` says where passwords and keys are.
    """

    databases: Databases

    def __init__(self, options: LabOptions, progress: Progress) -> None:
        self.dialect = dialect(options.engine)
        if options.profile not in PROFILES:
            raise LabError(f"no profile {options.profile!r}; there are: {', '.join(PROFILES)}")
        if not 1 <= len(options.members) <= len(conf.MEMBER_ADDRESSES):
            raise LabError(f"between 1 and {len(conf.MEMBER_ADDRESSES)} members, not {len(options.members)}")
        self.options = options
        self.progress = progress
        self.id = f"{os.getpid():x}{random_source.token_hex(2)}"
        self.directory = (options.root or leftovers.ROOT) / f"{leftovers.PREFIX}{self.id}"
        self.members = tuple(zip(options.members, conf.MEMBER_ADDRESSES, strict=False))
        self.secrets = conf.Secrets(self.directory / "secrets")
        self.switch = Switch(self.id)
        self.hosts: dict[str, Host] = {}
        self.timings: dict[str, float] = {}
        self._lock: int | None = None
        self._closing = threading.Lock()
        self._closed = False
        self._owner = os.getpid()

    # --- boot and close --------------------------------------------------------------------------------------------
    @classmethod
    def boot(cls, options: LabOptions | None = None, progress: Progress = lambda _: None) -> "Lab":
        """Boot everything and return when the databases replicate (and, with `daemons`, the daemons run).

        Removes what killed labs left first. On any failure nothing stays; the error quotes the log.
        """
        options = options or LabOptions()
        faults = services.missing_programs() + dialect(options.engine).faults()
        if faults:
            raise LabError("; ".join(faults))
        for lab_id in leftovers.remove(options.root or leftovers.ROOT):
            progress(f"removed what was left of lab {lab_id}")
        lab = cls(options, progress)
        try:
            lab._build()
        except BaseException:  # also Ctrl-C in the middle: nothing may stay
            lab.close()
            raise
        return lab

    def _build(self) -> None:
        start = boottime_s()
        _closing_at_exit(self)
        self._lock = leftovers.make(self.directory)
        self._step("secrets, keys and configuration", self._write_files)
        self._step("switch, cables and hosts", self._boot_hosts)
        with ThreadPoolExecutor(max_workers=8) as pool, self._hosts_down_on_error():
            databases = pool.submit(self._step, "databases", self.databases.create)
            others = [(h, role) for h in self.hosts.values() for role in ("zookeeper", "sshd", "named")
                      if role in h.services]  # fmt: skip
            self._step("ZooKeeper, sshd, named", lambda: _all(pool.submit(h.start, role) for h, role in others))
            databases.result()
        if self.options.daemons:
            self._step("controllers and guardians", self.start_daemons)
        self.timings["boot"] = boottime_s() - start
        self.progress(f"lab {self.id} is up after {self.timings['boot']:.1f} s")

    @contextmanager
    def _hosts_down_on_error(self) -> Iterator[None]:
        """Whatever still waits in a thread for a service ends at once when its host does."""
        try:
            yield
        except BaseException:  # Ctrl-C too
            for host in self.hosts.values():
                host.crash()
            raise

    def _step(self, name: str, act: Callable[[], object]) -> None:
        start = boottime_s()
        act()
        self.timings[name] = boottime_s() - start
        self.progress(f"{name}: {self.timings[name]:.1f} s")

    def _write_files(self) -> None:
        conf.make_secrets(self.secrets, self.dialect.accounts)
        public = self.secrets.path("ssh_key.pub").read_text().strip()
        host_keys = []
        for name, address in self.members:
            folder = self.directory / name
            (folder / "ssh").mkdir(parents=True)
            host_keys.append((address, conf.make_key(folder / "ssh/host_key", name)))
        wanted = self.options
        text = conf.failover_yml(
            self.dialect, self.members, wanted.replication, wanted.profile, wanted.mode, wanted.agentless, wanted.fencing,
        )  # fmt: skip
        names = [*self.dialect.accounts, "zookeeper", "webhook", "tsig", "pledge", "ssh_key"]
        addresses = [address for _, address in self.members]
        for number, (name, address) in enumerate(self.members, 1):
            folder = self.directory / name
            conf.give_to_host(self.secrets, folder / "etc-failover", names)
            (folder / "etc-failover/failover.yml").write_text(text)
            (folder / "etc-failover/known_hosts").write_text(conf.known_hosts(host_keys))
            self.hosts[name] = self._database_host(name, address, number, addresses, public)
        self.hosts["app"] = self._plain_host("app", conf.APP, ["app", "failover_monitor", "webhook"])
        self.hosts["dns"] = self._plain_host("dns", conf.DNS, [])
        tsig = (conf.TSIG_NAME, self.secrets.password("tsig"))
        named = services.write_named(self.directory / "dns", conf.ZONE, conf.DNS, ("orders", conf.VIP), tsig)
        self.dns.services["named"] = named
        hosts = [self.host(name) for name, _ in self.members]
        self.databases = self.dialect.databases(hosts, self.options.replication, self.secrets)

    def _database_host(self, name: str, address: str, number: int, addresses: list[str], public_key: str) -> Host:
        folder = self.directory / name
        data, state, zookeeper = folder / "database/main", folder / "state", folder / "zookeeper"
        for path in (data, state, zookeeper):
            path.mkdir(parents=True, exist_ok=True)
        self.dialect.write_files(folder, number)
        clock = PROFILES[self.options.profile]
        roles = [
            services.write_sshd(folder, name, public_key),
            services.write_zookeeper(
                folder, number, addresses, round(clock.zookeeper_tick_s * 1000), clock.zookeeper_sync_limit
            ),
            self.dialect.service(),
            services.controller_service(),
            services.guardian_service(conf.CLUSTER),
        ]
        binds = [(folder / "etc-failover", "/etc/failover"), (state, "/var/lib/failover"),
                 (data.parent, self.dialect.root), (zookeeper, services.ZKDATA)]  # fmt: skip
        env = {"FAILOVER_CONFIG": conf.CONFIG, "FAILOVER_NODE": name}
        return Host(name, address, namespace_name(self.id, name), folder, self.secrets, self.dialect, binds,
                    {service.role: service for service in roles}, env, data)  # fmt: skip

    def _plain_host(self, name: str, address: str, secrets: list[str]) -> Host:
        folder = self.directory / name
        conf.give_to_host(self.secrets, folder / "etc-failover", secrets)
        binds = [(folder / "etc-failover", "/etc/failover")]
        if name == "app":  # resolves names as the application would
            (folder / "overlay/etc").mkdir(parents=True)
            (folder / "overlay/etc/resolv.conf").write_text(f"nameserver {conf.DNS}\noptions timeout:1 attempts:2\n")
        if name == "dns":
            (folder / "cache-bind").mkdir(parents=True)
            binds.append((folder / "cache-bind", "/var/cache/bind"))
        return Host(name, address, namespace_name(self.id, name), folder, self.secrets, self.dialect, binds)

    def _boot_hosts(self) -> None:
        self.switch.build({h.name: f"{h.address}/{PREFIX_LENGTH}" for h in self.hosts.values()})
        with ThreadPoolExecutor(max_workers=len(self.hosts)) as pool:
            _all(pool.submit(host.boot) for host in self.hosts.values())

    def start_daemons(self) -> None:
        """Controllers and guardians of all hosts, in parallel."""
        with ThreadPoolExecutor(max_workers=2 * len(self.members)) as pool:
            daemons = [(name, role) for name, _ in self.members for role in ("guardian", "controller")]
            alone = {(name, "guardian") for name in self.options.agentless}
            _all(pool.submit(self.start, name, role) for name, role in daemons if (name, role) not in alone)

    def close(self, keep: bool = False) -> None:
        """End every process, delete the namespaces and, unless `keep`, the directory. Safe to repeat."""
        with self._closing:
            if self._closed or os.getpid() != self._owner:  # a forked child is not the holder
                return
            for host in self.hosts.values():
                host.crash()
            leftovers.destroy(self.id, None if keep or not self.directory.exists() else self.directory)
            if keep:
                (self.directory / leftovers.LOCK).unlink(missing_ok=True)  # or a later boot takes it for a leftover
            if self._lock is not None:
                os.close(self._lock)
            self._closed = True  # only now: a second Ctrl-C in the middle leaves the rest to the exit handler
            atexit.unregister(self.close)

    def __enter__(self) -> "Lab":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- hosts and services ----------------------------------------------------------------------------------------
    def host(self, name: str) -> Host:
        if name not in self.hosts:
            raise LabError(f"no host {name!r}; there are: {', '.join(self.hosts)}")
        return self.hosts[name]

    @property
    def app(self) -> Host:
        return self.host("app")

    @property
    def dns(self) -> Host:
        return self.host("dns")

    @property
    def databases_hosts(self) -> tuple[Host, ...]:
        return tuple(self.host(name) for name, _ in self.members)

    def start(self, host: str, role: str) -> int:
        return self.host(host).start(role)

    def stop(self, host: str, role: str) -> None:
        self.host(host).stop(role)

    def ctl(self, *args: str, timeout_s: float = 30.0, on: str | None = None) -> subprocess.CompletedProcess[str]:
        """`failoverctl ARGS` on a database host (the first that works and is connected). The exit code is not judged."""
        name = on or next((n for n, _ in self.members if self._works(n)), None)
        if name is None:
            raise LabError("no database host is up and connected")
        return self.host(name).run([services.entry_point("failoverctl"), *args], timeout_s, check=False)

    def _works(self, name: str) -> bool:
        host = self.host(name)
        return host.is_up and not host.is_frozen and not self.switch.is_isolated(name)

    def primary(self) -> str | None:
        """Name of the member whose database says that it takes writes; None if there is no such or more than one."""
        found = self.databases.primaries()
        return found[0] if len(found) == 1 else None

    def zookeeper_leader(self) -> str | None:
        """Name of the host whose ZooKeeper server leads the ensemble; None while nobody does."""
        return next((n for n, _ in self.members if self._works(n) and self._zookeeper_mode(n) == "leader"), None)

    def _zookeeper_mode(self, name: str) -> str:
        return self.host(name).run(["bash", "-c", services.ZOOKEEPER_MODE], 5.0, check=False).stdout.strip()

    @staticmethod
    def wait(condition: Callable[[], bool], deadline_s: float, says: str | Callable[[], str]) -> float:
        """Look until `condition()` is true; the seconds it took. LabError saying `says` at the deadline."""
        return wait(condition, deadline_s, says)

    def reseed(self, member: str) -> None:
        """Throw a member's data away and copy it anew from the primary; its guardian, if it ran, starts again."""
        host = self.host(member)
        source = self.primary()
        if source is None or source == member:
            raise LabError(f"cannot reseed {member}: the primary is {source or 'not known'}")
        guarded = host.pid_of("guardian") is not None
        if guarded:
            host.stop("guardian")
        self.databases.end(member)
        self.databases.copy(source, member)
        if guarded:
            host.start("guardian")
        else:
            self.databases.start(member)
        wait(lambda: self.databases.is_standby(member), 60.0, f"the new copy on {member} to answer")

    # --- links -----------------------------------------------------------------------------------------------------
    def cut(self, host: str, *peers: str, one_way: bool = False, port: int | None = None) -> None:
        """Make silence; nothing is reset, established connections hang.

        >>> lab.cut("db1")                              # its cable is pulled
        >>> lab.cut("db1", "db2", "dns")                # these pairs no longer hear each other; all begin at once
        >>> lab.cut("db1", "db2", one_way=True)         # what db1 sends to db2 is lost; the way back works
        >>> lab.cut("db1", port=22)                     # nobody reaches port 22 of db1, and no answer comes from it
        >>> lab.cut("db1", "db2", port=22, one_way=True)  # db2's requests arrive at db1's port 22, the answers are lost
        """
        if not peers and port is None:
            if one_way:
                raise LabError("a cable is cut both ways; name the other host")
            self.switch.set_port(self.host(host).name, False)
            return
        self.switch.drop(self.switch.cuts | self._cuts(host, peers, one_way, port))

    def heal(self, host: str | None = None, *peers: str, one_way: bool = False, port: int | None = None) -> None:
        """Undo `cut` called with the same words. Without any: heal everything, cables of hosts that are up included."""
        if host is None:
            self.switch.drop(())
            for name, one in self.hosts.items():
                if one.is_up:
                    self.switch.set_port(name, True)
        elif not peers and port is None:
            self.switch.set_port(self.host(host).name, True)
        else:
            self.switch.drop(self.switch.cuts - self._cuts(host, peers, one_way, port))

    def _cuts(self, host: str, peers: Iterable[str], one_way: bool, port: int | None) -> set[Cut]:
        """A port is `host`'s own: requests to it and answers from it. No peer named: every other host is one."""
        others = [self.host(name).name for name in peers] or [name for name in self.hosts if name != host]
        here = self.host(host).name
        away = {Cut(here, other, answer=port) for other in others}
        back = {Cut(other, here, request=port) for other in others}
        return away if one_way else away | back

    def crash(self, host: str) -> None:
        """Everything on the host ends (its peers see resets), then its kernel is gone too: cable, addresses, rules."""
        self.host(host).crash()
        self.switch.set_port(host, False)
        self._forget_kernel(host)

    def power_off(self, host: str) -> None:
        """The power is gone: the same, but nobody is told; to its peers the host is silent from one instant to the next."""
        self.switch.set_port(self.host(host).name, False)
        self.host(host).crash()
        self._forget_kernel(host)

    def _forget_kernel(self, host: str) -> None:
        """A namespace outlives its processes: without this the dead host's kernel would go on owning its addresses."""
        namespace = self.host(host).namespace
        run(["ip", "netns", "exec", namespace, "nft", "flush", "ruleset"])
        run(["ip", "-n", namespace, "addr", "flush", "dev", "eth0"])

    def boot_host(self, host: str, roles: Iterable[str] = ("sshd", "zookeeper")) -> None:
        """Power a crashed host on: its own address, pid 1, then the given services, all at once. Cuts stay."""
        target = self.host(host)
        ip_batch([f"addr replace {target.address}/{PREFIX_LENGTH} brd + dev eth0"], target.namespace)
        self.switch.set_port(host, True)
        target.boot()
        with ThreadPoolExecutor(max_workers=len(services.ROLES)) as pool:
            _all(pool.submit(target.start, role) for role in roles)


def _all(futures: Iterable[Any]) -> None:
    """Wait for all and raise the first error."""
    for future in list(futures):
        future.result()


def _closing_at_exit(lab: Lab) -> None:
    """Close the lab when the program ends, by itself, by SIGTERM or SIGHUP (SIGINT is KeyboardInterrupt already)."""
    atexit.register(lab.close)
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _leave)


def _leave(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
