"""Token pieces of a conversation, from the checkpoint's own chat template.

The template is rendered once per shape of message, with a marker in place of every content (the
question, an observation). The markers are filled in while the text is tokenised, so content can
never become structure: a literal <|image_pad|> or <tool_call> in a question is characters.
opening + turn + observation + turn ... are the ids of the whole conversation.

Images and videos expand as in transformers' Qwen3VLProcessor (>= 5.10): each <|image_pad|> is
repeated; a <|video_pad|> becomes "<0.5 seconds>", <|vision_start|>, pads, <|vision_end|> per frame
pair, inside the template's own <|vision_start|>, <|vision_end|> (dropped by transformers < 5.10).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pixelis_fast.conversation import Conversation, template_messages
from pixelis_fast.policy.tokenizer import SPECIAL_STRINGS, Tokenizer
from pixelis_fast.types import MediaKind, Sample

SYSTEM_PROMPT = (
    "You are a careful visual assistant. Think first, then either call one tool or give the final "
    "answer as <answer>text</answer>. Coordinates are integers from 0 to 1000, relative to the "
    "width and height of the media that a call names: a picture, a video's frame, or an enlarged "
    "crop by the index its observation gives. Boxes in observations are of the original; times are "
    "seconds."
)

QUESTION, TURN, OBSERVATION = "QuestionMarker7F3A", "TurnMarker7F3A", "ObservationMarker7F3A"
"""Stand for contents while a template is rendered; letters and digits survive any jinja filter."""

MAX_HEADS = 64
"""System turns kept encoded; clients of a server bring tools of their own."""
Message = dict[str, Any]


@dataclass(frozen=True)
class MediaTokens:
    """How many tokens one image or video takes.

    Example:
        MediaTokens(MediaKind.VIDEO, tokens_per_frame=64, timestamps_s=(0.25, 1.25))
    """

    kind: MediaKind
    tokens_per_frame: int
    """Merged tokens of the image, or of one frame pair."""
    timestamps_s: tuple[float, ...] = ()
    """One per frame pair of a video; empty for an image."""

    def __post_init__(self) -> None:
        if self.tokens_per_frame < 1:
            raise ValueError(f"tokens_per_frame: expected >= 1, got {self.tokens_per_frame}")
        if (self.kind is MediaKind.VIDEO) != bool(self.timestamps_s):
            raise ValueError(
                "timestamps_s: expected one per frame pair of a video and none for an image, "
                f"got {len(self.timestamps_s)} for {self.kind.value}"
            )


@dataclass(frozen=True)
class PieceSlot:
    """A run of placeholder tokens in a piece."""

    offset: int
    """Index of the first placeholder in the piece."""
    num_tokens: int
    media: int
    """Index into the media the piece was built with."""
    frame: int
    """Which frame pair of a video; 0 for an image."""


@dataclass(frozen=True)
class Piece:
    """Tokens to append to a trajectory, and where pixels stand among them."""

    ids: list[int]
    slots: tuple[PieceSlot, ...] = ()


class PromptBuilder:
    """Builds the pieces of one policy's conversations.

    Example:
        prompt = PromptBuilder(Tokenizer.embedded(), TOOL_SCHEMAS)
        piece = prompt.opening(sample, [MediaTokens(MediaKind.IMAGE, tokens_per_frame=196)])
    """

    def __init__(self, tokenizer: Tokenizer, schemas: Mapping[str, dict[str, Any]]) -> None:
        if tokenizer.hf.chat_template is None:
            raise ValueError("chat template: expected one in the tokenizer's folder, got none")
        self._tokenizer = tokenizer
        self._tools = list(schemas.values())
        self._pad_ids = {self._pad_id(kind) for kind in MediaKind}
        self._rendered: dict[tuple[str, ...], str] = {}
        self._heads: dict[str, list[int]] = {}
        self._check_append_only()

    def opening(self, sample: Sample, media_tokens: Sequence[MediaTokens]) -> Piece:
        """System turn with the tools, the user's media and question, the first assistant header.

        A Conversation opens with all of its messages instead.
        """
        kinds = [media.kind for media in sample.media]
        if kinds != [tokens.kind for tokens in media_tokens]:
            raise ValueError(
                f"media_tokens: expected the kinds {[kind.value for kind in kinds]}, "
                f"got {[tokens.kind.value for tokens in media_tokens]}"
            )
        if isinstance(sample, Conversation):
            return self._conversation(sample, media_tokens)
        text = self._render_opening(kinds)
        return self._encode(text, {QUESTION: sample.question}, media_tokens)

    def observation(self, text: str, media_tokens: Sequence[MediaTokens] = ()) -> Piece:
        """What follows a turn's <|im_end|>: the tool's response and the next assistant header."""
        rendered = self._render_observation([tokens.kind for tokens in media_tokens])
        return self._encode(rendered, {OBSERVATION: text}, media_tokens)

    def _conversation(
        self, conversation: Conversation, media_tokens: Sequence[MediaTokens]
    ) -> Piece:
        messages, contents = template_messages(conversation, system=SYSTEM_PROMPT)
        tools = self._tools if conversation.tools is None else list(conversation.tools.values())
        return self._encode(self._render(messages, tools=tools), contents, media_tokens)

    def _render_opening(self, kinds: Sequence[MediaKind]) -> str:
        key = ("opening", *(kind.value for kind in kinds))
        if key not in self._rendered:
            self._rendered[key] = self._render(_opening_messages(kinds))
        return self._rendered[key]

    def _render_observation(self, kinds: Sequence[MediaKind]) -> str:
        key = ("observation", *(kind.value for kind in kinds))
        if key not in self._rendered:
            messages = [
                *_opening_messages([]),
                {"role": "assistant", "content": TURN},
                {"role": "tool", "content": _with_media(OBSERVATION, after=kinds)},
            ]
            self._rendered[key] = self._after_turn(self._render(messages))
        return self._rendered[key]

    def _after_turn(self, rendered: str) -> str:
        _, found, after = rendered.partition(TURN + SPECIAL_STRINGS["im_end"])
        if not found:
            raise ValueError(
                "chat template: expected <|im_end|> right after an assistant's content"
            )
        return after

    def _render(
        self, messages: list[Message], *, tools: Sequence[dict[str, Any]] | None = None
    ) -> str:
        offered = self._tools if tools is None else list(tools)
        return self._tokenizer.hf.apply_chat_template(
            messages, tools=offered or None, tokenize=False, add_generation_prompt=True
        )

    def _check_append_only(self) -> None:
        """A template that rewrites earlier turns (drops their thoughts, say) cannot be appended to.

        The log-probs of a rollout would then be those of a text the policy is never shown.
        """
        turn = {"role": "assistant", "content": TURN}
        response = {"role": "tool", "content": OBSERVATION}
        whole = self._render([*_opening_messages([]), turn, response, turn, response])
        piece = TURN + SPECIAL_STRINGS["im_end"] + self._render_observation([])
        if whole != self._render_opening([]) + piece + piece:
            raise ValueError(
                "chat template: expected one that only appends to a conversation "
                "(an Instruct checkpoint's), got one that rewrites earlier turns"
            )

    def _encode(
        self, rendered: str, contents: Mapping[str, str], media_tokens: Sequence[MediaTokens]
    ) -> Piece:
        for marker in contents:
            if rendered.count(marker) != 1:
                raise ValueError(
                    f"chat template: expected each content once, got {rendered.count(marker)} times"
                )
        text = self._expand_videos(rendered, media_tokens)
        return self._repeat_pads(self._encode_text(text, contents), media_tokens)

    def _encode_text(self, text: str, contents: Mapping[str, str]) -> list[int]:
        """The system turn with its tools, most of a prompt and always the same, is kept encoded.

        Special tokens are boundaries of their own: the ids are those of the text encoded at once.
        """
        head, end, rest = text.partition(SPECIAL_STRINGS["im_end"])
        if not end or any(marker in head for marker in contents):
            return self._tokenizer.encode_structure(text, contents)
        if head not in self._heads:
            if len(self._heads) >= MAX_HEADS:
                self._heads.clear()
            self._heads[head] = self._tokenizer.encode_structure(head + end)
        return self._heads[head] + self._tokenizer.encode_structure(rest, contents)

    def _expand_videos(self, rendered: str, media_tokens: Sequence[MediaTokens]) -> str:
        """One span with its timestamp per frame pair, for each video in order."""
        pad = SPECIAL_STRINGS["video_pad"]
        first, *rest = rendered.split(pad)
        videos = [tokens for tokens in media_tokens if tokens.kind is MediaKind.VIDEO]
        if len(videos) != len(rest):
            raise ValueError(f"chat template: expected {len(videos)} videos, got {len(rest)}")
        span = SPECIAL_STRINGS["vision_start"] + pad + SPECIAL_STRINGS["vision_end"]
        spans = ["".join(f"<{t:.1f} seconds>{span}" for t in v.timestamps_s) for v in videos]
        return first + "".join(expanded + text for expanded, text in zip(spans, rest, strict=True))

    def _repeat_pads(self, ids: list[int], media_tokens: Sequence[MediaTokens]) -> Piece:
        """Every structural pad becomes its frame's run of placeholders."""
        frames = list(_frames(media_tokens))
        pads = [self._pad_id(media_tokens[media].kind) for media, _ in frames]
        found = [each for each in ids if each in self._pad_ids]
        if found != pads:
            raise ValueError(
                f"chat template: expected the {len(pads)} vision spans of the media, in order, "
                f"got {len(found)}"
            )
        expanded: list[int] = []
        slots: list[PieceSlot] = []
        for each in ids:
            count = 1
            if each in self._pad_ids:
                media, frame = frames[len(slots)]
                count = media_tokens[media].tokens_per_frame
                slots.append(PieceSlot(len(expanded), count, media, frame))
            expanded += [each] * count
        return Piece(expanded, tuple(slots))

    def _pad_id(self, kind: MediaKind) -> int:
        special = self._tokenizer.special
        return special.video_pad if kind is MediaKind.VIDEO else special.image_pad


def _frames(media_tokens: Sequence[MediaTokens]) -> Iterator[tuple[int, int]]:
    """(media, frame) of every vision span, in order."""
    for media, tokens in enumerate(media_tokens):
        for frame in range(len(tokens.timestamps_s) or 1):
            yield media, frame


def _opening_messages(kinds: Sequence[MediaKind]) -> list[Message]:
    return [
        {"role": "system", "content": SYSTEM_PROMPT},
        {"role": "user", "content": _user_content(kinds)},
    ]


def _user_content(kinds: Sequence[MediaKind]) -> str | list[Message]:
    """Media, then the question; several media are numbered, because calls name them by index."""
    if len(kinds) < 2:
        return _with_media(QUESTION, before=kinds)
    numbered = [
        {"type": "text", "text": f"media {index}: "} if part is None else part
        for index, kind in enumerate(kinds)
        for part in (None, {"type": kind.value}, {"type": "text", "text": "\n"})
    ]
    return [*numbered, {"type": "text", "text": QUESTION}]


def _with_media(
    text: str, *, before: Sequence[MediaKind] = (), after: Sequence[MediaKind] = ()
) -> str | list[Message]:
    """Text alone stays a string: some templates take nothing else from a tool."""
    if not before and not after:
        return text
    parts = [[{"type": kind.value} for kind in kinds] for kinds in (before, after)]
    return [*parts[0], {"type": "text", "text": text}, *parts[1]]
