"""Constrained turns parse; forced tokens are the canonical spelling of the only continuation."""

import re
from collections import Counter
from collections.abc import Sequence

import pytest
import torch

from pixelis_fast.grammar import GrammarState, ToolGrammar, turn_lark
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TOOL_SCHEMAS
from pixelis_fast.turns import Turn, TurnParser

TOKENIZER = Tokenizer.embedded()
SPECIAL = TOKENIZER.special
VOCAB_SIZE = 2100
"""Above the tokenizer's 2048, as a padded embedding is."""
GRAMMAR = ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=VOCAB_SIZE)
ORDER_ERRORS = ("x0 < x1", "start < end")
"""What parse_call checks and no context-free grammar can."""
CALLS = [
    '{"name":"zoom","arguments":{"media":0,"box":[120,230,450,780]}}',
    '{"name":"zoom","arguments":{"media":63,"box":[0,0,1000,1000],"time":12.345}}',
    '{"name":"segment","arguments":{"media":0,"point":[512,384]}}',
    '{"name":"segment","arguments":{"media":0,"box":[1,2,3,4],"time":86400}}',
    '{"name":"track","arguments":{"media":1,"box":[1,2,3,4],"start":0,"end":2.5}}',
    '{"name":"read_text","arguments":{"media":0}}',
    '{"name":"localize","arguments":{"media":0,"event":"text","time":1,"query":"é \\" \\\\ / 東"}}',
    '{"name":"properties","arguments":{"mask":999}}',
]
ACCEPTED = [f"<tool_call>\n{call}\n</tool_call>" for call in CALLS] + [
    f"I look closer, <a> bit.\n\n<tool_call>\n{CALLS[0]}\n</tool_call>",
    "24",
    " 24 coins\nin < 3 rows ",
    "<answer>24</answer>",
    "It is 東京. <answer> a < b </answer>",
]
REJECTED = [
    "",
    " \n",
    "<answer></answer>",
    "<answer> </answer>",
    "<answer>a",
    "<answer>a</answer> b",
    "<answer>a</answer><answer>b</answer>",
    "<answer>a</answer>" + ACCEPTED[0],
    ACCEPTED[0] + ACCEPTED[0],
    ACCEPTED[0] + "\n",
    *(
        f"<tool_call>\n{call}\n</tool_call>"
        for call in (
            '{"name": "read_text","arguments":{"media":0}}',
            '{"name":"crop","arguments":{"media":0}}',
            '{"name":"read_text","arguments":{}}',
            '{"name":"read_text","arguments":{"media":00}}',
            '{"name":"read_text","arguments":{"media":64}}',
            '{"name":"read_text","arguments":{"media":-1}}',
            '{"name":"read_text","arguments":{"media":0,"time":1.2345}}',
            '{"name":"read_text","arguments":{"media":0,"time":86401}}',
            '{"name":"read_text","arguments":{"media":0,"time":1,"box":[1,2,3,4]}}',
            '{"name":"zoom","arguments":{"media":0,"box":[1,2,3]}}',
            '{"name":"zoom","arguments":{"media":0,"box":[1,2,3,1001]}}',
            '{"name":"zoom","arguments":{"media":0,"box":[1,2,3,4.0]}}',
            '{"name":"segment","arguments":{"media":0}}',
            '{"name":"segment","arguments":{"media":0,"point":[1,2],"box":[1,2,3,4]}}',
            '{"name":"localize","arguments":{"media":0,"event":"boom"}}',
            '{"name":"localize","arguments":{"media":0,"event":"text","query":""}}',
            '{"name":"localize","arguments":{"media":0,"event":"text","query":"\\ud800"}}',
        )
    ),
]


def accepts(grammar: ToolGrammar, text: str) -> bool:
    state = grammar.start()
    for token_id in TOKENIZER.encode_structure(text + "<|im_end|>"):
        if not state.allowed()[token_id]:
            return False
        state.accept([token_id])
    return state.is_done


@pytest.mark.parametrize("text", ACCEPTED)
def test_accepts(text):
    assert accepts(GRAMMAR, text)


@pytest.mark.parametrize("text", REJECTED)
def test_rejects(text):
    assert not accepts(GRAMMAR, text)


def sampled_turn(
    grammar: ToolGrammar,
    generator: torch.Generator,
    *,
    bonus: dict[int, float],
    prefix: Sequence[int] = (),
) -> list[int]:
    """A turn that starts with the prefix, from random logits, with forced tokens taken."""
    state, ids = grammar.start(), list(prefix)
    state.accept(ids)
    while not state.is_done:
        logits_V = 3 * torch.randn(VOCAB_SIZE, generator=generator)
        for token_id, more in bonus.items():
            logits_V[token_id] += more
        logits_V[~state.allowed()] = -torch.inf
        token_id = int(torch.multinomial(logits_V.softmax(0), 1, generator=generator))
        state.accept([token_id])
        forced = state.forced()
        check_forced(state, forced)
        state.accept(forced)
        ids += [token_id, *forced]
    return ids


def check_forced(state: GrammarState, forced: list[int]) -> None:
    """Each forced token is all that the mask leaves, and the run is spelt as text would be."""
    walk = state.fork()
    for token_id in forced:
        assert walk.allowed().nonzero().flatten().tolist() == [token_id]
        walk.accept([token_id])
    assert TOKENIZER.encode_structure(TOKENIZER.decode(forced)) == forced
    if not forced and not state.is_done:
        assert state.allowed().sum() > 1


def parse(ids: list[int]) -> Turn:
    parser = TurnParser(TOKENIZER)
    for token_id in ids:
        parser.push(token_id)
    return parser.finish()


CLOSING = dict.fromkeys(TOKENIZER.encode_text('</answer>""'), 9.0)
"""Random logits would seldom spell the end of an answer or of a string."""
BONUS = {SPECIAL.tool_call_open: 9.0, SPECIAL.im_end: 6.0} | CLOSING


SHORT = ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=VOCAB_SIZE, max_thought_tokens=10)


def test_random_turns_parse():
    generator = torch.Generator().manual_seed(0)
    found: Counter[str] = Counter()
    for _ in range(220):
        turn = parse(sampled_turn(SHORT, generator, bonus=BONUS))
        if turn.error is not None:
            assert any(text in turn.error for text in ORDER_ERRORS), turn.error
            found["order"] += 1
        else:
            found[turn.call.operation if turn.call else "answer"] += 1
    assert set(found) >= {*TOOL_SCHEMAS, "answer"}, found
    assert found["order"] < 150, found


def test_random_tagged_answers_parse():
    generator = torch.Generator().manual_seed(1)
    prefix = TOKENIZER.encode_text("So <answer>")
    for _ in range(12):
        turn = parse(sampled_turn(SHORT, generator, bonus=CLOSING, prefix=prefix))
        assert turn.thought == "So"
        assert turn.answer


def test_a_call_is_mostly_forced():
    ids = TOKENIZER.encode_structure(f"<tool_call>\n{CALLS[0]}\n</tool_call><|im_end|>")
    state, num_forced, place = GRAMMAR.start(), 0, 0
    while not state.is_done:
        state.accept([ids[place]])
        forced = state.forced()
        assert ids[place + 1 : place + 1 + len(forced)] == forced
        state.accept(forced)
        place += 1 + len(forced)
        num_forced += len(forced)
    assert num_forced / len(ids) > 0.5


@pytest.mark.parametrize("text", ["", "hi", "<answer>a", f"<tool_call>\n{CALLS[6][:50]}"])
def test_special_tokens_are_never_allowed(text):
    state = GRAMMAR.start()
    state.accept(TOKENIZER.encode_structure(text))
    allowed_V = state.allowed()
    assert allowed_V.shape == (VOCAB_SIZE,)
    assert allowed_V.dtype == torch.bool
    assert not allowed_V[sorted(TOKENIZER.banned_ids(VOCAB_SIZE))].any()


@pytest.mark.parametrize("text", ["", "hi", "a thought of more than two tokens"])
@pytest.mark.parametrize("most", [None, 2])
def test_the_last_turn_has_no_call(text, most):
    grammar = ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=VOCAB_SIZE, max_thought_tokens=most)
    last, any_turn = grammar.start(is_last=True), grammar.start()
    for token_id in TOKENIZER.encode_text(text)[:most]:
        last.accept([token_id])
        any_turn.accept([token_id])
    assert any_turn.allowed()[SPECIAL.tool_call_open]
    assert not last.allowed()[SPECIAL.tool_call_open]
    answer, ids = last.fork(), TOKENIZER.encode_structure("<answer>7</answer><|im_end|>")
    answer.accept(ids)
    assert answer.is_done
    assert not last.is_done


def test_thought_limit():
    state = ToolGrammar(
        TOKENIZER, TOOL_SCHEMAS, vocab_size=VOCAB_SIZE, max_thought_tokens=2
    ).start()
    for token_id in TOKENIZER.encode_text("a東"):
        # The limit of two waits for the end of a character.
        assert state.allowed()[token_id]
        state.accept([token_id])
    allowed = {TOKENIZER.decode([i]) for i in state.allowed().nonzero().flatten().tolist()}
    assert allowed == {"<tool_call>", "<", "<an", "<answer"} & allowed | {"<tool_call>", "<"}
    answer, call = state.fork(), state
    answer.accept(TOKENIZER.encode_structure("<answer>a long answer</answer><|im_end|>"))
    call.accept([SPECIAL.tool_call_open])
    assert answer.is_done
    assert call.forced()


def test_thought_limit_ends_with_the_thought():
    grammar = ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=VOCAB_SIZE, max_thought_tokens=6)
    for text in ("<answer>longer than the limit of a thought</answer>", "a " + ACCEPTED[0]):
        assert accepts(grammar, text)
    assert not accepts(grammar, "one two three four five six seven eight")


def test_accept_refuses_and_stays_usable():
    state = GRAMMAR.start()
    with pytest.raises(ValueError, match=f"expected an allowed token, got id {SPECIAL.image_pad}"):
        state.accept([*TOKENIZER.encode_text("hi"), SPECIAL.image_pad, SPECIAL.im_end])
    state.accept([SPECIAL.tool_call_open])
    assert TOKENIZER.decode(state.forced()).startswith('\n{"name":"')


def test_fork_and_start_are_independent():
    state = GRAMMAR.start()
    state.accept([SPECIAL.tool_call_open])
    other = state.fork()
    other.accept(other.forced())
    assert state.forced()
    assert GRAMMAR.start().forced() == []


def test_nothing_after_the_end():
    state = GRAMMAR.start()
    state.accept(TOKENIZER.encode_structure("hi<|im_end|>"))
    assert state.is_done
    assert state.forced() == []
    with pytest.raises(ValueError, match="expected a turn in progress, got one that is over"):
        state.allowed()


@pytest.mark.parametrize("maximum", [0, 5, 9, 10, 63, 409, 999, 1000, 86_399])
def test_integer_ranges_are_exact(maximum):
    tool = {"function": {"parameters": one_integer(maximum)}}
    pattern = re.search(r'\\"n\\":" /(.*?)/', turn_lark({"t": tool}, with_thought=False)).group(1)
    for value in {0, 1, 9, 10, 99, 100, maximum - 1, maximum, maximum + 1, 10 * maximum + 9}:
        if value >= 0:
            assert bool(re.fullmatch(pattern, str(value))) == (value <= maximum), value
    assert not re.fullmatch(pattern, "00")


def one_integer(maximum: int) -> dict:
    number = {"type": "integer", "minimum": 0, "maximum": maximum}
    return {"type": "object", "properties": {"n": number}, "required": ["n"]}


BAD_SCHEMAS = {
    "type": ({"type": "boolean"}, "expected an object, array, string or number, got 'boolean'"),
    "minimum": ({"type": "integer", "minimum": 1, "maximum": 5}, "expected numbers from 0"),
    "length": (
        {"type": "array", "items": {}, "minItems": 1, "maxItems": 2},
        "expected a list of fixed length",
    ),
    "first": (
        {"type": "object", "properties": {"a": {}}, "required": []},
        "expected its first argument required, got 'a' optional",
    ),
}


@pytest.mark.parametrize(("schema", "message"), BAD_SCHEMAS.values(), ids=BAD_SCHEMAS)
def test_schemas_outside_the_subset_are_refused(schema, message):
    with pytest.raises(ValueError, match=message):
        turn_lark({"t": {"function": {"parameters": schema}}}, with_thought=False)


def test_bad_sizes_are_refused():
    with pytest.raises(ValueError, match="vocab_size: expected >= 2048"):
        ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=2000)
    with pytest.raises(ValueError, match="expected >= 1, got 0"):
        ToolGrammar(TOKENIZER, TOOL_SCHEMAS, vocab_size=2048, max_thought_tokens=0)
