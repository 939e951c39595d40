"""Several banks in one packed forward: the base runs once over all rows, each bank over its own.

Shapes: N = rows, D = inputs, O = outputs, n = rows of one bank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.decoder import Apply, apply_at_once

Route = tuple[AdapterBank, Tensor]
"""A bank and the indices of its rows; a row without a bank is the base's."""


def routed_apply(routes: Sequence[Route], base: Apply = apply_at_once) -> Apply:
    """Each row is corrected by its bank.

    Example:
        hidden_ND = policy.hidden(batch, apply=routed_apply([(bank_a, rows_a), (bank_b, rows_b)]))
    """

    def adapted(layer: Callable[[Tensor], Tensor], x_ND: Tensor) -> Tensor:
        y_NO = base(layer, x_ND)
        for bank, rows_n in routes:
            pair = bank.pair_of(layer)
            if pair is not None:
                delta_nO = base(pair, x_ND.index_select(0, rows_n))
                # In fp32 and rounded once, as for a bank that has all rows.
                mixed_nO = (y_NO.index_select(0, rows_n) + delta_nO).to(y_NO.dtype)
                y_NO = y_NO.index_copy(0, rows_n, mixed_nO)
        return y_NO

    return adapted


def apply_by_row(
    banks: Sequence[AdapterBank | None],
    lengths: Sequence[int],
    base: Apply = apply_at_once,
    *,
    device: torch.device | str = "cpu",
) -> Apply:
    """`base` with the bank of each sequence on its rows; rows are sorted out only where needed."""
    distinct = list({id(bank): bank for bank in banks}.values())
    if len(distinct) == 1:
        return base if distinct[0] is None else distinct[0].apply(base)
    owner_N = torch.repeat_interleave(
        torch.tensor([[id(d) for d in distinct].index(id(bank)) for bank in banks]),
        torch.tensor(list(lengths)),
    )
    return routed_apply(
        [
            (bank, (owner_N == index).nonzero().squeeze(1).to(device))
            for index, bank in enumerate(distinct)
            if bank is not None
        ],
        base,
    )
