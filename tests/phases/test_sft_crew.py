"""Several processes train as one would that saw all their shares."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import pytest
import torch
from torch import nn

from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.prepare import prepare
from pixelis_fast.data.preparer import PrepareConfig
from pixelis_fast.optimizer import OptimizerConfig
from pixelis_fast.phases.sft import SftConfig, SftRun, main
from pixelis_fast.phases.sft_crew import Crew, run_crew
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.limits import PRESET_LIMITS
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.reproduce.recipes import UNIFORM
from pixelis_fast.snapshots import latest_snapshot, snapshots

STEPS = 4


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> SftConfig:
    world = PixelWorldConfig(backgrounds="procedural", families={"read": 1.0, "compare": 1.0})
    folder = tmp_path_factory.mktemp("crew")
    prepare(folder / "data", PrepareConfig(whole=6, grounding=6), world)
    tokenizer = Tokenizer.pixelworld()
    ids = {
        name: getattr(tokenizer.special, name)
        for name in ("image_pad", "video_pad", "vision_start", "vision_end")
    }
    policy = save_folder(
        folder / "start",
        random_policy(PRESETS["unit"].with_special_ids(**ids)),
        tokenizer=tokenizer,
        limits=PRESET_LIMITS["pixelworld-5m"],
    )
    return SftConfig(
        data=(str(folder / "data"),),
        out=str(folder / "two"),
        policy=str(policy),
        optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1, total_steps=STEPS),
        batch_tokens=1000,
        threads=1,
        processes=2,
        log_every=1,
        save_every=1,
    )


@pytest.fixture(scope="module")
def trained(config) -> Path:
    main(config)
    return Path(config.out)


def masters(out: Path) -> list[torch.Tensor]:
    return latest_snapshot(out / "snapshots")["optimizer"]["masters"]


def test_two_processes_step_with_the_mean_of_both_shares(config, trained, tmp_path):
    runs = [
        SftRun(replace(config, out=str(tmp_path / str(rank))), Crew(rank, 2)) for rank in range(2)
    ]
    for number in range(STEPS):
        weight = mean_weight(runs, number)
        gradients = [share_of_gradient(run, number, lambda _, found=weight: found) for run in runs]
        for run in runs:
            for parameter, *both in zip(run.parameters, *gradients, strict=True):
                mean = sum(part.float() for part in both if part is not None) / 2
                none = all(part is None for part in both)
                parameter.grad = None if none else mean.to(parameter.dtype)
            run.optimizer.step()
    expected = runs[0].optimizer.state()["masters"]
    assert all(torch.equal(a, b) for a, b in zip(masters(trained), expected, strict=True))


def test_a_token_weighs_the_same_in_whichever_share_it_is(config, tmp_path):
    """Both shares' mean is the loss of the whole batch, and not the mean of two means."""
    plain = replace(config, out=str(tmp_path), loss=UNIFORM)
    runs = [SftRun(plain, Crew(rank, 2)) for rank in range(2)]
    shares = [run.examples.draw(run.crew.share(0), 0.0) for run in runs]
    model, data, weight = runs[0].model, runs[0].data, mean_weight(runs, 0)

    def loss(examples, **options) -> float:
        return float(model.loss(examples, data, **options).total)

    whole = loss([each for share in shares for each in share])
    assert fmean(loss(share, mean=lambda _: weight) for share in shares) == pytest.approx(whole)
    assert fmean(loss(share) for share in shares) != pytest.approx(whole)


def mean_weight(runs: list[SftRun], number: int) -> float:
    """Of the shares of a step."""
    found: list[float] = []
    for run in runs:
        share_of_gradient(run, number, lambda weight: found.append(weight) or weight)
    assert found[0] != found[1]
    return fmean(found)


def share_of_gradient(run: SftRun, number: int, mean) -> list[torch.Tensor | None]:
    examples = run.examples.draw(run.crew.share(number), number / STEPS)
    run.model.loss(examples, run.data, mean=mean).total.backward()
    found = [p.grad for p in run.parameters]
    for parameter in run.parameters:
        parameter.grad = None
    return found


def test_the_shares_of_a_step_differ_and_fill_one_batch(config, tmp_path):
    one, other = (
        SftRun(replace(config, out=str(tmp_path)), Crew(rank, 2)).examples for rank in range(2)
    )
    drawn = [
        [e.trajectory.ids for e in part.draw(Crew(rank, 2).share(0), 0.0)]
        for rank, part in enumerate((one, other))
    ]
    assert drawn[0] != drawn[1]
    assert sum(len(ids) for part in drawn for ids in part) <= config.batch_tokens


def test_a_crew_that_goes_on_ends_with_the_same_bits(config, trained, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(trained, again)
    shutil.rmtree(snapshots(again / "snapshots")[-1])
    assert latest_snapshot(again / "snapshots")["optimizer"]["num_steps"] == STEPS - 1
    main(replace(config, out=str(again)))
    assert all(torch.equal(a, b) for a, b in zip(masters(trained), masters(again), strict=True))


def test_one_process_writes_the_log(trained):
    logged = [json.loads(line) for line in (trained / "log.jsonl").open()]
    assert [row["step"] for row in logged if row["kind"] == "train"] == [1, 2, 3, 4]


def averaged(crew: Crew) -> None:
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad = torch.full((2,), float(crew.rank))
    if crew.rank == 1:
        parameters[1].grad = torch.ones(2)
    crew.average(parameters)
    assert torch.equal(parameters[0].grad, torch.full((2,), 0.5))
    assert torch.equal(parameters[1].grad, torch.full((2,), 0.5))
    assert parameters[2].grad is None


def test_a_gradient_that_one_process_has_counts_as_zero_in_the_other():
    run_crew(2, averaged)


def refused(crew: Crew) -> None:
    if crew.rank == 1:
        raise ValueError("weights: expected some, got none")
    crew.wait()


def test_an_error_in_one_process_ends_all_and_says_what_it_was():
    with pytest.raises(ValueError, match="weights: expected some, got none"):
        run_crew(2, refused)


def test_a_run_alone_is_not_averaged():
    parameter = nn.Parameter(torch.zeros(2))
    parameter.grad = torch.ones(2)
    Crew().average([parameter])
    assert torch.equal(parameter.grad, torch.ones(2))


@pytest.mark.parametrize("changes", [{"processes": 0}, {"processes": 2, "device": "cuda"}])
def test_processes_that_cannot_be_are_refused(config, changes):
    with pytest.raises(ValueError, match="processes: expected 1, or up to batch_tokens on a cpu"):
        replace(config, **changes)
