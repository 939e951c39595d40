"""Decode steps in buffers that never move, recorded once as a CUDA graph per size.

A step of many sessions, one new token each, is hundreds of small kernels: launched one by one they
leave a GPU waiting for Python. Here rows and room are rounded up to a bucket, every step of a
bucket runs the same kernels on the same memory, and on CUDA the first one is recorded and replayed.
The sessions' own caches stay the truth: a row mirrors one cache, is filled when another cache comes
to it, and hands back each new token; shared segments are read once per row. A step under an adapter
bank runs on a copy of its numbers that stays in place, so another version is a copy and no new
recording. On another device the same step runs without a recording. The recording itself has not
run on a GPU yet.

Shapes: R = rows of the bucket, B <= R sessions, L = layers, H = query heads, K = key/value heads,
G = H / K, F = head_dim, C = room in tokens, D = hidden, V = vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.chunk import Piece
from pixelis_fast.policy.decoder import Apply, Context, apply_at_once
from pixelis_fast.policy.model import Policy

ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
ROOM_STEP = 1024
"""Room grows in steps of so many tokens: each bucket is a recording and reads all of its room."""
WARM_UPS = 3
"""Steps before a recording, as torch asks for."""


@dataclass(frozen=True)
class Mirror:
    """Whose keys and values a row holds, and how far."""

    cache: ReferenceType[KVCache]
    length: int
    num_truncations: int

    @staticmethod
    def of(cache: KVCache) -> Mirror:
        return Mirror(ref(cache), cache.length, cache.num_truncations)


class StaticDecoder:
    """All buckets of one policy.

    Example:
        if decoder.fits(pieces):
            hidden_BD = decoder.step(pieces)
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._buckets: dict[tuple[int, int, bool], Bucket] = {}
        self._adapters = AdapterSlot()

    def fits(self, pieces: Sequence[Piece]) -> bool:
        """One text token for each of not too many sessions, all of one version."""
        one_each = all(len(piece.chunk.ids) == 1 and not piece.chunk.slots for piece in pieces)
        is_one = all(piece.bank is pieces[0].bank for piece in pieces)
        return one_each and is_one and len(pieces) <= ROW_BUCKETS[-1]

    @torch.inference_mode()
    def step(self, pieces: Sequence[Piece]) -> Tensor:
        """Appends every piece to its cache; hidden_BD behind the final norm."""
        rows = next(size for size in ROW_BUCKETS if size >= len(pieces))
        longest = max(piece.cache.length for piece in pieces) + 1
        room = longest + -longest % ROOM_STEP
        apply = self._take(pieces[0].bank)
        key = rows, room, pieces[0].bank is not None
        if key not in self._buckets:
            self._buckets[key] = Bucket(self._policy, rows, room, apply)
        return self._buckets[key].step(pieces)

    @property
    def nbytes(self) -> int:
        return self._adapters.nbytes + sum(bucket.nbytes for bucket in self._buckets.values())

    def clear(self) -> None:
        """Gives every buffer and recording back."""
        self._buckets.clear()
        self._adapters = AdapterSlot()

    def _take(self, bank: AdapterBank | None) -> Apply:
        if bank is None:
            return apply_at_once
        if not self._adapters.fits(bank):
            # Recordings read the slot's own memory.
            self._buckets = {key: each for key, each in self._buckets.items() if not key[2]}
        return self._adapters.take(bank)


class AdapterSlot:
    """One bank's numbers at addresses that never change."""

    def __init__(self) -> None:
        self._slot: AdapterBank | None = None
        self._holds: ReferenceType[AdapterBank] | None = None

    @property
    def nbytes(self) -> int:
        return 0 if self._slot is None else self._slot.nbytes

    def fits(self, bank: AdapterBank) -> bool:
        """Whether the bank can be copied in."""
        slot = self._slot
        return slot is not None and (slot.rank, slot.alpha) == (bank.rank, bank.alpha)

    def take(self, bank: AdapterBank) -> Apply:
        """The slot's own, once it holds the bank; a published bank never changes again."""
        if not self.fits(bank):
            self._slot = bank.copy().freeze()
        elif self._holds is None or self._holds() is not bank:
            assert self._slot is not None
            torch._foreach_copy_(list(self._slot.parameters()), list(bank.parameters()))
        self._holds = ref(bank)
        assert self._slot is not None
        return self._slot.apply()


class Bucket:
    """Buffers and the recording of one size."""

    def __init__(self, policy: Policy, rows: int, room: int, apply: Apply) -> None:
        text = policy.config.text
        device, dtype = policy.device, policy.dtype
        shape = (2, text.num_layers, rows, text.num_kv_heads, room, text.head_dim)
        self._policy, self._room, self._apply = policy, room, apply
        # Zeros: a masked key is multiplied by 0, and NaN would stay NaN.
        self._kv_2LRKCF = torch.zeros(shape, dtype=dtype, device=device)
        self._inputs_3R = torch.zeros(3, rows, dtype=torch.long, device=device)
        """Token id, mRoPE position and place in the row, of each row."""
        self._rows_R = torch.arange(rows, device=device)
        self._columns_C = torch.arange(room, device=device)
        self._hidden_RD = torch.zeros(rows, text.hidden_size, dtype=dtype, device=device)
        self._mirrors: list[Mirror | None] = [None] * rows
        self._rows = range(rows)
        self._graph: torch.cuda.CUDAGraph | None = None

    @property
    def nbytes(self) -> int:
        return self._kv_2LRKCF.nbytes

    def step(self, pieces: Sequence[Piece]) -> Tensor:
        caches = [piece.cache for piece in pieces]
        rows = self._assign(caches)
        # A row without a session writes behind everything that a row of this bucket still needs.
        inputs = [[0, 0, self._room - 1] for _ in self._mirrors]
        for row, piece in zip(rows, pieces, strict=True):
            inputs[row] = [piece.chunk.ids[0], piece.position, piece.cache.length]
        self._inputs_3R.copy_(torch.tensor(inputs).T)
        self._replay()
        self._hand_back(rows, caches)
        return self._hidden_RD[rows]

    def _assign(self, caches: Sequence[KVCache]) -> list[int]:
        """A row for each cache: the one that mirrors it, or one that mirrors no cache of these."""
        known = {self._mirrors[row]: row for row in self._rows if self._is_alive(row)}
        rows = [known.get(Mirror.of(cache)) for cache in caches]
        free = [row for row in self._rows if row not in rows]
        # Rows whose cache is gone are taken first.
        free.sort(key=self._is_alive)
        return [
            row if row is not None else self._fill(free.pop(0), cache)
            for row, cache in zip(rows, caches, strict=True)
        ]

    def _is_alive(self, row: int) -> bool:
        mirror = self._mirrors[row]
        return mirror is not None and mirror.cache() is not None

    def _fill(self, row: int, cache: KVCache) -> int:
        start = 0
        for tensor_2LKPF in cache.parts():
            end = start + tensor_2LKPF.shape[3]
            self._kv_2LRKCF[:, :, row, :, start:end] = tensor_2LKPF
            start = end
        return row

    def _replay(self) -> None:
        if self._inputs_3R.device.type != "cuda":
            self._run()
            return
        if self._graph is None:
            self._graph = self._record()
        self._graph.replay()

    def _record(self) -> torch.cuda.CUDAGraph:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        # Only this thread's calls are recorded: a learner beside it goes on computing.
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._run()
        return graph

    def _run(self) -> None:
        """The step itself: no shape and no address in it depends on the sessions."""
        policy = self._policy
        ids_R, positions_R, places_R = self._inputs_3R
        hidden = self._columns_C > places_R[:, None]
        mask_RC = torch.zeros(hidden.shape, dtype=policy.dtype, device=hidden.device)
        mask_R11C = mask_RC.masked_fill_(hidden, -torch.inf)[:, None, None]

        def attend(layer: int, queries_RHF: Tensor, keys_RKF: Tensor, values_RKF: Tensor) -> Tensor:
            keys_RKCF, values_RKCF = self._kv_2LRKCF[:, layer]
            keys_RKCF[self._rows_R, :, places_R] = keys_RKF
            values_RKCF[self._rows_R, :, places_R] = values_RKF
            queries_RKGF = queries_RHF.unflatten(1, (keys_RKF.shape[1], -1))
            mixed = scaled_dot_product_attention(
                queries_RKGF, keys_RKCF, values_RKCF, attn_mask=mask_R11C
            )
            return mixed.flatten(1, 2)

        batch = PackedBatch(ids_R, positions_R.expand(3, -1), [1] * len(ids_R))
        context = Context(policy.rotation(batch.positions_3N), attend, self._apply)
        self._hidden_RD.copy_(policy.run_layers(batch, context))

    def _hand_back(self, rows: Sequence[int], caches: Sequence[KVCache]) -> None:
        """Each new token joins its session's cache."""
        for row, cache in zip(rows, caches, strict=True):
            cache.append(self._kv_2LRKCF[:, :, row, :, cache.length])
            self._mirrors[row] = Mirror.of(cache)
