"""What a log line looks like on a terminal and in a journal, and that no secret gets into either."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest

from failover import logs


@pytest.fixture(autouse=True)
def quiet_again() -> Iterator[None]:
    """Puts back the root logger that the other tests know, and forgets the secrets."""
    root = logging.getLogger()
    handlers, level, known = list(root.handlers), root.level, set(logs._secrets)
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logs._secrets.clear()
    logs._secrets.update(known)


def test_a_journal_line_is_one_json_object_with_its_fields() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream, node="db1")
    logging.getLogger("failover.guardian").warning("gate shut for %s", "orders", extra={"epoch": 7})
    line = json.loads(stream.getvalue())
    assert line["event"] == "gate shut for orders"
    assert (line["area"], line["level"], line["node"], line["epoch"]) == ("guardian", "warning", "db1", 7)
    assert line["ts"].endswith("Z")


def test_a_traceback_stays_in_its_line() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("failover.core").exception("it broke")
    assert stream.getvalue().count("\n") == 1
    assert "ValueError: broken" in json.loads(stream.getvalue())["exception"]


def test_a_terminal_line_is_for_a_person() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream, colour=True)
    logging.getLogger("failover.runtime").info("leading term %d", 3)
    assert "leading term 3" in stream.getvalue()
    assert not stream.getvalue().startswith("{")


@pytest.mark.parametrize("secret", ["hunter22", 'quo"te\\d', "pässwörd", 'quö"te', "tab\tbed"])
@pytest.mark.parametrize("people", [False, True])
def test_a_secret_is_blotted_out_wherever_it_stands(secret: str, people: bool) -> None:
    stream = io.StringIO()
    logs.setup(stream=stream, colour=people)
    logs.hide(secret)
    logger = logging.getLogger("failover.test")
    logger.info("in the text: %s", secret)
    logger.info("in a field", extra={"dsn": f"host=db1 password={secret}"})
    try:
        raise RuntimeError(f"driver says {secret}")
    except RuntimeError:
        logger.exception("in a traceback")
    written = stream.getvalue()
    assert secret not in written
    assert json.dumps(secret)[1:-1] not in written
    assert written.count("[secret]") >= 3


def test_a_secret_that_contains_another_is_blotted_out_whole() -> None:
    logs.hide("hunter")
    logs.hide("hunter22long")
    assert logs.redact("x=hunter22long;") == "x=[secret];"


def test_libraries_speak_from_warning_on() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logging.getLogger("kazoo.client").info("Connecting")
    assert stream.getvalue() == ""


def test_setting_up_twice_does_not_double_the_lines() -> None:
    stream = io.StringIO()
    logs.setup(stream=stream)
    logs.setup(stream=stream)
    logging.getLogger("failover.x").info("once")
    assert stream.getvalue().count("once") == 1
