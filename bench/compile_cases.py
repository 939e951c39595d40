"""Which kernels the compile gate builds, and building one of them in a process of its own.

Cases come from every module of the kernels package whose name ends in `compile_cases`: its
`cases()` lists one `CompileCase` per committed configuration. Knows nothing of tables.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import TextIO

from triton import TritonError

from pixelis_fast import kernels
from pixelis_fast.kernels.offline import CompileCase, Compiled, compile_case, violations


@dataclass(frozen=True)
class Job:
    """One case on one target, by name: kernels do not travel between processes.

    Example:
        Job("pixelis_fast.kernels.linear_loss.compile_cases", "weight product", 90)
    """

    module: str
    case: str
    capability: int

    @property
    def title(self) -> str:
        """Two ops may name their cases alike: "linear_loss: weight product"."""
        return f"{self.module.split('.')[-2]}: {self.case}"

    @property
    def target(self) -> str:
        return f"sm_{self.capability}"


@dataclass(frozen=True)
class Outcome:
    """What came of a job; `compiled` is None when it does not compile.

    Example:
        Outcome(job, "matmul", None, ("does not compile: PassManager::run failed",))
    """

    job: Job
    kernel: str
    compiled: Compiled | None
    problems: tuple[str, ...]


def case_modules() -> list[str]:
    """Dotted names, sorted."""
    [root] = kernels.__path__
    files = sorted(Path(root).rglob("*compile_cases.py"))
    return [
        ".".join([kernels.__name__, *file.relative_to(root).with_suffix("").parts])
        for file in files
    ]


@cache
def cases_of(module: str) -> dict[str, CompileCase]:
    found: dict[str, CompileCase] = {}
    for case in import_module(module).cases():
        if case.name in found:
            raise ValueError(f"{module}: expected distinct case names, got {case.name!r} twice")
        found[case.name] = case
    return found


def jobs(
    modules: Sequence[str], *, capabilities: Sequence[int], only: str, quick: bool
) -> list[Job]:
    """Every case on every target it is for; `quick` takes the first case of each kernel."""
    chosen, seen = [], set()
    for module in modules:
        for case in cases_of(module).values():
            kernel = (module, case.kernel.__name__, case.targets)
            found = [Job(module, case.name, c) for c in case.targets if c in capabilities]
            found = [job for job in found if only in job.title]
            if found and not (quick and kernel in seen):
                seen.add(kernel)
                chosen += found
    return chosen


def outcomes(work: Sequence[Job], *, processes: int, tick: Callable[[Job], None]) -> list[Outcome]:
    """In the order of `work`; `tick(job)` runs as each is done."""
    done: dict[Job, Outcome] = {}
    with (
        tempfile.TemporaryDirectory(prefix="triton-") as cache_folder,
        ProcessPoolExecutor(
            processes,
            mp_context=get_context("spawn"),
            initializer=keep_cache_in,
            initargs=(cache_folder,),
        ) as pool,
    ):
        try:
            for future in as_completed([pool.submit(outcome, job) for job in work]):
                result = future.result()
                done[result.job] = result
                tick(result.job)
        except BrokenProcessPool as error:
            left = [f"{job.title} {job.target}" for job in work if job not in done]
            raise RuntimeError(f"a compiling process died; not done: {', '.join(left)}") from error
    return [done[job] for job in work]


def keep_cache_in(folder: str) -> None:
    os.environ["TRITON_CACHE_DIR"] = folder


def outcome(job: Job) -> Outcome:
    case = cases_of(job.module)[job.case]
    name = case.kernel.__name__
    with tempfile.TemporaryFile("w+") as log:
        try:
            with stderr_to(log):
                compiled = compile_case(case, capability=job.capability)
        except (TritonError, RuntimeError) as error:
            log.seek(0)
            return Outcome(job, name, None, (f"does not compile: {reason(error, log.read())}",))
        log.seek(0)
        sys.stderr.write(log.read())
    problems = tuple(violations(case, compiled, capability=job.capability))
    return Outcome(job, name, compiled, problems)


@contextmanager
def stderr_to(file: TextIO) -> Iterator[None]:
    """Below Python's own stream too: a pass that fails prints the module, thousands of lines."""
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def reason(error: Exception, log: str) -> str:
    """One line: what was raised, and the compiler's first complaint where it printed one."""
    lines = [line.split("error: ", 1)[1] for line in log.splitlines() if "error: " in line]
    raised = str(error).strip().splitlines() or [type(error).__name__]
    return ": ".join([raised[-1].strip(), *lines[:1]])
