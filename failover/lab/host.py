"""One host: namespaces of its own (net, pid, mount, uts, ipc) around a pid 1 that only mounts, reaps and stays.

Services are started from outside ("logging in" by nsenter) and become children of that pid 1, so they outlive whoever
started them and die with the host. /etc and /var/lib are overlays and /run is the host's own, so nothing that runs here
writes outside the lab's directory.
"""

from __future__ import annotations

import json
import os
import random
import select
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from failover.lab.commands import LabError, end_group, run, tail, wait
from failover.lab.configuration import VIP, Secrets
from failover.lab.databases import Dialect, Shell
from failover.lab.processes import (
    Process,
    child_of,
    inside,
    is_stopped,
    kill_verified,
    parent_of,
    pid_namespace,
    topmost,
)
from failover.lab.services import ROLES, Service, listening

INIT = """\
#!/bin/sh
# pid 1 of a lab host. $1 name, $2 directory, $3 pids to use up (so that numbers differ between hosts), then
# bind mounts: from, to, from, to ...
set -e
name=$1 dir=$2 burn=$3; shift 3
hostname "$name"
umount -R -l /run/netns 2>/dev/null || :   # or this copy would keep other labs' namespaces alive
mount --bind "$dir/run" /run
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
for top in etc var/lib; do
  mount -t overlay overlay -o "lowerdir=/$top,upperdir=$dir/overlay/$top,workdir=$dir/overlay/work/$top" "/$top"
done
while [ $# -ge 2 ]; do mkdir -p "$2"; mount --bind "$1" "$2"; shift 2; done
sed -i 's/^root:![^:]*:/root:*:/' /etc/shadow   # sshd refuses a locked account even with a key
sed -i '/^root:/s|[^:]*$|/bin/sh|' /etc/passwd   # or the machine's own ~/.bashrc would run before the forced command
while [ "$burn" -gt 0 ]; do (:); burn=$((burn - 1)); done
echo ready
exec >/dev/null 2>&1
while :; do sleep 1000000 & wait $!; done   # a blocking wait reaps whatever was left to us
"""

BASE_ENV = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", "HOME": "/", "PYTHONUNBUFFERED": "1"}

RUN_FOLDERS = {"sshd": "root", "failover": "root", "named": "bind", "lock": "root"}
FREEZABLE = {"database": "database_all", "main process": "database", "guardian": "guardian", "host": None}
STOPS_S = 5.0  # a process in the kernel stops only when it comes out
APPEARS_S = 3.0  # from fork to exec of the program itself; one that is not there by then has failed


@dataclass
class Host:
    """A host of the lab. `directory` holds everything of it: etc, log, run, state and data."""

    name: str
    address: str
    namespace: str
    directory: Path
    secrets: Secrets
    dialect: Dialect
    binds: Sequence[tuple[Path, str]] = ()
    services: dict[str, Service] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    data_dir: Path | None = None
    _holder: subprocess.Popen[str] | None = None
    _init: int | None = None

    # --- life ------------------------------------------------------------------------------------------------------
    def boot(self, deadline_s: float = 10.0) -> None:
        """Make the namespaces and start pid 1, with an empty /run as after any power-on. Nothing else runs yet."""
        shutil.rmtree(self.directory / "run", ignore_errors=True)
        for name, owner in {**RUN_FOLDERS, self.dialect.run_folder: self.dialect.os_user}.items():
            (self.directory / "run" / name).mkdir(parents=True)
            shutil.chown(self.directory / "run" / name, owner, owner)
        for part in ("log", "overlay/etc", "overlay/var/lib", "overlay/work/etc", "overlay/work/var/lib"):
            (self.directory / part).mkdir(parents=True, exist_ok=True)
        script = self.directory / "init"
        script.write_text(INIT)
        mounts = [text for source, target in self.binds for text in (str(source), target)]
        argv = ["ip", "netns", "exec", self.namespace, "unshare", "--pid", "--fork", "--kill-child", "--mount-proc",
                "--mount", "--uts", "--ipc", "--propagation", "private",
                "sh", str(script), self.name, str(self.directory), str(random.randrange(20, 300)), *mounts]  # fmt: skip
        with open(self.log("init"), "ab") as log:
            self._holder = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, text=True, cwd="/",
                start_new_session=True, env=BASE_ENV,
            )  # fmt: skip
        stream = self._holder.stdout
        assert stream is not None
        heard, _, _ = select.select([stream], [], [], deadline_s)
        if not heard or stream.readline().strip() != "ready":
            raise LabError(f"{self.name} did not boot:\n{tail(self.log('init'))}")
        stream.close()
        self._init = child_of(self._holder.pid)

    def crash(self) -> None:
        """Everything on the host ends at once. Addresses and rules in the kernel stay: see `Lab.crash`."""
        if self._init is not None and self._holder is not None:
            kill_verified(self._init, parent_of, self._holder.pid)
            self._holder.wait(timeout=10.0)
        self._init = None

    @property
    def is_up(self) -> bool:
        return self._holder is not None and self._init is not None and self._holder.poll() is None

    @property
    def init_pid(self) -> int:
        """Number of the host's pid 1 in the root namespace."""
        if not self.is_up or self._init is None:
            raise LabError(f"{self.name} is not running")
        return self._init

    # --- commands --------------------------------------------------------------------------------------------------
    def argv(self, argv: Sequence[str], user: str | None = None) -> list[str]:
        """The command as seen from outside: enter the host, become `user`, run."""
        enter = ["nsenter", "-t", str(self.init_pid), "-m", "-u", "-i", "-n", "-p", "--"]
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups", "--"] if user else []
        return [*enter, *become, *argv]

    def environment(self, env: Mapping[str, str] | None = None) -> dict[str, str]:
        return {**BASE_ENV, **self.env, **(env or {})}

    def run(
        self,
        argv: Sequence[str],
        timeout_s: float = 10.0,
        *,
        check: bool = True,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on the host to its end. Raises LabError when it fails (`check`) or overruns."""
        return run(self.argv(argv, user), timeout_s, check=check, env=self.environment(env), stdin=stdin)

    def popen(
        self,
        argv: Sequence[str],
        *,
        user: str | None = None,
        env: Mapping[str, str] | None = None,
        log: Path | None = None,
    ) -> subprocess.Popen[str]:
        """Start a command that stays attached: stdin and stdout are pipes, stderr goes to `log`. See `end`."""
        with open(log or os.devnull, "ab") as errors:
            return subprocess.Popen(
                self.argv(argv, user), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
                bufsize=1, env=self.environment(env), cwd="/", start_new_session=True,
            )  # fmt: skip

    @staticmethod
    def end(process: subprocess.Popen[str]) -> None:
        """End a process that `popen` returned, with its children."""
        end_group(process)

    def sql(
        self,
        sql: str,
        user: str | None = None,
        dbname: str | None = None,
        host: str | None = None,
        timeout_s: float = 10.0,
    ) -> str:
        """What the database answers, columns split by "|", one row a line. `user` None means its administrator, `host` None the
        local socket.
        """
        shell = self.dialect.shell(user, dbname, host)
        done = self.run([*shell.argv, *shell.once, sql], timeout_s, user=shell.login, env=self._password(shell, user))
        return self.dialect.lines(done.stdout)

    def sql_script(self, statements: str, timeout_s: float = 20.0) -> str:
        """The same for statements that no process list may show: the administrator's, by stdin."""
        shell = self.dialect.shell(None, None, None)
        return self.dialect.lines(self.run(shell.argv, timeout_s, user=shell.login, stdin=statements).stdout)

    def sql_session(self, user: str | None = None, dbname: str | None = None) -> subprocess.Popen[str]:
        """A client that takes statements, each on a line with its semicolon, and answers at once. See `end`."""
        shell = self.dialect.shell(user, dbname, None)
        return self.popen(shell.argv, user=shell.login, env=self._password(shell, user), log=self.log("sql"))

    def _password(self, shell: Shell, user: str | None) -> dict[str, str]:
        return {shell.password_variable: self.secrets.password(user)} if user else {}

    def addresses(self) -> tuple[str, ...]:
        """IPv4 addresses on eth0, without the prefix length."""
        out = run(["ip", "-n", self.namespace, "-j", "-4", "addr", "show", "dev", "eth0"]).stdout
        return tuple(entry["local"] for link in json.loads(out or "[]") for entry in link.get("addr_info", ()))

    def has_vip(self) -> bool:
        return VIP in self.addresses()

    # --- services --------------------------------------------------------------------------------------------------
    def log(self, role: str) -> Path:
        return self.directory / "log" / f"{role}.log"

    def processes(self) -> list[Process]:
        return inside(self.init_pid)

    def of_role(self, role: str) -> list[Process]:
        """Processes of a role: its main process, or for "database_all" everything that works in the data directory."""
        if role not in ROLES:
            raise LabError(f"no role {role!r}; there are: {', '.join(ROLES)}")
        place = os.stat(self.data_dir) if self.data_dir else None
        data = (place.st_dev, place.st_ino) if place else None
        mine = [p for p in self.processes() if ROLES[role].matches(p, data)]
        return mine if ROLES[role].whole_tree else topmost(mine, lambda _: True)

    def pid_of(self, role: str) -> int | None:
        """The main process of a role, numbered as in the root namespace, or None."""
        found = self.of_role(role) if self.is_up else []
        return found[0].pid if found else None

    def kill(self, role: str, number: int = signal.SIGKILL) -> list[int]:
        """Signal a role's processes (SIGKILL, SIGSTOP, SIGCONT, ...). The pids, in the root namespace, that got it."""
        return self._signal([p.pid for p in self.of_role(role)], number)

    def freeze(self, what: str) -> list[int]:
        """Stop "database" (all that works in the data directory), "main process" (that alone), "guardian" or "host"
        (everything), like a machine that no longer runs it: sockets stay open and nobody answers. Returns when all
        of it stands still, forks of the last moment included; the pids, in the root namespace.

        What lives in the kernel goes on (the gate, addresses with an end): only programs stop.
        """
        looked: list[int] = []

        def stands_still() -> bool:
            """The same processes in two looks, all stopped: one that was stopping during the first had no child since."""
            nonlocal looked
            before, looked = looked, [p.pid for p in self._of(what)]
            running = self._signal([pid for pid in looked if not is_stopped(pid)], signal.SIGSTOP)
            return not running and looked == before

        wait(stands_still, STOPS_S, f"every process of the {what} of {self.name} stopped")
        if not looked:
            raise LabError(f"there is no {what} to freeze on {self.name}")
        return looked

    def thaw(self, what: str) -> list[int]:
        """Let run again what `freeze` stopped, or what is left of it. The pids that were stopped."""
        frozen = [p.pid for p in self._of(what) if is_stopped(p.pid)]
        return sorted(self._signal(frozen, signal.SIGCONT))

    @property
    def is_frozen(self) -> bool:
        """True while pid 1 stands still: no command given to this host would end."""
        return is_stopped(self.init_pid)

    def _of(self, what: str) -> list[Process]:
        if what not in FREEZABLE:
            raise LabError(f"no {what!r} to freeze; there are: {', '.join(FREEZABLE)}")
        role = FREEZABLE[what]
        return self.processes() if role is None else self.of_role(role)

    def _signal(self, pids: Sequence[int], number: int) -> list[int]:
        namespace = pid_namespace(self.init_pid)
        return [pid for pid in pids if kill_verified(pid, pid_namespace, namespace, number)]

    def start(self, role: str, deadline_s: float = 20.0) -> int:
        """Start a service and wait until it is ready. Nothing happens if it runs. Its pid."""
        service = self.services.get(role)
        if service is None:
            raise LabError(f"{self.name} has no service {role!r}; it has: {', '.join(self.services)}")
        if self.pid_of(role) is None:
            self._launch(service)
        wait(lambda: self.pid_of(role) is not None, APPEARS_S, lambda: self._complaint(role, "started"))
        wait(lambda: self._ready(service), deadline_s, lambda: self._complaint(role, "ready"))
        pid = self.pid_of(role)
        if pid is None:
            raise LabError(self._complaint(role, "still there"))
        return pid

    def _launch(self, service: Service) -> None:
        """Fork the service off as a child of the host's pid 1, its output appended to its log."""
        if not os.access(service.argv[0], os.X_OK):
            raise LabError(f"{service.role}: {service.argv[0]} is not there")
        argv = self.argv(["setsid", "--fork", *service.argv], service.user)
        with open(self.log(service.role), "ab") as log:
            subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=True, timeout=10.0, cwd="/",
                env=self.environment(service.env),
            )  # fmt: skip

    def _complaint(self, role: str, wanted: str) -> str:
        return f"{role} on {self.name} is not {wanted}; its log ends:\n{tail(self.log(role))}"

    def _ready(self, service: Service) -> bool:
        if self.pid_of(service.role) is None:
            raise LabError(self._complaint(service.role, "running any more"))
        if service.port is not None and not listening(self.init_pid, service.port):
            return False
        return service.ready is None or run(self.argv(service.ready), 5.0, check=False, env=BASE_ENV).returncode == 0

    def stop(self, role: str, deadline_s: float = 20.0) -> None:
        """Stop a service in order and wait until it is gone."""
        service = self.services.get(role)
        self.kill(role, service.stop_signal if service else signal.SIGTERM)
        gone = "database_all" if role == "database" else role
        wait(lambda: not self.of_role(gone), deadline_s, f"{role} gone on {self.name}")

    def restart(self, role: str, deadline_s: float = 20.0) -> int:
        self.stop(role, deadline_s)
        return self.start(role, deadline_s)
