"""Every combination of switches that a launch can carry has a compile case, and no other has.

The launches of a sweep over the public options are written down instead of run: what the compile
gate builds is compared with what the launcher asks for, so that a new switch cannot be forgotten.
"""

from collections import defaultdict
from itertools import combinations, product

import pytest
import torch

from pixelis_fast.kernels.linear_loss import (
    compile_cases,
    row_compile_cases,
    triton_backward,
    triton_config,
)
from tests.kernels.launches import KERNELS, note_launches
from tests.kernels.linear_problem import ALONE, PAIRED, random_problem

Found = dict[str, set[frozenset[tuple[str, bool]]]]
TABLES = ("blackwell", "hopper", "ampere", "float32")


def switches_of(options: dict[str, object]) -> frozenset[tuple[str, bool]]:
    """The booleans, without what the tile table and the interpreter decide."""
    given = {name: value for name, value in options.items() if isinstance(value, bool)}
    elsewhere = {"TMA", "INTERPRET", "enable_fp_fusion"}
    return frozenset((name, on) for name, on in given.items() if name not in elsewhere)


@pytest.fixture
def launched(monkeypatch) -> Found:
    """By kernel, after a sweep over heads, softcap, budgets and what is differentiated."""
    found: Found = defaultdict(set)
    note_launches(monkeypatch, lambda name, _, options: found[name].add(switches_of(options)))
    monkeypatch.setattr(triton_backward, "SLICE_COLUMNS", 512)
    for head, softcap, budget in product((None, "own", "shared"), (None, 2.0), (None, 0)):
        known = ALONE if head is None else PAIRED
        problem = random_problem(3, 8, 1100, head=head, softcap=softcap)
        for names in [pair for size in (0, 1, 2) for pair in combinations(known, size)]:
            run(problem, names, budget)
    return found


def run(problem, names, budget) -> None:
    hidden_ND = problem.hidden_ND.requires_grad_()
    weight_VD = problem.weight_VD.requires_grad_()
    found = problem.statistics(names=names, memory_budget_bytes=budget, implementation="triton")
    if names:
        total = sum(getattr(found, name).sum() for name in names)
        torch.autograd.grad(total, (hidden_ND, weight_VD))


def built(cases, *, table: str = "") -> Found:
    found: Found = defaultdict(set)
    for case in cases:
        if case.name.startswith(table):
            found[case.kernel.__name__].add(switches_of(case.constants))
    return found


def test_no_kernel_of_the_op_is_left_out():
    everything = [*compile_cases.cases(), *row_compile_cases.cases()]
    assert set(built(everything)) == {name for names in KERNELS.values() for name in names}


def test_what_is_launched_is_what_is_built(launched):
    rows = built(row_compile_cases.cases())
    for table in TABLES:
        assert launched == built(compile_cases.cases(), table=table) | rows, table


def test_the_sweep_reaches_the_switches_that_matter(launched):
    """Were the sweep narrower than the options, equality would prove nothing."""
    reached = {switch for name in launched for found in launched[name] for switch in found}
    names = {name for name, _ in reached}
    assert names >= {"HAS_SOFTCAP", "WANTS_MEAN", "ONLY_FLAGGED", "STORES_DELTA", "SHARES_HEAD"}
    assert all({(name, True), (name, False)} <= reached for name in names)


def test_tables_of_bfloat16_share_the_padding_that_is_compiled():
    tables = (triton_config.AMPERE, triton_config.HOPPER, triton_config.BLACKWELL)
    depths = {table.weight_product.depth for table in tables}
    assert depths == {row_compile_cases.PADDINGS["bf16"]}
