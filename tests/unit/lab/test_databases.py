"""What the engines' dialects promise to the rest of the lab, without a server."""

from __future__ import annotations

import pytest

from failover.lab.commands import LabError
from failover.lab.configuration import MEMBER_ADDRESSES, failover_yml
from failover.lab.databases import ENGINES, dialect
from failover.lab.my import MyDialect, accounts_sql

MEMBERS = tuple(zip(("db1", "db2", "db3"), MEMBER_ADDRESSES, strict=True))


def test_an_engine_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(LabError, match="no hosts for 'oracle'; it has: postgresql, mariadb, mysql"):
        dialect("oracle")


@pytest.mark.parametrize("engine", ENGINES)
def test_its_service_is_recognised_as_the_database(engine: str) -> None:
    found = dialect(engine)
    assert found.engine == engine
    if not found.faults():
        assert found.service().role == "database"


@pytest.mark.parametrize(("engine", "port"), [("postgresql", 5432), ("mariadb", 3306), ("mysql", 3306)])
def test_the_configuration_names_the_engine_and_guards_its_port(engine: str, port: int) -> None:
    if dialect(engine).faults():
        pytest.skip("not installed")
    text = failover_yml(dialect(engine), MEMBERS, "strict", "lan", "automatic")
    assert f"engine: {engine}\n" in text and f"guarded_ports: [{port}]\n" in text


@pytest.mark.parametrize("engine", ["mariadb", "mysql"])
def test_a_server_boots_read_only_and_receives_from_nobody(engine: str) -> None:
    found = dialect(engine)
    assert isinstance(found, MyDialect)
    lines = [line.replace(" ", "") for line in found.cnf(2).splitlines()]
    assert "read_only=ON" in lines and "server_id=2" in lines
    assert {"skip_replica_start=ON", "skip_slave_start=ON"} & set(lines)
    assert ("super_read_only=ON" in lines) is (engine == "mysql")


def test_no_application_may_write_to_a_read_only_server_and_none_logs_in_from_a_database_host() -> None:
    made = accounts_sql(lambda name: "x", MEMBER_ADDRESSES, "PROCESS", "REPLICATION SLAVE", "BINLOG ADMIN").splitlines()
    rights = [line for line in made if line.startswith("GRANT") and "'app'@" in line]
    assert rights and all(" ON app.* " in line or " ON lab.* " in line for line in rights)
    for address in MEMBER_ADDRESSES:
        assert f"CREATE USER 'app'@'{address}' IDENTIFIED BY 'x' ACCOUNT LOCK;" in made
        assert f"CREATE USER 'failover_replication'@'{address}' IDENTIFIED BY 'x';" in made


def test_rows_are_told_as_the_other_engine_tells_them() -> None:
    assert dialect("mysql").lines("1\tNULL\tx\n2\tb c\t\n") == "1||x\n2|b c|"
    assert dialect("mysql").lines("") == ""
