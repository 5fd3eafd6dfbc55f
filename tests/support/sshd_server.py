"""A real sshd on a loopback address and a free port, with one key, one forced command and its own pinned host key."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

from failover.clock import boottime_s
from failover.settings import SshSettings
from tests.support import agent_program

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin:/usr/local/sbin")
REPOSITORY = Path(__file__).resolve().parents[2]


def free_port(address: str = "127.0.0.1") -> int:
    with socket.socket() as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def make_key(path: Path) -> str:
    """A new ed25519 key at `path`; returns the public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True, timeout=20)
    return path.with_suffix(".pub").read_text().strip()


class Sshd:
    """`host_dir` is the state of the host behind it (see agent_program.py). `command` replaces the agent."""

    def __init__(self, folder: Path, address: str, port: int, client_key: str, command: str | None = None) -> None:
        self.address = address
        self.port = port
        self.folder = folder
        self.host_dir = folder / "host"
        self.host_dir.mkdir(parents=True)
        self.set_host()
        agent = f"env PYTHONPATH={REPOSITORY} {sys.executable} {agent_program.__file__} {self.host_dir}"
        (folder / "authorized").write_text(f'restrict,command="{command or agent}" {client_key}\n')
        self.host_key = make_key(folder / "host_key")
        self._configure()
        self._process = self._start()

    def set_host(self, **changes: object) -> None:
        """What the agent finds on this host from now on."""
        (self.host_dir / "host.json").write_text(json.dumps({**agent_program.FRESH, **changes}))

    def host(self) -> dict[str, object]:
        found: dict[str, object] = json.loads((self.host_dir / "host.json").read_text())
        return found

    @property
    def known_hosts_line(self) -> str:
        return f"[{self.address}]:{self.port} {' '.join(self.host_key.split()[:2])}\n"

    def processes(self) -> list[int]:
        """The listener, its sessions and the agents in them."""
        return [self._process.pid, *_descendants(self._process.pid)]

    def freeze(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        for pid in self.processes():
            os.kill(pid, signal.SIGCONT)

    def cut_sessions(self) -> None:
        """Ends every session, as a reboot would; the listener stays."""
        for pid in _descendants(self._process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def restart(self, new_host_key: bool = False) -> None:
        self.stop()
        if new_host_key:
            for old in ("host_key", "host_key.pub"):
                (self.folder / old).unlink()
            make_key(self.folder / "host_key")
        self._process = self._start()

    def stop(self) -> None:
        for pid in reversed(self.processes()):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait(timeout=5)

    def _configure(self) -> None:
        (self.folder / "sshd_config").write_text(
            f"ListenAddress {self.address}:{self.port}\n"
            f"HostKey {self.folder}/host_key\n"
            f"AuthorizedKeysFile {self.folder}/authorized\n"
            "PidFile none\nUsePAM no\nStrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
            "PermitRootLogin forced-commands-only\nUseDNS no\nPrintMotd no\n"
            "SetEnv SHLVL=9\n"  # or bash reads the tester's own .bashrc before the forced command, whatever that does
        )

    def _start(self) -> subprocess.Popen[bytes]:
        assert SSHD is not None
        with (self.folder / "sshd.log").open("ab") as log:
            process = subprocess.Popen(
                [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")], stdin=subprocess.DEVNULL, stderr=log
            )
        until_s = boottime_s() + 10
        while not _accepts(self.address, self.port):
            if process.poll() is not None or boottime_s() > until_s:
                raise RuntimeError(f"sshd did not start: {(self.folder / 'sshd.log').read_text()[-500:]}")
            threading.Event().wait(0.02)
        return process


class SshWorld:
    """Several hosts at 127.0.0.2, .3, ... behind one port, and the settings of a controller that may reach them."""

    def __init__(self, folder: Path, names: tuple[str, ...], command: str | None = None) -> None:
        if os.getuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # sshd demands it and its service makes it
        public = make_key(folder / "client_key")
        port = free_port("127.0.0.2")
        self.hosts: dict[str, Sshd] = {}
        try:
            for number, name in enumerate(names, start=2):
                self.hosts[name] = Sshd(folder / name, f"127.0.0.{number}", port, public, command)
        except BaseException:
            self.stop()
            raise
        known = folder / "known_hosts"
        known.write_text("".join(host.known_hosts_line for host in self.hosts.values()))
        self.settings = SshSettings(pwd.getpwuid(os.getuid()).pw_name, port, folder / "client_key", known)

    @property
    def members(self) -> dict[str, str]:
        return {name: host.address for name, host in self.hosts.items()}

    def stop(self) -> None:
        for host in self.hosts.values():
            host.stop()


def _accepts(address: str, port: int) -> bool:
    try:
        socket.create_connection((address, port), timeout=0.5).close()
    except OSError:
        return False
    return True


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for child in map(int, task.read_text().split()):
                found += [child, *_descendants(child)]
    return found
