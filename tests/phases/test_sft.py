"""Supervised training learns, leaves alone what it must not move, and survives kill -9 bitwise."""

from __future__ import annotations

import json
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from pixelis_fast.checkpoint_folder import save_folder
from pixelis_fast.copies import words_of
from pixelis_fast.data.labels import NUM_LABELS
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.prepare import prepare
from pixelis_fast.data.prepared import Example, Prepared
from pixelis_fast.data.preparer import PrepareConfig
from pixelis_fast.optimizer import OptimizerConfig
from pixelis_fast.phases.sft import SftConfig, SftRun, check_tower_alone, guide_weight, main
from pixelis_fast.phases.sft_data import (
    GROUP_TOKENS,
    Curriculum,
    StepExamples,
    StepPictures,
    num_tokens,
    parts_of,
)
from pixelis_fast.phases.sft_loss import LossConfig, SftModel
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.limits import PRESET_LIMITS, PatchShape
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import empty_policy, load_policy, random_policy
from pixelis_fast.snapshots import latest_snapshot
from pixelis_fast.types import Sample, Step, TokenRole, ToolCall, Trajectory

START = """
import pickle, sys
from pathlib import Path
from pixelis_fast.phases.sft import main
main(pickle.loads(Path(sys.argv[1]).read_bytes()))
"""
WORDS = words_of(Tokenizer.pixelworld())
PLAIN = PixelWorldConfig(backgrounds="procedural", families={"read": 1.0, "compare": 1.0})


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("prepared")
    prepare(folder, PrepareConfig(whole=6, grounding=6), PLAIN)
    return folder


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """A policy small enough to be saved after every step."""
    tokenizer = Tokenizer.pixelworld()
    special = tokenizer.special
    small = PRESETS["unit"].with_special_ids(
        image_pad=special.image_pad,
        video_pad=special.video_pad,
        vision_start=special.vision_start,
        vision_end=special.vision_end,
    )
    limits = PRESET_LIMITS["pixelworld-5m"]
    folder = tmp_path_factory.mktemp("start")
    return save_folder(folder, random_policy(small), tokenizer=tokenizer, limits=limits)


@pytest.fixture
def config(data, start):
    def make(out: Path, **changes) -> SftConfig:
        settings = SftConfig(
            data=(str(data),),
            out=str(out),
            policy=str(start),
            optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=2, total_steps=20),
            batch_tokens=500,
            threads=1,
            log_every=1,
            save_every=1,
        )
        return replace(settings, **changes)

    return make


def rows(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "log.jsonl").open()]


def test_the_loss_falls_and_the_policy_can_be_loaded(config, data, tmp_path):
    settings = config(tmp_path, validation=str(data), validate_every=20)
    folder = main(settings)
    found = [row for row in rows(tmp_path) if row["kind"] == "train"]
    assert found[-1]["loss/imitation"] < 0.75 * found[0]["loss/imitation"]
    assert any(row["kind"] == "validation" for row in rows(tmp_path))
    saved = latest_snapshot(tmp_path / "snapshots")["optimizer"]["masters"]
    policy = load_policy(folder, dtype=torch.bfloat16)
    trained = next(m for m in saved if m.shape == policy.embed_tokens.weight.shape)
    assert torch.equal(policy.embed_tokens.weight, trained.to(torch.bfloat16))


def test_a_killed_run_ends_with_the_same_bits(config, data, tmp_path):
    whole = config(tmp_path / "whole", optimizer=OptimizerConfig(warmup_steps=2, total_steps=6))
    main(whole)
    killed = replace(whole, out=str(tmp_path / "killed"))
    (tmp_path / "config").write_bytes(pickle.dumps(killed))
    process = subprocess.Popen([sys.executable, "-c", START, str(tmp_path / "config")])
    until_snapshot(tmp_path / "killed" / "snapshots")
    process.send_signal(signal.SIGKILL)
    process.wait()
    before = latest_snapshot(tmp_path / "killed" / "snapshots")["optimizer"]["num_steps"]
    assert 1 <= before < 6
    main(killed)
    one, other = (
        latest_snapshot(tmp_path / name / "snapshots")["optimizer"]["masters"]
        for name in ("whole", "killed")
    )
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def until_snapshot(folder: Path) -> None:
    end_s = time.monotonic() + 120
    while latest_snapshot(folder) is None:
        assert time.monotonic() < end_s, "expected a snapshot within two minutes"
        time.sleep(0.01)


def test_a_run_that_dies_while_it_writes_its_policy_writes_it_again(config, tmp_path, monkeypatch):
    def dies(*args, **settings):
        raise OSError("killed")

    twice = OptimizerConfig(warmup_steps=0, total_steps=2)
    settings = config(tmp_path, optimizer=twice, save_every=2)
    with monkeypatch.context() as broken:
        broken.setattr("pixelis_fast.phases.sft.save_folder", dies)
        with pytest.raises(OSError, match="killed"):
            main(settings)
    policy = load_policy(main(settings), dtype=torch.bfloat16)
    saved = latest_snapshot(tmp_path / "snapshots")["optimizer"]["masters"]
    trained = next(m for m in saved if m.shape == policy.embed_tokens.weight.shape)
    assert torch.equal(policy.embed_tokens.weight, trained.to(torch.bfloat16))
    # The first step of both attempts; the log has it once.
    assert [row["step"] for row in rows(tmp_path)] == [1, 2]


def test_a_run_with_other_settings_does_not_go_on(config, data, tmp_path):
    one = config(tmp_path, optimizer=OptimizerConfig(warmup_steps=0, total_steps=1))
    main(one)
    with pytest.raises(ValueError, match="got another seed; choose another folder"):
        SftRun(replace(one, seed=5)).resume()
    grown = SftRun(one)
    grown.data.examples.append(grown.data.examples[0])
    with pytest.raises(ValueError, match="got another examples; choose another folder"):
        grown.resume()


def test_lora_leaves_the_policy_alone(config, data, tmp_path):
    once = OptimizerConfig(total_steps=1, warmup_steps=0)
    base = main(config(tmp_path / "base", optimizer=once))
    settings = config(tmp_path / "lora", policy=str(base), lora_rank=4)
    run = SftRun(settings)
    before = [p.detach().clone() for p in run.opened.policy.parameters()]
    asked = run.examples.draw(0, 0.0)
    first = run.model.loss(asked, run.data).metrics["loss/imitation"]
    folder = run.train()
    after = run.opened.policy.parameters()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert any(p.abs().max() > 0 for pair in run.bank.pairs.values() for p in pair.b_OR)
    assert (folder / "adapter_model.safetensors").is_file()
    assert run.model.loss(asked, run.data).metrics["loss/imitation"] < first - 0.02


def test_an_adapter_leaves_the_tower_and_its_rate_alone(config):
    with pytest.raises(ValueError, match="tower_rate: expected 1 beside an adapter"):
        config(Path("unused"), lora_rank=4, tower_rate=0.5)
    with pytest.raises(ValueError, match="save_every: expected >= 1, got 1, 200 and 0"):
        config(Path("unused"), save_every=0)


def test_the_heads_go_where_the_policy_is():
    policy = empty_policy(PRESETS["unit"], device="meta", dtype=torch.bfloat16)
    model = SftModel(policy, LossConfig(), WORDS, num_labels=(7, 6))
    parts = (model.heads, model.dense, model.guidance)
    devices = [{p.device.type for p in part.parameters()} for part in parts]
    assert devices == [{"meta"}] * 3


def test_a_trajectory_without_pictures_is_packed_like_any_other(start, data):
    policy = load_policy(start).requires_grad_(True)
    model = SftModel(policy, LossConfig(), WORDS, num_labels=NUM_LABELS)
    examples = Prepared([data], PatchShape())
    bare = Trajectory(
        Sample("1", (), "?"),
        policy_version="",
        seed=0,
        ids=list(range(14)),
        roles=[TokenRole.PROMPT] * 11
        + [TokenRole.OPERATION, TokenRole.ARGUMENT, TokenRole.OPERATION],
        steps=[Step(11, 14, ToolCall("properties", {"mask": 0}))],
    )
    without = Example(bare, (True,), "bare", 0.0)
    alone = model.loss([without], examples)
    alone.total.backward()
    assert "loss/operation" in alone.metrics
    assert not {"loss/guided attention", "loss/dense"} & alone.metrics.keys()
    pointing = next(e for e in examples.examples if not e.is_whole)
    one, both = (model.loss(batch, examples).metrics for batch in ([pointing], [without, pointing]))
    for name in ("loss/guided attention", "loss/guided region", "loss/pointer", "loss/dense box"):
        assert both[name] == pytest.approx(one[name], rel=1e-4), name


@pytest.mark.parametrize("lora_rank", [None, 4], ids=["whole", "adapter"])
def test_recomputing_changes_no_gradient(config, data, lora_rank):
    examples = Prepared([data], PatchShape())
    drawn = StepExamples(examples.examples, Curriculum(), batch_tokens=400, seed=0).draw(0, 1.0)
    gradients = []
    for recompute in (False, True):
        settings = config(Path("unused"), recompute=recompute, dtype="float32", lora_rank=lora_rank)
        run = SftRun(settings)
        loss = run.model.loss(drawn, examples)
        assert ("loss/guided attention" in loss.metrics) == (lora_rank is None)
        loss.total.backward()
        gradients.append([p.grad.clone() for p in run.model.trained() if p.grad is not None])
    assert len(gradients[0]) == len(gradients[1]) > 20
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-7, rtol=1e-5)


def test_without_heads_only_the_policy_is_trained(config, data):
    bare = LossConfig(aux_weight=0.0, dense_weight=0.0)
    run = SftRun(config(Path("unused"), policy="pixelworld-5m", loss=bare))
    assert isinstance(run.model, SftModel)
    assert run.model.heads is None
    assert run.model.dense is None
    examples = run.examples.draw(0, 0.0)
    assert "loss/pointer" not in run.model.loss(examples, run.data).metrics
    with pytest.raises(ValueError, match="lora_rank: expected a checkpoint folder"):
        config(Path("unused"), policy="pixelworld-5m", lora_rank=4)


def test_the_curriculum_goes_from_single_calls_to_chains_and_from_easy_to_hard(config, data):
    examples = Prepared([data], PatchShape()).examples
    curriculum = Curriculum(grounding_until=0.3, whole_from=0.6, grounding_kept=0.0)
    draw = StepExamples(examples, curriculum, batch_tokens=400, seed=0).draw
    early = [e for step in range(10) for e in draw(step, 0.1)]
    late = [e for step in range(10) for e in draw(step, 1.0)]
    assert not any(e.is_whole for e in early)
    assert all(e.is_whole for e in late)
    ids = [[e.trajectory.sample.media[0].id for e in draw(step, 0.1)] for step in range(5)]
    assert any(len(set(step)) < len(step) for step in ids), "a picture's calls come together"
    easy = [e for step in range(20) for e in draw(step, 0.35) if e.is_whole]
    middle = sorted(e.difficulty for e in examples if e.is_whole)[2]
    assert easy
    assert max(e.difficulty for e in easy) <= middle < max(e.difficulty for e in late)
    assert [e.trajectory.ids for e in draw(3, 0.5)] == [e.trajectory.ids for e in draw(3, 0.5)]
    with pytest.raises(ValueError, match="grounding_until <= whole_from"):
        Curriculum(grounding_until=0.6, whole_from=0.3)


def test_many_calls_on_one_picture_are_drawn_in_parts(data):
    """A draw that does not fit ends a step, so none may be most of one."""
    group = [e for e in Prepared([data], PatchShape()).examples if not e.is_whole] * 20
    parts = list(parts_of(group))
    assert [e for part in parts for e in part] == group
    assert len(parts) > 2
    assert all(len(part) == 1 or num_tokens(part) <= GROUP_TOKENS for part in parts)
    assert all(num_tokens([*a, b[0]]) > GROUP_TOKENS for a, b in pairwise(parts)), "each is full"


def test_an_adapter_is_not_guided():
    assert guide_weight(None, None) == 1.0
    assert guide_weight(0.5, None) == 0.5
    assert guide_weight(None, 8) == guide_weight(0.0, 8) == 0.0
    with pytest.raises(ValueError, match="--guide: expected none beside an adapter"):
        guide_weight(1.0, 8)


def test_a_tower_alone_learns_what_its_tokens_show_and_nothing_else_moves(config, start, tmp_path):
    alone = config(tmp_path / "tower", tower_only=True, batch_tokens=108)
    run = SftRun(alone)
    before = {name: p.clone() for name, p in run.opened.policy.named_parameters()}
    run.train()
    rows = [json.loads(line) for line in (tmp_path / "tower" / "log.jsonl").open()]
    assert rows[-1]["loss/total"] < 0.8 * rows[0]["loss/total"]
    moved = {n for n, p in run.opened.policy.named_parameters() if not torch.equal(p, before[n])}
    assert "vision.patch_embed.weight" in moved
    assert all(name.startswith("vision.") for name in moved)
    behind = config(tmp_path / "all", policy=str(tmp_path / "tower" / "policy"))
    assert SftRun(behind).step()["loss/total"] > 0


def test_a_towers_pictures_fill_the_batch_once_each(data):
    stored = Prepared([data], PatchShape()).pictures
    pictures = StepPictures(stored, batch_tokens=150, seed=3, merge=2)
    drawn = pictures.draw(5)
    assert drawn == StepPictures(stored, batch_tokens=150, seed=3, merge=2).draw(5)
    assert drawn != pictures.draw(6)
    assert len(set(drawn)) == len(drawn) >= 1
    assert sum(np.prod(stored[name].grid_thw) // 4 for name in drawn) <= 150
    with pytest.raises(ValueError, match="expected labels of visual tokens"):
        StepPictures({}, batch_tokens=150, seed=3, merge=2).draw(0)


def test_a_tower_alone_takes_no_validation_and_nothing_that_needs_a_decoder(config, data, tmp_path):
    with pytest.raises(ValueError, match="tower_only: expected"):
        config(tmp_path, tower_only=True, validation=str(data))
    with pytest.raises(ValueError, match="--tower: expected neither --guide nor --grounding"):
        check_tower_alone(0.5, 0.0)
    with pytest.raises(ValueError, match="--tower: expected neither --guide nor --grounding"):
        check_tower_alone(None, 0.4)
    check_tower_alone(None, 0.0)
