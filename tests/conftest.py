"""What every test shares: one hypothesis profile, no configuration leaking in from the caller, and marks by folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

hypothesis.settings.register_profile("house", deadline=None, derandomize=True, max_examples=50)
hypothesis.settings.load_profile("house")

_HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Everything under tests/lab is a lab test; it cannot even begin without root."""
    for item in items:
        if (_HERE / "lab") in item.path.parents:
            item.add_marker("lab")
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip(reason="the lab's network namespaces need root"))


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test sees the FAILOVER_* variables of whoever runs it."""
    for name in [name for name in os.environ if name.startswith("FAILOVER_")]:
        monkeypatch.delenv(name)
    yield
