"""Several processes train one policy: each takes a share of every batch, gradients are averaged.

On CPUs only. Two processes of one thread beat one of two: most of a small policy's step is many
short operations that threads do not divide. All start alike and step with equal gradients, so they
stay equal without being told.
"""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as processes
from torch import Tensor, nn


@dataclass(frozen=True)
class Crew:
    """One of `size` processes; alone by default.

    Example:
        Crew(rank=0, size=2).average(list(policy.parameters()))
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """It is the one that logs and saves."""
        return self.rank == 0

    def share(self, step: int) -> int:
        """The number of its part of a step's batch."""
        return step * self.size + self.rank

    @torch.no_grad()
    def average(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become the crew's mean; one that no process has stays None."""
        if self.size == 1:
            return
        has_P = torch.tensor([float(p.grad is not None) for p in parameters])
        flat = torch.cat([*(flat_gradient(p) for p in parameters), has_P])
        dist.all_reduce(flat)
        *means, has_P = (flat / self.size).split([*(p.numel() for p in parameters), len(has_P)])
        for parameter, mean, has in zip(parameters, means, has_P.tolist(), strict=True):
            parameter.grad = mean.view_as(parameter).to(parameter.dtype) if has else None

    def mean(self, number: float) -> float:
        """Of everybody's."""
        both = torch.tensor([number], dtype=torch.float64)
        if self.size > 1:
            dist.all_reduce(both)
        return float(both) / self.size

    def wait(self) -> None:
        """Until all have come here."""
        if self.size > 1:
            dist.barrier()


def flat_gradient(parameter: nn.Parameter) -> Tensor:
    if parameter.grad is None:
        return torch.zeros(parameter.numel())
    return parameter.grad.reshape(-1).float()


def run_crew(size: int, work: Callable[[Crew], object]) -> None:
    """`work` in `size` new processes; the first error ends all and is raised here."""
    with tempfile.TemporaryDirectory() as folder:
        error = Path(folder) / "error"
        try:
            processes.spawn(member, args=(size, Path(folder), work), nprocs=size)
        except processes.ProcessRaisedException:
            if not error.is_file():
                raise
            raise pickle.loads(error.read_bytes()) from None


def member(rank: int, size: int, folder: Path, work: Callable[[Crew], object]) -> None:
    """The body of one process."""
    store = dist.FileStore(str(folder / "store"), size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=size)
    try:
        work(Crew(rank, size))
    except Exception as error:
        # Before the others see that this one is gone, and fail for that.
        note(error, folder)
        raise
    finally:
        dist.destroy_process_group()


def note(error: Exception, folder: Path) -> None:
    """The first error of all, for the process that waits for them."""
    with suppress(FileExistsError), (folder / "error").open("xb") as file:
        pickle.dump(error, file)
