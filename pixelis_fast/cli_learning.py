"""The commands that make and judge policies, each its module's own, under one roof."""

from __future__ import annotations

import typer

from pixelis_fast.data import convert, prepare, records
from pixelis_fast.data.pixelworld import dataset
from pixelis_fast.eval.command import evaluate
from pixelis_fast.options import takes_agent_options
from pixelis_fast.phases import rft, sft, ttrl
from pixelis_fast.plain_errors import plainly
from pixelis_fast.reproduce import command as reproduce

train = typer.Typer(help="Train a policy: sft from traces, rft from rewards.", no_args_is_help=True)
train.command("sft")(plainly(sft.command))
train.command("rft")(plainly(rft.command))


def add_learning(app: typer.Typer) -> None:
    """Adds train, ttrl, eval, world, prepare, convert, records and reproduce."""
    app.add_typer(train, name="train")
    app.command("ttrl")(plainly(ttrl.command))
    app.command("eval")(plainly(takes_agent_options(evaluate)))
    app.command("world")(plainly(dataset.command))
    app.command("prepare")(plainly(prepare.command))
    app.command("convert")(plainly(convert.convert))
    app.add_typer(records.app, name="records")
    app.command("reproduce")(plainly(reproduce.command))
