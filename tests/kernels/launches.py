"""Launches of the linear op's Triton kernels, written down instead of run: grids and switches.

Sizes that no test could compute are cheap here; what the kernels would have written is undefined.
"""

from collections.abc import Callable
from dataclasses import dataclass

from pixelis_fast.kernels.linear_loss import launch, launch_rows

KERNELS = {
    launch: (
        "statistics_kernel",
        "pair_statistics_kernel",
        "combine_kernel",
        "finish_kernel",
        "hidden_product_kernel",
        "weight_product_kernel",
    ),
    launch_rows: ("copy_rows_kernel", "target_logit_kernel"),
}
Note = Callable[[str, tuple[int, ...], dict[str, object]], None]
"""(kernel, grid, keyword arguments)."""


@dataclass
class Launches:
    """In place of a kernel: kernel[grid](...) is noted and does nothing."""

    name: str
    note: Note

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        return lambda *_, **options: self.note(self.name, grid, options)


def note_launches(monkeypatch, note: Note) -> None:
    for module, names in KERNELS.items():
        for name in names:
            assert hasattr(module, name)
            monkeypatch.setattr(module, name, Launches(name, note))
