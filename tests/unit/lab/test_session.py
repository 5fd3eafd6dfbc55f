"""How a client's login is kept in a file, and what it never shows."""

from __future__ import annotations

import pytest

from failover.lab.session import Login

MINE = Login("mysql", "10.77.0.100", 3306, "app", "app", "se=cret")


def test_a_login_is_read_as_it_was_written() -> None:
    assert Login.parse(f"{MINE}\n") == MINE
    nobody = Login("postgresql", "db1", 5432, "app", "app")
    assert Login.parse(str(nobody)) == nobody


def test_at_another_server_it_is_the_same_login() -> None:
    assert Login.parse(str(MINE.at("10.77.0.12", 3307))) == Login("mysql", "10.77.0.12", 3307, "app", "app", "se=cret")


def test_an_error_about_it_does_not_show_the_password() -> None:
    assert "se=cret" not in repr(MINE)


@pytest.mark.parametrize("text", ["", "engine=mysql", "engine=mysql host=x port=many dbname=d user=u"])
def test_half_a_login_is_refused(text: str) -> None:
    with pytest.raises((KeyError, ValueError, TypeError)):
        Login.parse(text)
