"""Moving the VIP: off every other host, in parallel and read back, then the new host's guardian takes it.

A host that answers must have dropped it. One that does not answer blocks nothing: it was fenced before, its guardian
keeps the address only as long as it is renewed (valid_lft), and S1 never rests on the VIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from failover.actuators.base import Seen
from failover.actuators.fencing import Caller
from failover.clock import boottime_s
from failover.core.plan import MoveVip
from failover.errors import FailoverError, Refused, Unknown, Unreachable, WrongCredentials
from failover.remote.wire import Facts, Reply
from failover.settings import VipSettings

OLD_HOST_S = 0.3  # a warm call takes milliseconds; meanwhile the clients are without a database
COLD_HOST_S = 0.05  # no open line to it: most likely the host whose death we are answering
DROP_S = 3.0  # nobody waits this long, but the order to drop goes on: a late one disturbs nobody (G1)


class SshVip:
    def __init__(self, agents: Caller, cluster: str, members: Sequence[str], vip: VipSettings) -> None:
        self._agents = agents
        self._cluster = cluster
        self._members = tuple(members)
        self._vip = vip

    def inspect(self, action: MoveVip, budget_s: float) -> Seen:
        """There: `to` says it holds the VIP and no other host that answers does. Never raises for a silent host."""
        replies = self._ask(self._members, "status", {}, budget_s, dict.fromkeys(self._members, budget_s))
        holders = {name: _holds(reply) for name, reply in replies.items()}
        elsewhere = any(held for name, held in holders.items() if name != action.to)
        words = ", ".join(f"{name}: {_status_words(reply)}" for name, reply in replies.items())
        return Seen(holders.get(action.to) is True and not elsewhere, f"VIP {self._vip.address}: {words}")

    def apply(self, action: MoveVip, budget_s: float) -> str:
        """Raises Refused or Unknown if a host that answers did not drop it, and whatever the taking raised."""
        until_s = boottime_s() + budget_s
        dropped = self._drop_elsewhere(action, budget_s)
        fields = {"cluster": self._cluster, "epoch": action.epoch}
        reply = self._agents.call(action.to, "vip-take", fields, max(0.0, until_s - boottime_s()))
        if _holds(reply) is not True:
            raise Unknown(f"{action.to} answered but does not confirm the VIP {self._vip.address}: {reply.evidence}")
        return "; ".join([*dropped, f"{action.to}: holds {self._vip.address} under epoch {action.epoch}"])

    def _drop_elsewhere(self, action: MoveVip, budget_s: float) -> list[str]:
        """What each other host said. They are told to close the epochs *before* ours: a later holder refuses."""
        others = [name for name in self._members if name != action.to]
        waits = {name: min(OLD_HOST_S if self._agents.is_warm(name) else COLD_HOST_S, budget_s / 2) for name in others}
        replies = self._ask(others, "vip-drop", {"closes": action.epoch - 1}, DROP_S, waits)
        return [self._dropped(name, reply) for name, reply in replies.items()]

    def _dropped(self, name: str, reply: Reply | FailoverError) -> str:
        """The line of evidence for one host; raises if it answered and does not have the VIP off."""
        if isinstance(reply, Refused):
            raise Refused(*[f"{name} keeps the VIP: {reason}" for reason in reply.reasons])
        if isinstance(reply, FailoverError):
            return f"{name}: did not answer, its VIP ends by itself ({reply})"
        if _holds(reply) is not False:
            raise Unknown(f"{name} answered but does not confirm that the VIP is off: {reply.evidence}")
        return f"{name}: VIP off"

    def _ask(
        self, members: Sequence[str], verb: str, fields: Facts, deadline_s: float, waits_s: dict[str, float]
    ) -> dict[str, Reply | FailoverError]:
        """All at once, each with `deadline_s`; its answer is waited for `waits_s` long."""
        began_s = boottime_s()
        said = {"cluster": self._cluster, **fields}
        pool = ThreadPoolExecutor(max(1, len(members)), thread_name_prefix="vip")
        asked = {name: pool.submit(self._agents.call, name, verb, said, deadline_s) for name in members}
        pool.shutdown(wait=False)
        return {name: _reply(future, began_s + waits_s[name]) for name, future in asked.items()}


def _reply(asked: Future[Reply], until_s: float) -> Reply | FailoverError:
    try:
        return asked.result(timeout=max(0.0, until_s - boottime_s()))
    except TimeoutError:
        return Unknown("asked, no answer yet")
    except (Refused, Unreachable, Unknown, WrongCredentials) as error:
        return error


def _holds(reply: Reply | FailoverError) -> bool | None:
    """What the host says of its own VIP; None when it does not say."""
    said = None if isinstance(reply, FailoverError) else reply.facts.get("vip")
    return said if isinstance(said, bool) else None


def _status_words(reply: Reply | FailoverError) -> str:
    if isinstance(reply, FailoverError):
        return f"no answer ({reply})"
    return {True: "holds it", False: "does not hold it", None: f"does not say ({reply.evidence})"}[_holds(reply)]
