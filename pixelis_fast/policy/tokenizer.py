"""A checkpoint's tokenizer, with text that is text kept apart from text that is structure.

`encode_text` never gives a special id: a literal "<|image_pad|>" in a question stays characters.
`encode_structure` reads the special tokens of a rendered chat template, with the contents filled in
as text. Both agree with transformers wherever no content spells a special token.

Works for every Qwen-style byte-level BPE folder; knows no prompt and no tool.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers
from transformers import AutoTokenizer

EMBEDDED_FOLDER = Path(__file__).parent / "embedded"
REPLACEMENT = "\ufffd".encode()


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the tokens that the loop and the model name."""

    im_start: int
    im_end: int
    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    tool_call_open: int
    tool_call_close: int


SPECIAL_STRINGS = {
    "im_start": "<|im_start|>",
    "im_end": "<|im_end|>",
    "vision_start": "<|vision_start|>",
    "vision_end": "<|vision_end|>",
    "image_pad": "<|image_pad|>",
    "video_pad": "<|video_pad|>",
    "tool_call_open": "<tool_call>",
    "tool_call_close": "</tool_call>",
}


class Tokenizer:
    """Wraps a fast transformers tokenizer.

    Example:
        tokenizer = Tokenizer.embedded()
        tokenizer.decode(tokenizer.encode_text("a <|im_end|> b"))  # "a <|im_end|> b"
    """

    def __init__(self, hf: Any) -> None:
        self.hf = hf
        self._added: dict[str, int] = dict(hf.get_added_vocab())
        self.special = self._special_ids()
        self.vocab_size: int = max(hf.get_vocab().values()) + 1
        self._check_added_tokens()
        self._plain = _without_added_tokens(hf.backend_tokenizer)
        longest_first = sorted(self._added, key=len, reverse=True)
        self._added_pattern = re.compile("|".join(map(re.escape, longest_first)))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Tokenizer:
        """A checkpoint folder's own tokenizer and chat template; reads nothing else."""
        folder = Path(folder)
        if not folder.is_dir():
            raise ValueError(f"tokenizer: expected a folder, got {folder}")
        hf = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        template_file = folder / "chat_template.json"
        if hf.chat_template is None and template_file.is_file():
            # Some vision checkpoints keep the template beside the processor only.
            hf.chat_template = json.loads(template_file.read_text("utf-8"))["chat_template"]
        return cls(hf)

    @classmethod
    def embedded(cls) -> Tokenizer:
        """The small one that ships with the package; see build_tokenizer.py."""
        return cls.from_folder(EMBEDDED_FOLDER)

    @classmethod
    def pixelworld(cls) -> Tokenizer:
        """The embedded one with a short prompt, for policies trained on the six tools."""
        tokenizer = cls.embedded()
        tokenizer.hf.chat_template = (EMBEDDED_FOLDER / "pixelworld_template.jinja").read_text()
        return tokenizer

    @property
    def never_sampled(self) -> frozenset[int]:
        """All added tokens but the three a turn may contain."""
        special = self.special
        sampled = {special.im_end, special.tool_call_open, special.tool_call_close}
        return frozenset(self._added.values()) - sampled

    def banned_ids(self, vocab_size: int) -> frozenset[int]:
        """never_sampled, and the rows of a padded embedding that are no token."""
        return self.never_sampled | frozenset(range(self.vocab_size, vocab_size))

    def encode_text(self, text: str) -> list[int]:
        """Content: strings that spell special tokens are characters."""
        return self._plain.encode(text, add_special_tokens=False).ids if text else []

    def encode_structure(self, text: str, contents: Mapping[str, str] | None = None) -> list[int]:
        """A rendered template: special tokens are recognised, then contents replace their keys.

        A content shares its tokens' boundaries with the plain text around it, so the ids are those
        of the whole text encoded at once.
        """
        ids: list[int] = []
        end = 0
        for match in self._added_pattern.finditer(text):
            ids += self.encode_text(_fill(text[end : match.start()], contents or {}))
            ids.append(self._added[match[0]])
            end = match.end()
        return ids + self.encode_text(_fill(text[end:], contents or {}))

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens included; bytes that are no UTF-8 become U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes a token stands for; U+FFFD's for an id that is no token."""
        return self._bytes_by_id.get(token_id, REPLACEMENT)

    def added_token(self, token_id: int) -> str | None:
        """The string of a special (added) token, None for an ordinary one."""
        return self._added_by_id.get(token_id)

    @cached_property
    def _added_by_id(self) -> dict[int, str]:
        return {token_id: token for token, token_id in self._added.items()}

    @cached_property
    def _bytes_by_id(self) -> dict[int, bytes]:
        table = _byte_of_character()
        vocab = self._plain.get_vocab(with_added_tokens=False)
        ordinary = {i: bytes(table[c] for c in token) for token, i in vocab.items()}
        return ordinary | {i: token.encode() for i, token in self._added_by_id.items()}

    def _special_ids(self) -> SpecialIds:
        names = [field.name for field in fields(SpecialIds)]
        missing = [SPECIAL_STRINGS[n] for n in names if SPECIAL_STRINGS[n] not in self._added]
        if missing:
            raise ValueError(f"tokenizer: expected Qwen's added tokens, got none of {missing}")
        return SpecialIds(**{name: self._added[SPECIAL_STRINGS[name]] for name in names})

    def _check_added_tokens(self) -> None:
        stripping = [
            token.content
            for token in self.hf.added_tokens_decoder.values()
            if token.lstrip or token.rstrip or token.single_word
        ]
        if stripping:
            raise ValueError(f"tokenizer: expected added tokens that keep spaces, got {stripping}")


def _without_added_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same model and splitting with no added token, so no text can spell one."""
    plain = tokenizers.Tokenizer(backend.model)
    if backend.normalizer is not None:
        plain.normalizer = backend.normalizer
    plain.pre_tokenizer = backend.pre_tokenizer
    return plain


def _fill(text: str, contents: Mapping[str, str]) -> str:
    """Replaces each key once, in one pass: a content that spells a key stays as it is."""
    if not contents:
        return text
    pattern = "|".join(map(re.escape, contents))
    return re.sub(pattern, lambda match: contents[match[0]], text)


def _byte_of_character() -> dict[str, int]:
    """GPT-2's byte alphabet: printable Latin-1 stands for itself, the rest from U+0100 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + rank): byte for rank, byte in enumerate(others)}
