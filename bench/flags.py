"""What flags of several benchmarks have in common, beside the harness's own."""

from __future__ import annotations

import argparse


def listed(words: str) -> tuple[str, ...]:
    """The names of a comma list.

    Example:
        listed("encode,text")  # ("encode", "text")
    """
    return tuple(word for word in words.split(",") if word)


def add_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seed", type=int, default=0, help="of whatever is drawn")
