"""A file with faults is refused before anything runs: by `failoverctl config check` and, in the same words, by both daemons."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from failover.lab import configuration as conf
from failover.lab.commands import private_file, run
from failover.lab.databases import dialect
from failover.lab.services import entry_point

pytestmark = pytest.mark.timeout(60)
MEMBERS = tuple(zip(("db1", "db2", "db3"), conf.MEMBER_ADDRESSES, strict=True))
DIALECT = dialect("postgresql")
SECRETS = (*DIALECT.accounts, "zookeeper", "webhook", "tsig", "ssh_key", "pledge")
FAULT = re.compile(r"(?P<file>/\S+):(?P<line>\d+):(?P<col>\d+): (?P<path>[\w.\[\]-]+): (?P<says>.+)")
DAEMONS = (("failoverd",), ("failover-guardian", "run"))

# One mistake each: what was written, what stands there instead, the path that is blamed, and words of the sentence.
MISTAKES = {
    "an unknown key": ("profile: lan", "profil: lan", "profil", "unknown key; did you mean 'profile'?"),
    "an unknown key deep inside": (
        "interface: eth0", "interfaces: eth0", "clusters.orders.vip.interfaces", "unknown key; did you mean 'interface'?"
    ),
    "a missing unit": ("ttl: 5s", "ttl: 5", "clusters.orders.dns.ttl", "unit"),
    "one address for two members": (
        "db2: {address: 10.77.0.12", "db2: {address: 10.77.0.11", "clusters.orders.members.db2.address",
        "10.77.0.11 is already the address of db1",
    ),
    "a VIP that is a host's own": (
        "address: 10.77.0.100/24", "address: 10.77.0.12/24", "clusters.orders.vip.address", "is the address of member db2 itself"
    ),
    "no quorum possible": (
        "  db3: 10.77.0.13\n", "", "controllers", "2 controllers: no quorum possible after the loss of either"
    ),
    "a lease too short": (
        "profile: lan\n", "profile: lan\ntimings: {lease: 1.9s}\n", "timings.lease",
        "T2 is violated: R 0.5s + k 2 x Q 0.5s + F 0.5s = 2s > L 1.9s",
    ),
    "the profile fast without pledges": (
        "profile: lan", "profile: fast", "profile", "T3 is violated: E 1.67s (a ZooKeeper election) > L 1.2s"
    ),
}  # fmt: skip


def make(folder: Path, *mistakes: str) -> Path:
    """A whole configuration as the lab's hosts have it, with these mistakes in it."""
    secrets = folder / "secrets"
    secrets.mkdir()
    for name in SECRETS:
        private_file(secrets / name, "c2VjcmV0IHRleHQgdGhhdCBpcyBsb25nIGVub3VnaCBmb3IgYSBrZXk=\n")
    (folder / "known_hosts").write_text("10.77.0.11 ssh-ed25519 AAAA\n")
    text = conf.failover_yml(DIALECT, MEMBERS, "strict", "lan", "automatic").replace("/etc/failover/", f"{folder}/")
    text += f"state_dir: {folder}/state\nrun_dir: {folder}/run\n"
    if "the profile fast without pledges" in mistakes:
        text = re.sub(r" +pledges: .*\n", "", text)
    for mistake in mistakes:
        old, new, _, _ = MISTAKES[mistake]
        assert old in text, old
        text = text.replace(old, new, 1)
    file = folder / "failover.yml"
    file.write_text(text)
    return file


def told(command: tuple[str, ...], file: Path) -> subprocess.CompletedProcess[str]:
    """Run in a network of its own: a daemon that accepted the file must not touch this machine's."""
    argv = ["unshare", "--net", entry_point(command[0]), *command[1:]]
    return run(argv, 15.0, check=False, env={**os.environ, "FAILOVER_CONFIG": str(file), "FAILOVER_NODE": "db1"})


def checked(file: Path) -> subprocess.CompletedProcess[str]:
    return told(("failoverctl", "config", "check", str(file)), file)


def faults_in(done: subprocess.CompletedProcess[str], file: Path) -> list[re.Match[str]]:
    """Every line on standard error but the closing hint must be one fault of this file."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith("next: ")]
    found = [FAULT.fullmatch(line) for line in lines]
    assert all(found), f"not `file:line:col: path: message`: {lines}"
    assert {one["file"] for one in found if one} <= {str(file)}
    return [one for one in found if one]


def test_a_sound_file_is_accepted_with_the_longest_outage_that_it_permits(tmp_path: Path) -> None:
    done = checked(make(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "no fault" in done.stdout and "host crashed or cut off" in done.stdout


@pytest.mark.parametrize("mistake", MISTAKES)
def test_one_mistake_is_one_line_that_leads_to_it(tmp_path: Path, mistake: str) -> None:
    file = make(tmp_path, mistake)
    _, written, path, words = MISTAKES[mistake]
    done = checked(file)
    assert done.returncode == 3
    assert done.stdout == ""
    (fault,) = [one for one in faults_in(done, file) if one["path"] == path]
    assert words in fault["says"]
    if written and path != "controllers":  # that one is blamed on the whole section
        blamed = file.read_text().splitlines()[int(fault["line"]) - 1]
        assert written.split("\n")[-2 if "\n" in written else 0].strip() in blamed


def test_everything_that_is_wrong_is_said_in_one_pass_and_in_the_files_order(tmp_path: Path) -> None:
    mistakes = [
        "an unknown key deep inside", "a missing unit", "one address for two members", "no quorum possible",
        "the profile fast without pledges",
    ]  # fmt: skip
    file = make(tmp_path, *mistakes)
    done = checked(file)
    assert done.returncode == 3
    found = faults_in(done, file)
    for mistake in mistakes:
        _, _, path, words = MISTAKES[mistake]
        assert [one for one in found if one["path"] == path and words in one["says"]], (mistake, done.stderr)
    lines = [int(one["line"]) for one in found]
    assert lines == sorted(lines)


@pytest.mark.parametrize("daemon", DAEMONS, ids=lambda command: command[0])
def test_a_daemon_refuses_the_same_file_with_the_same_lines(tmp_path: Path, daemon: tuple[str, ...]) -> None:
    file = make(tmp_path, "an unknown key deep inside", "a missing unit", "no quorum possible", "a lease too short")
    expected = [one.group() for one in faults_in(checked(file), file)]
    refused = told(daemon, file)
    assert refused.returncode == 3
    assert [one.group() for one in faults_in(refused, file)] == expected
    assert len(expected) >= 4
    assert not (tmp_path / "state").exists() and not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", [0o644, None], ids=["open to everybody", "missing"])
@pytest.mark.parametrize("name", ["zookeeper", "failover_operator", "tsig", "ssh_key"])
def test_an_unusable_secret_is_found_by_the_check_and_by_the_daemons(tmp_path: Path, name: str, mode: int | None) -> None:
    """Found before the night on which it is needed."""
    file = make(tmp_path)
    secret = tmp_path / "secrets" / name
    if mode is None:
        secret.unlink()
    else:
        secret.chmod(mode)
    done = checked(file)
    assert done.returncode == 3, done.stdout
    (fault,) = faults_in(done, file)
    assert str(secret) in fault["says"]
    assert ("cannot be read" if mode is None else "chmod 600") in fault["says"]
    refused = told(("failoverd",), file)
    assert refused.returncode == 3
    assert [one.group() for one in faults_in(refused, file)] == [fault.group()]


def test_a_file_that_is_not_there_is_one_line_too(tmp_path: Path) -> None:
    missing = tmp_path / "failover.yml"
    for command in (("failoverctl", "config", "check", str(missing)), *DAEMONS):
        done = told(command, missing)
        assert done.returncode == 3
        assert done.stderr.splitlines()[0] == f"{missing}: cannot be read: No such file or directory"
