"""Flags that benchmarks share, and what a benchmark finds on its path when it runs as a script."""

import subprocess
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from bench.flags import add_seed, listed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("words", "names"),
    [("", ()), ("a", ("a",)), ("b,a", ("b", "a")), (",a,,b,", ("a", "b"))],
)
def test_a_comma_list_is_its_names_in_order(words, names):
    assert listed(words) == names


def test_a_seed_is_a_number():
    parser = ArgumentParser()
    add_seed(parser)
    assert parser.parse_args([]).seed == 0
    assert parser.parse_args(["--seed", "7"]).seed == 7


def test_a_script_finds_modules_from_the_root(tmp_path):
    """Not bench/kernels.py as `kernels`, which transformers would import; from any folder."""
    script = "import sys; sys.path[0] = sys.argv[1]; import rooted; print(sys.path[0])"
    command = [sys.executable, "-c", script, str(ROOT / "bench")]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert Path(found.stdout.strip()) == ROOT
