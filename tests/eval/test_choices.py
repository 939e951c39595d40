"""Letters out of answers, as the benchmarks' own evaluations take them."""

import pytest

from pixelis_fast.eval.choices import (
    first_word,
    mmstar_agrees,
    mvbench_agrees,
    video_mme_letter,
    vstar_letter,
)


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("A", "A"),
        ("(b) cotton", "B"),
        ("C. kevlar", "C"),
        ("The answer is: D", "D"),
        ("I choose (C)", "C"),
        ("it must be B", "B"),
        ("Brown", None),
        ("apple", None),
        ("", None),
    ],
)
def test_vstar(answer, letter):
    assert vstar_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("The best answer is C", "C"),
        ("Best answer: D", "D"),
        ("(A) left", "A"),
        ("left", None),
    ],
)
def test_video_mme(answer, letter):
    assert video_mme_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [("B", True), ("(B)", True), ("b.", True), ("(B), because", True), ("A", False), ("x", False)],
)
def test_mvbench(answer, agrees):
    assert mvbench_agrees(answer, "B") is agrees


@pytest.mark.parametrize(
    ("answer", "agrees"),
    [
        ("B", True),
        ("(b", True),
        ("Option B", True),
        ("The answer is B", True),
        ("It is B", False),
        ("A", False),
    ],
)
def test_mmstar(answer, agrees):
    assert mmstar_agrees(answer, "B") is agrees


def test_vsi_bench_takes_the_first_word():
    assert first_word("A. left") == "A"
    assert first_word("3.5 m") == "3.5"
