"""Real ZooKeeper servers on loopback, as many as a test needs, gone when the test is.

    with ensemble(3) as servers:
        servers[0].stop(); servers[0].start(); servers[1].freeze(); servers[1].thaw()

Each server is one small JVM from the jars of Debian's package `zookeeper`, with its data in a directory of its own.
"""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.scratch import scratch

JARS = Path("/usr/share/java")
_NEEDED = (
    "zookeeper", "zookeeper-jute", "slf4j-api", "slf4j-simple", "metrics-core", "snappy-java", "netty-handler",
    "netty-transport", "netty-buffer", "netty-common", "netty-codec", "netty-resolver", "netty-transport-native-epoll",
    "netty-transport-native-unix-common",
)  # fmt: skip
_PAUSE = threading.Event()  # never set: `wait` on it is a pause between two looks


def missing() -> str | None:
    """Why no ZooKeeper can run here, in words for `pytest.skip`, or None if it can."""
    if shutil.which("java") is None:
        return "no java on this machine"
    if not (JARS / "zookeeper.jar").exists():
        return "the ZooKeeper jars are not installed (Debian: zookeeper)"
    return None


def free_ports(count: int) -> list[int]:
    """`count` different ports nobody uses now, on loopback; below the range that outgoing connections are given."""
    found: list[int] = []
    while len(found) < count:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as sock:
            sock.bind(("127.0.0.1", port))
            found += [port] if port not in found else []
    return found


class ZooKeeperServer:
    """One server process. `start` does not wait; `wait_serving` does."""

    def __init__(self, number: int, port: int, directory: Path, config: str) -> None:
        self.number, self.port, self.directory = number, port, directory
        self.address = f"127.0.0.1:{port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = directory / "server.log"
        self._config = directory / "zoo.cfg"
        directory.mkdir(parents=True)
        (directory / "data").mkdir()
        (directory / "data" / "myid").write_text(f"{number}\n")
        self._config.write_text(config + f"dataDir={directory}/data\nclientPort={port}\n")

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self) -> None:
        """Start the JVM. It ends with the thread that called this (PDEATHSIG): an aborted run leaves nothing."""
        classes = ":".join(str(JARS / f"{name}.jar") for name in _NEEDED)
        java = ["java", "-Xmx96m", "-Xss512k", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"]
        flags = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dzookeeper.jmx.log4j.disable=true",
                 "-Dzookeeper.preAllocSize=512", "-Dzookeeper.admin.enableServer=false"]  # fmt: skip
        main = ["-cp", classes, "org.apache.zookeeper.server.quorum.QuorumPeerMain", str(self._config)]
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [*guard, *java, *flags, *main], stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=self.directory
            )

    def stop(self, hard: bool = True) -> None:
        """End the process (SIGKILL, or SIGTERM with `hard=False`) and wait until it is gone. The data stays."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL if hard else signal.SIGTERM)
            self._process.send_signal(signal.SIGCONT)
        self._process.wait(10)
        self._process = None

    def freeze(self) -> None:
        """Stop every thread of the server, and return when all have stopped; its sockets stay open and silent."""
        os.kill(self.pid, signal.SIGSTOP)
        end = time.monotonic() + 5
        while any(state != "T" for state in self._thread_states()):
            assert time.monotonic() < end, f"{self.pid} does not stop"
            _PAUSE.wait(0.001)

    def _thread_states(self) -> Iterator[str]:
        for task in Path(f"/proc/{self.pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
                yield (task / "stat").read_text().rpartition(")")[2].split()[0]

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def revive(self) -> None:
        """Thaw or start it, whatever it needs to serve again."""
        if self._process is None:
            self.start()
        else:
            self.thaw()

    def ask(self, word: str, timeout_s: float = 1.0) -> str:
        """The answer to a four-letter word, "" if the server does not answer."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout_s) as sock:
                sock.settimeout(timeout_s)
                sock.sendall(word.encode())
                return b"".join(iter(lambda: sock.recv(65536), b"")).decode()
        except OSError:
            return ""

    def mode(self) -> str:
        """ "leader", "follower", "standalone", or "" when it does not serve."""
        lines = [line for line in self.ask("srvr").splitlines() if line.startswith("Mode: ")]
        return lines[0].removeprefix("Mode: ") if lines else ""

    def wait_serving(self, deadline_s: float = 60.0) -> None:
        end = time.monotonic() + deadline_s
        while not self.mode():
            died = self._process is None or self._process.poll() is not None
            if died or time.monotonic() > end:
                tail = self._log.read_text(errors="replace")[-2000:] if self._log.exists() else ""
                raise AssertionError(f"ZooKeeper {self.number} on port {self.port} does not serve:\n{tail}")
            _PAUSE.wait(0.05)


def _configs(count: int, tick_ms: int, sync_limit: int) -> tuple[list[int], str]:
    ports = free_ports(3 * count)
    lines = [
        f"tickTime={tick_ms}", "initLimit=25", f"syncLimit={sync_limit}", "maxClientCnxns=0",
        "clientPortAddress=127.0.0.1", "4lw.commands.whitelist=*", "forceSync=no", "admin.enableServer=false",
    ]  # fmt: skip
    if count > 1:
        lines += [f"server.{i + 1}=127.0.0.1:{ports[count + 2 * i]}:{ports[count + 2 * i + 1]}" for i in range(count)]
    return ports[:count], "\n".join(lines) + "\n"


@contextlib.contextmanager
def ensemble(count: int = 1, *, tick_ms: int = 200, sync_limit: int = 5) -> Iterator[Sequence[ZooKeeperServer]]:
    """`count` serving servers (1 = standalone). Everything is ended and removed afterwards, also after a failure."""
    directory = scratch("failover-test-zk-")
    ports, config = _configs(count, tick_ms, sync_limit)
    servers = [ZooKeeperServer(i + 1, port, directory / f"zk{i + 1}", config) for i, port in enumerate(ports)]
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_serving()
        yield servers
    finally:
        for server in servers:
            server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def leader_of(servers: Sequence[ZooKeeperServer]) -> ZooKeeperServer:
    """The server that leads now. Fails if none does."""
    return next(server for server in servers if server.mode() in ("leader", "standalone"))
