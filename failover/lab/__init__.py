"""Real hosts on one machine (network namespaces): the demo, the tests and the chaos runs use it like a user would."""

from failover.lab.commands import LabError
from failover.lab.host import Host
from failover.lab.lab import Lab, LabOptions

__all__ = ["Host", "Lab", "LabError", "LabOptions"]
