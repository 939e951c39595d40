"""Decoding's benchmark: every way to attend agrees, and forced tokens are told from chosen ones."""

import pytest
import torch

from bench.decode import (
    attention_arms,
    causal_mask,
    decode_weights,
    grammar_table,
    main,
    matrix_products,
    walk,
)
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.policy.config import PRESETS
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.policy.weights import random_policy
from pixelis_fast.schemas import TOOL_SCHEMAS

UNIT = PRESETS["unit"]


@pytest.mark.parametrize(("new", "cached"), [(1, 5), (1, 0), (7, 0), (3, 9)], ids=str)
def test_every_way_to_attend_agrees(new, cached):
    with torch.inference_mode():
        outputs = {name: call() for name, call in attention_arms(UNIT.text, new, cached).items()}
    assert {"ours", "grouped", "folded", "repeated keys"} <= outputs.keys()
    for name, output in outputs.items():
        assert output.shape == (new, UNIT.text.num_heads, UNIT.text.head_dim)
        torch.testing.assert_close(output, outputs["repeated keys"], msg=name)


def test_mask_lets_a_token_see_itself_and_what_came_before():
    mask = causal_mask(2, 3)
    assert mask is not None
    assert (mask == 0).tolist() == [[True] * 4 + [False], [True] * 5]
    assert causal_mask(1, 3) is None


def test_the_floor_reads_every_matrix_once():
    policy = random_policy("unit", device="cpu", dtype=torch.float32, seed=0)
    weights = decode_weights(policy)
    assert len(weights) == 4 * UNIT.text.num_layers + 1
    rows = torch.randn(1, UNIT.text.hidden_size), torch.randn(1, UNIT.text.intermediate_size)
    assert matrix_products(policy)(*rows) is None


def test_forced_tokens_are_the_grammar_s():
    tokenizer = Tokenizer.embedded()
    grammar = ToolGrammar(tokenizer, TOOL_SCHEMAS, vocab_size=tokenizer.vocab_size)
    text = '<tool_call>\n{"name":"properties","arguments":{"mask":0}}\n</tool_call>'
    ids = [*tokenizer.encode_structure(text), tokenizer.special.im_end]
    masks_us: list[float] = []
    forced = walk(grammar, ids, masks_us)
    assert len(forced) + len(masks_us) == len(ids)
    assert ids.index(tokenizer.special.tool_call_open) not in forced
    assert len(ids) - 1 in forced


def test_forced_shares_are_of_the_chains():
    rows = dict(grammar_table()["rows"])
    share = int(rows["forced tokens of calls"].split(" ")[0])
    assert 30 < share < 80


def test_our_arm_must_be_there():
    with pytest.raises(SystemExit, match="expected ours"):
        main(["--arms", "grouped"])
