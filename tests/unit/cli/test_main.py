"""The command as a whole: quick, kind about typos, and one code for every way out."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from failover import errors
from failover.cli import main as module
from failover.cli import options, reading
from failover.cli.main import COMMANDS, main
from failover.cli.options import EXIT_CODES
from tests.unit.cli.conftest import World


def test_help_lists_every_command_and_every_exit_code() -> None:
    page = CliRunner().invoke(main, ["--help"]).stdout
    assert all(f"  {name} " in page for name in COMMANDS)
    assert all(words in page for words in EXIT_CODES.values())


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_explains_itself(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0 and "Usage:" in done.stdout


def test_help_imports_no_driver() -> None:
    """That is what keeps it quick; a time limit here would only test the machine."""
    code = (
        "import sys\nfrom failover.cli.main import main\n"
        "try:\n    main(['switchover', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'kazoo', 'paramiko', 'psycopg2', 'dns', 'pydantic', 'structlog'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["statsu"], "`failoverctl status`"),
        (["swithcover"], "`failoverctl switchover`"),
        (["maintenance", "of"], "maintenance off`"),
    ],
)
def test_a_typo_gets_a_suggestion(typed: list[str], meant: str) -> None:
    done = CliRunner().invoke(main, typed, prog_name="failoverctl")
    assert done.exit_code == options.USAGE and meant in done.stderr


def test_something_quite_different_gets_the_list() -> None:
    done = CliRunner().invoke(main, ["xyzzy"])
    assert done.exit_code == options.USAGE and "there are: status, plan" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.Refused("one", "two"), options.REFUSED),
        (errors.ConfigurationError(["f:1:1: x: bad"]), options.CONFIGURATION),
        (errors.WrongCredentials("who are you"), options.CONFIGURATION),
        (errors.Unreachable("away"), options.NOBODY),
        (errors.Unknown("sent"), options.LATE),
        (errors.Conflict("moved"), options.CONFLICT),
        (errors.Corrupt("nonsense"), options.HUMAN),
        (ValueError("ours"), options.BUG),
        (KeyboardInterrupt(), options.INTERRUPTED),
    ],
)
def test_every_way_out_has_its_code(world: World, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def broken(scope: object) -> object:
        raise error

    monkeypatch.setattr(reading, "opened", broken)
    done = world.run("status")
    assert done.exit_code == code
    assert done.stdout == ""
    assert ("Traceback" in done.stderr) == (code == options.BUG)


def test_a_missing_file_is_configuration(tmp_path: Path) -> None:
    done = CliRunner().invoke(main, ["status", "--config", str(tmp_path / "none.yml")])
    assert done.exit_code == options.CONFIGURATION and "cannot be read" in done.stderr


def test_options_may_stand_before_or_after_the_command(world: World) -> None:
    after = CliRunner().invoke(main, ["config", "check", "--config", str(world.file)])
    before = CliRunner().invoke(main, ["--config", str(world.file), "config", "check"])
    assert after.exit_code == before.exit_code == 0
    assert after.stdout == before.stdout


def test_an_unknown_cluster_names_those_there_are(world: World) -> None:
    done = world.run("status", "-C", "billing")
    assert done.exit_code == options.CONFIGURATION and "orders" in done.stderr


def test_no_secret_is_repeated(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    from failover.logs import hide

    hide("hunter2-hunter2")

    def broken(scope: object) -> object:
        raise errors.Unreachable("refused hunter2-hunter2")

    monkeypatch.setattr(reading, "opened", broken)
    assert "hunter2" not in world.run("status").stderr


def test_every_code_is_documented() -> None:
    codes = {value for name, value in vars(options).items() if name.isupper() and isinstance(value, int)}
    assert codes == set(EXIT_CODES)
    assert module.main is main


def test_a_wrong_zookeeper_user_is_configuration_not_absence(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The servers answer, but not to us: the mirror never gets ready, and the reason is asked for."""
    client = world.ensemble.client("failoverctl")

    def denied(path: str, deadline_s: float) -> None:
        raise errors.WrongCredentials(f"{path} is not readable for this user")

    def never_ready(*_: object) -> object:
        mirror = world.ensemble.client("x").mirror()
        assert not mirror.ready()
        return mirror

    monkeypatch.setattr(client, "get", denied)
    monkeypatch.setattr(client, "mirror", never_ready)
    monkeypatch.setattr(reading, "client_of", lambda settings, cluster: client)
    done = world.run("status", "--timeout", "200ms")
    assert done.exit_code == options.CONFIGURATION and "not readable for this user" in done.stderr
