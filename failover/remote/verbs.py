"""The grammar between a controller and the host agent: one JSON object a line, each way, answers matched by `id`.

    -> {"id": 7, "verb": "fence", "cluster": "orders", "closes": 4}
    <- {"id": 7, "ok": true, "evidence": "epoch 4 closed on disk, tickets flushed, no process left", "facts": {...}}
    <- {"id": 7, "ok": false, "refused": ["..."]}

A verb of `STREAMS` is answered twice, `frames` of bytes between (remote/wire.py): what was begun, and what came of it.

Nothing else is accepted: unknown verbs, unknown fields, wrong types and lines over `LINE_MAX_BYTES` are refused and change
nothing. Disabling verbs name the epoch they close; the one enabling verb (`vip-take`) only hands an order to the guardian,
which obeys under its own proof (G1).
"""

from __future__ import annotations

LINE_MAX_BYTES = 4096

# verb -> required fields and their types
VERBS: dict[str, dict[str, type]] = {
    "hello": {},  # version, host name, clusters served
    "status": {"cluster": str},  # guardian alive?, gate, epoch closed, main pid, vip present
    "fence": {"cluster": str, "closes": int},  # close, flush, stop the database, read back
    "vip-drop": {"cluster": str, "closes": int},  # remove the VIP and read back; refused if a later epoch is proved here
    "vip-take": {"cluster": str, "epoch": int},  # ask the guardian to take the VIP; waits until it is there
    "checkpoint": {"cluster": str},  # ask the guardian for a checkpoint
    "may-start": {"cluster": str},  # is it the guardian who is starting the database right now?
}

# what is answered with an answer, then bytes, then another answer; each on an SSH session of its own
STREAMS: dict[str, dict[str, type]] = {
    "backup": {"cluster": str},  # a whole copy of this host's database, as the engine's own tool gives it
}

# for a key that may fetch copies and order nothing: a guardian's, on a host that is no controller
COPY_VERBS: dict[str, dict[str, type]] = {"hello": VERBS["hello"]}

# what the guardian's own socket takes besides, from root on its own host; never over SSH
LOCAL_VERBS: dict[str, dict[str, type]] = {
    **VERBS,
    "release": {"cluster": str},  # break-glass: the gate is open for good
    "arm": {"cluster": str},  # take the release back
}
