"""Prefix cache for the hybrid pools: SGLang's unified radix tree with one more rule, the sinks.

A node keeps the full slots of its tokens, and their window slots as long as nobody needs the memory. Along a
path from the root::

    sinks        | older tokens                | window before the end of an inserted sequence
    window slots | window slots freed          | window slots
    for ever     | ("tombstone")               | until evicted, oldest first

A prefix may be reused up to a point where its window is live. Its sinks are then live as well, because a node
of sinks loses its window slots only together with its full slots, as a leaf. Nodes never straddle the end of
the sinks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from sglang.srt.mem_cache.chunk_cache import SWAChunkCache
from sglang.srt.mem_cache.unified_cache.cache_action import SWARebuild
from sglang.srt.mem_cache.unified_cache.components import BASE_COMPONENT_TYPE, ComponentType, SWAComponent
from sglang.srt.mem_cache.unified_cache.components.tree_component import EvictLayer, next_component_uuid
from sglang.srt.mem_cache.unified_radix_cache import UnifiedRadixCache

from .fail_closed import refuse_to_serve
from .pool import HybridHeadPool
from .state import state

SINK = "rlkv_sink"
"""Mark in a node's metadata: all of its tokens are sinks."""


def create_prefix_cache(context: Any) -> Any:
    """The cache of a server with ``--rlkv-heads``, by its name (``backends.PREFIX_CACHE``)."""
    params = context.params
    pool = params.token_to_kv_pool_allocator.get_kvcache()
    if not isinstance(pool, HybridHeadPool):
        refuse_to_serve(
            f"the prefix cache found a pool of type {type(pool).__name__}, expected HybridHeadPool"
        )
    if context.disable_radix_cache:
        return SWAChunkCache(params)
    params.tree_components = (ComponentType.FULL, ComponentType.SWA)
    params.component_registry_override = {ComponentType.SWA: SinkWindowComponent}
    return HybridRadixCache(params)


class HybridRadixCache(UnifiedRadixCache):
    """The unified tree, which lets go of sinks when a request ends whose window lock was released before."""

    def dec_lock_ref(self, node_id: Any, params: Any = None, skip_swa: bool = False) -> Any:
        result = super().dec_lock_ref(node_id, params, skip_swa)
        if skip_swa:
            self.components[ComponentType.SWA].release_sinks(node_id)
        return result


class SinkWindowComponent(SWAComponent):
    """Rules of the window slots: SGLang's for a sliding window, and the sinks'."""

    _evict_device_cursor: Any

    def __init__(self, cache: Any, params: Any) -> None:
        super().__init__(cache, params)
        self.sinks = state().settings.sink_slots(params.page_size)

    # Insertion: sinks | tombstone | window.

    def commit_insert_component_data(
        self, node: Any, is_new_leaf: bool, params: Any, result: Any, cache_actions: list[Any]
    ) -> None:
        """Give a new leaf its window slots; sinks are split off first and always get theirs."""
        begin = result.prefix_len
        if is_new_leaf and begin < self.sinks:
            sink = node
            if begin + len(node.key) > self.sinks:
                sink, action = self.tree_core._split_node(node.key, node, self.sinks - begin)
                assert action is None, "a new leaf is not being written anywhere"
            self._data(sink).metadata[SINK] = True
            cache_actions.append(SWARebuild(sink.id, sink.component_data[BASE_COMPONENT_TYPE].value))
            if sink is node:
                return
            result = dataclasses.replace(result, prefix_len=self.sinks)
        super().commit_insert_component_data(node, is_new_leaf, params, result, cache_actions)

    def redistribute_on_node_split(self, new_parent: Any, child: Any) -> None:
        super().redistribute_on_node_split(new_parent, child)
        if self._is_sink(child):
            self._data(new_parent).metadata[SINK] = True

    # Locks: a request holds the window before its next token, and all sinks of its prefix.

    def acquire_component_lock(self, node: Any, result: Any, lock_host: bool = False) -> Any:
        assert not lock_host, "no host memory is attached"
        covered, last = 0, None
        for current in self._behind_sinks(node):
            if covered >= self.sliding_window_size:
                break
            data = self._data(current)
            if data.value is None:
                result.skip_lock_node_ids.setdefault(self.component_type, set()).add(current.id)
                continue
            self._hold(current)
            covered, last = covered + len(data.value), data
        uuid = None
        if last is not None:
            # Marked where a window ends, and where a prefix shorter than a window does: without a mark,
            # SGLang would not let go of it before the request ends.
            uuid = last.metadata.get("uuid") or next_component_uuid()
            last.metadata["uuid"] = uuid
        for sink in self._sinks_before(node):
            self._hold(sink)
        result.swa_uuid_for_lock = uuid
        return result

    def release_component_lock(self, node: Any, params: Any, lock_host: bool = False) -> None:
        assert not lock_host, "no host memory is attached"
        skipped = params.skip_lock_node_ids.get(self.component_type, ()) if params else ()
        last = params.swa_uuid_for_lock if params else None
        for current in self._behind_sinks(node):
            data = self._data(current)
            if current.id in skipped or data.lock_ref == 0:
                continue
            self._drop(current)
            if last is not None and data.metadata.get("uuid") == last:
                break
        for sink in self._sinks_before(node):
            self._drop(sink)

    def release_sinks(self, node_id: Any) -> None:
        """Let go of the sinks alone: the window's lock was released while the request was running."""
        node = self.tree_core.node_by_id(node_id)
        for sink in self._sinks_before(node):
            self._drop(sink)
        self.tree_core._update_evictable_leaf_sets(node)

    # Eviction: windows first, then whole leaves; a node of sinks only as a leaf.

    def _evict_device_next_node(self, tracker: dict, device_frees: dict, host_frees: dict) -> Any:
        """Free window slots of inner nodes, and return the next leaf that has to go, None when done."""
        lru = self.tree_core.lru_lists[self.component_type]
        while tracker[self.component_type] < self._evict_device_request_cnt:
            node = self._evict_device_cursor
            if node is None:
                return self._oldest_leaf()
            if not lru.in_list(node):  # it went away with the leaf that was returned last
                self._evict_device_cursor = lru.get_lru_no_lock()
                continue
            self._evict_device_cursor = lru.get_prev_no_lock(node)
            if node in self.tree_core.evictable_device_leaves:
                return node.id
            if not self._is_sink(node):
                self._tombstone(node, tracker, device_frees, host_frees)
        return None

    def evict_component(self, *args: Any, **options: Any) -> tuple[int, int]:
        """SGLang's, counted: of a node's window, and of a leaf that goes as a whole."""
        freed, on_host = super().evict_component(*args, **options)
        state().freed_tokens += freed
        return freed, on_host

    def _oldest_leaf(self) -> Any:
        """A leaf to remove when no window is left: it makes way to the sinks above it."""
        leaves = self.tree_core.evictable_device_leaves
        return min(leaves, key=lambda leaf: leaf.last_access_time).id if leaves else None

    def _tombstone(self, node: Any, tracker: dict, device_frees: dict, host_frees: dict) -> None:
        frees = {"device_frees": device_frees, "host_frees": host_frees}
        tree = self.tree_core
        tree._evict_component_and_detach_lru(node, self, target=EvictLayer.DEVICE, tracker=tracker, **frees)
        tree._cascade_evict(node, self, tracker, **frees)

    # Small change.

    def _data(self, node: Any) -> Any:
        return node.component_data[self.component_type]

    def _is_sink(self, node: Any) -> bool:
        return SINK in self._data(node).metadata

    def _path(self, node: Any) -> Iterator[Any]:
        """The node and its ancestors without the root."""
        while node is not self.tree_core.root_node:
            yield node
            node = node.parent

    def _behind_sinks(self, node: Any) -> Iterator[Any]:
        return (current for current in self._path(node) if not self._is_sink(current))

    def _sinks_before(self, node: Any) -> Iterator[Any]:
        return (current for current in self._path(node) if self._is_sink(current))

    def _hold(self, node: Any) -> None:
        data, ct = self._data(node), self.component_type
        if data.lock_ref == 0:
            self.tree_core.component_evictable_size_[ct] -= len(data.value)
            self.tree_core.component_protected_size_[ct] += len(data.value)
        data.lock_ref += 1

    def _drop(self, node: Any) -> None:
        data, ct = self._data(node), self.component_type
        assert data.lock_ref > 0, f"node {node.id} is not held"
        data.lock_ref -= 1
        if data.lock_ref == 0:
            self.tree_core.component_evictable_size_[ct] += len(data.value)
            self.tree_core.component_protected_size_[ct] -= len(data.value)
