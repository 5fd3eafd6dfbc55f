"""A whole copy of a MySQL server, fetched with its clone plugin by a helper server that has nothing but an empty directory.

The member's own server is not asked, so it works with no data at all and beside a running one. The account is that of
replication, with BACKUP_ADMIN at the source. The password goes over the helper's own socket: no argument, no log.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from failover.engines.base import Upstream, Work
from failover.engines.my_connection import Rejected
from failover.engines.my_isolated import SQL_S, Isolated, make_folder
from failover.engines.tools import tool_path
from failover.errors import FailoverError, Refused, Unknown
from failover.settings import Account, InstanceSettings

_ALONE = (
    "--skip-log-bin", "--skip-replica-start", "--mysqlx=OFF", "--super-read-only=OFF", "--read-only=OFF",
    "--innodb-doublewrite-dir=./", "--innodb-directories=./",
)  # fmt: skip
_LOOK_S = 0.5
_COPY_S = 7 * 86400.0
# The source's active plugins must be active in the helper too. One that is loaded already is refused, and that is fine.
_PLUGINS = (
    ("clone", "mysql_clone.so"), ("rpl_semi_sync_source", "semisync_source.so"), ("rpl_semi_sync_replica", "semisync_replica.so"),
)  # fmt: skip
_PROGRESS = (
    "SELECT SUM(DATA), SUM(ESTIMATE) FROM performance_schema.clone_progress"
    " WHERE STAGE IN ('FILE COPY', 'PAGE COPY', 'REDO COPY')"
)


class ClonePlugin:
    """`operator` may log in to the copy, as it may at the source; `fetcher` (BACKUP_ADMIN) is who fetches it.

    Not the replication account: the primary locks that of a member which is in no sync set.
    """

    def __init__(self, instance: InstanceSettings, operator: Account, fetcher: Account | None) -> None:
        self._instance, self._operator, self._fetcher = instance, operator, fetcher

    def obstacle(self) -> str | None:
        return None if self._fetcher else "users.rewind is not configured: an account with BACKUP_ADMIN, for the clone plugin"

    def copy(self, source: Upstream, into: Path, work: Work) -> None:
        """Fill the empty folder `into` and start the copy once, alone, so that it is whole and a server of its own.

        Raises Refused without a fetcher, Unknown.
        """
        if self._fetcher is None:
            raise Refused(str(self.obstacle()))
        folder = make_folder(into / ".making", self._instance.os_user)
        helper = self._server(folder / "data", folder)
        work.told("preparing")
        helper.run("--initialize-insecure", work)
        with helper.running(work):
            self._fetch(helper, source, self._fetcher, folder / "clone", work)
        for path in (folder / "clone").iterdir():
            path.rename(into / path.name)
        shutil.rmtree(folder)
        self._finish(self._server(into, make_folder(folder, self._instance.os_user)), work)
        shutil.rmtree(folder)

    def _server(self, data_dir: Path, folder: Path) -> Isolated:
        return Isolated(tool_path(self._instance.bin_dir, "mysqld"), self._instance, data_dir, folder, _ALONE)

    def _fetch(self, helper: Isolated, source: Upstream, fetcher: Account, into: Path, work: Work) -> None:
        with helper.session(None) as session:
            for plugin, library in _PLUGINS:
                with suppress(Rejected):
                    session.run(f"INSTALL PLUGIN {plugin} SONAME '{library}'")
            session.run("SET GLOBAL clone_valid_donor_list = %s", [f"{source.address}:{source.port}"])
        clone = _Clone(helper, source, fetcher, into)
        with helper.session(None, _COPY_S) as session:
            for _ in clone.at_work(work):
                ((done, whole),) = session.run(_PROGRESS)
                if whole:
                    work.told(f"{min(100, int(100 * done / whole))} % of {int(whole) >> 20} MiB")

    def _finish(self, server: Isolated, work: Work) -> None:
        """It recovers, gets a uuid of its own, and forgets whom its source followed: the relay log for that is not here."""
        work.told("the copy is complete: recovering it")
        with server.running(work), server.session(self._operator, SQL_S) as session:
            session.run("RESET REPLICA ALL")


class _Clone(threading.Thread):
    """The one statement, which takes as long as the copy does. A helper that is ended ends it."""

    def __init__(self, helper: Isolated, source: Upstream, account: Account, into: Path) -> None:
        super().__init__(name="clone", daemon=True)
        self._helper, self._source, self._account, self._into = helper, source, account, into
        self._failure: FailoverError | None = None

    def at_work(self, work: Work) -> Iterator[None]:
        """Yields now and then until it is through. Raises Unknown."""
        self.start()
        while self.is_alive():
            if work.stop.wait(_LOOK_S):
                raise Unknown("stopped before its end")
            yield
        if self._failure is not None:
            raise Unknown(f"{self._source.member} cannot be cloned: {self._failure}") from self._failure

    def run(self) -> None:
        try:
            with self._helper.session(None, _COPY_S) as session:
                session.run(
                    f"CLONE INSTANCE FROM %s@%s:{int(self._source.port)} IDENTIFIED BY %s DATA DIRECTORY = %s",
                    [self._account.name, self._source.address, self._account.password() or "", str(self._into)],
                )
        except FailoverError as error:
            self._failure = error
