"""Cases for the compile gate: one that does not compile, one that claims too much, a sound one."""

from pixelis_fast.kernels.offline import CompileCase
from tests.kernels.offline_fixtures import sums_case


def cases() -> list[CompileCase]:
    odd = {"BLOCK_N": 1000}  # not a power of two
    return [
        sums_case(name="odd", constants=odd, targets=(90,)),
        sums_case(name="claims too much", claims=frozenset({"hgmma"}), targets=(90,)),
        sums_case(),
    ]
