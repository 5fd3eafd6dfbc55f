"""The guardian's hand on the database: the only starter, always as a standby, and the one that makes sure of its end.

Which processes are meant is in `processes.py`, who carries out a start in `providers.py`. Nothing here believes a file
about a process, and nothing waits for a disk while it kills.
"""

from __future__ import annotations

import logging
import pwd
import threading
from collections.abc import Callable
from pathlib import Path

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines.base import LocalEngine
from failover.errors import Corrupt, FailoverError, Refused, Unknown, Unreachable, WrongCredentials
from failover.guardian.base import Processes
from failover.guardian.deathwatch import PidfdDeathwatch
from failover.guardian.processes import DirectoryProcesses, Seen
from failover.guardian.providers import DirectProvider, Provider, SystemdProvider
from failover.settings import InstanceSettings

log = logging.getLogger("failover.guardian")

_LOOK_S = 0.005  # between two looks at /proc while processes are expected to go
_ASK_S = 0.5  # budget of one question to a database that may still be starting
_ASK_AGAIN_S = 0.05
_BEGIN_S = 5.0  # asking for a start is quick; a service manager that hangs must not hold up a kill
_CANCEL_S = 2.0
_END_S = 5.0


class DatabaseInstance:
    """The Instance of one cluster's member on this host. Thread-safe: a kill goes before and through everything else.

    `system_identifier` is what a start demands of the data directory; None (not yet adopted) demands nothing, and it
    may be set later, once the grant is known. `cluster` names the log and systemd's leave to start.
    """

    def __init__(
        self,
        engine: LocalEngine,
        settings: InstanceSettings,
        system_identifier: str | None,
        run_dir: Path,
        log_dir: Path,
        *,
        cluster: str,
    ) -> None:
        self.system_identifier = system_identifier
        self._engine = engine
        self._settings = settings
        self._found = DirectoryProcesses(settings.data_dir)
        self._spawning = threading.Lock()  # held from "nothing runs" to "it runs": no kill falls in between unnoticed
        self._provider = _provider(settings, run_dir, log_dir, cluster)

    # --- looking ------------------------------------------------------------------------------------------------
    def processes(self) -> Processes:
        main = self._engine.main_pid()
        return Processes(main=main, all=tuple(seen.pid for seen in self._found.scan(main)))

    def watch(self) -> PidfdDeathwatch | None:
        main = self._engine.main_pid()
        return PidfdDeathwatch.open(main, lambda: self._engine.main_pid() == main) if main is not None else None

    # --- starting -----------------------------------------------------------------------------------------------
    def start_standby(self, deadline_s: float) -> int:
        """Raises Refused (nothing was started), Unknown (it is not ready), Corrupt (it came up as a primary)."""
        end_s = boottime_s() + deadline_s
        self._check_directory()
        self._check_nothing_runs()
        self._engine.arm_standby()
        with self._spawning:
            self._check_nothing_runs()
            self._engine.remove_stale_files()
            self._provider.begin(self._engine.start_command(), _BEGIN_S, end_s - boottime_s())
        log.info("standby start of %s asked for", self._settings.data_dir)
        try:
            return self._wait_until_ready(end_s, deadline_s)
        finally:
            self._provider.settle()

    def _check_directory(self) -> None:
        data_dir, account = self._settings.data_dir, self._settings.os_user
        try:
            found = data_dir.stat()
            owner = pwd.getpwnam(account)
        except OSError as error:
            raise Refused(f"data directory {data_dir}: {error.strerror} (not mounted?)") from error
        except KeyError as error:
            raise Refused(f"there is no account {account} on this host") from error
        faults = []
        if found.st_uid != owner.pw_uid:
            faults.append(f"data directory {data_dir} belongs to uid {found.st_uid}, not to {account}")
        if found.st_mode & 0o022:
            faults.append(f"data directory {data_dir} can be written by others (mode {found.st_mode & 0o7777:o})")
        try:
            identifier = self._engine.control_state().system_identifier
        except Corrupt as error:
            raise Refused(*faults, f"no database in {data_dir}: {error} (not mounted?)") from error
        except (Unknown, Unreachable) as error:
            raise Refused(*faults, f"what is in {data_dir} cannot be told: {error}") from error
        if self.system_identifier is not None and identifier not in ("", self.system_identifier):
            faults.append(f"{data_dir} holds system {identifier}, this cluster is system {self.system_identifier}")
        if faults:
            raise Refused(*faults)

    def _check_nothing_runs(self) -> None:
        running = self.processes()
        if running.main is not None:
            raise Refused(f"the database already runs: main process {running.main}")
        if running.all:
            # PostgreSQL would say "pre-existing shared memory block is still in use"; a writer may be among them.
            raise Refused(f"processes of an earlier start still live, end them first: {_listed(running.all)}")

    def _wait_until_ready(self, end_s: float, deadline_s: float) -> int:
        """Level-triggered: whatever happened in between, what counts is the main process and its own answer now."""
        said = "no main process yet"
        pause = threading.Event()
        while (left_s := end_s - boottime_s()) > 0:
            main = self._engine.main_pid()
            if main is not None:
                try:
                    if self._accepts(min(_ASK_S, left_s)):
                        return main
                    said = "still recovering"
                except Unknown as error:
                    said = str(error)
            elif (why := self._provider.ended()) is not None and self._engine.main_pid() is None:
                raise Unknown(f"the database ended while it was starting: {why}: {self._provider.reason()}")
            pause.wait(min(_ASK_AGAIN_S, max(0.0, end_s - boottime_s())))
        raise Unknown(f"the database was not ready after {deadline_s:.1f} s ({said}): {self._provider.reason()}")

    def _accepts(self, budget_s: float) -> bool:
        """Raises Unknown (ask again); Corrupt after ending it if this start, against everything, made a primary."""
        try:
            role = self._engine.state(budget_s).role
        except WrongCredentials:
            return True  # it answers; who may log in is not this file's business
        except FailoverError as error:  # whatever it says of itself meanwhile: it was started, that is no refusal
            raise Unknown(str(error)) from error
        if role is Role.PRIMARY:
            ended = "it was ended" if self.kill_all(_END_S) else "it could not be ended"
            raise Corrupt(f"{self._settings.data_dir} was started as a standby and came up as a primary: {ended}")
        return role is Role.STANDBY

    # --- ending -------------------------------------------------------------------------------------------------
    def stop(self, mode: str, deadline_s: float) -> bool:
        end_s = boottime_s() + deadline_s
        number = self._engine.stop_signal(mode)
        watch = self.watch()
        if watch is not None:
            try:
                if mode != "fast" or not self._provider.stop_in_order(_CANCEL_S):
                    watch.send(number)
                watch.wait(max(0.0, end_s - boottime_s()))
            finally:
                watch.close()
        return self._wait_until_none(end_s, lambda seen: None)

    def kill_all(self, deadline_s: float) -> bool:
        end_s = boottime_s() + deadline_s
        for seen in self._found.scan(self._engine.main_pid()):  # at once, whoever holds what
            seen.kill()
        excluded = self._spawning.acquire(timeout=max(0.0, end_s - boottime_s()))
        try:
            none_left = self._wait_until_none(end_s, Seen.kill)
            self._provider.cancel(min(_CANCEL_S, max(0.05, end_s - boottime_s())))
            # A start that was queued with the service manager may have come to pass between the two.
            return self._wait_until_none(end_s, Seen.kill) and none_left and excluded
        finally:
            if excluded:
                self._spawning.release()

    def _wait_until_none(self, end_s: float, each: Callable[[Seen], None]) -> bool:
        """Look again and again, doing `each` to every process, until none is left or the deadline."""
        pause = threading.Event()
        while left := self._found.scan(self._engine.main_pid()):
            for seen in left:
                each(seen)
            if boottime_s() >= end_s:
                log.warning(
                    "processes of %s left at the deadline: %s",
                    self._settings.data_dir,
                    _listed(tuple(seen.pid for seen in left)),
                )
                return False
            pause.wait(_LOOK_S)
        return True


def _provider(settings: InstanceSettings, run_dir: Path, log_dir: Path, cluster: str) -> Provider:
    if settings.provider == "systemd" and settings.unit:
        return SystemdProvider(settings.unit, run_dir, cluster)
    if settings.provider == "direct":
        return DirectProvider(settings.os_user, settings.data_dir, log_dir, cluster)
    raise Refused(f"provider {settings.provider!r} with unit {settings.unit!r}: direct, or systemd with its unit")


def _listed(pids: tuple[int, ...]) -> str:
    return ", ".join(map(str, pids[:10])) + (", ..." if len(pids) > 10 else "")
