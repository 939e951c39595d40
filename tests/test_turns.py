"""Roles, call, answer or error from a turn's tokens; no ids can raise."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.turns import Turn, TurnParser
from pixelis_fast.types import TokenRole, ToolCall

TOKENIZER = Tokenizer.embedded()
CALL = '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[1,2,3,4]}}\n</tool_call>'
END = "<|im_end|>"


def parse(ids: list[int]) -> Turn:
    parser = TurnParser(TOKENIZER)
    for token_id in ids:
        parser.push(token_id)
    return parser.finish()


def parse_text(text: str) -> Turn:
    return parse(TOKENIZER.encode_structure(text))


def text_by_role(text: str) -> dict[TokenRole, str]:
    """The text of each role's tokens, in order."""
    ids = TOKENIZER.encode_structure(text)
    roles = parse(ids).roles
    by_role = {role: [i for i, r in zip(ids, roles, strict=True) if r is role] for role in roles}
    return {role: TOKENIZER.decode(part) for role, part in by_role.items()}


def test_call_turn():
    turn = parse_text(f"I zoom in. {CALL}{END}")
    assert turn.call == ToolCall("zoom", {"media": 0, "box": [1, 2, 3, 4]})
    assert (turn.thought, turn.answer, turn.error) == ("I zoom in.", None, None)


def test_call_roles_straddling_tokens_go_by_their_first_byte():
    assert text_by_role(f"I zoom in. {CALL}{END}") == {
        TokenRole.THOUGHT: "I zoom in. ",
        # ':{"' starts before the arguments, ']}}\n' inside them.
        TokenRole.OPERATION: '<tool_call>\n{"name":"zoom","arguments":{"</tool_call><|im_end|>',
        TokenRole.ARGUMENT: 'media":0,"box":[1,2,3,4]}}\n',
    }


def test_argument_brackets_inside_strings_do_not_count():
    query = r"a\"}]{ \\"
    body = f'{{"name":"localize","arguments":{{"media":0,"event":"text","query":"{query}"}}}}'
    text = f"<tool_call>\n{body}\n</tool_call>{END}"
    assert parse_text(text).call.arguments["query"] == 'a"}]{ \\'
    assert text_by_role(text)[TokenRole.ARGUMENT].startswith('media":0')
    assert text_by_role(text)[TokenRole.ARGUMENT].rstrip().endswith('"}}')


def test_the_call_in_progress():
    """Its JSON so far, between its tags and while nothing is wrong."""
    parser, seen = TurnParser(TOKENIZER), []
    for token_id in TOKENIZER.encode_structure(f"I zoom. {CALL}{END}"):
        parser.push(token_id)
        if parser.open_call is not None:
            seen.append(parser.open_call)
    assert seen[0] == ""
    assert f"<tool_call>{seen[-1]}</tool_call>" == CALL
    assert all(later.startswith(earlier) for earlier, later in pairwise(seen))
    assert parser.text == f"I zoom. {CALL}{END}"
    broken = TurnParser(TOKENIZER)
    for token_id in TOKENIZER.encode_structure(f"</tool_call>{CALL[:30]}"):
        broken.push(token_id)
    assert broken.open_call is None


def test_tagged_answer():
    turn = parse_text(f"It is clear.<answer> 24 é </answer>{END}")
    assert (turn.thought, turn.answer) == ("It is clear.", "24 é")
    roles = text_by_role(f"It is clear. <answer>24</answer>{END}")
    assert roles[TokenRole.THOUGHT].startswith("It is clear.")
    assert roles[TokenRole.ANSWER].endswith(f"answer>24</answer>{END}")


def test_untagged_turn_is_an_answer_as_a_whole():
    turn = parse_text(f" 24 coins {END}")
    assert turn.answer == "24 coins"
    assert set(turn.roles) == {TokenRole.ANSWER}


def test_tool_call_spelled_with_ordinary_tokens_is_text():
    ids = [*TOKENIZER.encode_text(CALL), TOKENIZER.special.im_end]
    assert parse(ids).answer == CALL


BAD = {
    "empty": (END, "got an empty one"),
    "blank": (f"\u00a0\n{END}", "got an empty one"),
    "blank answer": (f"so<answer> </answer>{END}", "got an empty one"),
    "unclosed answer": (f"<answer>a{END}", "expected </answer>"),
    "text after answer": (f"<answer>a</answer> b{END}", r"expected <\|im_end\|> right after"),
    "unclosed call": (f'<tool_call>{{"name":"zoom"{END}', "expected </tool_call>"),
    "two calls": (CALL + CALL + END, "expected one tool call per turn"),
    "closing tag alone": (f"a</tool_call>{END}", "expected <tool_call> before"),
    "text after call": (f"{CALL} b{END}", r"expected <\|im_end\|> right after </tool_call>"),
    "answer and call": (f"<answer>a</answer>{CALL}{END}", "got both in one turn"),
    "bad JSON": (f"<tool_call>zoom{END}".replace(END, f"</tool_call>{END}"), "expected JSON"),
    "bad arguments": (CALL.replace("4]", "0]") + END, "expected .* y0 < y1"),
    "special token": (f"<|image_pad|>{END}", r"got the special token <\|image_pad\|>"),
    "cut off": ("I think", r"expected the turn to end with <\|im_end\|>"),
    "cut off in a call": (CALL[:30], r"expected the turn to end with <\|im_end\|>"),
    "more after the end": (f"a{END}b", r"expected nothing after <\|im_end\|>"),
    "nothing": ("", r"expected the turn to end with <\|im_end\|>"),
}


@pytest.mark.parametrize(("text", "message"), BAD.values(), ids=BAD)
def test_errors(text, message):
    ids = TOKENIZER.encode_structure(text)
    turn = parse(ids)
    assert len(turn.roles) == len(ids)
    assert (turn.call, turn.answer) == (None, None)
    with pytest.raises(ValueError, match=message):
        raise ValueError(turn.error)


def test_a_turn_cut_off_before_any_tag_is_thought():
    assert set(parse_text("I think").roles) == {TokenRole.THOUGHT}


def test_an_id_outside_the_vocabulary_is_an_error():
    assert "vocabulary" in parse([99_999, TOKENIZER.special.im_end]).error


SPECIAL_IDS = [*TOKENIZER.never_sampled, *vars(TOKENIZER.special).values()]
TEXTS = st.sampled_from(
    [CALL, END, "<answer>", "</answer>", '{"name":', '"arguments":{', "}}", "é"]
)
CHUNKS = (
    st.lists(st.integers(-5, TOKENIZER.vocab_size + 5), max_size=8)
    | st.lists(st.sampled_from(SPECIAL_IDS), max_size=4)
    | TEXTS.map(TOKENIZER.encode_structure)
    | st.text(max_size=8).map(TOKENIZER.encode_text)
)


@given(st.lists(CHUNKS, max_size=8))
def test_any_ids_give_a_turn(chunks):
    ids = [token_id for chunk in chunks for token_id in chunk]
    turn = parse(ids)
    assert len(turn.roles) == len(ids)
    assert sum(part is not None for part in (turn.call, turn.answer, turn.error)) == 1
    assert set(turn.roles) <= set(TokenRole) - {TokenRole.PROMPT, TokenRole.OBSERVATION}
