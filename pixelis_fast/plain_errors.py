"""How a person's mistake is told on the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

import typer
from rich.console import Console
from rich.markup import escape

from pixelis_fast.tools import ToolError

warnings = Console(stderr=True)


@contextmanager
def plain_errors() -> Iterator[None]:
    """A person's mistake ends in one sentence and exit status 2, without a traceback."""
    try:
        yield
    except (ValueError, ToolError) as error:
        warnings.print(f"[red]error:[/red] {escape(str(error))}")
        raise typer.Exit(2) from error


def plainly(command: Callable[..., None]) -> Callable[..., None]:
    """The command with its mistakes told so; its options stay what they are."""

    @wraps(command)
    def told(*arguments: Any, **options: Any) -> None:
        with plain_errors():
            command(*arguments, **options)

    return told
