"""The offline compiler on kernels whose machine code is known: what it reads back and reports."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pixelis_fast.kernels.offline import (
    CLAIMS,
    COUNTED,
    SHARED_LIMIT_BYTES,
    CompileCase,
    Compiled,
    compile_case,
    count_instructions,
    violations,
)
from tests.kernels.offline_fixtures import matmul_case, sums_case

ROOT = Path(__file__).resolve().parents[2]
COMPILE = """
import json
from dataclasses import asdict, replace
from pixelis_fast.kernels.offline import compile_case, violations
from tests.kernels.offline_fixtures import matmul_case, spilling_case, sums_case

def found(case, capability):
    compiled = compile_case(case, capability=capability)
    return asdict(compiled) | {"violations": violations(case, compiled, capability=capability)}

def refused(case):
    try:
        compile_case(case, capability=90)
    except ValueError as error:
        return str(error)

matmul, sums = matmul_case("matmul"), sums_case()
unaligned = {"x_MN": "*fp32", "sums_M": "*fp32", "N": "i32"}
print(json.dumps({
    "matmul": found(matmul, 90),
    "spilling": found(spilling_case(), 90),
    "claims too much": found(replace(sums, claims=frozenset({"hgmma", "tma"})), 90),
    "unaligned": found(replace(sums, signature=unaligned), 80),
    "aligned": found(sums, 80),
    "argument missing": refused(replace(sums, constants={})),
    "argument unknown": refused(replace(sums, constants=sums.constants | {"BLOCK_M": 1})),
}))
"""
SOUND = Compiled(
    registers=255,
    stack_bytes=0,
    shared_bytes=SHARED_LIMIT_BYTES[90],
    tensor_columns=0,
    threads=256,
    instructions={"HGMMA": 8, "UTMALDG": 6, "UTMASTG": 1},
    warnings=(),
    cubin_bytes=1,
    seconds=1.0,
)


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """What a process that does not interpret finds."""
    surroundings = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    surroundings["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    command = [sys.executable, "-c", COMPILE]
    done = subprocess.run(command, env=surroundings, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_a_matmul_by_descriptors_runs_on_tensor_cores_and_tma(compiled):
    matmul = compiled["matmul"]
    assert matmul["violations"] == []
    assert matmul["instructions"].keys() == {"HGMMA", "UTMALDG", "UTMASTG"}
    assert matmul["threads"] == 128
    three_stages = 3 * (128 + 128) * 64 * 2
    assert three_stages <= matmul["shared_bytes"] <= three_stages + 1024
    assert 128 <= matmul["registers"] <= 255  # the sums alone are 128 registers in each thread


def test_a_kernel_that_spills_is_reported(compiled):
    spilling = compiled["spilling"]
    assert spilling["stack_bytes"] > 0
    assert spilling["instructions"]["STL"] > 0
    serialised, stack, spills = spilling["violations"]
    assert "serialized" in serialised
    assert stack == f"uses {spilling['stack_bytes']} bytes of stack"
    assert spills.startswith("spills: ")


def test_a_claim_without_its_instruction_is_reported(compiled):
    assert compiled["claims too much"]["violations"] == [
        "claims hgmma, yet has no HGMMA",
        "claims tma, yet has no UTMALDG",
    ]


def test_alignment_reaches_the_machine_code(compiled):
    aligned, unaligned = compiled["aligned"], compiled["unaligned"]
    assert aligned["cubin_bytes"] != unaligned["cubin_bytes"]


def test_an_argument_must_be_declared_once(compiled):
    assert "expected arguments ['x_MN', 'sums_M', 'N', 'BLOCK_N']" in compiled["argument missing"]
    assert "'BLOCK_M'" in compiled["argument unknown"]


def test_an_interpreted_kernel_is_refused():
    with pytest.raises(ValueError, match="row sums: expected a kernel made without TRITON_INT"):
        compile_case(sums_case(), capability=90)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"stack_bytes": 8}, "uses 8 bytes of stack"),
        ({"instructions": SOUND.instructions | {"LDL": 2, "STL": 1}}, "spills: 3 loads and stores"),
        ({"shared_bytes": 232_449}, "needs 232449 bytes of shared memory, 232448 are there"),
        ({"threads": 512}, "needs 130560 registers per block, 65536 are there"),
        ({"tensor_columns": 513}, "needs 513 columns of tensor memory, 512 are there"),
        ({"warnings": ("wgmma is serialized",)}, "wgmma is serialized"),
        ({"instructions": {"UTMALDG": 6, "UTMASTG": 1}}, "claims hgmma, yet has no HGMMA"),
        ({"instructions": {"HGMMA": 8, "UTMASTG": 1}}, "claims tma, yet has no UTMALDG"),
    ],
    ids=str,
)
def test_each_limit_and_claim(change, problem):
    case = matmul_case("matmul")
    assert violations(case, SOUND, capability=90) == []
    [found] = violations(case, replace(SOUND, **change), capability=90)
    assert found.startswith(problem)


def test_limits_and_claims_are_of_the_target():
    case = matmul_case("matmul", claims=frozenset({"hgmma", "tma"}))
    assert violations(case, SOUND, capability=80) == [
        "needs 232448 bytes of shared memory, 166912 are there"
    ]
    claimed = replace(case, claims=frozenset({"mma"}))
    assert violations(claimed, replace(SOUND, shared_bytes=0), capability=80) == [
        "claims mma, yet has no HMMA"
    ]


def test_instructions_are_counted_behind_predicates_and_never_in_operands():
    sass = """
        /*0000*/                   HGMMA.64x256x16.F32.BF16 R24, gdesc[UR8], R24 ;  /* 0x0 */
                                                                                    /* 0x0 */
        /*0010*/               @P0 UTMALDG.2D [UR8], [UR4] ;                        /* 0x0 */
        /*0020*/              @!UP1 UTMASTG.2D [UR8], [UR4] ;                       /* 0x0 */
        /*1230*/                   MOV R1, HGMMA ;                                  /* 0x0 */
        /*0040*/                   WARPGROUP.ARRIVE ;                               /* 0x0 */
    """
    assert count_instructions(sass) == {"HGMMA": 1, "UTMALDG": 1, "UTMASTG": 1}
    assert {proof for proofs in CLAIMS.values() for proof in proofs.values()} < set(COUNTED)


@pytest.mark.parametrize("change", [{"claims": frozenset({"wgmma"})}, {"targets": (75,)}], ids=str)
def test_a_case_names_known_claims_and_targets(change):
    with pytest.raises(ValueError, match=r"matmul: (claims|targets): expected one of"):
        matmul_case("matmul", **change)


def test_a_case_is_for_every_target_unless_told():
    assert CompileCase("x", None, {}, {}, 4, 1).targets == (80, 90, 100)
