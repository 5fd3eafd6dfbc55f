"""The host agent of a MariaDB host, run by a real sshd as its forced command: the product's loop and its backup, no guardian.

python backup_agent.py INSTANCE_JSON
"""

from __future__ import annotations

import json
import sys
from contextlib import AbstractContextManager
from pathlib import Path

from failover.engines.mariadb_source import Source
from failover.errors import Unreachable
from failover.remote.hostagent import Copying, GuardianHands, serve
from failover.remote.wire import Facts
from failover.settings import Account, InstanceSettings

_PATHS = ("data_dir", "bin_dir", "socket_dir", "config_file")


def _nobody(cluster: str, closes: int) -> tuple[str, Facts]:
    raise Unreachable("no guardian here")


def main(told: Path) -> None:
    said = json.loads(told.read_text())
    run_dir = Path(said.pop("run_dir"))
    operator = Account(said.pop("operator"), Path(said.pop("password_file")))
    instance = InstanceSettings(**{name: Path(value) if name in _PATHS else value for name, value in said.items()})

    def copies(cluster: str) -> AbstractContextManager[Copying]:
        return Source(instance, operator, run_dir).copy()

    serve(sys.stdin.buffer, sys.stdout.buffer, GuardianHands(run_dir, _nobody, copies=copies))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
