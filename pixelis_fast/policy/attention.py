"""Attention over packed sequences: causal, causal behind a cache, and inside vision segments.

SDPA everywhere; flash-attn's variable-length kernel takes packed work on CUDA when it is installed
(`flash_varlen` says which and why). Keys and values are never repeated for their query groups: one
new token folds its group into the query axis, several use SDPA's grouped form.
`bench/decode.py` times the variants (8 query heads on 2, head_dim 64). On a CPU, one token on 2,000
cached: grouped takes 1.5 to 3 times as long as folded, repeated keys more than 15 times; 1,000
tokens without a cache: folded takes 1.6 times as long as grouped; 213 tokens behind 1,700: all are
within a fifth of each other, the float mask before the boolean one.

Shapes: N = tokens of all sequences, H = query heads, K = key/value heads, G = H / K, F = head_dim,
T = cached + new tokens of one sequence, S = segments, P = patches of a segment.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.attention.bias import CausalBias, causal_lower_right
from torch.nn.functional import scaled_dot_product_attention

from pixelis_fast.policy.cache import KVCache, LayerWindow, write_all

Mask = Tensor | CausalBias | None


@dataclass(frozen=True)
class FlashChoice:
    """Which packed kernel CUDA tensors get."""

    run: Callable[..., Tensor] | None
    """flash_attn_varlen_func, or None for SDPA."""
    reason: str


@cache
def flash_varlen() -> FlashChoice:
    """Decided once per process."""
    if not torch.cuda.is_available():
        return FlashChoice(None, "SDPA: no CUDA device")
    try:
        from flash_attn import flash_attn_varlen_func
    except ImportError as error:
        return FlashChoice(None, f"SDPA: flash_attn cannot be imported ({error})")
    return FlashChoice(flash_attn_varlen_func, "flash_attn's variable-length kernel")


@dataclass(frozen=True)
class Packing:
    """Where packed sequences or segments begin and end; made once per forward."""

    lengths: list[int]
    bounds: Tensor | None = None
    """0, then the end of each, int32 on the device; only the flash kernel reads it."""

    @staticmethod
    def of(lengths: list[int], like: Tensor) -> Packing:
        """For tensors that sit where `like` sits and have its dtype."""
        if _flash_for(like) is None:
            return Packing(lengths)
        bounds = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
        return Packing(lengths, bounds.to(like.device))


def causal_attention(
    queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor, *, packing: Packing
) -> Tensor:
    """Each sequence attends to itself, causally; (N, H, F) like the queries."""
    qkv = (queries_NHF, keys_NKF, values_NKF)
    if packing.bounds is not None:
        return _run_flash(qkv, packing, causal=True)
    qkv = _trainable(qkv)
    if len(packing.lengths) == 1:
        return _causal_one(*qkv).to(queries_NHF.dtype)
    parts = (tensor.split(packing.lengths) for tensor in qkv)
    out_NHF = torch.cat([_causal_one(*sequence) for sequence in zip(*parts, strict=True)])
    return out_NHF.to(queries_NHF.dtype)


def cached_attention(
    queries_NHF: Tensor,
    keys_NKF: Tensor,
    values_NKF: Tensor,
    *,
    lengths: Sequence[int],
    windows: Sequence[LayerWindow],
    masks: Sequence[Mask],
) -> Tensor:
    """Each sequence's new tokens join its cache and attend to all of it, causally."""
    if len(lengths) == 1:
        seen = windows[0].write(keys_NKF, values_NKF)
        return _behind_cache(queries_NHF, *seen, mask=masks[0])
    write_all(windows, keys_NKF, values_NKF, lengths)
    sequences = zip(queries_NHF.split(list(lengths)), windows, masks, strict=True)
    return torch.cat(
        [_behind_cache(q, w.keys_1KTF, w.values_1KTF, mask=mask) for q, w, mask in sequences]
    )


def segment_attention(
    queries_NHF: Tensor, keys_NHF: Tensor, values_NHF: Tensor, *, packing: Packing
) -> Tensor:
    """Each segment (an image, a video's frame pair) attends to itself, in both directions."""
    qkv = (queries_NHF, keys_NHF, values_NHF)
    if packing.bounds is not None:
        return _run_flash(qkv, packing, causal=False)
    # Neighbours of one size (a video's frames) are one batch.
    runs = [(length, len(list(run))) for length, run in groupby(packing.lengths)]
    parts = (tensor.split([length * count for length, count in runs]) for tensor in _trainable(qkv))
    out_NHF = torch.cat(
        [
            _segments_of_one_size(q, k, v, count=count)
            for (_, count), q, k, v in zip(runs, *parts, strict=True)
        ]
    )
    return out_NHF.to(queries_NHF.dtype)


def cache_masks(
    lengths: Sequence[int], caches: Sequence[KVCache], *, device: torch.device, dtype: torch.dtype
) -> list[Mask]:
    """What new tokens may see, once per forward and shared by its layers.

    None where no mask is needed: one new token sees everything, an empty tail is plainly causal.
    """
    return [
        None
        if length == 1 or kv.tail_length == 0
        else _lower_right(length, kv.tail_length, device, dtype)
        for length, kv in zip(lengths, caches, strict=True)
    ]


def _trainable(qkv: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """In fp32 where a gradient follows on a CPU: there bf16 takes 1.7 times as long.

    `bench/decode.py` prints both.
    """
    queries_NHF, keys_NKF, values_NKF = qkv
    if queries_NHF.is_cuda or not queries_NHF.requires_grad:
        return qkv
    return queries_NHF.float(), keys_NKF.float(), values_NKF.float()


def _lower_right(length: int, cached: int, device: torch.device, dtype: torch.dtype) -> Mask:
    if device.type == "cuda":
        # Kept symbolic: the CUDA kernels know this shape and need no mask in memory.
        return causal_lower_right(length, cached + length)
    # A float mask: SDPA on the CPU converts a boolean one in every layer.
    blocked = torch.full((length, cached + length), -torch.inf, device=device, dtype=dtype)
    return blocked.triu_(cached + 1)


def _causal_one(queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor) -> Tensor:
    out_1HNF = scaled_dot_product_attention(
        queries_NHF.transpose(0, 1).unsqueeze(0),
        keys_NKF.transpose(0, 1).unsqueeze(0),
        values_NKF.transpose(0, 1).unsqueeze(0),
        is_causal=True,
        enable_gqa=queries_NHF.shape[1] != keys_NKF.shape[1],
    )
    return out_1HNF.squeeze(0).transpose(0, 1)


def _behind_cache(
    queries_NHF: Tensor, keys_1KTF: Tensor, values_1KTF: Tensor, *, mask: Mask
) -> Tensor:
    num_new, num_heads, head_dim = queries_NHF.shape
    _, num_kv_heads, num_seen, _ = keys_1KTF.shape
    if num_new == 1:
        queries_1KGF = queries_NHF.view(1, num_kv_heads, -1, head_dim)
        folded_1KGF = scaled_dot_product_attention(queries_1KGF, keys_1KTF, values_1KTF)
        return folded_1KGF.reshape(1, num_heads, head_dim)
    out_1HNF = scaled_dot_product_attention(
        queries_NHF.transpose(0, 1).unsqueeze(0),
        keys_1KTF,
        values_1KTF,
        attn_mask=mask,
        is_causal=num_seen == num_new,
        enable_gqa=num_heads != num_kv_heads,
    )
    return out_1HNF.squeeze(0).transpose(0, 1)


def _segments_of_one_size(q_NHF: Tensor, k_NHF: Tensor, v_NHF: Tensor, *, count: int) -> Tensor:
    q_SHPF, k_SHPF, v_SHPF = (
        tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in (q_NHF, k_NHF, v_NHF)
    )
    out_SHPF = scaled_dot_product_attention(q_SHPF, k_SHPF, v_SHPF)
    return out_SHPF.transpose(1, 2).flatten(0, 1)


def _flash_for(tensor: Tensor) -> Callable[..., Tensor] | None:
    fits = tensor.is_cuda and tensor.dtype in (torch.bfloat16, torch.float16)
    return flash_varlen().run if fits else None


def _run_flash(qkv: tuple[Tensor, Tensor, Tensor], packing: Packing, *, causal: bool) -> Tensor:
    run = flash_varlen().run
    assert run is not None
    longest = max(packing.lengths)
    return run(
        *qkv,
        cu_seqlens_q=packing.bounds,
        cu_seqlens_k=packing.bounds,
        max_seqlen_q=longest,
        max_seqlen_k=longest,
        causal=causal,
    )
