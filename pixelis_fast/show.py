"""A trajectory for a person: the chain as a tree, the time as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.markup import escape
from rich.table import Table
from rich.tree import Tree

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.types import Step, TokenRole, Trajectory

LONGEST_TEXT = 300
"""Characters of one text shown in the tree; the trace keeps all of it."""


def chain_tree(
    trajectory: Trajectory, tokenizer: Tokenizer, *, pictures: Sequence[Sequence[Path]]
) -> Tree:
    """One branch per step: thought, call, observation, saved pictures; then the answer."""
    tree = Tree(f"[bold]{escape(trajectory.sample.question)}[/bold]")
    for number, step in enumerate(trajectory.steps, start=1):
        saved = pictures[number - 1] if number <= len(pictures) else ()
        _add_step(tree, step, number=number, thought=_thought(trajectory, step, tokenizer))
        for path in saved:
            tree.children[-1].add(f"saved {escape(str(path))}")
    status = trajectory.status.value if trajectory.status else "running"
    answer = "no answer" if trajectory.answer is None else escape(trajectory.answer)
    tree.add(f"[bold green]{answer}[/bold green] ({status})")
    if trajectory.error is not None:
        tree.add(f"[red]{escape(trajectory.error)}[/red]")
    return tree


def _add_step(tree: Tree, step: Step, *, number: int, thought: str) -> None:
    call = step.call
    title = f"{call.operation} {call.arguments}" if call else "answer or unreadable call"
    branch = tree.add(f"[cyan]{number}. {escape(title)}[/cyan]")
    if thought:
        branch.add(f"[dim]{escape(_short(thought))}[/dim]")
    if step.observation is not None:
        style = "red" if step.observation.error else "white"
        branch.add(f"[{style}]{escape(_short(step.observation.text))}[/{style}]")
        if step.observation.degraded:
            branch.add(f"[yellow]degraded: {escape(step.observation.degraded)}[/yellow]")


def _thought(trajectory: Trajectory, step: Step, tokenizer: Tokenizer) -> str:
    turn = range(step.start, step.end)
    ids = [trajectory.ids[i] for i in turn if trajectory.roles[i] is TokenRole.THOUGHT]
    return tokenizer.decode(ids).strip()


def _short(text: str) -> str:
    left_out = len(text) - LONGEST_TEXT
    return text if left_out <= 0 else f"{text[:LONGEST_TEXT]}… ({left_out} more characters)"


def time_table(trajectory: Trajectory) -> Table:
    """Milliseconds by stage, longest first."""
    table = Table("where the time went", "ms")
    table.columns[1].justify = "right"
    for stage, milliseconds in sorted(trajectory.stage_ms.items(), key=lambda item: -item[1]):
        table.add_row(stage, f"{milliseconds:.1f}")
    return table
