"""What the guardian's kernel hands make of names and addresses, before any kernel is asked."""

from __future__ import annotations

import pytest

from failover.errors import ConfigurationError
from failover.guardian.base import Guarded
from failover.guardian.gate import KernelGate, table_name
from failover.guardian.nft import Nft
from failover.guardian.vip import LocalVip


def test_a_table_name_is_plain_whatever_the_cluster_is_called() -> None:
    assert table_name("gate", "orders") == "failover_gate_orders"
    assert table_name("gate", "a b; flush ruleset\n").replace("_", "").isalnum()


def test_clusters_with_similar_names_never_share_a_table() -> None:
    names = ["a-b", "a_b", "a.b", "ab", "a_2d_b", "A-b"]
    assert len({table_name("gate", name) for name in names}) == len(names)


def test_every_wrong_peer_is_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as refused:
        KernelGate("main", Guarded(ports=[5432], peers=["10.0.0.1", "db1", "10.0.0.0/24"]), Nft())
    assert len(refused.value.faults) == 2


@pytest.mark.parametrize("ports", [[], [0], [65536], [5432, -1]])
def test_a_gate_needs_real_ports(ports: list[int]) -> None:
    with pytest.raises(ConfigurationError, match="ports"):
        KernelGate("main", Guarded(ports=ports, peers=[]), Nft())


@pytest.mark.parametrize(("address", "prefix"), [("db.example", 32), ("10.0.0.9", 33), ("10.0.0.9", 0)])
def test_a_virtual_address_must_be_one(address: str, prefix: int) -> None:
    with pytest.raises(ConfigurationError):
        LocalVip(address, prefix, "eth0")
