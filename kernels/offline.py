"""Compiles Triton kernels for a GPU that is not there, and says what the machine code contains.

A `CompileCase` is one kernel in one configuration, with its arguments declared as a launch would
specialise them. `compile_case` builds it with triton's own ptxas and reads the result back with
triton's own cuobjdump; `violations` says in words what is wrong with it: registers that spill,
shared memory the device does not have, a tensor-core or TMA instruction that was claimed and is
absent. Knows no kernel, and nothing of speed: a case without violations may still be slow.

    compiled = compile_case(case, capability=90)
    print(violations(case, compiled, capability=90))     # [] or ["uses 120 bytes of stack", …]
"""

import io
import re
import subprocess
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import dataclass
from typing import Any

import triton
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import JITFunction

from pixelis_fast.kernels.checks import check, check_choice

CAPABILITIES = (80, 90, 100)
"""A100, H100 and H200, B200."""
SHARED_LIMIT_BYTES = {80: 166_912, 90: 232_448, 100: 232_448}
"""What one block may opt in to: 163 KiB and 227 KiB (CUDA C programming guide, table of technical
specifications per compute capability)."""
REGISTERS_PER_BLOCK = 65_536
TENSOR_MEMORY_COLUMNS = 512
"""sm_100's accumulators live in tensor memory, 512 columns per multiprocessor."""
THREADS_PER_WARP = 32

CLAIMS: dict[str, dict[int, str]] = {
    "mma": {80: "HMMA"},
    "hgmma": {90: "HGMMA"},
    "tcgen05": {100: "UTCHMMA"},
    "tma": {90: "UTMALDG", 100: "UTMALDG"},
    "tma_store": {90: "UTMASTG", 100: "UTMASTG"},
    "tma_reduce": {90: "UTMAREDG", 100: "UTMAREDG"},
    "warp_specialized": {90: "USETMAXREG", 100: "USETMAXREG"},
}
"""What a case may promise -> the machine instruction that proves it, per capability."""
SPILLS = ("LDL", "STL")
"""Loads from and stores to local memory: what ptxas spills, or an array it could not keep."""
COUNTED = (*sorted({name for proofs in CLAIMS.values() for name in proofs.values()}), *SPILLS)


@dataclass(frozen=True)
class CompileCase:
    """One kernel in one configuration.

    `signature` types every argument that is not in `constants`, in triton's spelling: "*bf16:16"
    and "i32:16" when a launch passes a multiple of 16 (what torch allocates is; a stride often
    is), "*bf16" and "i32" when it may not, "fp32", and "tensordesc<bf16[128, 64]>" for a host
    descriptor. An argument that is always 1 or None belongs into `constants`, as in a launch.

    Example:
        CompileCase("logits 128x256", logits_kernel,
                    {"x": "tensordesc<bf16[128, 64]>", "lse": "*fp32:16", "rows": "i32"},
                    {"BLOCK_M": 128}, num_warps=8, num_stages=3, claims=frozenset({"hgmma"}))
    """

    name: str
    kernel: JITFunction[Any]
    signature: dict[str, str]
    constants: dict[str, Any]
    num_warps: int
    num_stages: int
    claims: frozenset[str] = frozenset()
    targets: tuple[int, ...] = CAPABILITIES

    def __post_init__(self) -> None:
        for claim in sorted(self.claims):
            check_choice(f"{self.name}: claims", claim, tuple(CLAIMS))
        for capability in self.targets:
            check_capability(f"{self.name}: targets", capability)


@dataclass(frozen=True)
class Compiled:
    """What ptxas made of a case.

    Example:
        Compiled(registers=215, stack_bytes=0, shared_bytes=147_456, tensor_columns=0, threads=256,
                 instructions={"HGMMA": 32, "UTMALDG": 6}, warnings=(), cubin_bytes=41_000,
                 seconds=1.9)
    """

    registers: int
    """Per thread."""
    stack_bytes: int
    shared_bytes: int
    tensor_columns: int
    """Of tensor memory; 0 below sm_100."""
    threads: int
    """Per block, warps that triton added for specialisation included."""
    instructions: dict[str, int]
    """Only those of COUNTED that occur."""
    warnings: tuple[str, ...]
    """ptxas's own words on lost performance, such as wgmma instructions that it serialised."""
    cubin_bytes: int
    seconds: float
    """From Python source to machine code."""

    @property
    def spills(self) -> int:
        return sum(self.instructions.get(name, 0) for name in SPILLS)


def check_capability(name: str, capability: int) -> None:
    check(capability in CAPABILITIES, name, f"one of {CAPABILITIES}", repr(capability))


def compile_case(case: CompileCase, *, capability: int) -> Compiled:
    """Needs no GPU; does not work in a process that interprets kernels (TRITON_INTERPRET)."""
    check_capability("capability", capability)
    start = time.perf_counter()
    built, log = _compile_logged(case, capability)
    seconds = time.perf_counter() - start
    cubin = built.asm["cubin"]
    usage = _cuobjdump(cubin, "--dump-resource-usage")
    return Compiled(
        registers=_number(r"REG:(\d+)", usage),
        stack_bytes=_number(r"STACK:(\d+)", usage),
        shared_bytes=built.metadata.shared,
        tensor_columns=built.metadata.tmem_size or 0,
        threads=built.metadata.num_warps * THREADS_PER_WARP,
        instructions=count_instructions(_cuobjdump(cubin, "--dump-sass")),
        warnings=tuple(re.findall(r"Potential Performance Loss: (.+)", log)),
        cubin_bytes=len(cubin),
        seconds=seconds,
    )


def _compile_logged(case: CompileCase, capability: int) -> tuple[Any, str]:
    """The compiled kernel and what ptxas said. Never from triton's cache: that keeps no log."""
    source, target = launch_source(case), GPUTarget("cuda", capability, THREADS_PER_WARP)
    options = {
        "num_warps": case.num_warps,
        "num_stages": case.num_stages,
        "enable_fp_fusion": True,  # what a launch does by default; triton 3.9 warns unless told
    }
    with knobs.nvidia.scope(), knobs.compilation.scope(), redirect_stdout(io.StringIO()) as log:
        knobs.nvidia.dump_ptxas_log = True
        knobs.compilation.always_compile = True
        return triton.compile(source, target=target, options=options), log.getvalue()


def launch_source(case: CompileCase) -> ASTSource:
    """The case as triton's own launcher would hand it to the compiler."""
    kernel, name = case.kernel, case.name
    compiled = isinstance(kernel, JITFunction)
    check(compiled, name, "a kernel made without TRITON_INTERPRET", type(kernel).__name__)
    declared = sorted([*case.signature, *case.constants])
    check(declared == sorted(kernel.arg_names), name, f"arguments {kernel.arg_names}", declared)
    aligned = {argument for argument, kind in case.signature.items() if kind.endswith(":16")}
    for parameter in kernel.params:
        specialised = parameter.name in aligned and parameter.do_not_specialize
        check(not specialised, name, f"{parameter.name} unspecialised", "a multiple of 16")
    types = {argument: kind.removesuffix(":16") for argument, kind in case.signature.items()}
    return ASTSource(
        kernel,
        {argument: types.get(argument, "constexpr") for argument in kernel.arg_names},
        case.constants,
        {(kernel.arg_names.index(argument),): [["tt.divisibility", 16]] for argument in aligned},
    )


def count_instructions(sass: str) -> dict[str, int]:
    """How often each of COUNTED occurs; a line reads `/*0090*/  @P0 HGMMA.64x256x16.F32 …`."""
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", sass, re.M)
    counts = Counter(opcodes)
    return {name: counts[name] for name in COUNTED if counts[name]}


def violations(case: CompileCase, compiled: Compiled, *, capability: int) -> list[str]:
    """In words, one per limit broken or claim unproven; empty when the case is sound."""
    found = list(compiled.warnings)
    if compiled.stack_bytes:
        found.append(f"uses {compiled.stack_bytes} bytes of stack")
    if compiled.spills:
        found.append(f"spills: {compiled.spills} loads and stores of local memory")
    for needed, limit, what in (
        (compiled.shared_bytes, SHARED_LIMIT_BYTES[capability], "bytes of shared memory"),
        (compiled.registers * compiled.threads, REGISTERS_PER_BLOCK, "registers per block"),
        (compiled.tensor_columns, TENSOR_MEMORY_COLUMNS, "columns of tensor memory"),
    ):
        if needed > limit:
            found.append(f"needs {needed} {what}, {limit} are there")
    return found + unproven_claims(case, compiled, capability=capability)


def unproven_claims(case: CompileCase, compiled: Compiled, *, capability: int) -> list[str]:
    """A claim about another architecture is neither proven nor broken here."""
    proofs = {claim: CLAIMS[claim].get(capability) for claim in sorted(case.claims)}
    return [
        f"claims {claim}, yet has no {proof}"
        for claim, proof in proofs.items()
        if proof and not compiled.instructions.get(proof)
    ]


def _cuobjdump(cubin: bytes, what: str) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, what, file.name]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"cuobjdump: expected {pattern}, got {text!r}")
    return int(found.group(1))
