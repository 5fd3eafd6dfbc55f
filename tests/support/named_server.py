"""A real BIND on 127.0.0.1 and a free port: one zone, written by TSIG under an update-policy; a secondary on demand.

Debian confines named by AppArmor to its own directories; where that is in force, give a `folder` it may use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

import dns.exception
import dns.message
import dns.query
import dns.rcode

from failover.clock import boottime_s
from failover.settings import DnsSettings

NAMED = shutil.which("named", path="/usr/sbin:/usr/bin:/usr/local/sbin")
ZONE = "example.test"
NAME = f"orders.{ZONE}"
KEY_NAME = "failover-orders"


class Named:
    """`also_name_servers` are written as NS beside `ns1`; `primary` makes this one a secondary of another Named."""

    def __init__(
        self,
        folder: Path,
        port: int,
        secret: str,
        primary: Named | None = None,
        also_name_servers: Sequence[str] = (),
        notify_port: int | None = None,
    ) -> None:
        self.folder = folder
        self.address = "127.0.0.1"  # named listens only where an interface has the address, so no other 127.x
        self.port = port
        folder.mkdir(parents=True)
        self.key_file = folder / "key.conf"
        self.key_file.write_text(f'key "{KEY_NAME}" {{\n\talgorithm hmac-sha256;\n\tsecret "{secret}";\n}};\n')
        self._write_zone(also_name_servers)
        self._configure(primary, notify_port)
        self._process = self._start()

    def settings(self, **changes: object) -> DnsSettings:
        fields: dict[str, object] = {
            "server": self.address,
            "port": self.port,
            "zone": ZONE,
            "name": NAME,
            "ttl_s": 5,
            "tsig_name": KEY_NAME,
            "tsig_key_file": self.key_file,
            "tsig_algorithm": "hmac-sha256",
        }
        return DnsSettings(**{**fields, **changes})  # type: ignore[arg-type]  # built from a dict on purpose

    def answers(self, name: str = NAME, kind: str = "A") -> list[str]:
        """What the server holds for a name, sorted; empty if nothing."""
        query = dns.message.make_query(name, kind, flags=0)
        reply = dns.query.tcp(query, self.address, timeout=2, port=self.port)
        return sorted(str(record) for rrset in reply.answer for record in rrset)

    def freeze(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def stop(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        self._process.wait(timeout=5)

    def _write_zone(self, also: Sequence[str]) -> None:
        servers = "".join(f"@ IN NS {name}.\n" for name in also)
        (self.folder / "zone").write_text(
            f"$ORIGIN {ZONE}.\n$TTL 5\n@ IN SOA ns1 hostmaster 1 60 10 3600 5\n@ IN NS ns1\nns1 IN A {self.address}\n{servers}"
        )

    def _configure(self, primary: Named | None, notify_port: int | None) -> None:
        if primary is None:
            target = f"{self.address} port {notify_port};" if notify_port else ""
            zone = (
                f'type primary; file "{self.folder}/zone"; allow-transfer {{ any; }}; '
                f"notify explicit; notify-delay 0; also-notify {{ {target} }}; "
                f"update-policy {{ grant {KEY_NAME} name {NAME}. A AAAA; "
                f"grant {KEY_NAME} name _failover.{NAME}. TXT; }};"
            )
        else:
            zone = (
                f'type secondary; file "{self.folder}/copy"; masterfile-format text; '
                f"primaries {{ {primary.address} port {primary.port}; }}; allow-notify {{ any; }};"
            )
        (self.folder / "named.conf").write_text(
            f'include "{self.key_file}";\n'
            f'options {{ directory "{self.folder}"; pid-file none; session-keyfile "{self.folder}/session.key";\n'
            f'  managed-keys-directory "{self.folder}"; recursion no; dnssec-validation no; empty-zones-enable no;\n'
            f"  listen-on port {self.port} {{ {self.address}; }}; listen-on-v6 {{ none; }}; notify-rate 1000; }};\n"
            "controls { };\n"
            f'zone "{ZONE}" {{ {zone} }};\n'
        )

    def _start(self) -> subprocess.Popen[bytes]:
        assert NAMED is not None
        with (self.folder / "named.log").open("ab") as log:
            process = subprocess.Popen(
                [NAMED, "-g", "-n", "1", "-c", str(self.folder / "named.conf")], stdin=subprocess.DEVNULL, stderr=log
            )
        until_s = boottime_s() + 15
        while not self._serves():
            if process.poll() is not None or boottime_s() > until_s:
                process.kill()
                raise RuntimeError(f"named did not start: {(self.folder / 'named.log').read_text()[-1500:]}")
            threading.Event().wait(0.05)
        return process

    def _serves(self) -> bool:
        try:
            query = dns.message.make_query(ZONE, "SOA", flags=0)
            reply = dns.query.tcp(query, self.address, timeout=0.5, port=self.port)
        except (OSError, EOFError, dns.exception.DNSException):
            return False
        return reply.rcode() == dns.rcode.NOERROR and bool(reply.answer)
