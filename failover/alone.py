"""What is done on a database host where no guardian answers: by the host agent, by a unit's condition, by a person.

Two cases. A guardian belongs here and is dead or hung: only what disables works (`fence`), and break-glass. The configuration
says `guardian: false`: then the same fence holds until a person lifts it with `failover-guardian release`, the database may
be started by anybody until it was fenced, and the VIP is a plain address that is put on and taken off by order.

It names concrete classes, as bootstrap does, and imports few: it is loaded in the moment of need, on a host that may be ill.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Iterator
from pathlib import Path

from failover.engines import engine
from failover.errors import FailoverError, Refused
from failover.guardian.base import Durable, Guarded, Vip
from failover.guardian.fencer import Fencer, Memory
from failover.guardian.gate import KernelGate
from failover.guardian.hung import taken
from failover.guardian.instance import DatabaseInstance
from failover.guardian.nft import Nft
from failover.guardian.state import SlotStateFile, peek
from failover.guardian.vip import LocalVip
from failover.remote.wire import Facts
from failover.settings import ClusterSettings, Settings

TAKE_S = 3.0  # to end a hung guardian and have its state file


def guarded_of(settings: Settings, cluster: ClusterSettings) -> Guarded:
    """The ports behind the gate, and who passes without a ticket: database hosts and controllers (G7)."""
    peers = {m.address for m in cluster.members} | {c.address for c in settings.controllers}
    return Guarded(cluster.guarded_ports, tuple(sorted(peers)))


def vip_of(cluster: ClusterSettings) -> Vip | None:
    """As a /32 (or /128): no second route, and its removal never takes another address of the host with it."""
    if cluster.vip is None:
        return None
    whole = ipaddress.ip_address(cluster.vip.address).max_prefixlen
    return LocalVip(cluster.vip.address, whole, cluster.vip.interface)


def state_path(settings: Settings, cluster: ClusterSettings) -> Path:
    return settings.state_dir / f"{cluster.name}.state"


class _Shut:
    """Without a guardian there is no lease to drop: shutting the gate is all."""

    def __init__(self, gate: KernelGate) -> None:
        self.suspend = gate.shut


def be_ready(settings: Settings, me: str) -> None:
    """Load the drivers that the clusters of this host will need. Touches nothing."""
    for cluster in settings.clusters:
        if me in cluster.names:
            engine(cluster.engine).local(cluster, me, settings.run_dir / cluster.name)


def fence_alone(settings: Settings, cluster: ClusterSettings, me: str, closes: int) -> tuple[str, Facts]:
    """The guardian's own fence, by the same hands, then read back. A guardian that hangs is ended first.

    Raises Refused where a later epoch than `closes` was proved: the order is late (G1).
    """
    path = state_path(settings, cluster)
    _not_over(peek(path), closes)
    with taken(path, TAKE_S) as file:
        memory = Memory(file)
        _not_over(memory.now, closes)
        host = _Host(settings, cluster, me)
        host.gate.install_shut()
        fencer = Fencer(me, host.gate, _Shut(host.gate), host.instance, host.local, memory, host.vip)
        if not cluster.member(me).guarded:
            memory.change(stopped=True, released=False)  # a leave to start from an earlier life ends here
        evidence = fencer.fence(closes, "no guardian answers here")
        return evidence, {**host.facts(memory.now), "gate": "open" if host.gate.read_back().open else "shut"}


def unguarded(settings: Settings, cluster: ClusterSettings, me: str, verb: str, epoch: int) -> tuple[str, Facts] | None:
    """`status`, `vip-drop` or `vip-take` of a member that is configured without a guardian; None where one belongs.

    Where one belongs and does not answer, `status` still says how the kernel's gate stands: a missing one is an open port.
    """
    if cluster.member(me).guarded:
        return gate_alone(settings, cluster) if verb == "status" else None
    remembered, host = peek(state_path(settings, cluster)), _Host(settings, cluster, me)
    says = "no guardian belongs here" + (f"; fenced up to epoch {remembered.closed}" if remembered.stopped else "")
    if verb == "vip-drop":
        says = "VIP removed" if host.vip and host.vip.drop() else "VIP was not here"
    elif verb == "vip-take":
        says = _take_vip(host, remembered, epoch)
    return says, host.facts(remembered)


def gate_alone(settings: Settings, cluster: ClusterSettings) -> tuple[str, Facts]:
    """What the kernel holds of a guardian that does not answer. Looks only."""
    nft = Nft()
    try:
        state = KernelGate(cluster.name, guarded_of(settings, cluster), nft).look()
    finally:
        nft.close()
    word = "none" if not state.table else "open" if state.open else "shut"
    return f"no guardian answers; the gate is {word}", {"guardian": False, "gate": word}


def may_start_alone(settings: Settings, cluster: ClusterSettings, me: str) -> bool:
    """Without a guardian anybody may start the database, until it was fenced: then it is start-disabled."""
    return not cluster.member(me).guarded and not peek(state_path(settings, cluster)).stopped


def release_alone(settings: Settings, cluster: ClusterSettings) -> str:
    """Open the gate for good where no guardian runs: one nft line, and remembered so that the next guardian respects it."""
    KernelGate(cluster.name, guarded_of(settings, cluster), Nft()).release()
    vip = vip_of(cluster)
    if vip is not None and vip.held():
        vip.hold(None, announce=False)
    try:
        with _alone(settings, cluster) as memory:
            memory.change(released=True, stopped=False)
    except FailoverError as error:
        return f"the gate is open; the state file could not remember it: {error}"
    return "the gate is open for good; `failover-guardian arm` brings it back"


def arm_alone(settings: Settings, cluster: ClusterSettings) -> str:
    """Take a release back where no guardian runs; the next guardian makes the gate."""
    with _alone(settings, cluster) as memory:
        memory.change(released=False)
    return "armed: the gate comes back when the guardian starts"


@contextlib.contextmanager
def _alone(settings: Settings, cluster: ClusterSettings) -> Iterator[Memory]:
    """The state file, held exclusively: no guardian runs here meanwhile. Raises Refused if one does."""
    with SlotStateFile(state_path(settings, cluster)) as file:
        yield Memory(file)


def _not_over(remembered: Durable, closes: int) -> None:
    if remembered.wrote > closes:
        raise Refused(f"epoch {remembered.wrote} was proved here; {closes} is over")


def _take_vip(host: _Host, remembered: Durable, epoch: int) -> str:
    """A plain address without an end: nobody is here who could renew it. The fence takes it away, and so does `vip-drop`."""
    if host.vip is None:
        raise Refused("no VIP is configured")
    if remembered.stopped or remembered.closed >= epoch:
        raise Refused(f"epoch {remembered.closed} is closed here")
    if host.instance.processes().main is None:
        raise Refused("no database runs here")
    host.vip.hold(None, announce=True)
    return "VIP taken, without an end: no guardian is here to renew it"


class _Host:
    """This host's kernel and database, as a guardian would hold them."""

    def __init__(self, settings: Settings, cluster: ClusterSettings, me: str) -> None:
        run_dir = settings.run_dir / cluster.name
        closed = peek(state_path(settings, cluster)).closed
        self.local = engine(cluster.engine).local(cluster, me, run_dir)
        self.gate = KernelGate(cluster.name, guarded_of(settings, cluster), Nft(), closed)
        self.instance = DatabaseInstance(
            self.local, cluster.instance, None, run_dir, settings.state_dir, cluster=cluster.name
        )
        self.vip: Vip | None = vip_of(cluster)

    def facts(self, remembered: Durable) -> Facts:
        processes, gate = self.instance.processes(), self.gate.look()
        return {
            "guardian": False, "closed": remembered.closed, "fenced": remembered.stopped,
            "gate": "none" if not gate.table else "open" if gate.open else "shut",
            "processes": len(processes.all), "main_pid": processes.main, "vip": self.vip.held() if self.vip else False,
        }  # fmt: skip
