"""What callers of the all-pairs ops may pass, checked before anything runs.

Values in tensors are looked at later and only on the CPU: looking would wait for a GPU.

Shapes: N = queries, M = keys, D = width of a row, G = groups.
"""

import math
from numbers import Real

import torch
from torch import Tensor

from pixelis_fast.kernels.checks import check, check_count
from pixelis_fast.kernels.coherence.pairs_problem import DTYPES, MAX_K, Ballot, Pairs

INDEX_DTYPES = (torch.int64, torch.int32)


def check_pairs(
    queries_ND: Tensor, keys_MD: Tensor, valid_keys_M: Tensor | None, *, exclude_self: bool
) -> None:
    _check_rows("queries_ND", queries_ND)
    _check_rows("keys_MD", keys_MD)
    width, dtype = queries_ND.shape[1], queries_ND.dtype
    check(keys_MD.shape[1] == width, "keys_MD", f"width {width}", f"width {keys_MD.shape[1]}")
    check(keys_MD.dtype == dtype, "keys_MD", f"dtype {dtype}", keys_MD.dtype)
    _check_device("keys_MD", keys_MD, queries_ND)
    if valid_keys_M is not None:
        check_per_key("valid_keys_M", valid_keys_M, keys_MD, (torch.bool,))
    if exclude_self:
        same = keys_MD.shape[0] == queries_ND.shape[0]
        expected = f"as many keys as queries ({queries_ND.shape[0]})"
        check(same, "exclude_self", expected, keys_MD.shape[0])


def _check_rows(name: str, rows: Tensor) -> None:
    check(rows.ndim == 2, name, "shape (rows, width)", f"shape {tuple(rows.shape)}")
    check(rows.shape[1] >= 1, name, "a width of at least 1", f"shape {tuple(rows.shape)}")
    check(rows.shape[0] < 2**31, name, "fewer than 2**31 rows", rows.shape[0])
    check(rows.dtype in DTYPES, name, "dtype bfloat16 or float32", rows.dtype)
    trains = torch.is_grad_enabled() and rows.requires_grad
    check(not trains, name, "no gradient wanted (detach, or torch.no_grad)", "requires_grad")


def check_per_key(
    name: str, values_M: Tensor, keys_MD: Tensor, dtypes: tuple[torch.dtype, ...]
) -> None:
    rows = keys_MD.shape[:1]
    check(values_M.shape == rows, name, f"shape {tuple(rows)}", f"shape {tuple(values_M.shape)}")
    check(values_M.dtype in dtypes, name, f"dtype {' or '.join(map(str, dtypes))}", values_M.dtype)
    _check_device(name, values_M, keys_MD)


def _check_device(name: str, tensor: Tensor, other: Tensor) -> None:
    check(tensor.device == other.device, name, f"device {other.device}", tensor.device)


def check_k(k: int) -> None:
    check_count("k", k)
    check(k <= MAX_K, "k", f"at most {MAX_K}", k)


def check_floor(floor: float) -> None:
    finite = isinstance(floor, Real) and math.isfinite(floor)
    check(finite, "floor", "a finite number", repr(floor))


def check_groups(
    query_cu_seqlens: Tensor | None, key_cu_seqlens: Tensor | None, queries_ND: Tensor
) -> None:
    if query_cu_seqlens is None and key_cu_seqlens is None:
        return
    if query_cu_seqlens is None or key_cu_seqlens is None:
        raise ValueError("query_cu_seqlens, key_cu_seqlens: expected both or neither, got one")
    _check_bounds("query_cu_seqlens", query_cu_seqlens, queries_ND)
    _check_bounds("key_cu_seqlens", key_cu_seqlens, queries_ND)
    bounds, got = query_cu_seqlens.shape[0], key_cu_seqlens.shape[0]
    check(got == bounds, "key_cu_seqlens", f"{bounds} bounds", got)


def _check_bounds(name: str, bounds: Tensor, queries_ND: Tensor) -> None:
    fits = bounds.ndim == 1 and bounds.shape[0] >= 2
    check(fits, name, "shape (groups + 1), groups >= 1", f"shape {tuple(bounds.shape)}")
    check(bounds.dtype in INDEX_DTYPES, name, "dtype int32 or int64", bounds.dtype)
    _check_device(name, bounds, queries_ND)


def make_pairs(
    queries: Tensor,
    keys: Tensor,
    valid: Tensor | None,
    query_bounds: Tensor | None,
    key_bounds: Tensor | None,
    exclude_self: bool,
) -> Pairs:
    """Packed rows and key ranges; on the CPU groups that do not cover all rows raise."""
    first_N = last_N = None
    if query_bounds is not None and key_bounds is not None:
        if queries.device.type == "cpu":
            _check_cover("query_cu_seqlens", query_bounds, queries.shape[0])
            _check_cover("key_cu_seqlens", key_bounds, keys.shape[0])
        first_N, last_N = _key_ranges(query_bounds.long(), key_bounds.long(), queries)
    return Pairs(
        queries_ND=_packed(queries),
        keys_MD=_packed(keys),
        valid_M=None if valid is None else valid.contiguous(),
        first_N=first_N,
        last_N=last_N,
        exclude_self=exclude_self,
    )


def _packed(rows: Tensor) -> Tensor:
    """Rows may lie apart, their values may not."""
    apart = rows.shape[0] <= 1 or rows.stride(0) >= rows.shape[1]
    return rows if rows.stride(1) == 1 and apart else rows.contiguous()


def _check_cover(name: str, bounds: Tensor, rows: int) -> None:
    ends = int(bounds[0]), int(bounds[-1])
    covers = ends == (0, rows) and bool((bounds.diff() >= 0).all())
    check(covers, name, f"bounds rising from 0 to {rows}", bounds.tolist())


def _key_ranges(query_bounds: Tensor, key_bounds: Tensor, queries: Tensor) -> tuple[Tensor, Tensor]:
    """First and last (exclusive) key of every query, int64 (N)."""
    row_N = torch.arange(queries.shape[0], device=queries.device)
    group_N = torch.searchsorted(query_bounds, row_N, right=True) - 1
    group_N = group_N.clamp(0, query_bounds.shape[0] - 2)
    return key_bounds[group_N], key_bounds[group_N + 1]


def make_ballot(
    answers: Tensor, weights: Tensor | None, valid: Tensor | None, num_answers: int, floor: float
) -> Ballot:
    """On the CPU an unknown answer or a weight that is not finite raises, where the key is valid.

    On a GPU the whole vote becomes NaN instead.
    """
    ballot = Ballot(
        answers_M=answers.contiguous(),
        weights_M=None if weights is None else weights.contiguous(),
        num_answers=num_answers,
        floor=floor,
    )
    if answers.device.type == "cpu":
        wrong_M = unknown_answers(ballot, valid)
        found = answers[wrong_M][:1].tolist()
        check(not found, "answers_M", f"ids in [0, {num_answers}) of valid keys", found)
        wrong_M = unknown_weights(ballot, valid)
        found = [] if weights is None else weights[wrong_M][:1].tolist()
        check(not found, "weights_M", "finite weights of valid keys", found)
    return ballot


def unknown_answers(ballot: Ballot, valid_M: Tensor | None) -> Tensor:
    wrong_M = (ballot.answers_M < 0) | (ballot.answers_M >= ballot.num_answers)
    return wrong_M if valid_M is None else wrong_M & valid_M


def unknown_weights(ballot: Ballot, valid_M: Tensor | None) -> Tensor:
    if ballot.weights_M is None:
        return torch.zeros_like(ballot.answers_M, dtype=torch.bool)
    wrong_M = ~ballot.weights_M.isfinite()
    return wrong_M if valid_M is None else wrong_M & valid_M
