"""The daemons' entry points. The only module that ends the process."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from failover.errors import ConfigurationError, FailoverError, Refused

if TYPE_CHECKING:
    from failover.remote.hostagent import Copying

EXIT_CONFIGURATION, EXIT_REFUSED, EXIT_BUG = 3, 5, 1
config_option = click.option("--config", type=click.Path(path_type=Path), default=None, help="default: $FAILOVER_CONFIG")
cluster_option = click.option("--cluster", "-C", default=None, help="which cluster; needed if there are several")


def _until_told(stop: threading.Event) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())


def _or_exit(work: Callable[[], None]) -> None:
    """One clear line on stderr for what is wrong, and the documented exit status."""
    try:
        work()
    except ConfigurationError as error:
        for fault in error.faults:
            click.echo(fault, err=True)
        sys.exit(EXIT_CONFIGURATION)
    except Refused as error:
        click.echo(f"refused: {error}", err=True)
        sys.exit(EXIT_REFUSED)
    except FailoverError as error:
        click.echo(str(error), err=True)
        sys.exit(EXIT_BUG)


@click.command()
@config_option
def controller(config: Path | None) -> None:
    """failoverd: watches every cluster of the file; one of the controllers leads."""

    def work() -> None:
        from failover.bootstrap import Controller
        from failover.config import load, node_name
        from failover.logs import setup

        settings, me = load(config, secrets="controller"), node_name()
        if me not in {c.name for c in settings.controllers}:
            raise ConfigurationError([f"{settings.source}: {me} is no controller there; set FAILOVER_NODE"])
        setup(os.environ.get("FAILOVER_LOG", "info"), node=me)
        stop = threading.Event()
        _until_told(stop)
        controllers = [Controller(settings, cluster, me) for cluster in settings.clusters]
        threads = [threading.Thread(target=c.run, args=(stop,), name="cluster") for c in controllers]
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():
                thread.join(0.5)
                if not thread.is_alive() and not stop.is_set():
                    stop.set()

    _or_exit(work)


@click.group()
def guardian() -> None:
    """failover-guardian: the process beside the database that alone may let it accept writes."""


@guardian.command()
@config_option
@cluster_option
def run(config: Path | None, cluster: str | None) -> None:
    """Guard this host's member until told to stop. The database outlives the guardian."""

    def work() -> None:
        from failover.bootstrap import make_guardian
        from failover.config import load, node_name
        from failover.logs import setup
        from failover.remote.guardian_socket import GuardianServer
        from failover.remote.hostagent import SOCKET_NAME
        from failover.remote.verbs import LOCAL_VERBS

        settings, me = load(config, secrets="guardian"), node_name()
        mine = settings.cluster(cluster)
        if me not in mine.names:
            raise ConfigurationError([f"{settings.source}: {me} is no member of {mine.name}; set FAILOVER_NODE"])
        setup(os.environ.get("FAILOVER_LOG", "info"), node=me)
        stop = threading.Event()
        _until_told(stop)
        process = make_guardian(settings, mine, me)
        server = GuardianServer(settings.run_dir / mine.name / SOCKET_NAME, process.handle, LOCAL_VERBS)
        process.start()
        while not stop.wait(0.2) and process.alive:
            continue
        server.close()
        if not stop.is_set():
            raise FailoverError("a part of the guardian died; see the log")
        process.stop()
        logging.shutdown()
        os._exit(0)  # an orderly end of forty threads takes longer than a lease may, on a busy machine

    _or_exit(work)


@guardian.command()
@config_option
@cluster_option
def release(config: Path | None, cluster: str | None) -> None:
    """BREAK-GLASS: open this host's gate for good. Needs neither ZooKeeper nor any daemon of ours."""
    _or_exit(lambda: _local("release", config, cluster))


@guardian.command()
@config_option
@cluster_option
def arm(config: Path | None, cluster: str | None) -> None:
    """Take a release back: the gate returns with the guardian's next renewal."""
    _or_exit(lambda: _local("arm", config, cluster))


def _local(verb: str, config: Path | None, cluster: str | None) -> None:
    from failover.alone import arm_alone, release_alone
    from failover.config import load
    from failover.errors import Unreachable
    from failover.remote.guardian_socket import GuardianClient
    from failover.remote.hostagent import SOCKET_NAME

    settings = load(config)
    mine = settings.cluster(cluster)
    try:
        client = GuardianClient(settings.run_dir / mine.name / SOCKET_NAME)
        click.echo(client.call(verb, {"cluster": mine.name}, 3.0).evidence)
    except FailoverError as error:
        if isinstance(error, Refused) or (verb == "arm" and not isinstance(error, Unreachable)):
            raise
        click.echo(release_alone(settings, mine) if verb == "release" else arm_alone(settings, mine))


@click.command()
@click.argument("verb", default="serve")
@config_option
@cluster_option
@click.option("--run-dir", type=click.Path(path_type=Path), envvar="FAILOVER_RUN_DIR", default=Path("/run/failover"),
              show_default=True, help="as `run_dir` in the configuration")  # fmt: skip
def hostagent(verb: str, config: Path | None, cluster: str | None, run_dir: Path) -> None:
    """failover-hostagent: what SSH may run on a database host (forced command), and the `may-start` check of the unit.

    It starts in a tenth of a second because every controller starts one on every host: the configuration is read only when
    no guardian answers and the agent must fence alone.
    """

    def work() -> None:
        if verb == "may-start":
            _may_start(config, cluster)
        elif verb == "serve":
            _serve_agent(config, run_dir)
        else:
            raise Refused(f"no verb {verb!r}; there are: serve, may-start")

    _or_exit(work)


def _may_start(config: Path | None, cluster: str | None) -> None:
    from failover.config import load, node_name
    from failover.guardian.providers import may_start

    settings, me = load(config), node_name()
    mine = settings.cluster(cluster)
    name = mine.name
    if me in mine.names and not mine.member(me).guarded:
        from failover.alone import may_start_alone

        if not may_start_alone(settings, mine, me):
            says = "once its data is a new copy of the primary's: `failover-guardian release` on this host"
            raise Refused(f"{me} was fenced and has no guardian: {says}")
    elif not may_start(settings.run_dir / name, name):
        raise Refused(f"only the guardian starts the database of {name}: use `failoverctl`, or stop the guardian first")


def _serve_agent(config: Path | None, run_dir: Path) -> None:
    from failover.remote.hostagent import SOCKET_NAME, GuardianHands, serve

    def be_ready() -> None:
        """No guardian is here: load what it takes to act alone before it is asked for."""
        from failover import alone
        from failover.config import load, node_name

        with contextlib.suppress(FailoverError):  # said when it is needed
            alone.be_ready(load(config), node_name())

    def unguarded(verb: str, name: str, epoch: int) -> tuple[str, dict[str, object]] | None:
        from failover import alone
        from failover.config import load, node_name

        settings = load(config)
        return alone.unguarded(settings, settings.cluster(name), node_name(), verb, epoch)

    def alone(name: str, closes: int) -> tuple[str, dict[str, object]]:
        from failover.alone import fence_alone
        from failover.config import load, node_name

        settings = load(config)
        return fence_alone(settings, settings.cluster(name), node_name(), closes)

    def marked(folder: Path, name: str) -> bool:
        from failover.guardian.providers import may_start

        return may_start(folder, name)

    def copies(name: str) -> AbstractContextManager[Copying]:
        from failover.bootstrap import copy_of
        from failover.config import load

        settings = load(config)
        return copy_of(settings, settings.cluster(name))

    if not any(run_dir.glob(f"*/{SOCKET_NAME}")):
        threading.Thread(target=be_ready, name="be-ready", daemon=True).start()
    hands = GuardianHands(run_dir, alone, may_start=marked, unguarded=unguarded, copies=copies)
    serve(sys.stdin.buffer, sys.stdout.buffer, hands)


if __name__ == "__main__":
    controller()
