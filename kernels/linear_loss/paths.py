"""The two implementations behind the op, by name; each is imported when first used."""

from typing import ClassVar, Protocol

from torch import Tensor

from pixelis_fast.kernels.linear_loss.coefficients import Coefficients
from pixelis_fast.kernels.linear_loss.problem import Forward, Problem


class Path(Protocol):
    """One implementation. N = tokens, V = vocabulary, C = stored columns, S = statistics,
    R = the path's own numbers per token."""

    rows_per_token: ClassVar[int]
    """R: how many numbers per token forward hands to backward."""

    def stored_columns(
        self, hidden_ND: Tensor, weight_VD: Tensor, *, keeps_deltas: bool, budget: int | None
    ) -> int:
        """How many vocabulary columns fit the budget in bytes; its default where it is None."""

    def new_stored(self, hidden_ND: Tensor, columns: int) -> Tensor:
        """An unfilled buffer for that many columns, in this path's own layout."""

    def forward(
        self, problem: Problem, exponentials: Tensor, deltas: Tensor
    ) -> tuple[Tensor, Tensor]:
        """statistics (S, N) and rows (R, N); fills the two buffers."""

    def backward(
        self,
        problem: Problem,
        saved: Forward,
        row: Coefficients,
        *,
        plain: bool,
        needs_hidden: bool,
        needs_weight: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Gradients of hidden and weight, None where not needed. Overwrites nothing saved.

        `plain`: constant = target, the other coefficients are zero, and there is no softcap.
        """


def open_path(implementation: str) -> Path:
    """ "triton" or "cpu"."""
    if implementation == "triton":
        from pixelis_fast.kernels.linear_loss.triton_path import TritonPath

        return TritonPath()
    from pixelis_fast.kernels.linear_loss.cpu_path import CpuPath

    return CpuPath()
