"""The kept connection to nftables: when all is well, when its worker dies or hangs, when somebody flushes the rules."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from failover.clock import boottime_s
from failover.errors import Refused, Unknown
from failover.guardian.nft import Missing, Nft
from failover.guardian.ruleset_watch import RulesetWatch
from tests.support.small_lan import Lan, lan, why_not

pytestmark = [pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=why_not() or "can run")]


@pytest.fixture(scope="module")
def hosts() -> Iterator[Lan]:
    with lan() as made:
        yield made


@pytest.fixture
def nft(hosts: Lan) -> Iterator[Nft]:
    made = Nft(deadline_s=0.3)
    with hosts.inside("db"):
        made.run("flush ruleset")
        yield made
        made.run("flush ruleset")
    made.close()


def worker(nft: Nft) -> int:
    assert nft._process is not None
    return nft._process.pid


def test_a_transaction_is_carried_out_whole_or_not_at_all(nft: Nft) -> None:
    with pytest.raises(Refused, match="No such file"):
        nft.run("add table inet t\nadd chain inet t c\nadd rule inet t c jump nowhere\n")
    with pytest.raises(Missing):
        nft.run("list table inet t")
    nft.run("add table inet t")
    assert "table inet t" in nft.run("list table inet t")


def test_a_refusal_says_why_in_one_line_and_the_next_command_gets_its_own_answer(nft: Nft) -> None:
    with pytest.raises(Refused, match="syntax error") as refused:
        nft.run("bogus")
    assert "\n" not in str(refused.value)
    assert nft.run("list tables") == ""


def test_a_worker_that_died_is_replaced_without_a_word(nft: Nft) -> None:
    before = nft.generation
    os.kill(worker(nft), signal.SIGKILL)
    os.waitid(os.P_PID, worker(nft), os.WEXITED | os.WNOWAIT)
    assert nft.run("list tables") == ""
    assert nft.generation == before + 1


def test_no_answer_in_time_is_unknown_and_the_command_never_follows_later(nft: Nft) -> None:
    hung = worker(nft)
    os.kill(hung, signal.SIGSTOP)
    began = boottime_s()
    with pytest.raises(Unknown, match="no answer in time"):
        nft.run("add table inet late")
    assert boottime_s() - began < 0.6
    assert "late" not in nft.run("list tables")
    assert worker(nft) != hung


def test_callers_in_many_threads_each_get_their_own_answer(nft: Nft) -> None:
    wrong: list[str] = []

    def use(name: str) -> None:
        for _ in range(30):
            nft.run(f"add table inet {name}", deadline_s=5.0)
            answer = nft.run(f"list table inet {name}", deadline_s=5.0)
            if answer.split()[2] != name:
                wrong.append(answer)

    threads = [threading.Thread(target=use, args=(f"t{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20.0)
    assert wrong == []


def test_the_worker_ends_with_its_parents_end_of_the_socket(nft: Nft) -> None:
    process = nft._process
    assert process is not None and nft._socket is not None
    nft._socket.close()
    assert process.wait(2.0) == 0
    nft._socket, nft._process = None, None


def test_a_removed_table_is_noticed_at_once_and_other_changes_are_not(nft: Nft) -> None:
    nft.run("add table inet t")
    watch = RulesetWatch()
    try:
        nft.run("add set inet t s { type inet_proto; }")
        assert not watch.wait(0.05)
        threading.Timer(0.1, lambda: nft.run("flush ruleset")).start()
        began = boottime_s()
        assert watch.wait(3.0)
        assert boottime_s() - began < 0.5
    finally:
        watch.close()
