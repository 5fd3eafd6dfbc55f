"""The shape of the file: which keys there are, of what type, with which unit. One field of one class per setting.

Whatever one value alone can show to be wrong is refused here; what takes two values is in `config_rules.py`. Values
that could be a secret in the wrong place (paths, webhooks) are never repeated in a message.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

_DURATION = re.compile(r"(\d+(?:\.\d+)?) ?(ms|s|min|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
_SIZE = re.compile(r"(\d+) ?(B|kB|MB|GB|TB)")
_BYTES = {"B": 1, "kB": 1024, "MB": 1024**2, "GB": 1024**3, "TB": 1024**4}  # powers of 1024, as PostgreSQL counts
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")
_ZNODE = re.compile(r"(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
_LABEL = r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_DOMAIN = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*\.?")
_ON_CLEAN_STOP = re.compile(r"wait (.+)")
_UNIT = re.compile(r"systemd:([A-Za-z0-9:_.@\\-]{1,200})")
T = TypeVar("T")


def duration(value: object) -> float:
    """Seconds from "5s", "500ms", "1.5s", "5min", "2h". Raises ValueError with the unit to write."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'{value} has no unit: write "{value}s" if seconds are meant (ms, s, min, h, d)')
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if not found:
        hint = ' ("m" could be minutes or milli: write min or ms)' if str(value).endswith("m") else ""
        raise ValueError(f'not a duration: write a number and a unit, such as "5s" (ms, s, min, h, d){hint}')
    return round(float(found[1]) * _SECONDS[found[2]], 6)


def size(value: object) -> int:
    """Bytes from "16MB" (1 MB = 1024 kB). Raises ValueError with the unit to write."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        raise ValueError(f'{value} has no unit: write "{value}MB" if megabytes are meant (B, kB, MB, GB, TB)')
    found = _SIZE.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('not a size: write a whole number and a unit, such as "16MB" (B, kB, MB, GB, TB)')
    return int(found[1]) * _BYTES[found[2]]


def _positive(value: float) -> float:
    if value <= 0:
        raise ValueError("must be more than nothing")
    return value


def _whole_seconds(value: float) -> int:
    if value < 1 or value != int(value):
        raise ValueError("must be whole seconds, at least 1s")
    return int(value)


def name(value: str) -> str:
    """A name of a cluster, member or controller. Raises ValueError."""
    if not _NAME.fullmatch(value):
        raise ValueError(f"{value!r} is no name: letters, digits and hyphens, at most 63, a letter or digit first")
    return value


def address(value: object) -> str:
    """An IP address in its normal form. Raises ValueError."""
    try:
        found = ipaddress.ip_address(value) if isinstance(value, str) else None
    except ValueError:
        found = None
    if found is None:
        raise ValueError(f"{value!r} is no IP address (a host name would need DNS at the moment it may be down)")
    if found.is_unspecified or found.is_multicast:
        raise ValueError(f"{value!r} cannot be the address of a host")
    return str(found)


def _interface_address(value: object) -> str:
    text = str(value)
    if "/" not in text:
        raise ValueError(f'needs the length of the subnet, such as "{text}/24"')
    host, _, prefix = text.partition("/")
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        raise ValueError(f'{text!r} is no address with a subnet length, such as "10.0.0.100/24"') from None
    if not prefix.isdigit():
        raise ValueError(f"write the subnet of {text!r} as a length, such as /24")
    return f"{address(host)}/{prefix}"


def endpoint(value: object) -> str:
    """ "address:port" of a ZooKeeper server; port 2181 if none is written. Raises ValueError."""
    text = str(value)
    bare, _, port = text.rpartition(":")
    if text.count(":") > 1 and not text.startswith("["):
        raise ValueError(f"write an IPv6 address in brackets: [{text}]:2181")
    if text.count(":") == 0 or text.endswith("]"):
        bare, port = text, "2181"
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise ValueError(f"{port!r} is no port")
    host = address(bare.removeprefix("[").removesuffix("]"))
    return f"[{host}]:{int(port)}" if ":" in host else f"{host}:{int(port)}"


def _path(value: object) -> Path:
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value or ".." in value.split("/"):
        raise ValueError("must be an absolute path, without ..")
    return Path(value)


def _argument(value: str) -> str:
    """One word of an argv. It may hold a secret, so it is not repeated."""
    if not value or "\0" in value:
        raise ValueError("must be a word of the command line: not empty, without a NUL byte")
    return value


def _url(value: str) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in ("https", "http") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ValueError("must be an http:// or https:// address")
    return value


def _matching(pattern: re.Pattern[str], wanted: str) -> AfterValidator:
    def check(value: str) -> str:
        if not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {wanted}")
        return value

    return AfterValidator(check)


def _not_yet(*later: str) -> BeforeValidator:
    """Names what is planned but cannot be chosen today, so that it is not taken for a typing error."""

    def check(value: object) -> object:
        if value in later:
            raise ValueError(f"{value} is not built yet")
        return value

    return BeforeValidator(check)


def clean_stop(value: object) -> float:
    """Seconds to wait after a clean stop that nobody asked for. Raises ValueError."""
    if value == "failover":
        return 0.0
    found = _ON_CLEAN_STOP.fullmatch(value) if isinstance(value, str) else None
    if not found:
        raise ValueError('write "wait 10s" or "failover"')
    return duration(found[1])


def service(value: object) -> str:
    """`direct`, or `systemd:UNIT`. Raises ValueError."""
    if value != "direct" and not (isinstance(value, str) and _UNIT.fullmatch(value)):
        raise ValueError('write "direct" or "systemd:" and the unit, such as systemd:postgresql@15-main')
    return str(value)


Duration = Annotated[float, BeforeValidator(duration), AfterValidator(_positive)]
WholeSeconds = Annotated[int, BeforeValidator(lambda value: _whole_seconds(duration(value)))]
Size = Annotated[int, BeforeValidator(size)]
Name = Annotated[str, AfterValidator(name)]
Address = Annotated[str, BeforeValidator(address)]
Endpoint = Annotated[str, BeforeValidator(endpoint)]
FilePath = Annotated[Path, BeforeValidator(_path)]
Port = Annotated[int, Field(ge=1, le=65535)]
Word = Annotated[str, Field(min_length=1, max_length=255)]
Domain = Annotated[str, _matching(_DOMAIN, "a DNS name"), AfterValidator(lambda value: value.lower().removesuffix("."))]


class Section(BaseModel):
    """A mapping in the file: every key known, every value of its exact type, nothing changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ZooKeeper(Section):
    hosts: Annotated[list[Endpoint], Field(min_length=1)]
    prefix: Annotated[str, _matching(_ZNODE, "a znode path such as /failover")] = "/failover"
    user: Word | None = None
    password_file: FilePath | None = None


class Ssh(Section):
    user: Word
    port: Port = 22
    key_file: FilePath
    known_hosts_file: FilePath


class TimingOverrides(Section):
    """Names and units as people write them; `timings_field` says which field of `Timings` each one replaces."""

    lease: Duration | None = None
    renew: Duration | None = None
    attempt: Duration | None = None
    attempts: Annotated[int, Field(ge=1, le=10)] | None = None
    soft_fence: Duration | None = None
    margin: Duration | None = None
    clock_rate_error: Annotated[float, Field(gt=0, le=0.1)] | None = None
    session: Duration | None = None
    zookeeper_tick: Duration | None = None
    zookeeper_sync_limit: Annotated[int, Field(ge=2, le=20)] | None = None
    probe_interval: Duration | None = None
    probe_bound: Duration | None = None
    probes_lost: Annotated[int, Field(ge=1, le=100)] | None = None
    coordinator_outage: Duration | None = None
    cooldown: Duration | None = None


def timings_field(key: str) -> str:
    """`lease` -> `lease_s`; counts and ratios keep their name."""
    counts = ("attempts", "clock_rate_error", "zookeeper_sync_limit", "probes_lost")
    return key if key in counts else f"{key}_s"


class AccountEntry(Section):
    name: Word
    password_file: FilePath | None = None


class Users(Section):
    monitor: AccountEntry
    operator: AccountEntry
    replication: AccountEntry
    rewind: AccountEntry | None = None


class Instance(Section):
    """Defaults are PostgreSQL's; `INSTANCE_DEFAULTS` has those of the other engines."""

    port: Port = 5432
    data_dir: FilePath
    bin_dir: FilePath
    service: Annotated[str, BeforeValidator(service)]
    socket_dir: FilePath = Path("/var/run/postgresql")
    os_user: Word = "postgres"
    database: Word = "postgres"
    config_file: FilePath | None = None


_MYSQL_FAMILY: Mapping[str, int | str] = {"port": 3306, "socket_dir": "/run/mysqld", "os_user": "mysql", "database": "failover"}
INSTANCE_DEFAULTS: Mapping[str, Mapping[str, int | str]] = {"mysql": _MYSQL_FAMILY, "mariadb": _MYSQL_FAMILY}


class MemberEntry(Section):
    address: Address
    priority: Annotated[int, Field(ge=0, le=1000)] = 0
    failover: Literal["automatic", "manual", "never"] = "automatic"
    guardian: bool = True


class Vip(Section):
    address: Annotated[str, BeforeValidator(_interface_address)]
    interface: Annotated[str, _matching(re.compile(r"[^\s/]{1,15}"), "a network interface")]


class Dns(Section):
    server: Address
    port: Port = 53
    zone: Domain
    name: Domain
    ttl: WholeSeconds = 5
    tsig_name: Domain
    tsig_key_file: FilePath
    tsig_algorithm: Literal["hmac-sha256", "hmac-sha384", "hmac-sha512"] = "hmac-sha256"


class Pledges(Section):
    port: Port = 7433
    key_file: FilePath


class Webhook(Section):
    webhook: Annotated[str, AfterValidator(_url)]
    secret_file: FilePath | None = None


class Fencing(Section):
    order: Annotated[list[Literal["guardian", "ssh", "command"]], Field(min_length=1)] = ["guardian", "ssh"]
    command: list[Annotated[str, AfterValidator(_argument)]] = []


class Cluster(Section):
    engine: Literal["postgresql", "mysql", "mariadb"]
    mode: Literal["observe", "automatic"] = "observe"
    replication: Literal["async", "sync", "strict"]
    on_process_death: Annotated[Literal["failover"], _not_yet("restart")] = "failover"
    on_clean_stop: Annotated[float, BeforeValidator(clean_stop)] = 10.0
    crash_recovery_max: Duration = 300.0
    instance: Instance
    guarded_ports: Annotated[list[Port], Field(min_length=1)]
    users: Users
    members: Annotated[dict[Name, MemberEntry], Field(min_length=1)]
    vip: Vip | None = None
    dns: Dns | None = None
    notify: list[Webhook] = []
    pledges: Pledges | None = None
    fencing: Fencing = Fencing()
    standby_reads: bool = True
    switchover_deadline: Duration = 5.0
    lag_max: Size = 16 * 1024**2
    rejoin: Literal["automatic", "manual"] = "automatic"


class File(Section):
    """The whole file."""

    zookeeper: ZooKeeper
    controllers: Annotated[dict[Name, Address], Field(min_length=1)]
    ssh: Ssh
    profile: Literal["default", "lan", "fast", "wan"] = "default"
    timings: TimingOverrides = TimingOverrides()
    state_dir: FilePath = Path("/var/lib/failover")
    run_dir: FilePath = Path("/run/failover")
    clusters: Annotated[dict[Name, Cluster], Field(min_length=1)]
