"""Embeddings in a journal: as few numbers as steps, and every cosine what it was."""

from __future__ import annotations

import numpy as np
import pytest

from pixelis_fast.eval.embeddings import in_own_span
from pixelis_fast.eval.metrics import cosine
from pixelis_fast.types import Sample, Step, Trajectory


def trajectory(embeddings: list) -> Trajectory:
    steps = [Step(0, 1, embedding=each) for each in embeddings]
    return Trajectory(Sample("s", (), "?"), "v", 0, steps=steps)


def test_lengths_and_cosines_stay():
    rows = np.random.default_rng(0).normal(size=(4, 64))
    before = trajectory([tuple(map(float, row)) for row in rows])
    after = in_own_span(before)
    for step, row in zip(after.steps, rows, strict=True):
        assert len(step.embedding) == 4
        assert np.linalg.norm(step.embedding) == pytest.approx(np.linalg.norm(row))
    for i in range(3):
        expected = cosine(before.steps[i], before.steps[i + 1])
        assert cosine(after.steps[i], after.steps[i + 1]) == pytest.approx(expected)


def test_steps_without_an_embedding_keep_none():
    after = in_own_span(trajectory([None, (3.0, 4.0, 0.0), None]))
    assert [step.embedding is None for step in after.steps] == [True, False, True]
    assert abs(after.steps[1].embedding[0]) == pytest.approx(5.0)
    assert in_own_span(trajectory([None])).steps[0].embedding is None
