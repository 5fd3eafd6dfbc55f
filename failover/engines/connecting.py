"""What may become of an attempt to reach a server, in the same words for every engine.

Which of them a server's own numbers and texts mean is for each engine's connection to know; what they say about life, for its
prober.
"""

from __future__ import annotations

from failover.errors import Unknown, Unreachable


class Starting(Unreachable):
    """The server is alive and not yet, or no longer, taking connections."""


class Full(Unreachable):
    """The server is alive and has no connection left for us, or lets nobody like us in for now."""


class Closed(Unreachable):
    """Nothing listens there, and the host's kernel says so: the host and the way to it are well."""


class LoginHangs(Unknown):
    """A process of the server answered the first message and did not let us in in time: starved, or behind a lock."""


class OwnFault(Unreachable):
    """This host could not even try (no descriptor, no memory): says nothing about the server."""
