"""The service name by RFC 2136: a compare-and-set on the primary server, the epoch included, then a look everywhere.

Beside the address stands `_failover.<name> TXT "epoch=N"`. Both change in one signed UPDATE whose prerequisites are
exactly what was read before, so of two writers only one wins, and an epoch older than the stored one is refused. A
server that does not answer misleads nobody and is only reported; one that answers another address leaves it unfinished.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
import re
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdataset
import dns.rdatatype
import dns.resolver
import dns.tsig
import dns.update

from failover.actuators.base import Seen
from failover.clock import boottime_s
from failover.core.plan import SwitchDns
from failover.errors import ConfigurationError, Conflict, Refused, Unknown, Unreachable, WrongCredentials
from failover.settings import DnsSettings

EPOCH_LABEL = "_failover"

_QUERY_S = 1.0  # one question to one server
_POLL_S = 0.05  # between two looks at a server that still answers the old address
_TRIES = 3  # compare-and-sets, each after a fresh look
_LOST_RACE = {dns.rcode.YXDOMAIN, dns.rcode.YXRRSET, dns.rcode.NXRRSET, dns.rcode.NXDOMAIN}
_NO = {
    dns.rcode.REFUSED: "its update policy does not allow this key to write A, AAAA and TXT there",
    dns.rcode.NOTAUTH: "it is not the primary server of the zone",
    dns.rcode.NOTZONE: "the name is not in the zone",
    dns.rcode.NOTIMP: "it takes no updates",
    dns.rcode.FORMERR: "it does not understand the request",
}
_EPOCH = re.compile(rb"epoch=([0-9]{1,18})")
_ALGORITHMS = ("hmac-sha256", "hmac-sha384", "hmac-sha512")

Server = tuple[str, int]  # address, port
Kind = dns.rdatatype.RdataType
Rdataset = dns.rdataset.Rdataset


@dataclass(frozen=True)
class Stored:
    """What the primary server holds: the address records of both families, and the epoch record."""

    v4: Rdataset | None
    v6: Rdataset | None
    epoch_record: Rdataset | None

    @property
    def addresses(self) -> frozenset[str]:
        return _addresses(self.v4) | _addresses(self.v6)

    @property
    def epoch(self) -> int | None:
        """The epoch written last, or None before the first. Raises Refused for a record that is not ours."""
        if self.epoch_record is None:
            return None
        found = [_EPOCH.fullmatch(b"".join(record.strings)) for record in self.epoch_record]
        if len(found) != 1 or found[0] is None:
            raise Refused(f'the TXT record at {EPOCH_LABEL} is not ours: it must be one "epoch=N"')
        return int(found[0][1])


@dataclass(frozen=True)
class Look:
    """What one authoritative server answers. `right` is None when it gave no answer."""

    right: bool | None
    evidence: str


class Rfc2136Dns:
    """`address_of(name)` says where the authoritative server of that name answers; by default that is looked up."""

    def __init__(self, settings: DnsSettings, address_of: Callable[[str], Server] | None = None) -> None:
        self._dns = settings
        self._primary: Server = (settings.server, settings.port)
        self._address_of = address_of or self._look_up
        self._zone = dns.name.from_text(settings.zone)
        self._owner = _in_zone(settings.name, self._zone)
        self._epoch_owner = dns.name.Name((EPOCH_LABEL, *self._owner.labels))

    def inspect(self, action: SwitchDns, budget_s: float) -> Seen:
        """One look at every authoritative server. Raises Unreachable, WrongCredentials, Refused."""
        until_s, address = boottime_s() + budget_s, _address(action)
        stored = self._read(until_s)
        looks = self._everywhere(address, until_s, patient=False)
        written = stored.addresses == {address} and stored.epoch == action.epoch
        held = f"{self._owner}: {_words(stored.addresses)} under epoch {stored.epoch}"
        return Seen(written and _all_right(looks), "; ".join([held, *(look.evidence for look in looks)]))

    def apply(self, action: SwitchDns, budget_s: float) -> str:
        """Returns the old and new address and what every server answers.

        Raises Refused (a later epoch, or the server's policy), Conflict (lost the race three times), Unknown (no answer
        to the update, or a server answers another address at the end), WrongCredentials (key, clock), Unreachable.
        """
        until_s, address = boottime_s() + budget_s, _address(action)
        written = self._write(address, action.epoch, until_s)
        looks = self._everywhere(address, until_s, patient=True)
        evidence = "; ".join([written, *(look.evidence for look in looks)])
        if not _all_right(looks):
            raise Unknown(f"not every server answers {address} yet: {evidence}")
        return evidence

    # The compare-and-set.

    def _write(self, address: str, epoch: int, until_s: float) -> str:
        for _ in range(_TRIES):
            stored = self._read(until_s)
            if stored.epoch is not None and stored.epoch > epoch:
                raise Refused(f"{self._owner} was already written under epoch {stored.epoch}, later than {epoch}")
            if stored.epoch == epoch and stored.addresses == {address}:
                return f"{self._owner} was already {address} under epoch {epoch}"
            if self._swap(self._update(address, epoch, stored), until_s):
                return f"{self._owner}: {_words(stored.addresses)} -> {address} under epoch {epoch}"
        raise Conflict(f"{self._owner} was changed by somebody else {_TRIES} times while we wrote")

    def _swap(self, update: dns.update.UpdateMessage, until_s: float) -> bool:
        """True if this very write happened; False if the records are no longer what was read."""
        code = self._ask_primary(update, until_s, "the update").rcode()
        if code in _LOST_RACE:
            return False
        if code in _NO:
            raise Refused(f"DNS server {self._dns.server} refused the update of {self._owner}: {_NO[code]}")
        if code != dns.rcode.NOERROR:
            raise Unknown(f"DNS server {self._dns.server} answered the update with {dns.rcode.to_text(code)}")
        return True

    def _update(self, address: str, epoch: int, stored: Stored) -> dns.update.UpdateMessage:
        update = dns.update.UpdateMessage(self._zone)
        held = (
            (self._owner, dns.rdatatype.A, stored.v4),
            (self._owner, dns.rdatatype.AAAA, stored.v6),
            (self._epoch_owner, dns.rdatatype.TXT, stored.epoch_record),
        )
        for owner, kind, records in held:
            if records is None:
                update.absent(owner, kind)
            else:
                update.present(owner, dns.rdataset.from_rdata_list(0, list(records)))  # a prerequisite's TTL is 0
                update.delete(owner, kind)
        update.add(self._owner, self._dns.ttl_s, "AAAA" if ":" in address else "A", address)
        update.add(self._epoch_owner, self._dns.ttl_s, "TXT", f'"epoch={epoch}"')
        return update

    # Reading the primary. Signed, so that a wrong key shows before anything is sent that could change something.

    def _read(self, until_s: float) -> Stored:
        return Stored(
            self._records(self._owner, dns.rdatatype.A, until_s),
            self._records(self._owner, dns.rdatatype.AAAA, until_s),
            self._records(self._epoch_owner, dns.rdatatype.TXT, until_s),
        )

    def _records(self, owner: dns.name.Name, kind: Kind, until_s: float) -> Rdataset | None:
        answer = self._ask_primary(_question(owner, kind), until_s, None)
        code = answer.rcode()
        if code == dns.rcode.NXDOMAIN and answer.flags & dns.flags.AA:
            return None
        if code != dns.rcode.NOERROR or not answer.flags & dns.flags.AA:
            raise Refused(f"DNS server {self._dns.server} is not authoritative for {owner}: {dns.rcode.to_text(code)}")
        if _found(answer, owner, dns.rdatatype.CNAME):
            raise Refused(f"{owner} is a CNAME; the service name must have an address of its own")
        return _found(answer, owner, kind)

    def _ask_primary(self, message: dns.message.Message, until_s: float, effect: str | None) -> dns.message.Message:
        """Signed both ways. `effect` names what may have happened when no answer comes; None for a question."""
        message.use_tsig(read_key(self._dns))
        who = f"DNS server {self._dns.server} port {self._dns.port}"
        try:
            answer = _exchange(message, self._primary, until_s)
        except dns.tsig.PeerBadTime as error:
            raise WrongCredentials(f"{who}: its clock and ours differ by more than 300 s (TSIG BADTIME)") from error
        except (dns.tsig.PeerError, dns.tsig.BadSignature, dns.tsig.BadKey, dns.tsig.BadTime) as error:
            key = f"{self._dns.tsig_name} in {self._dns.tsig_key_file}"
            raise WrongCredentials(f"{who} does not agree with the key {key}: {type(error).__name__}") from error
        except (OSError, EOFError, dns.exception.DNSException) as error:
            if effect is None:
                raise Unreachable(f"{who} gave no answer: {type(error).__name__}") from error
            raise Unknown(f"{who} did not answer {effect}: {type(error).__name__}") from error
        if not answer.had_tsig and answer.rcode() in {dns.rcode.NOERROR, *_LOST_RACE}:
            raise Unknown(f"{who} gave an answer without a signature, which proves nothing")
        return answer

    # Looking everywhere, without a key: what a client is told.

    def _everywhere(self, address: str, until_s: float, patient: bool) -> list[Look]:
        """Every authoritative server at once; a patient look waits, until the time is over, for the right answer."""
        names = self._authoritative(until_s)
        with ThreadPoolExecutor(len(names) + 1, thread_name_prefix="dns") as pool:
            first = pool.submit(self._watch, "primary", lambda _: self._primary, address, until_s, patient)
            others = [pool.submit(self._watch, name, self._address_of, address, until_s, patient) for name in names]
            return [look for look in (first.result(), *(other.result() for other in others)) if look is not None]

    def _authoritative(self, until_s: float) -> list[str]:
        records = self._records(self._zone, dns.rdatatype.NS, until_s)
        return sorted(record.target.to_text(omit_final_dot=True) for record in records) if records else []

    def _watch(self, name: str, address_of: Callable[[str], Server], address: str, until_s: float, patient: bool) -> Look | None:
        """What this server answers. None: it is the primary under its own name, which is looked at already."""
        silent_until_s = min(until_s, boottime_s() + _QUERY_S)
        owner, kind = self._owner, dns.rdatatype.AAAA if ":" in address else dns.rdatatype.A
        while True:
            try:
                server = address_of(name)
                if server == self._primary and name != "primary":
                    return None
                found = _addresses(_found(_exchange(_question(owner, kind), server, until_s), owner, kind))
            except (Unreachable, OSError, EOFError, dns.exception.DNSException) as error:
                if not patient or boottime_s() >= silent_until_s:
                    return Look(None, f"{name}: no answer ({str(error) or type(error).__name__})")
            else:
                if found == {address}:
                    return Look(True, f"{name} answers {address}")
                if not patient or boottime_s() + _POLL_S >= until_s:
                    return Look(False, f"{name} answers {_words(found)}")
            threading.Event().wait(_POLL_S)

    def _look_up(self, name: str) -> Server:
        """The primary knows the servers in its own zone; for others the system's resolver is asked."""
        owner, until_s = dns.name.from_text(name), boottime_s() + _QUERY_S
        for kind in (dns.rdatatype.A, dns.rdatatype.AAAA):
            answer = _exchange(_question(owner, kind), self._primary, until_s)
            for address in sorted(_addresses(_found(answer, owner, kind))):
                return address, self._dns.port if address == self._dns.server else 53
        resolved = dns.resolver.resolve(owner, dns.rdatatype.A, lifetime=_QUERY_S)
        return min(_addresses(resolved.rrset)), 53


def read_key(settings: DnsSettings) -> dns.tsig.Key:
    """The TSIG key of the file: a BIND `key "name" { algorithm ...; secret "..."; };` or the bare base64.

    Raises ConfigurationError, without the secret, if it cannot be read or is another key than the settings name.
    """
    path, name, algorithm = settings.tsig_key_file, settings.tsig_name.rstrip("."), settings.tsig_algorithm.rstrip(".")
    try:
        text = path.read_text(encoding="ascii")
    except (OSError, UnicodeError) as error:
        raise ConfigurationError([f"dns.tsig_key_file: {path} cannot be read: {type(error).__name__}"]) from error
    secret = text.strip()
    if "{" in text:
        block = re.search(rf'key\s+"?{re.escape(name)}\.?"?\s*\{{([^}}]*)\}}', text)
        if block is None:
            raise ConfigurationError([f"dns.tsig_key_file: {path} holds no key named {name}"])
        said = re.search(r'secret\s+"?([A-Za-z0-9+/=]+)"?\s*;', block[1])
        kind = re.search(r'algorithm\s+"?([A-Za-z0-9-]+)\.?"?\s*;', block[1])
        if kind is not None and kind[1].lower() != algorithm.lower():
            raise ConfigurationError([f"dns.tsig_algorithm: {path} says {kind[1]}, the configuration {algorithm}"])
        secret = said[1] if said else ""
    if algorithm.lower() not in _ALGORITHMS:
        raise ConfigurationError([f"dns.tsig_algorithm: {algorithm} is none of {', '.join(_ALGORITHMS)}"])
    try:
        raw = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ConfigurationError([f"dns.tsig_key_file: the secret in {path} is not base64"]) from error
    if not raw:
        raise ConfigurationError([f"dns.tsig_key_file: {path} holds no secret"])
    return dns.tsig.Key(dns.name.from_text(name), raw, dns.name.from_text(algorithm.lower()))


def _in_zone(name: str, zone: dns.name.Name) -> dns.name.Name:
    """`orders` and `orders.example.test`, with or without the last dot, are one name. Raises ConfigurationError."""
    full = dns.name.from_text(name)
    if full.is_subdomain(zone):
        return full
    if name.endswith("."):
        raise ConfigurationError([f"dns.name: {name} is not in the zone {zone.to_text()}"])
    return dns.name.from_text(name, zone)


def _exchange(message: dns.message.Message, server: Server, until_s: float) -> dns.message.Message:
    """One message over a TCP connection of its own. Raises Unreachable if there is none: nothing was sent."""
    left_s = min(until_s - boottime_s(), _QUERY_S) if message.opcode() == 0 else until_s - boottime_s()
    if left_s <= 0:
        raise Unreachable(f"no time left to ask DNS server {server[0]}")
    try:
        sock = socket.create_connection(server, timeout=left_s)
    except OSError as error:
        why = error.strerror or str(error)
        raise Unreachable(f"no connection to DNS server {server[0]} port {server[1]}: {why}") from error
    with sock:
        sock.setblocking(False)
        return dns.query.tcp(message, server[0], timeout=left_s, port=server[1], sock=sock)


def _question(owner: dns.name.Name, kind: Kind) -> dns.message.QueryMessage:
    """Not recursive: what the server itself holds."""
    return dns.message.make_query(owner, kind, flags=0)


def _found(answer: dns.message.Message, owner: dns.name.Name, kind: Kind) -> Rdataset | None:
    return answer.get_rrset(answer.answer, owner, dns.rdataclass.IN, kind)


def _addresses(records: Rdataset | None) -> frozenset[str]:
    return frozenset(str(ipaddress.ip_address(record.address)) for record in records or ())


def _address(action: SwitchDns) -> str:
    try:
        return str(ipaddress.ip_address(action.address))
    except ValueError as error:
        raise Refused(f"{action.address!r} is not an address") from error


def _words(addresses: frozenset[str]) -> str:
    return ", ".join(sorted(addresses)) or "nothing"


def _all_right(looks: Sequence[Look]) -> bool:
    """Somebody answers, and everybody who answers is right."""
    return any(look.right for look in looks) and all(look.right is not False for look in looks)
