"""What an attempt to look at a server says about the life of that server: the same for every engine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from failover.clock import boottime_s
from failover.core.model import Role
from failover.engines.base import ProbeResult
from failover.engines.connecting import Closed, Full, LoginHangs, OwnFault, Starting
from failover.errors import ConfigurationError, Refused, Unknown, Unreachable, WrongCredentials


def judged(look: Callable[[float], ProbeResult], budget_s: float) -> ProbeResult:
    """Look until `budget_s` from now at the latest (`look` takes the deadline on CLOCK_BOOTTIME), and say how long it took."""
    started_s = boottime_s()
    result = _judged(look, started_s + budget_s)
    return replace(result, took_s=boottime_s() - started_s)


def _judged(look: Callable[[float], ProbeResult], deadline_s: float) -> ProbeResult:
    """What an error says about life: only silence and a closed door speak against it."""
    try:
        return look(deadline_s)
    except Starting as error:
        return ProbeResult(True, Role.RECOVERING, str(error), 0.0)
    except (Full, Refused) as error:
        return ProbeResult(True, Role.UNKNOWN, str(error), 0.0)
    except WrongCredentials as error:
        return ProbeResult(None, Role.UNKNOWN, f"credentials refused: {error}", 0.0, answered_by="server")
    except (OwnFault, ConfigurationError) as error:
        return ProbeResult(None, Role.UNKNOWN, f"cannot probe: {error}", 0.0)
    except LoginHangs as error:
        return ProbeResult(False, Role.UNKNOWN, str(error), 0.0, answered_by="server")
    except Closed as error:
        return ProbeResult(False, Role.UNKNOWN, str(error), 0.0, answered_by="host")
    except (Unknown, Unreachable) as error:
        return ProbeResult(False, Role.UNKNOWN, str(error), 0.0)
