"""The files an administrator would have written: failover.yml, secrets, SSH keys with pinned host keys."""

from __future__ import annotations

import base64
import secrets as random_source
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from failover.lab.commands import private_file as private_file
from failover.lab.commands import run
from failover.lab.databases import Dialect

NETWORK = "10.77.0.0/24"
VIP = "10.77.0.100"
DNS = "10.77.0.53"
APP = "10.77.0.60"
MEMBER_ADDRESSES = ("10.77.0.11", "10.77.0.12", "10.77.0.13")
CLUSTER = "orders"
ZONE = "example.test"
TSIG_NAME = "failover-orders"
CONFIG = "/etc/failover/failover.yml"
FENCING = "{order: [guardian, ssh]}"


@dataclass(frozen=True)
class Secrets:
    """Where the lab's secrets are: `folder` outside the hosts, /etc/failover/secrets inside. Files are 0600."""

    folder: Path

    def path(self, name: str) -> Path:
        return self.folder / name

    def password(self, name: str) -> str:
        """Of an account ("app", "failover_monitor", ...), "zookeeper", "webhook", "tsig" or "pledge"."""
        return self.path(name).read_text().strip()

    @staticmethod
    def inside(name: str) -> str:
        """The same file's path as a host sees it."""
        return f"/etc/failover/secrets/{name}"


def make_secrets(secrets: Secrets, accounts: Sequence[str]) -> None:
    """Random passwords for the database's accounts, the keys of TSIG and of the pledges, and the controllers' SSH key pair."""
    folder = secrets.folder
    folder.mkdir(mode=0o700, parents=True)
    for name in (*accounts, "zookeeper", "webhook"):
        private_file(folder / name, random_source.token_urlsafe(24) + "\n")
    private_file(folder / "pledge", base64.b64encode(random_source.token_bytes(32)).decode() + "\n")
    private_file(folder / "tsig", base64.b64encode(random_source.token_bytes(32)).decode() + "\n")
    make_key(folder / "ssh_key", "failover controllers")


def make_key(path: Path, comment: str) -> str:
    """A new ed25519 key pair; the public half."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)])
    return path.with_name(path.name + ".pub").read_text().strip()


def known_hosts(keys: Sequence[tuple[str, str]]) -> str:
    """Pinned host keys: (address, public key) each."""
    return "".join(f"{address} {' '.join(key.split()[:2])}\n" for address, key in keys)


def give_to_host(secrets: Secrets, etc: Path, names: Sequence[str]) -> None:
    """Copy the named secrets into one host's /etc/failover/secrets."""
    folder = etc / "secrets"
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in names:
        shutil.copy2(secrets.path(name), folder / name)


def failover_yml(
    dialect: Dialect, members: Sequence[tuple[str, str]], replication: str, profile: str, mode: str,
    agentless: Sequence[str] = (), fencing: str = FENCING,
) -> str:  # fmt: skip
    """The product's configuration for this lab, as a person would write it."""
    hosts = ", ".join(f"{address}:2181" for _, address in members)
    controllers = "\n".join(f"  {name}: {address}" for name, address in members)
    alone = dict.fromkeys(agentless, ", guardian: false")
    listed = "\n".join(f"      {name}: {{address: {address}, priority: {100 - 10 * n}{alone.get(name, '')}}}"
                       for n, (name, address) in enumerate(members))  # fmt: skip
    secret = Secrets.inside
    instance = "\n".join(f"      {key}: {value}" for key, value in dialect.instance().items())
    users = "\n".join(f"      {user.removeprefix('failover_')}: {{name: {user}, password_file: {secret(user)}}}"
                      for user in dialect.accounts if user.startswith("failover_"))  # fmt: skip
    return f"""\
zookeeper:
  hosts: [{hosts}]
  user: failover
  password_file: {secret("zookeeper")}
profile: {profile}
controllers:
{controllers}
ssh:
  user: root
  port: 22
  key_file: {secret("ssh_key")}
  known_hosts_file: /etc/failover/known_hosts
clusters:
  {CLUSTER}:
    engine: {dialect.engine}
    mode: {mode}
    replication: {replication}
    instance:
      port: {dialect.port}
      service: direct
{instance}
    guarded_ports: [{dialect.port}]
    users:
{users}
    members:
{listed}
    vip: {{address: {VIP}/24, interface: eth0}}
    dns:
      server: {DNS}
      zone: {ZONE}
      name: orders
      ttl: 5s
      tsig_name: {TSIG_NAME}
      tsig_key_file: {secret("tsig")}
    notify:
      - {{webhook: "http://{APP}:8080/api/db-failover", secret_file: {secret("webhook")}}}
    pledges: {{port: 7433, key_file: {secret("pledge")}}}
    fencing: {fencing}
"""
