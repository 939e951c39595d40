"""Deltas joined are the whole text, however tokens cut it, and say what the turn parser says."""

from hypothesis import given
from hypothesis import strategies as st

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.serve.assembler import Assembler, ClientCall
from pixelis_fast.serve.text_region import TextRegion
from pixelis_fast.turns import TurnParser

TOKENIZER = Tokenizer.embedded()
END = "<|im_end|>"
CALL = '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[1,2,3,4]}}\n</tool_call>'


def assemble(text: str, *, stop=(), hands_over=False) -> Assembler:
    assembler = Assembler(TOKENIZER, stop=stop, hands_over=hands_over)
    deltas = assembler.push(TOKENIZER.encode_structure(text)) + assembler.finish()
    assert "".join(delta.reasoning for delta in deltas) == assembler.reasoning
    assert "".join(delta.content for delta in deltas) == assembler.content
    return assembler


@given(data=st.binary(max_size=40) | st.text(max_size=20).map(str.encode), sizes=st.data())
def test_a_region_is_the_whole_text_stripped(data, sizes):
    region, rest, text = TextRegion([b"<end>"]), data, ""
    while rest:
        size = sizes.draw(st.integers(1, len(rest)))
        text += region.push(rest[:size], 0)
        rest = rest[size:]
    text += region.finish()
    assert text == region.text == data.partition(b"<end>")[0].decode("utf-8", "replace").strip()


@given(before=st.text(max_size=9), after=st.text(max_size=9), cut=st.integers(0, 40))
def test_a_region_ends_at_its_marker(before, after, cut):
    data = f"{before}<end>{after}".encode()
    region = TextRegion([b"<end>", b"never there"])
    text = region.push(data[:cut], 0) + region.push(data[cut:], 1)
    kept = before.partition("<end>")[0]
    assert text == kept.strip()
    assert region.marker == b"<end>"


def test_what_may_be_a_marker_is_held_back():
    region = TextRegion([b"</answer>"])
    assert region.push(b" 24</ans", 0) == "24"
    assert region.push(b"x", 1) == "</ansx"
    assert region.push(b"\xc3", 2) == ""
    assert region.push(b"\xa9 ", 3) == "\u00e9"
    assert region.push(b"y</answer>z", 4) == " y"
    assert region.rest == b"z"
    assert region.take_tokens() == [0, 1, 2, 3, 4]


@given(
    thought=st.text(max_size=12).filter(lambda text: "<" not in text),
    answer=st.text(min_size=1, max_size=12).filter(lambda text: "<" not in text and text.strip()),
    tagged=st.booleans(),
)
def test_an_answer_is_what_the_turn_parser_says(thought, answer, tagged):
    text = f"{thought}<answer>{answer}</answer>" if tagged else answer
    ids = [*TOKENIZER.encode_text(text), TOKENIZER.special.im_end]
    parser = TurnParser(TOKENIZER)
    assembler = Assembler(TOKENIZER, stop=(), hands_over=False)
    for token_id in ids:
        parser.push(token_id)
        assembler.push([token_id])
    assembler.finish()
    turn = parser.finish()
    assert assembler.content == turn.answer
    assert assembler.reasoning == (turn.thought if tagged else turn.answer)


def test_thoughts_of_all_turns_are_reasoning():
    assembler = assemble(f"I look.{CALL}{END}Now I know.<answer> 24 </answer>{END}")
    assert assembler.reasoning == "I look.\n\nNow I know."
    assert assembler.content == "24"
    assert not assembler.calls


def test_a_call_is_handed_over_as_generated():
    assembler = assemble(f"I look.{CALL}{END}", hands_over=True)
    [call] = assembler.calls
    assert call == ClientCall(call.id, "zoom", '{"media":0,"box":[1,2,3,4]}')
    assert call.id.startswith("call_")
    assert (assembler.reasoning, assembler.content) == ("I look.", "")


def test_calls_get_ids_of_their_own():
    ids = {assemble(f"{CALL}{END}", hands_over=True).calls[0].id for _ in range(20)}
    assert len(ids) == 20


def test_a_stop_string_ends_the_answer():
    assembler = assemble(f"<answer>one\ntwo\nthree</answer>{END}", stop=("\ntw", "three"))
    assert assembler.is_stopped
    assert assembler.content == "one"


def test_a_stop_string_before_any_tag_ends_an_untagged_answer():
    assembler = assemble(f"one, two, three{END}", stop=(", thr",))
    assert (assembler.content, assembler.reasoning) == ("one, two", "one, two")


def test_a_text_that_a_limit_cut_is_content():
    assert assemble("The picture shows a ca").content == "The picture shows a ca"
    assert assemble("So. <answer>a ca").content == "a ca"
    assert assemble(f"{CALL}{END}").content == ""
    assert assemble("So.<tool_call>\n{").content == ""


def test_content_names_its_tokens():
    text = f"So.<answer>twenty four</answer>{END}"
    ids = TOKENIZER.encode_structure(text)
    assembler = Assembler(TOKENIZER, stop=(), hands_over=False)
    deltas = assembler.push(ids) + assembler.finish()
    numbers = [number for delta in deltas for number in delta.tokens]
    assert numbers == sorted(set(numbers))
    joined = b"".join(TOKENIZER.token_bytes(ids[number]) for number in numbers)
    assert b"twenty four" in joined
    # Tokens at the edges may share bytes with the tags, none is of a tag alone.
    assert len(joined) - len("twenty four") < len("<answer></answer>")
    before = b"".join(map(TOKENIZER.token_bytes, ids[: numbers[0]]))
    assert b"twenty" not in before
