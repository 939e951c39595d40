"""Embedded tokenizer: rebuilt identically, Qwen's format, any text round-trips as text."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken
from transformers import AutoTokenizer

from pixelis_fast.policy.build_tokenizer import write
from pixelis_fast.policy.tokenizer import EMBEDDED_FOLDER, Tokenizer

TOKENIZER = Tokenizer.embedded()
ADDED = list(TOKENIZER.hf.get_added_vocab())
FILES = ("tokenizer.json", "tokenizer_config.json")

# Qwen3's added tokens in id order, from its tokenizer_config.json.
QWEN_SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
QWEN_NOT_SPECIAL = (
    "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>", "<|fim_suffix|>",
    "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", "<tool_response>", "</tool_response>",
    "<think>", "</think>",
)  # fmt: skip


def test_build_is_deterministic(tmp_path):
    write(tmp_path)
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (EMBEDDED_FOLDER / name).read_bytes()


def test_files_are_small():
    assert sum(path.stat().st_size for path in EMBEDDED_FOLDER.iterdir()) < 200_000


def test_added_tokens_are_qwens():
    added = TOKENIZER.hf.added_tokens_decoder
    assert [(token.content, token.special) for _, token in sorted(added.items())] == [
        *((text, True) for text in QWEN_SPECIAL),
        *((text, False) for text in QWEN_NOT_SPECIAL),
    ]
    assert TOKENIZER.vocab_size == len(TOKENIZER.hf) == 2048


def test_digits_are_single_tokens():
    assert len(TOKENIZER.encode_text("1000")) == 4


def test_tool_call_is_short():
    call = '{"name":"zoom","arguments":{"media":0,"box":[120,230,450,780]}}\n'
    assert len(TOKENIZER.encode_text(call)) <= 30


TEXTS = st.lists(st.text(max_size=20) | st.sampled_from(ADDED), max_size=6).map("".join)


@given(TEXTS)
def test_text_round_trips_and_is_never_special(text):
    ids = TOKENIZER.encode_text(text)
    assert TOKENIZER.decode(ids) == text
    assert not set(ids) & set(TOKENIZER.hf.get_added_vocab().values())


@given(st.binary())
def test_every_byte_is_a_token(data):
    text = data.decode("latin-1")
    assert b"".join(map(TOKENIZER.token_bytes, TOKENIZER.encode_text(text))) == text.encode()
    lone = {TOKENIZER.token_bytes(i) for i in range(TOKENIZER.vocab_size)}
    assert {bytes([byte]) for byte in range(256)} <= lone


@given(TEXTS)
def test_encode_structure_equals_transformers(text):
    assert TOKENIZER.encode_structure(text) == TOKENIZER.hf.encode(text, add_special_tokens=False)
    assert TOKENIZER.decode(TOKENIZER.encode_structure(text)) == text


@given(st.text(max_size=30))
def test_encode_structure_with_contents_equals_the_whole_text_at_once(content):
    ids = TOKENIZER.encode_structure("<|im_start|>user\nQ and A}\n<|im_end|>", {"Q": content})
    whole = f"<|im_start|>user\n{content} and A}}\n<|im_end|>"
    assert TOKENIZER.decode(ids) == whole
    if not any(token in content for token in ADDED):
        assert ids == TOKENIZER.hf.encode(whole, add_special_tokens=False)


@pytest.mark.parametrize("token", ADDED)
def test_encode_structure_contents_are_text(token):
    ids = TOKENIZER.encode_structure("a Q b<|im_end|>", {"Q": f"{token} Q"})
    assert TOKENIZER.decode(ids) == f"a {token} Q b<|im_end|>"
    assert [i for i in ids if TOKENIZER.added_token(i)] == [TOKENIZER.special.im_end]


def test_decode_equals_transformers_and_survives_any_id():
    ids = TOKENIZER.encode_structure("<|im_start|>é {} <tool_call>")
    assert TOKENIZER.decode(ids) == TOKENIZER.hf.decode(ids, clean_up_tokenization_spaces=False)
    assert TOKENIZER.decode([-1, 99_999]) == "\ufffd\ufffd"


def test_never_sampled():
    sampled = {"<|im_end|>", "<tool_call>", "</tool_call>"}
    assert {TOKENIZER.decode([i]) for i in TOKENIZER.never_sampled} == set(ADDED) - sampled
    assert TOKENIZER.banned_ids(2050) == TOKENIZER.never_sampled | {2048, 2049}


@pytest.fixture
def folder(tmp_path):
    return shutil.copytree(EMBEDDED_FOLDER, tmp_path / "checkpoint")


def test_folder_beside_a_qwen_config_keeps_its_tokenizer(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen3_vl"}))
    hf = AutoTokenizer.from_pretrained(folder)
    hf.save_pretrained(folder)
    for again in (Tokenizer(hf), Tokenizer.from_folder(folder)):
        assert again.encode_text("e\u0301 A\u0301") == TOKENIZER.encode_text("e\u0301 A\u0301")
        assert again.hf.chat_template == TOKENIZER.hf.chat_template
        assert again.special == TOKENIZER.special


def test_chat_template_beside_the_processor_is_read(folder):
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").unlink()
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": template}))
    assert Tokenizer.from_folder(folder).hf.chat_template == template


def test_from_folder_refuses_a_file_and_a_foreign_tokenizer(folder):
    with pytest.raises(ValueError, match="expected a folder, got"):
        Tokenizer.from_folder(folder / "tokenizer.json")
    content = json.loads((folder / "tokenizer.json").read_text())
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "<tool_call>"]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"expected Qwen's added tokens, got none of \['<tool_cal"):
        Tokenizer.from_folder(folder)


def test_added_tokens_that_eat_spaces_are_refused(folder):
    hf = AutoTokenizer.from_pretrained(folder)
    hf.add_tokens([AddedToken("<greedy>", lstrip=True)])
    with pytest.raises(ValueError, match=r"that keep spaces, got \['<greedy>'\]"):
        Tokenizer(hf)
