"""Every way this product says no.

The tree answers one question for whoever catches: *what may I do next?*  `Unknown` is the important branch: the
effect may or may not have happened, so the caller reads back before it decides anything (docs/guarantees.md, R5).
"""


class FailoverError(Exception):
    """Root of all errors raised on purpose. `str(error)` is one line a person can act on; it holds no secret."""


class ConfigurationError(FailoverError):
    """The file, the environment or a secret is wrong. Nothing was started. Carries every fault found in one pass."""

    def __init__(self, faults: "tuple[str, ...] | list[str]") -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


class Refused(FailoverError):
    """A rule said no and nothing was changed. `reasons` lists all of them, never only the first."""

    def __init__(self, *reasons: str) -> None:
        self.reasons = reasons
        super().__init__("; ".join(reasons))


class Unreachable(FailoverError):
    """The other side could not be asked at all: the effect did not happen."""


class Unknown(FailoverError):
    """The request may have been carried out: a time-out or a connection lost in the middle. Read back before deciding."""


class Conflict(FailoverError):
    """A compare-and-set lost: somebody else wrote first. The caller's picture is old; look again."""


class Corrupt(FailoverError):
    """A record, an answer or a file does not have the promised shape. Never guessed at."""


class WrongCredentials(FailoverError):
    """The other side is alive and refused who we are: a broken probe, never evidence of death."""
