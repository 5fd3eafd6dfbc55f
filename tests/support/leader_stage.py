"""A shared lab under traffic that goes on from test to test; after a test that failed the next one gets a new lab."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from failover.lab.commands import LabError
from failover.lab.stage import Stage, settle
from tests.support.lab_cluster import Cluster, Load


class LeaderStage:
    """Close it at the end; the lab itself belongs to the fixture that made it."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster
        self._stack = ExitStack()
        self._load: Load | None = None
        self._ruined = False

    @property
    def load(self) -> Load:
        """The traffic of the stage that was given out last."""
        assert self._load is not None, "only within given()"
        return self._load

    @contextmanager
    def given(self) -> Iterator[Stage]:
        """A settled lab under traffic. If the block raises, this lab is not asked to heal: the next one is new."""
        try:
            yield self._settled()
        except BaseException:  # pytest's own kinds of failure too; raised again
            self.close()
            self._ruined = True  # its logs are saved when the failure is reported: closed only at the next use
            raise

    def _settled(self) -> Stage:
        if self._ruined:
            self.cluster.close()
            self._ruined = False
        if self._load is None:
            self.cluster.make_whole(cooldown=False)
            self._load = self._stack.enter_context(self.cluster.traffic())
        stage = Stage(self.cluster.lab, self._load.traffic, print)
        unsettled = settle(stage, None)
        if unsettled:
            raise LabError("; ".join(unsettled))
        return stage

    def close(self) -> None:
        """End the traffic."""
        self._load = None
        self._stack.close()
