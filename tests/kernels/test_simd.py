"""The instruction set is chosen from the CPU that runs, not from the one that built."""

import platform
from pathlib import Path

import pytest

from pixelis_fast.kernels import _cpu

FLAGS = {
    "avx2": {"avx2"},
    "avx512": {"avx2", "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
}
CPUINFO = Path("/proc/cpuinfo")


def test_the_best_level_runs_and_the_baseline_is_always_there():
    levels = _cpu.simd_levels()
    assert levels[0] == "baseline"
    assert _cpu.simd_level() == levels[-1]


@pytest.mark.skipif(
    platform.machine() != "x86_64" or not CPUINFO.exists(), reason="needs /proc/cpuinfo on x86-64"
)
def test_levels_are_what_the_kernel_says_the_cpu_has():
    line = next(line for line in CPUINFO.read_text().splitlines() if line.startswith("flags"))
    has = set(line.split(":")[1].split())
    expected = ["baseline", *(level for level, flags in FLAGS.items() if flags <= has)]
    assert _cpu.simd_levels() == expected
