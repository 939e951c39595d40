"""Answers that a crop shows: which token shows them, and a head that learns to look there."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from pixelis_fast.answers import answer_rows, contents_of
from pixelis_fast.copies import words_of
from pixelis_fast.data.pixelworld.config import PixelWorldConfig
from pixelis_fast.data.pixelworld.words import COLORS, SHAPES
from pixelis_fast.data.prepare import prepare
from pixelis_fast.data.prepared import SEEN, Prepared, labels_of
from pixelis_fast.data.preparer import PrepareConfig
from pixelis_fast.guidance import Guidance, WatchedAttention, said_alone
from pixelis_fast.phases.sft_loss import LossConfig, SftModel
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.limits import PatchShape
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.training_batch import training_batch
from pixelis_fast.types import TokenRole

UNGUIDED = LossConfig(guide_weight=0.0)
WORDS = words_of(Tokenizer.pixelworld())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Prepared:
    folder = tmp_path_factory.mktemp("close")
    world = PixelWorldConfig(
        backgrounds="procedural", families={"spatial": 1.0, "count": 1.0, "read": 1.0}
    )
    prepare(folder, PrepareConfig(whole=12, grounding=0, close=6), world)
    return Prepared([folder], PatchShape())


@pytest.fixture
def policy():
    special = Tokenizer.pixelworld().special
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    ids = {name: getattr(special, name) for name in names}
    return random_policy(PRESETS["unit"].with_special_ids(**ids))


def answered(data):
    """Bare answers to crops."""
    return [e for e in data.examples if not e.is_whole and e.trajectory.answer is not None]


def found_in(examples, policy, data):
    trajectories = [example.trajectory for example in examples]
    batch = training_batch(policy, trajectories, data.patches)
    labels = labels_of(data, batch.media_ids, len(data.header["num_labels"]), 2)
    return batch, answer_rows(examples, batch, labels, WORDS, merge=2)


def test_rows_of_an_answer_want_the_token_that_shows_the_glyph(policy, data):
    close = [e for e in answered(data) if e.task == "spatial"]
    assert close
    batch, rows = found_in(close, policy, data)
    said = Tokenizer.pixelworld().decode(batch.targets_N[rows.rows_G].tolist())
    assert said == "".join(f">{example.trajectory.answer}" for example in close)
    for row, start, wanted in zip(rows.rows_G, rows.starts_G, rows.wanted_G, strict=True):
        assert start <= wanted < row
        assert wanted in batch.visual_index_M


def test_the_token_shows_what_is_answered(policy, data):
    """By its own label: colour or shape, whichever was asked for."""
    names = {name: index + 1 for kind in (COLORS, SHAPES) for index, name in enumerate(kind)}
    close = [e for e in answered(data) if e.task == "spatial"]
    for example in close:
        _, rows = found_in([example], policy, data)
        assert rows.first_G.sum() == 1
        [first] = rows.first_G.nonzero().flatten()
        answer = example.trajectory.answer
        kind = 0 if answer in COLORS else 1
        assert rows.contents_GC[first, kind] == names[answer]


def test_a_counted_panels_token_tells_its_dots(policy, data):
    close = [e for e in answered(data) if e.task == "count"]
    assert close
    for example in close:
        _, rows = found_in([example], policy, data)
        dots = SEEN - 1  # without the kind of small things
        assert (rows.contents_GC[:, dots] == int(example.trajectory.answer)).all()


def test_what_is_copied_is_not_looked_for_in_a_picture(policy, data):
    read = [e for e in data.examples if e.task == "read"]
    assert read
    assert found_in(read, policy, data)[1] is None


def test_an_answer_that_is_not_imitated_has_no_row(policy, data):
    close = [replace(e, imitated=(False,)) for e in data.examples if not e.is_whole]
    assert found_in(close, policy, data)[1] is None


def test_a_chain_looks_at_its_last_crop(policy, data):
    chains = [e for e in data.examples if e.task == "spatial" and e.is_whole]
    batch, rows = found_in(chains, policy, data)
    assert rows is not None
    starts = [0, *torch.tensor(batch.lengths).cumsum(0).tolist()]
    for wanted, start in zip(rows.wanted_G.tolist(), rows.starts_G.tolist(), strict=True):
        trajectory = chains[starts.index(start)].trajectory
        last = trajectory.spans[-1]
        assert 0 <= wanted - start - last.start < last.num_tokens
        assert trajectory.roles[last.start] is TokenRole.OBSERVATION


def test_a_guided_policy_looks_there_knows_what_is_shown_and_says_it(policy, data):
    by_picture = {e.trajectory.sample.media: e for e in answered(data)}
    batch, rows = found_in(list(by_picture.values())[:3], policy, data)
    num_labels = data.header["num_labels"]
    num_contents = [num_labels[kind] for kind in contents_of(len(num_labels))]
    text = policy.config.text
    guidance = Guidance(head_dim=text.head_dim, num_layers=4, num_contents=num_contents)
    moved = [*policy.parameters(), *guidance.parameters()]
    optimizer = torch.optim.Adam([p.requires_grad_() for p in moved], lr=3e-3)
    found = []
    for _ in range(60):
        watched = WatchedAttention(guidance.layers)
        batch.hidden_behind(policy, batch.encode(policy), watch=watched.wrap)
        ids_N, say = batch.packed.input_ids_N, partial(said_alone, policy, 0)
        found.append(guidance.answers(watched.first, rows, ids_N, say))
        optimizer.zero_grad()
        found[-1].total().backward()
        optimizer.step()
    assert found[-1].on_target == 1.0
    assert found[-1].attention.item() < 0.2 < found[0].attention.item()
    assert found[-1].contents.item() < 0.2 * found[0].contents.item()
    assert found[-1].naming.item() < 0.2 * found[0].naming.item()


def test_the_log_says_how_answers_are_looked_for(policy, data):
    model = SftModel(policy, LossConfig(), WORDS, num_labels=data.header["num_labels"])
    close = answered(data)
    metrics = model.loss(close, data).metrics
    assert {"loss/answer attention", "loss/answer named", "answer_looked_right"} <= set(metrics)
    without = SftModel(policy, UNGUIDED, WORDS, num_labels=data.header["num_labels"])
    assert "loss/answer contents" not in without.loss(close, data).metrics
