"""Prefill and decode as one operation: extend sessions by ragged chunks in one packed forward.

A session owns its keys and values and its next mRoPE position; forks and prefix hits share what
they have in common. The engine knows no text, no tool and no sampling.

Legend: B sessions, N new tokens of all sessions, D hidden, V vocabulary, M vision tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from weakref import WeakSet

import torch
from torch import Tensor

from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.cache import ROOM, KVCache
from pixelis_fast.policy.chunk import Chunk, VisionSlot
from pixelis_fast.policy.engine_config import Counters, EngineConfig, EngineStats, KVBudgetError
from pixelis_fast.policy.forward import Encoded, Forward
from pixelis_fast.policy.image import Patches
from pixelis_fast.policy.kv_budget import evict_cache, host_bytes, needed_bytes, resident_bytes
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.packed import weights_stamp
from pixelis_fast.policy.prefix_cache import Owner, PrefixCache
from pixelis_fast.policy.published import Published, Shelf
from pixelis_fast.policy.rounds import Plan, Run, run_plans
from pixelis_fast.policy.segments import Segment
from pixelis_fast.policy.session import Session
from pixelis_fast.policy.vision_cache import VisionCache
from pixelis_fast.spans import Spans

__all__ = [
    "Chunk",
    "Engine",
    "EngineConfig",
    "EngineStats",
    "KVBudgetError",
    "Session",
    "VisionSlot",
]

COPIED_TAIL = 64
"""A fork copies a tail of up to so many tokens: one more shared segment would cost more."""
LoadPatches = Callable[[str], Patches]
"""Media id -> its patches; the caller owns pixels."""


class Engine:
    """Runs one policy for many sessions; one thread at a time.

    Example:
        engine = Engine(policy, load_patches, config=EngineConfig(kv_bytes=8 << 30))
        session = engine.open()
        logits_BV = engine.extend([session], [prompt], spans=engine.spans())
        group = [session, *(engine.fork(session) for _ in range(7))]
    """

    def __init__(
        self,
        policy: Policy,
        load_patches: LoadPatches,
        *,
        config: EngineConfig | None = None,
        version: str = "base",
    ) -> None:
        self.policy, self.config = policy, config or EngineConfig()
        self.shelf = Shelf(version, keep=self.config.keep_versions)
        self.prefixes = PrefixCache(byte_budget=self.config.prefix_cache_bytes)
        self.vision = VisionCache(policy, byte_budget=self.config.vision_cache_bytes)
        self._use_prefixes = self.config.keep_kv and self.config.prefix_cache_bytes > 0
        self._load_patches = load_patches
        self._forward = Forward(
            policy,
            invariant=self.config.batch_invariant,
            packed_weights=self.config.packed_weights,
            static_decode=self.config.static_decode,
            merged_bytes=self.config.merged_bytes,
        )
        self._sessions: WeakSet[Session] = WeakSet()
        self._counters = Counters()

    @property
    def version(self) -> str:
        """What a new session without a salt is opened under."""
        return self.shelf.serving().version

    def spans(self) -> Spans:
        """A clock that waits for this engine's device."""
        on_cuda = self.policy.device.type == "cuda"
        return Spans(sync=torch.cuda.synchronize) if on_cuda else Spans()

    def open(self, *, salt: str = "", under: Published | None = None) -> Session:
        """A new session; nothing is allocated before its first tokens.

        Sessions share prefixes only with sessions of the same salt (a tenant). The version that it
        opens under, what the salt is served unless `under` names one, stays its own to the end.
        """
        pinned = under or self.shelf.serving(salt)
        session = Session(self._new_cache(), self._no_sum(), pinned.version, salt)
        session.bank = pinned.bank
        return self._register(session)

    def num_new(
        self,
        chunk: Chunk,
        *,
        session: Session | None = None,
        salt: str = "",
        under: Published | None = None,
    ) -> int:
        """How many of the chunk's tokens `extend` would compute now; kept prefixes supply the rest.

        `session` None: one that `open(salt=salt, under=under)` would give.
        """
        if not self._use_prefixes or not chunk.opens_turn:
            return len(chunk.ids)
        if session is None:
            pinned = under or self.shelf.serving(salt)
            owner, opening, length = self._owner_of(pinned.version, salt), chunk, 0
        elif session.opening is None:
            return len(chunk.ids)
        else:
            owner, opening = self._owner(session), session.opening + chunk
            length = session.cache.length
        return len(chunk.ids) + length - max(length, self.prefixes.longest(owner, opening))

    @torch.inference_mode()
    def fork(self, session: Session) -> Session:
        """A session that goes on from the same tokens: copy-on-write, nothing is computed.

        In decode both attend to what they share in one call. An evicted session is resumed.
        Raises KVBudgetError.
        """
        self._check_open(session)
        copied = COPIED_TAIL if self.config.share_prefix else None
        self._check_budget([(session.cache, 0)], session.cache.fork_bytes(copied))
        self._resume(session.cache, 0)
        cache = session.cache.clone() if copied is None else session.cache.fork(copied)
        twin = Session(
            cache,
            session.sum_D.clone(),
            session.version,
            session.salt,
            session.next_position,
            session.history,
            session.opening,
            session.num_summed,
            session.bank,
        )
        self._counters.forks += 1
        self._counters.tokens_shared += cache.length
        return self._register(twin)

    def close(self, session: Session) -> None:
        """Frees what no other session uses; the session is not to be used again."""
        self._sessions.discard(session)
        session.cache = self._new_cache()

    @torch.inference_mode()
    def evict(self, session: Session) -> None:
        """Keys and values move to a compact buffer on the host, until the session is extended.

        What other sessions on the device still share stays there.
        """
        if session.is_evicted:
            return
        others = [each.cache for each in self._sessions if each is not session]
        evict_cache(session.cache, others)
        self._counters.evictions += 1

    def encode_ahead(self, media_id: str) -> None:
        """Encodes media before it is shown; nothing where it cannot be kept until then."""
        self.vision.encode_ahead(media_id, partial(self._load_patches, media_id))

    def publish(self, version: str) -> None:
        """The weights were changed in place and are now `version`.

        Earlier prefixes are strangers from here on. Encoded pictures stay unless the tower's
        weights changed too. Open sessions go on with the keys and values that they have. Banks
        belonged to the weights as they were: none is served, and none can be gone back to.
        """
        self.shelf.reset(version)
        self.prefixes.clear()
        self.vision.follow_tower()
        self._forward.forget_weights()
        self._counters.publishes += 1

    def prepare(self, published: Published) -> None:
        """What its forwards need, made ahead on any thread: its publish is then a pointer's."""
        if published.bank is not None:
            self._forward.prepare(published.bank)

    def publish_bank(self, published: Published, *, salt: str = "") -> None:
        """New sessions (of this salt, if one is given) run under this bank: a pointer's change.

        Open ones keep theirs; all versions share each forward. Prefixes stay of what can be served
        again: of a thousand versions they would fill the cache's bytes and not be found once.
        """
        self.prepare(published)
        self.shelf.publish(published, salt=salt)
        self.prefixes.retain(self.shelf.versions())
        self._counters.publishes += 1

    def rollback(self, version: str, *, salt: str = "") -> Published:
        """New sessions run under a kept version again, bit for bit; ValueError for another."""
        found = self.shelf.rollback(version, salt=salt)
        self.prepare(found)
        self._counters.publishes += 1
        return found

    def stats(self) -> EngineStats:
        caches = [session.cache for session in self._sessions]
        return EngineStats(
            sessions=len(caches),
            evicted_sessions=sum(cache.is_on_host for cache in caches),
            kv_bytes=resident_bytes(caches),
            host_bytes=host_bytes(caches),
            prefix_bytes=self.prefixes.nbytes,
            vision_bytes=self.vision.nbytes,
            prefix_hits=self.prefixes.hits,
            prefix_misses=self.prefixes.misses,
            vision_hits=self.vision.hits,
            vision_misses=self.vision.misses,
            **asdict(self._counters),
        )

    @torch.inference_mode()
    def extend(
        self, sessions: Sequence[Session], chunks: Sequence[Chunk], *, spans: Spans
    ) -> Tensor:
        """Appends chunk b to session b; returns the next token's logits_BV, fp32 on the CPU.

        Evicted sessions are resumed first. A call that fails leaves every session's tokens as they
        were; KVBudgetError comes before anything changed.
        """
        stage = "prefill" if any(chunk.opens_turn for chunk in chunks) else "decode"
        with spans(stage):
            plans = [self._plan(s, chunk) for s, chunk in zip(sessions, chunks, strict=True)]
            self._check_budget([(plan.cache, len(plan.chunk.ids)) for plan in plans])
            for plan in plans:
                self._resume(plan.cache, len(plan.chunk.ids))
        with spans("vision"):
            encoded = self._encode([plan.chunk for plan in plans])
        with spans(stage):
            logits_BV, runs = run_plans(self._forward, plans, encoded, self.config.prefill_chunk)
            for run in runs:
                self._commit(run)
        return logits_BV

    def training_batch(self, chunk: Chunk) -> PackedBatch:
        """A whole history as the trainer's forward takes it: no cache, the same features."""
        batch, _ = self._forward.pack(chunk, 0, self._encode([chunk]))
        return batch

    def _plan(self, session: Session, chunk: Chunk) -> Plan:
        self._check_open(session)
        if not chunk.ids:
            raise ValueError("chunk: expected at least one token, got none")
        if self.config.keep_kv:
            return self._behind_prefix(session, chunk)
        history = session.history + chunk
        if not chunk.opens_turn or chunk.continues:
            return Plan(session, chunk, chunk, session.cache, session.next_position, history)
        return Plan(session, chunk, history, self._new_cache(), 0, history)

    def _behind_prefix(self, session: Session, chunk: Chunk) -> Plan:
        """While a session opens, earlier ones may supply more of it than it has."""
        whole = Plan(session, chunk, chunk, session.cache, session.next_position, session.history)
        if not self._use_prefixes or session.opening is None or not chunk.opens_turn:
            return whole
        opening = session.opening + chunk
        length = session.cache.length
        segments = self.prefixes.find(self._owner(session), opening, longer_than=length)
        if not length:
            self.prefixes.hits += bool(segments)
            self.prefixes.misses += not segments
        return self._adopt(whole, opening, segments) if segments else whole

    def _adopt(self, plan: Plan, opening: Chunk, segments: tuple[Segment, ...]) -> Plan:
        cache = self._new_cache(segments)
        position = self._forward.next_position(opening.before(cache.length))
        rest = opening.after(cache.length)
        return Plan(plan.session, plan.given, rest, cache, position, plan.history)

    def _owner(self, session: Session) -> Owner:
        return self._owner_of(session.version, session.salt)

    def _owner_of(self, version: str, salt: str) -> Owner:
        return Owner(version, salt, weights_stamp(self.policy))

    def _check_budget(self, wanted: Sequence[tuple[KVCache, int]], extra: int = 0) -> None:
        """Raises unless every cache may become resident and grow by its number of tokens."""
        if self.config.kv_bytes is None:
            return
        open_caches = [session.cache for session in self._sessions]
        free = self.config.kv_bytes - resident_bytes(open_caches)
        needed = needed_bytes(wanted, open_caches) + extra
        if needed > free:
            raise KVBudgetError(needed, free)

    def _resume(self, cache: KVCache, num_tokens: int) -> None:
        self._counters.resumes += cache.is_on_host
        cache.resume(room=num_tokens + ROOM)

    def _encode(self, chunks: Sequence[Chunk]) -> Encoded:
        """Features of every media the chunks show, each encoded once."""
        grids = {slot.media_id: slot.grid_thw for chunk in chunks for slot in chunk.slots}
        return {
            media_id: self.vision.features(
                media_id, grid_thw, partial(self._load_patches, media_id)
            )
            for media_id, grid_thw in grids.items()
        }

    def _commit(self, run: Run) -> None:
        plan, session = run.plan, run.plan.session
        supplied = max(0, len(plan.given.ids) - len(plan.chunk.ids))
        session.cache, session.history = plan.cache, plan.history
        session.next_position = run.position
        session.sum_D += run.sum_D
        session.num_summed += len(plan.given.ids) - supplied
        self._count(plan, supplied)
        self._remember(session, plan.given)

    def _count(self, plan: Plan, supplied: int) -> None:
        self._counters.tokens_shared += supplied
        if plan.given.opens_turn:
            self._counters.tokens_prefilled += len(plan.chunk.ids)
        else:
            self._counters.tokens_decoded += len(plan.chunk.ids)

    def _remember(self, session: Session, chunk: Chunk) -> None:
        """What opens a session is kept for later ones until it generates."""
        if session.opening is None or not chunk.opens_turn:
            session.opening = None
            return
        session.opening = session.opening + chunk
        # A session that outlived an update in place has keys and values of both weights.
        is_known = self.shelf.serving(session.salt).version == session.version
        if self._use_prefixes and is_known:
            self.prefixes.keep(self._owner(session), session.opening, session.cache.snapshot())

    def _new_cache(self, segments: tuple[Segment, ...] = ()) -> KVCache:
        empty = self.policy.new_cache(0, invariant=self.config.batch_invariant)
        if not segments:
            return empty
        empty.prefix = segments
        return empty if self.config.share_prefix else empty.clone(room=ROOM)

    def _no_sum(self) -> Tensor:
        size = self.policy.config.text.hidden_size
        with torch.inference_mode(False):
            return torch.zeros(size, device=self.policy.device)

    def _check_open(self, session: Session) -> None:
        if session not in self._sessions:
            raise ValueError("session: expected an open one of this engine, got another")

    def _register(self, session: Session) -> Session:
        self._sessions.add(session)
        return session
