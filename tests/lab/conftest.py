"""One lab for the whole session: real hosts without our daemons. A test that changes it puts it back."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from failover.lab import Lab, LabOptions
from failover.lab.services import missing_programs


@pytest.fixture(scope="session")
def machine() -> None:
    """Skips, with the reason, where the lab cannot be booted at all."""
    faults = missing_programs()
    if faults:
        pytest.skip("; ".join(faults))


@pytest.fixture(scope="session")
def lab(machine: None) -> Iterator[Lab]:
    """Three database hosts that replicate, a name server and an application host; no controller, no guardian."""
    with Lab.boot(LabOptions(daemons=False)) as booted:
        yield booted
