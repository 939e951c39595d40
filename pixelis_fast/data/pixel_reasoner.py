"""Pixel-Reasoner's SFT data: rows with `message_list`, as TIGER-Lab publishes them.

The question's message shows images, or a video as a file or as a list of frames; calls are
crop_image (pixels, or shares where no value is above 1), crop_image_normalized and select_frames,
and count pictures from 1. A frame that is looked at again becomes a zoom on all of it. Rows of the
RL data (`question`, `image`, `answer`, no messages) become records without a chain. Their code cuts
what PIL's `Image.open` gives, which heeds no EXIF orientation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixelis_fast.data.convert_answers import answer_kind, first_text
from pixelis_fast.data.convert_media import StoredMedia, file_size
from pixelis_fast.data.convert_messages import (
    ChainReader,
    Message,
    plain,
    read_message,
    split_answer,
    video_frames,
)
from pixelis_fast.data.convert_types import Source, UnsupportedError
from pixelis_fast.data.convert_views import Size, View
from pixelis_fast.data.cota import CotaRecord

FIRST_PICTURE = 1


def to_record(source: Source) -> CotaRecord:
    if source.row.values.get("message_list") is None:
        return _without_chain(source)
    rows = source.row.values["message_list"]
    if not isinstance(rows, list) or not rows:
        raise source.row.error("message_list", "a list of messages", rows)
    messages = [read_message(row) for row in rows]
    asked = next((m for m in messages if m.role == "user"), None)
    if asked is None:
        raise source.row.error("message_list", "a message of the user", rows)
    media = [stored(source, path) for picture in asked.pictures for path in _paths(picture)]
    views, frames = _shown(media, is_video=any(isinstance(p, list) for p in asked.pictures))
    reader = ChainReader(views, first_index=FIRST_PICTURE, frames=frames)
    chain = reader.read(messages, [_sizes(source, message, asked) for message in messages])
    answer = _told(source) or chain.answer
    if answer is None:
        raise UnsupportedError("answer: expected one in the row or in the last message, got none")
    return CotaRecord(
        id=_id(source),
        task="pixel-reasoner",
        media=tuple(each.path for each in media),
        question=plain(asked.text),
        answer=answer,
        answer_kind=answer_kind(answer),
        turns=chain.turns,
        answer_thought=chain.answer_thought,
        source="pixel-reasoner",
    )


def _without_chain(source: Source) -> CotaRecord:
    image = source.row.values.get("image")
    paths = image if isinstance(image, list) else [image]
    answer = _told(source)
    if answer is None:
        raise source.row.error("answer", "text", source.row.values.get("answer"))
    return CotaRecord(
        id=_id(source),
        task="pixel-reasoner",
        media=tuple(stored(source, path).path for path in paths),
        question=source.row.text("question"),
        answer=answer,
        answer_kind=answer_kind(answer),
        source="pixel-reasoner",
    )


def _told(source: Source) -> str | None:
    """The row's answer, out of its box where it stands in one."""
    answer = first_text(source.row.values.get("answer"))
    return answer and (split_answer(answer)[1] or answer)


def _id(source: Source) -> str:
    return str(source.row.values.get("qid") or f"pixel-reasoner-{source.number}")


def _paths(picture: Any) -> list[Any]:
    return picture if isinstance(picture, list) else [picture]


def stored(source: Source, path: Any) -> StoredMedia:
    if not isinstance(path, str):
        raise ValueError(f"media: expected a path, got {path!r}")
    return source.media.add_file(source.root / Path(path.removeprefix("file://")), raw=True)


def _shown(media: list[StoredMedia], *, is_video: bool) -> tuple[list[View], list[View]]:
    """What calls name as pictures, and what select_frames selects from."""
    views = [View(index, each.size) for index, each in enumerate(media)]
    if is_video:
        return views, views
    for index, each in enumerate(media):
        if each.last_frame_s is not None:
            frames = video_frames(index, each.size, each.last_frame_s)
            return frames, frames
    return views, []


def _sizes(source: Source, message: Message, asked: Message) -> list[Size | None]:
    """Of the crops that a reply shows, which are not kept: the calls say which pixels they are."""
    if message is asked or message.role == "assistant":
        return []
    paths = [path for path in message.pictures if isinstance(path, str)]
    return [file_size(source.root / path.removeprefix("file://")) for path in paths]
