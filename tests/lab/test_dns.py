"""The service name at a real BIND: a switch, a stale writer, wrong keys, and servers that lag behind or say nothing."""

from __future__ import annotations

import base64
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dns.update
import pytest

from failover.actuators.dns import Rfc2136Dns, read_key
from failover.clock import boottime_s
from failover.core.plan import SwitchDns
from failover.errors import ConfigurationError, Refused, Unknown, Unreachable, WrongCredentials
from failover.settings import DnsSettings
from tests.support.named_server import KEY_NAME, NAME, NAMED, ZONE, Named
from tests.support.sshd_server import free_port

pytestmark = pytest.mark.skipif(NAMED is None, reason="BIND (named) is not installed")

DB1, DB2 = "192.0.2.1", "192.0.2.2"
EPOCH_AT = f"_failover.{NAME}"


def new_secret() -> str:
    return base64.b64encode(os.urandom(32)).decode()


@pytest.fixture
def named(tmp_path: Path) -> Iterator[Named]:
    server = Named(tmp_path / "ns1", free_port(), new_secret())
    yield server
    server.stop()


def switch(server: Named, address: str, epoch: int, budget_s: float = 3.0, **settings: object) -> str:
    return Rfc2136Dns(server.settings(**settings)).apply(SwitchDns(address, epoch), budget_s)


def test_the_first_write_and_a_switch_are_seen_by_clients(named: Named) -> None:
    assert "nothing -> 192.0.2.1 under epoch 3" in switch(named, DB1, 3)
    assert (named.answers(), named.answers(EPOCH_AT, "TXT")) == ([DB1], ['"epoch=3"'])
    assert "192.0.2.1 -> 192.0.2.2 under epoch 4" in switch(named, DB2, 4)
    assert (named.answers(), named.answers(EPOCH_AT, "TXT")) == ([DB2], ['"epoch=4"'])


def test_twice_is_once(named: Named) -> None:
    switch(named, DB1, 3)
    assert "was already 192.0.2.1 under epoch 3" in switch(named, DB1, 3)


def test_a_writer_with_an_older_epoch_is_refused(named: Named) -> None:
    switch(named, DB2, 4)
    with pytest.raises(Refused, match="already written under epoch 4, later than 3"):
        switch(named, DB1, 3)
    assert named.answers() == [DB2]


def test_of_two_writers_at_once_the_later_epoch_stays(named: Named) -> None:
    """The older one may come first or be refused, never last."""
    switch(named, "192.0.2.9", 1)

    def write(address: str, epoch: int) -> None:
        try:
            switch(named, address, epoch)
        except (Refused, Unknown):
            pass  # Unknown: it wrote first and then saw the other's address; both are honest outcomes

    for round in range(10):
        old, new = 2 * round + 2, 2 * round + 3
        threads = [threading.Thread(target=write, args=pair) for pair in ((DB1, old), (DB2, new))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=10)
        assert (named.answers(), named.answers(EPOCH_AT, "TXT")) == ([DB2], [f'"epoch={new}"'])


def test_a_write_that_slipped_in_after_the_look_is_not_overwritten(named: Named) -> None:
    """The prerequisite itself, without its second chance: what was read is no longer there."""

    @dataclass(frozen=True)
    class Slipped:
        actuator: Rfc2136Dns

        def lose(self) -> bool:
            until_s = boottime_s() + 3
            stale = self.actuator._read(until_s)
            switch(named, DB2, 9)
            return self.actuator._swap(self.actuator._update(DB1, 8, stale), until_s)

    switch(named, DB1, 3)
    assert Slipped(Rfc2136Dns(named.settings())).lose() is False
    assert named.answers() == [DB2]


def test_inspect_looks_and_changes_nothing(named: Named) -> None:
    dns = Rfc2136Dns(named.settings())
    assert not dns.inspect(SwitchDns(DB1, 3), 3).there
    switch(named, DB1, 3)
    assert dns.inspect(SwitchDns(DB1, 3), 3).there
    seen = dns.inspect(SwitchDns(DB2, 4), 3)
    assert not seen.there and "192.0.2.1 under epoch 3" in seen.evidence
    assert named.answers() == [DB1]


def test_a_wrong_key_is_wrong_credentials_and_one_line_without_the_secret(named: Named, tmp_path: Path) -> None:
    secret = new_secret()
    wrong = tmp_path / "wrong.key"
    wrong.write_text(secret + "\n")
    with pytest.raises(WrongCredentials) as caught:
        switch(named, DB1, 3, tsig_key_file=wrong)
    assert KEY_NAME in str(caught.value) and secret not in str(caught.value) and "\n" not in str(caught.value)
    assert named.answers() == []


def test_a_key_name_the_server_does_not_know_is_wrong_credentials(named: Named, tmp_path: Path) -> None:
    bare = tmp_path / "bare.key"
    bare.write_text(new_secret())
    with pytest.raises(WrongCredentials, match="some-other-key"):
        switch(named, DB1, 3, tsig_name="some-other-key", tsig_key_file=bare)


def test_a_name_outside_the_servers_policy_is_refused_in_words(named: Named) -> None:
    with pytest.raises(Refused, match="its update policy does not allow"):
        switch(named, DB1, 3, name=f"billing.{ZONE}")


def test_a_zone_the_server_does_not_hold_is_refused_in_words(named: Named) -> None:
    with pytest.raises(Refused, match="not authoritative for"):
        switch(named, DB1, 3, zone="other.test", name="orders.other.test")


def test_somebody_elses_record_at_our_place_is_not_overwritten(named: Named) -> None:
    foreign = dns.update.UpdateMessage(ZONE)
    foreign.use_tsig(read_key(named.settings()))
    foreign.add(f"{EPOCH_AT}.", 5, "TXT", '"hands off"')
    assert dns.query.tcp(foreign, named.address, timeout=3, port=named.port).rcode() == 0
    with pytest.raises(Refused, match="is not ours"):
        switch(named, DB1, 3)


def test_an_ipv6_address_takes_the_place_of_an_ipv4_one(named: Named) -> None:
    switch(named, DB1, 3)
    switch(named, "2001:db8::2", 4)
    assert (named.answers(kind="A"), named.answers(kind="AAAA")) == ([], ["2001:db8::2"])


def test_no_server_means_nothing_happened(named: Named) -> None:
    named.stop()
    with pytest.raises(Unreachable, match="no connection to DNS server"):
        switch(named, DB1, 3)


def test_a_frozen_server_is_answered_for_within_the_budget(named: Named) -> None:
    named.freeze()
    began_s = boottime_s()
    with pytest.raises(Unreachable, match="gave no answer"):
        switch(named, DB1, 3, budget_s=0.5)
    assert boottime_s() - began_s < 0.5 + 2.0  # a busy machine is late
    named.thaw()


def test_an_update_without_an_answer_is_unknown(named: Named) -> None:
    dns = Rfc2136Dns(named.settings())
    update = dns._update(DB1, 3, dns._read(boottime_s() + 3))
    named.freeze()
    with pytest.raises(Unknown, match="did not answer the update"):
        dns._swap(update, boottime_s() + 0.3)
    named.thaw()


# A second authoritative server.


@dataclass
class Pair:
    first: Named
    second: Named

    def dns(self) -> Rfc2136Dns:
        where = {
            f"ns1.{ZONE}": (self.first.address, self.first.port),
            "ns2.test": (self.second.address, self.second.port),
        }
        return Rfc2136Dns(self.first.settings(), where.__getitem__)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    secret, port = new_secret(), free_port()
    first = Named(tmp_path / "ns1", free_port(), secret, also_name_servers=["ns2.test"], notify_port=port)
    try:
        second = Named(tmp_path / "ns2", port, secret, primary=first)
    except BaseException:
        first.stop()
        raise
    yield Pair(first, second)
    second.stop()
    first.stop()


def test_it_is_done_when_every_server_answers_the_new_address(pair: Pair) -> None:
    evidence = pair.dns().apply(SwitchDns(DB1, 3), 10)
    assert "primary answers 192.0.2.1" in evidence and "ns2.test answers 192.0.2.1" in evidence
    assert pair.second.answers() == [DB1]


def test_a_server_that_still_answers_the_old_address_keeps_it_unfinished(tmp_path: Path) -> None:
    """The second one is the primary of a zone of its own: nobody ever tells it."""
    first = Named(tmp_path / "ns1", free_port(), new_secret(), also_name_servers=["ns2.test"])
    stubborn = Named(tmp_path / "ns2", free_port(), new_secret())
    try:
        switch(stubborn, "192.0.2.66", 1)
        pair = Pair(first, stubborn)
        with pytest.raises(Unknown, match=r"not every server .* ns2\.test answers 192\.0\.2\.66"):
            pair.dns().apply(SwitchDns(DB1, 3), 0.6)
        assert not pair.dns().inspect(SwitchDns(DB1, 3), 2).there
    finally:
        stubborn.stop()
        first.stop()


def test_a_dead_second_server_is_reported_and_blocks_nothing(pair: Pair) -> None:
    pair.second.stop()
    assert "ns2.test: no answer" in pair.dns().apply(SwitchDns(DB1, 3), 3)


# The key file.


def key_settings(path: Path, **changes: object) -> DnsSettings:
    fields: dict[str, object] = {"tsig_name": "k1", "tsig_algorithm": "hmac-sha256", **changes}
    return DnsSettings("127.0.0.1", 53, ZONE, NAME, 5, tsig_key_file=path, **fields)  # type: ignore[arg-type]


BLOCK = 'key "k0" { algorithm hmac-sha512; secret "AAAA"; };\nkey "k1" {\n\talgorithm hmac-sha256;\n\tsecret "%s";\n};\n'


def test_a_bind_key_block_and_bare_base64_are_the_same_key(tmp_path: Path) -> None:
    secret = new_secret()
    (tmp_path / "block").write_text(BLOCK % secret)
    (tmp_path / "bare").write_text(f"{secret}\n")
    keys = [read_key(key_settings(tmp_path / name)) for name in ("block", "bare")]
    assert keys[0] == keys[1] and keys[0].secret == base64.b64decode(secret)


@pytest.mark.parametrize(
    ("text", "changes", "fault"),
    [
        (BLOCK % "AAAA", {"tsig_name": "k9"}, "holds no key named k9"),
        (BLOCK % "AAAA", {"tsig_algorithm": "hmac-sha512"}, "says hmac-sha256, the configuration hmac-sha512"),
        ("AAAA", {"tsig_algorithm": "hmac-md5"}, "hmac-md5 is none of"),
        ("not base64!", {}, "is not base64"),
        ("", {}, "holds no secret"),
    ],
)
def test_a_key_file_that_does_not_fit_says_why(tmp_path: Path, text: str, changes: dict[str, object], fault: str) -> None:
    path = tmp_path / "key"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=fault):
        read_key(key_settings(path, **changes))
    with pytest.raises(ConfigurationError, match="cannot be read"):
        read_key(key_settings(tmp_path / "missing"))


@pytest.mark.parametrize("name", ["orders", NAME, f"{NAME}."])
def test_a_name_may_be_short_or_full(name: str, tmp_path: Path) -> None:
    dns = Rfc2136Dns(DnsSettings("127.0.0.1", 53, ZONE, name, 5, "k1", tmp_path, "hmac-sha256"))
    assert dns._owner.to_text() == f"{NAME}."


def test_a_name_outside_its_zone_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="not in the zone"):
        Rfc2136Dns(DnsSettings("127.0.0.1", 53, ZONE, "orders.other.test.", 5, "k1", tmp_path, "hmac-sha256"))
