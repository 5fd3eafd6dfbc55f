"""What the guardian's socket obeys: disabling is easy, except for an order that has been overtaken."""

from __future__ import annotations

import socket
import threading
from types import SimpleNamespace
from typing import cast

import pytest

from failover.core.pledge import PledgeAsk, PledgeWord
from failover.errors import Refused
from failover.guardian.pledge_service import PledgePort, Post
from failover.guardian.service import Guardian, Parts
from tests.support.fake_host import FakeHost


def test_a_late_order_to_fence_does_not_end_a_primary_that_has_proved_a_later_epoch(host: FakeHost) -> None:
    """Whatever its lease says at this moment: one that is between two renewals is no less the primary."""
    host.memory.change(wrote=5)
    parts = SimpleNamespace(board=host.board, memory=host.memory, fencer=host.fencer)
    mark = len(host.events)
    with pytest.raises(Refused, match="epoch 5 was proved here; 3 is over"):
        Guardian(cast(Parts, parts)).handle("fence", {"cluster": "orders", "closes": 3})
    assert host.since(mark) == [] and host.memory.now.closed == 0


class Dying(PledgePort):
    """A pledge port whose thread meets a bug."""

    def serve(self, stop: threading.Event) -> None:
        raise RuntimeError("a bug")


def a_guardian(host: FakeHost, port: PledgePort) -> Guardian:
    """One whose other loops have nothing to do: only the threads matter."""
    idle = SimpleNamespace(
        board=host.board, memory=host.memory, fencer=host.fencer, reporter=host.reporter, warden=host.warden, keeper=host.keeper,
        mirror=host.mirror, ledger=host.ledger, gate=host.gate, sealer=host.sealer, instance=host.instance, engine=host.engine,
        heart=SimpleNamespace(beat=lambda: None), deaths=host.deaths, port=5432, renew_s=0.5, probe_interval_s=0.5, pledges=port,
    )  # fmt: skip
    return Guardian(cast(Parts, idle))


def post(address: str) -> Post:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return Post("main", "db2", address, int(probe.getsockname()[1]), {"db1": "127.0.54.1"}, b"k" * 44)


def test_the_guardian_serves_the_pledge_port_and_closes_it_when_it_stops(standby: FakeHost) -> None:
    at = post("127.0.54.2")
    guardian = a_guardian(standby, PledgePort(at, standby.board.pledges.give, standby.board.hears))
    guardian.start()
    asker = PledgePort(Post("main", "db1", "127.0.54.1", at.port, {"db2": "127.0.54.2"}, at.key), _nobody, standby.board.hears)
    stop = threading.Event()
    assert asker.open()
    asking = threading.Thread(target=asker.serve, args=(stop,))
    asking.start()
    try:
        words = asker.ask(PledgeAsk("main", "db1", 3, "p-1"), ("db2",), 5.0)
        assert [word.given for word in words] == [True]
        guardian.stop()
        for thread in guardian._threads:
            thread.join(5.0)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as again:
            again.bind((at.address, at.port))
    finally:
        guardian.stop()
        stop.set()
        asking.join(5.0)


def test_a_pledge_thread_that_dies_ends_the_guardian(standby: FakeHost, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like every other loop: a guardian must never only look alive."""
    monkeypatch.setattr(threading, "excepthook", lambda args: None)
    guardian = a_guardian(standby, Dying(post("127.0.54.2"), standby.board.pledges.give, standby.board.hears))
    guardian.start()
    for thread in guardian._threads:
        thread.join(5.0)
    assert not guardian.alive and not any(thread.is_alive() for thread in guardian._threads)


def _nobody(ask: PledgeAsk) -> PledgeWord:
    raise AssertionError("nobody asks the asker")
