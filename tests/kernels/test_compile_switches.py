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
    launch,
    row_compile_cases,
    triton_backward,
    triton_config,
)
from tests.kernels.launches import KERNELS, note_launches
from tests.kernels.linear_problem import ALONE, PAIRED, random_problem

Configuration = frozenset[tuple[str, int]]
Found = dict[str, set[Configuration]]
TABLES = {
    "blackwell": triton_config.BLACKWELL,
    "hopper": triton_config.HOPPER,
    "ampere": triton_config.AMPERE,
    "float32": triton_config.FLOAT32,
}
TILE = ("ROWS", "COLUMNS", "DEPTH", "GROUP", "SUBTILES", "TMA", "num_warps", "num_stages")


def configuration(options: dict[str, object]) -> Configuration:
    """The booleans but the interpreter's, and of a kernel of tiles its tile."""
    wanted = TILE if "DEPTH" in options else ()
    elsewhere = {"TMA", "INTERPRET", "enable_fp_fusion"} - set(wanted)
    return frozenset(
        (name, int(value))
        for name, value in options.items()
        if name in wanted or (isinstance(value, bool) and name not in elsewhere)
    )


@pytest.fixture(scope="module", params=TABLES)
def swept(request) -> tuple[str, Found]:
    """A table's name; by kernel, after a sweep over heads, softcap, budgets and what is
    differentiated, how it was launched."""
    found: Found = defaultdict(set)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(launch, "tiles_for", lambda *_: TABLES[request.param])
        patch.setattr(triton_backward, "SLICE_COLUMNS", 512)
        note_launches(patch, lambda name, _, options: found[name].add(configuration(options)))
        for head, softcap, budget in product((None, "own", "shared"), (None, 2.0), (None, 0)):
            known = ALONE if head is None else PAIRED
            problem = random_problem(3, 8, 1100, head=head, softcap=softcap)
            for names in [pair for size in (0, 1, 2) for pair in combinations(known, size)]:
                run(problem, names, budget)
    return request.param, found


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
            sizes = {"num_warps": case.num_warps, "num_stages": case.num_stages}
            found[case.kernel.__name__].add(configuration(case.constants | sizes))
    return found


def test_no_kernel_of_the_op_is_left_out():
    everything = [*compile_cases.cases(), *row_compile_cases.cases()]
    assert set(built(everything)) == {name for names in KERNELS.values() for name in names}


def test_what_is_launched_is_what_is_built(swept):
    table, launched = swept
    rows = built(row_compile_cases.cases())
    assert launched == built(compile_cases.cases(), table=table) | rows


def test_the_sweep_reaches_the_switches_that_matter(swept):
    """Were the sweep narrower than the options, equality would prove nothing."""
    _, launched = swept
    reached = {switch for name in launched for found in launched[name] for switch in found}
    names = {name for name, _ in reached} - set(TILE)
    assert names >= {"HAS_SOFTCAP", "WANTS_MEAN", "ONLY_FLAGGED", "STORES_DELTA", "SHARES_HEAD"}
    assert all({(name, True), (name, False)} <= reached for name in names)


def test_tables_of_bfloat16_share_the_padding_that_is_compiled():
    tables = (triton_config.AMPERE, triton_config.HOPPER, triton_config.BLACKWELL)
    depths = {table.weight_product.depth for table in tables}
    assert depths == {row_compile_cases.PADDINGS["bf16"]}
