"""A picture of some znodes kept fresh by one-shot watches: one event, one read, one completion per change.

kazoo's own recipes were read and not taken: DataWatch and ChildrenWatch block on its worker thread, TreeCache does not
say what it has read over which session. Here every step is asynchronous. What makes it correct:

- ZooKeeper answers one session in order and kazoo completes in that order on one thread: the last one is the newest.
- A watch is set by the server together with the read that asks for it: no change falls between the two.
- A lost connection drops all watches, so everything is read again on every reconnect, whatever came before.

Threads: `_on_state` runs on kazoo's connection thread and sets flags; `_on_event`, `_read_all` on its watch thread and
`_on_data`, `_on_absence`, `_on_listing` on its completion thread send requests and change the picture, briefly locked.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from types import MappingProxyType
from typing import Any

from kazoo.client import KazooClient
from kazoo.exceptions import KazooException, NoNodeError
from kazoo.protocol.states import Callback, EventType, KazooState, WatchedEvent

from failover.clock import boottime_s
from failover.coordination.base import Entry


class KazooMirror:
    """Satisfies `base.Mirror`."""

    def __init__(
        self, client: KazooClient, nodes: Sequence[str], trees: Sequence[str], changed: threading.Event
    ) -> None:
        self._client = client
        self._nodes, self._trees = frozenset(nodes), frozenset(trees)
        self._changed = changed
        self._closed = False
        self._losses = 0  # sessions lost so far
        self._lock = threading.Lock()  # the rest is changed under it
        self._losses_read = -1  # `_losses` when the present reading began
        self._unread: set[str] = set()
        self._entries: dict[str, Entry] = {}
        self._snapshot: Mapping[str, Entry] | None = MappingProxyType({})
        self._names: dict[str, frozenset[str]] = {}
        self._listed_zxid: dict[str, int] = {}
        self._absent_zxid: dict[str, int] = {}
        client.add_listener(self._on_state)
        if client.connected:
            self._read_soon()

    @property
    def changed(self) -> threading.Event:
        return self._changed

    def entries(self) -> Mapping[str, Entry]:
        with self._lock:
            if self._snapshot is None:
                self._snapshot = MappingProxyType(dict(self._entries))
            return self._snapshot

    def ready(self) -> bool:
        with self._lock:
            return self._losses_read == self._losses and not self._unread

    def absent_zxid(self, path: str) -> int:
        tree, _, name = path.rpartition("/")
        with self._lock:
            if path in self._entries:
                return 0
            listed = tree in self._names and name not in self._names[tree]
            return max(self._absent_zxid.get(path, 0), self._listed_zxid[tree] if listed else 0)

    def close(self) -> None:
        self._closed = True
        self._client.remove_listener(self._on_state)

    # The connection thread: flags only.

    def _on_state(self, state: str) -> None:
        if state == KazooState.LOST:
            self._losses += 1
        elif state == KazooState.CONNECTED:
            self._read_soon()
        self._changed.set()

    def _read_soon(self) -> None:
        self._client.handler.dispatch_callback(Callback("watch", self._read_all, ()))

    # The watch thread.

    def _read_all(self) -> None:
        with self._lock:
            if self._losses_read != self._losses:
                self._losses_read = self._losses
                self._unread = {*self._nodes, *(f"{tree}/" for tree in self._trees)}
        for tree in self._trees:
            self._list(tree, every=True)
        for node in self._nodes:
            self._read(node)

    def _on_event(self, event: WatchedEvent) -> None:
        if event.type == EventType.NONE:
            return  # the connection broke: the next one reads everything
        if event.path in self._trees and event.type != EventType.CHANGED:
            self._list(event.path)
        if event.path in self._nodes or event.path.rpartition("/")[0] in self._trees:
            self._read(event.path)

    # Requests. None of them blocks; an answer that never comes is made good by the next connection.

    def _read(self, path: str) -> None:
        if not self._closed:
            self._client.get_async(path, watch=self._on_event).rawlink(partial(self._on_data, path, self._losses_read))

    def _list(self, tree: str, every: bool = False) -> None:
        """With `every` all children are read, otherwise the new ones: the others have their own watches."""
        if not self._closed:
            asked = self._client.get_children_async(tree, watch=self._on_event)
            asked.rawlink(partial(self._on_listing, tree, every, self._losses_read))

    def _await_creation(self, path: str, losses: int) -> None:
        if not self._closed:
            self._client.exists_async(path, watch=self._on_event).rawlink(partial(self._on_absence, path, losses))

    # The completion thread.

    def _on_data(self, path: str, losses: int, result: Any) -> None:
        try:
            data, stat = result.get_nowait()
        except NoNodeError:
            self._forget(path, losses, result.zxid)
            return
        except KazooException:
            return
        seen_at_s = boottime_s()
        entry = Entry(path, data, stat.version, stat.ephemeralOwner, seen_at_s, stat.mzxid)
        with self._lock:
            known = self._entries.get(path)
            self._read_once(path, losses)
            if known is None or replace(known, seen_at_s=seen_at_s) != entry:
                self._entries[path] = entry
                self._absent_zxid.pop(path, None)
                self._snapshot = None
        self._changed.set()

    def _forget(self, path: str, losses: int, zxid: int) -> None:
        """`path` does not exist as of `zxid`. A child is found again by its parent's listing, a node by a watch."""
        with self._lock:
            if path not in self._nodes:
                self._read_once(path, losses)
                tree, _, name = path.rpartition("/")
                self._names[tree] = self._names.get(tree, frozenset()) - {name}
            self._absent_zxid[path] = zxid
            self._drop([path])
        if path in self._nodes:
            self._await_creation(path, losses)
        self._changed.set()

    def _on_absence(self, path: str, losses: int, result: Any) -> None:
        """A node or a tree that did not exist a moment ago: still not, with a watch now, or created in between."""
        try:
            stat = result.get_nowait()
        except KazooException:
            return
        if stat is None:
            with self._lock:
                self._absent_zxid[path] = result.zxid
                self._read_once(path, losses)
            self._changed.set()
            return
        if path in self._trees:
            self._list(path)
        if path in self._nodes:
            self._read(path)

    def _on_listing(self, tree: str, every: bool, losses: int, result: Any) -> None:
        try:
            names = frozenset(result.get_nowait())
        except NoNodeError:
            names = frozenset()
            self._await_creation(tree, losses)
        except KazooException:
            return
        with self._lock:
            to_read = names if every else names - self._names.get(tree, frozenset())
            shown = self._children_in(self._entries, tree)
            self._drop([path for path in shown if path.rpartition("/")[2] not in names])
            self._names[tree], self._listed_zxid[tree] = names, result.zxid
            for path in self._children_in(self._absent_zxid, tree):
                del self._absent_zxid[path]  # the listing says it better, or the read to come does
            if f"{tree}/" in self._unread and losses == self._losses_read:
                self._unread |= {f"{tree}/{name}" for name in to_read}
            self._read_once(f"{tree}/", losses)
        for name in to_read:
            self._read(f"{tree}/{name}")
        self._changed.set()

    # Under the lock.

    def _children_in(self, paths: Mapping[str, object], tree: str) -> list[str]:
        return [path for path in paths if path.rpartition("/")[0] == tree and path not in self._nodes]

    def _read_once(self, path: str, losses: int) -> None:
        if losses == self._losses_read:
            self._unread.discard(path)

    def _drop(self, paths: Sequence[str]) -> None:
        for path in paths:
            if self._entries.pop(path, None) is not None:
                self._snapshot = None
