"""What answers and times copy: where it is found, when it is not, and how a head learns it."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from pixelis_fast.copies import (
    CLOSING,
    CopiedRows,
    copied_numbers,
    copied_rows,
    copied_tokens,
    words_of,
)
from pixelis_fast.data.prepared import Example
from pixelis_fast.guidance import Guidance, WatchedAttention, said_alone
from pixelis_fast.policy.batch import PackedBatch
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.types import (
    Observation,
    Sample,
    Step,
    TokenRole,
    ToolCall,
    Trajectory,
    VisionSpan,
)

OPEN, SHUT = 90, [91, 92, 93, 94]
WORDS = [str(token) for token in range(100)]
"""Of a vocabulary in which every token is a word of its own."""


def trajectory(observed: list[int], said: list[int], *, text: str, answer: str | None):
    """A prompt of two tokens, a call of two, an observation, an answer between its marks."""
    assert len(SHUT) == CLOSING
    made = Trajectory(Sample("1", (), "?"), policy_version="trace", seed=0)
    parts = (
        ([1, 2], TokenRole.PROMPT),
        ([3, 4], TokenRole.OPERATION),
        (observed, TokenRole.OBSERVATION),
        ([OPEN, *said, *SHUT], TokenRole.ANSWER),
    )
    for ids, role in parts:
        made.ids += ids
        made.roles += [role] * len(ids)
    made.steps = [Step(2, 4, None, Observation(text)), Step(4 + len(observed), len(made.ids), None)]
    made.answer = answer
    return made


def example(made, *, imitated=(True, True), task="read"):
    return Example(made, imitated, task, 0.0)


def test_the_longest_run_that_ends_with_the_answer_is_its_source():
    made = trajectory([9, 7, 9, 5, 6, 7, 8], [5, 6, 7], text='{"text":"K42"}', answer="K42")
    pairs = list(copied_tokens(example(made), WORDS))
    assert [made.ids[token] for token, _ in pairs] == [5, 6, 7]
    assert [source for _, source in pairs] == [7, 8, 9]


def test_the_first_of_equal_runs_is_the_source():
    made = trajectory([5, 6, 9, 5, 6], [5, 6], text="[2.7,3.5] 2.7", answer="2.7")
    assert [source for _, source in copied_tokens(example(made), WORDS)] == [4, 5]


def test_tokens_that_merge_with_the_mark_are_left_out():
    made = trajectory([5, 6], [95, 6], text='"office"', answer="office")
    assert list(copied_tokens(example(made), WORDS)) == [(8, 5)]


@pytest.mark.parametrize(
    ("text", "answer"),
    [('{"view":[120,30]}', "2"), ("12.75", "2.7"), ("no", "yes"), ("K42", None)],
    ids=["in-a-number", "in-a-decimal", "not-said", "no-answer"],
)
def test_what_no_tool_said_is_no_copy(text, answer):
    made = trajectory([5], [5], text=text, answer=answer)
    assert list(copied_tokens(example(made), WORDS)) == []


def test_rows_are_those_before_the_tokens_of_imitated_answers():
    made = trajectory([5, 6], [5, 6], text="K4", answer="K4")
    wrong = trajectory([5, 6], [5, 6], text="K4", answer="K4")
    rows = copied_rows([example(wrong, imitated=(True, False)), example(made)], WORDS)
    start = len(wrong.ids)
    # The last one predicts the answer's end, and looks behind the source.
    assert rows.rows_G.tolist() == [start + 6, start + 7, start + 8]
    assert rows.starts_G.tolist() == [start] * 3
    assert rows.wanted_G.tolist() == [start + 4, start + 5, start + 6]
    assert rows.copies_G.tolist() == [True, True, False]
    assert rows.said_S.tolist() == [start + 4, start + 5]
    assert copied_rows([example(wrong, imitated=(True, False))], WORDS) is None


def test_a_picture_among_what_tools_said_is_no_word():
    made = trajectory([7, 8, 5, 6], [5, 6], text="K4", answer="K4")
    made.spans = [VisionSpan(5, 1, "p", (1, 2, 2))]
    assert copied_rows([example(made)], WORDS).said_S.tolist() == [4, 6, 7]


def spoken(parts, steps, *, answer, calls=()):
    """A trajectory of the embedded tokenizer's tokens; `steps` are ranges of parts."""
    tokenizer = Tokenizer.pixelworld()
    made = Trajectory(Sample("1", (), "?"), policy_version="trace", seed=0)
    starts = [0]
    for text, role in parts:
        ids = tokenizer.encode_structure(text)
        made.ids += ids
        made.roles += [role] * len(ids)
        starts.append(len(made.ids))
    made.steps = [
        Step(starts[first], starts[last], call)
        for (first, last), call in zip(steps, (*calls, None), strict=True)
    ]
    made.answer = answer
    return made, words_of(tokenizer)


def pairs_of(found, made, words):
    return [(words[made.ids[token]], words[made.ids[source]]) for token, source in found]


def test_a_choice_is_copied_from_the_question_that_the_last_turn_restates():
    parts = (
        ("which is larger, the red disk or the cyan disk", TokenRole.PROMPT),
        ("which is larger, the red disk or the cyan disk\n", TokenRole.THOUGHT),
        ("<answer>cyan</answer><|im_end|>", TokenRole.ANSWER),
    )
    made, words = spoken(parts, [(1, 3)], answer="cyan")
    compared = example(made, imitated=(True,), task="compare")
    [(token, source)] = copied_tokens(compared, words)
    assert words[made.ids[token]] == words[made.ids[source]] == "cyan"
    assert made.ids[token] != made.ids[source], "a mark before a word makes it another token"
    assert made.roles[source] is TokenRole.THOUGHT
    # Elsewhere an answer that is also in the question is there by chance.
    assert list(copied_tokens(example(made, imitated=(True,), task="spatial"), words)) == []


def test_what_is_copied_without_any_tool_is_said_too():
    """A batch of drills has no observation, and a loss over none would not be a number."""
    parts = (
        ("which is larger, 7.1 or 6.4", TokenRole.PROMPT),
        ("which is larger, 7.1 or 6.4\n", TokenRole.THOUGHT),
        ("<answer>7.1</answer><|im_end|>", TokenRole.ANSWER),
    )
    made, words = spoken(parts, [(1, 3)], answer="7.1")
    rows = copied_rows([example(made, imitated=(True,), task="compare")], words)
    assert [words[made.ids[row]] for row in rows.said_S] == ["7", ".", "1"]


def test_times_of_a_call_are_copied_from_those_beside_the_frames():
    call = '{"name":"track","arguments":{"media":0,"start":0.0,"end":2.5}}'
    head, arguments = call.split('"media"')
    parts = (
        ("<0.2 seconds><2.5 seconds> 0.0 seconds of 2.5", TokenRole.PROMPT),
        (head, TokenRole.OPERATION),
        (f'"media"{arguments}', TokenRole.ARGUMENT),
        ("<answer>no</answer><|im_end|>", TokenRole.ANSWER),
    )
    called = ToolCall("track", {"media": 0, "start": 0.0, "end": 2.5})
    made, words = spoken(parts, [(1, 3), (3, 4)], answer="no", calls=(called,))
    found = list(copied_numbers(example(made), words))
    assert pairs_of(found, made, words) == [("2", "2"), (".", "."), ("5", "5")]
    assert words[made.ids[found[0][1] - 1]] == "<", "0.0 is not printed beside a frame"
    rows = copied_rows([example(made)], words)
    assert rows.said_S.tolist() == [source for _, source in found]
    assert rows.copies_G.all()
    assert list(copied_numbers(example(made, imitated=(False, True)), words)) == []


def test_decimals_of_a_thought_are_copied_from_where_a_tool_said_them_first():
    parts = (
        ("which is larger", TokenRole.PROMPT),
        ("<tool_call>", TokenRole.OPERATION),
        ('{"mask":7,"area":10.3,"score":0.9} 10.3 7.5', TokenRole.OBSERVATION),
        ("7 things , 10.3 4.4\n", TokenRole.THOUGHT),
        ("<answer>no</answer><|im_end|>", TokenRole.ANSWER),
    )
    made, words = spoken(parts, [(1, 2), (3, 5)], answer="no", calls=(None,))
    found = list(copied_numbers(example(made), words))
    assert [said for _, said in pairs_of(found, made, words)] == ["1", "0", ".", "3"]
    before = [words[token] for token in made.ids[found[0][1] - 2 : found[0][1]]]
    assert before[0] == "area"


def test_a_place_in_a_thought_is_copied_from_where_a_tool_said_it_last():
    parts = (
        ("the ball moves, where is it, 1, at the end", TokenRole.PROMPT),
        ("<tool_call>", TokenRole.OPERATION),
        ("[[0.0,15,20,30,40],[0.2,15,20,30,40],[0.4,9,8,7,6]]", TokenRole.OBSERVATION),
        ("it moves, 1, then\n15,20,30,40\n", TokenRole.THOUGHT),
        ("<answer>no</answer><|im_end|>", TokenRole.ANSWER),
    )
    made, words = spoken(parts, [(1, 2), (3, 5)], answer="no", calls=(None,))
    found = list(copied_numbers(example(made), words))
    said = pairs_of(found, made, words)
    assert all(token == source for token, source in said)
    assert "".join(token for token, _ in said) == "15,20,30,40"
    behind = [words[token] for token in made.ids[: found[0][1]]]
    assert "".join(behind).endswith("[0.2,"), "not the first of the two"


def test_a_guided_head_learns_to_look_at_what_is_copied_and_to_say_it():
    policy = random_policy(PRESETS["unit"])
    guidance = Guidance(head_dim=policy.config.text.head_dim, num_layers=4)
    wanted, copying = torch.tensor([3, 4, 14]), torch.tensor([9, 10, 22])
    ids = torch.arange(24) + 5
    ids[copying + 1] = ids[wanted]
    batch = PackedBatch(ids, torch.arange(12).repeat(3, 2), [12, 12])
    starts, copies = torch.tensor([0, 0, 12]), torch.ones(3, dtype=torch.bool)
    rows = CopiedRows(copying, starts, wanted, copies, wanted)
    optimizer = torch.optim.Adam([p.requires_grad_() for p in policy.parameters()], lr=3e-3)
    found = []
    for _ in range(40):
        watched = WatchedAttention(guidance.layers)
        policy.hidden(batch, watch=watched.wrap)
        say = partial(said_alone, policy, -1)
        found.append(guidance.copies(watched.last, rows, batch.input_ids_N, say))
        optimizer.zero_grad()
        found[-1].total().backward()
        optimizer.step()
    assert found[0].on_target < 0.5
    assert found[-1].on_target == 1.0
    assert found[-1].attention.item() < 0.2 < found[0].attention.item()
    assert found[-1].naming.item() < 0.2 < found[0].naming.item()


def test_a_head_alone_says_what_its_part_of_the_projection_writes():
    policy = random_policy(PRESETS["unit"])
    out = policy.layers[1].attention.out.weight
    size = policy.config.text.head_dim
    mixed = torch.randn(3, out.shape[1])
    mixed[:, :-size] = 0
    with torch.no_grad():
        wanted = policy.norm(mixed @ out.T) @ policy.head_weight.T
        torch.testing.assert_close(said_alone(policy, -1, 1, mixed[:, -size:]), wanted)
