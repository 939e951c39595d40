"""The bar of a long run: how far it is, how long it takes, and one line about its last step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def step_bar(
    name: str, total: int, *, start: int, shown: bool = True
) -> Iterator[Callable[[str], None]]:
    """Example:
    with step_bar("sft", 1000, start=0) as advance:
        advance("loss 0.31")
    """
    said = TextColumn("{task.fields[said]}")
    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), said, disable=not shown
    ) as bar:
        task = bar.add_task(name, total=total, completed=start, said="")
        yield lambda text: bar.update(task, advance=1, said=text)
