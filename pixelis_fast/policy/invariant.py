"""Batch-invariant arithmetic: a token's numbers do not depend on what is computed beside it.

Matrix products and attention kernels choose their order of summation by shape. Here every call has
a shape that follows from the token alone: rows go in blocks of 16, and queries in blocks aligned to
their position, against exactly the keys up to the block's end. A rollout in any batch, in any
pieces, then has the training forward's bits. What it costs is the arm "batch invariant" of
`bench/engine.py`; it excludes shared prefixes and packed matrices.

Shapes: N = tokens, R = 16 rows, H = query heads, K = key/value heads, F = head_dim, T = keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from pixelis_fast.policy.cache import LayerWindow

ROWS = 16
"""Rows of every call."""


def rows_apply(module: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
    """A row-wise module, 16 rows at a time; the last block is filled with zeros."""
    missing = -len(x_ND) % ROWS
    blocks = pad(x_ND, (0, 0, 0, missing)).split(ROWS)
    return torch.cat([module(block) for block in blocks])[: len(x_ND)]


def invariant_causal(
    queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor, *, lengths: Sequence[int]
) -> Tensor:
    """Each sequence attends to itself, causally; (N, H, F)."""
    parts = (tensor.split(list(lengths)) for tensor in (queries_NHF, keys_NKF, values_NKF))
    return torch.cat([_alone(*sequence) for sequence in zip(*parts, strict=True)])


def invariant_cached(
    queries_NHF: Tensor,
    keys_NKF: Tensor,
    values_NKF: Tensor,
    *,
    lengths: Sequence[int],
    windows: Sequence[LayerWindow],
    starts: Sequence[int],
) -> Tensor:
    """Each sequence's new tokens join its cache, which holds `starts` tokens; (N, H, F).

    A window's keys end on a multiple of 16, and what is not written of them is finite.
    """
    parts = (tensor.split(list(lengths)) for tensor in (queries_NHF, keys_NKF, values_NKF))
    sequences = zip(*parts, windows, starts, strict=True)
    return torch.cat(
        [_blocks(q, *window.write(k, v), start=start) for q, k, v, window, start in sequences]
    )


def _alone(queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor) -> Tensor:
    missing = -len(queries_NHF) % ROWS
    keys_1KTF, values_1KTF = (
        pad(tensor_NKF, (0, 0, 0, 0, 0, missing)).transpose(0, 1).unsqueeze(0)
        for tensor_NKF in (keys_NKF, values_NKF)
    )
    return _blocks(queries_NHF, keys_1KTF, values_1KTF, start=0)


def _blocks(queries_NHF: Tensor, keys_1KTF: Tensor, values_1KTF: Tensor, *, start: int) -> Tensor:
    """Queries at start, start + 1, ...: each in its block of 16 positions."""
    lead, tail = start % ROWS, -(start + len(queries_NHF)) % ROWS
    padded = pad(queries_NHF, (0, 0, 0, 0, lead, tail))
    first = start - lead
    outs = [
        _block(block_RHF, keys_1KTF, values_1KTF, end=first + (index + 1) * ROWS)
        for index, block_RHF in enumerate(padded.split(ROWS))
    ]
    return torch.cat(outs)[lead : lead + len(queries_NHF)]


def _block(queries_RHF: Tensor, keys_1KTF: Tensor, values_1KTF: Tensor, *, end: int) -> Tensor:
    out_1HRF = scaled_dot_product_attention(
        queries_RHF.transpose(0, 1).unsqueeze(0),
        keys_1KTF[:, :, :end],
        values_1KTF[:, :, :end],
        attn_mask=_mask(end, queries_RHF.device, queries_RHF.dtype),
        enable_gqa=queries_RHF.shape[1] != keys_1KTF.shape[1],
    )
    return out_1HRF.squeeze(0).transpose(0, 1)


@lru_cache(maxsize=256)
def _mask(end: int, device: torch.device, dtype: torch.dtype) -> Tensor:
    """(R, end): row r sees the keys up to end - R + r."""
    with torch.inference_mode(False):
        hidden_RT = torch.full((ROWS, end), -torch.inf, device=device, dtype=dtype)
        return hidden_RT.triu_(end - ROWS + 1)
