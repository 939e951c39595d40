"""The textbook form of the op, in the type of its arguments. Shapes as in op.py."""

from torch import Tensor


def attention_reference(
    queries_BTC: Tensor, keys_BMC: Tensor, values_BMV: Tensor, bias_BM: Tensor | None = None
) -> Tensor:
    scores_BTM = queries_BTC @ keys_BMC.transpose(1, 2)
    if bias_BM is not None:
        scores_BTM = scores_BTM + bias_BM[:, None]
    return scores_BTM.softmax(dim=-1) @ values_BMV
