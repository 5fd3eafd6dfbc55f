"""What the guardian's socket obeys: disabling is easy, except for an order that has been overtaken."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest

from failover.errors import Refused
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
