"""DeepEyes' data: rows with prompt, images and reward_model, as its parquet files have them.

Pictures are bytes or paths beside the row; the prompt is a system and a user message, of which the
question is kept without its instruction. RL rows have no chain; where messages of an assistant
follow (a kept rollout), image_zoom_in_tool calls become zooms. Boxes are pixels of the picture
named by target_image, 0 being the original; their toolbox cuts what PIL's `Image.open` gives, which
heeds no EXIF orientation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pixelis_fast.data.convert_answers import answer_kind, first_text
from pixelis_fast.data.convert_media import StoredMedia
from pixelis_fast.data.convert_messages import ChainReader, Message, plain, read_message
from pixelis_fast.data.convert_types import Source
from pixelis_fast.data.convert_views import View
from pixelis_fast.data.cota import CotaRecord
from pixelis_fast.data.rows import Row

FIRST_PICTURE = 0
INSTRUCTION = "\nThink first, call **image_zoom_in_tool**"
"""Where the instruction begins that the prompt ends with."""


def to_record(source: Source) -> CotaRecord:
    row = source.row
    messages = _messages(row)
    media = [_stored(source, image) for image in _images(row)]
    answer = first_text(_inner(row, "reward_model").get("ground_truth"))
    if answer is None:
        raise row.error("reward_model.ground_truth", "text", row.values.get("reward_model"))
    views = [View(index, each.size) for index, each in enumerate(media)]
    reader = ChainReader(views, first_index=FIRST_PICTURE)
    chain = reader.read(messages, [()] * len(messages))
    return CotaRecord(
        id=_id(source),
        task=f"deepeyes-{row.values.get('data_source') or 'unnamed'}",
        media=tuple(each.path for each in media),
        question=_question(row, messages),
        answer=answer,
        answer_kind=answer_kind(answer),
        turns=chain.turns,
        answer_thought=chain.answer_thought,
        source="deepeyes",
    )


def _messages(row: Row) -> list[Message]:
    prompt = row.values.get("prompt")
    if not isinstance(prompt, list) or not prompt:
        raise row.error("prompt", "a list of messages", prompt)
    return [read_message(each) for each in prompt]


def _images(row: Row) -> list[Any]:
    images = row.values.get("images")
    if not isinstance(images, list) or not images:
        raise row.error("images", "a list of pictures", images)
    return images


def _stored(source: Source, image: Any) -> StoredMedia:
    content = image.get("bytes") if isinstance(image, dict) else None
    if isinstance(content, bytes):
        return source.media.add_bytes(content, raw=True)
    path = image.get("path") if isinstance(image, dict) else image
    if not isinstance(path, str):
        raise source.row.error("images", "pictures with bytes or a path", image)
    return source.media.add_file(source.root / Path(path), raw=True)


def _question(row: Row, messages: list[Message]) -> str:
    """The release's own plain question where it has one."""
    known = first_text(_inner(row, "extra_info").get("question"))
    if known is not None and "<image>" not in known:
        return known
    asked = next((m.text for m in messages if m.role == "user"), None)
    if asked is None:
        raise row.error("prompt", "a message of the user", [m.role for m in messages])
    return plain(asked.replace("<image>", "").partition(INSTRUCTION)[0])


def _inner(row: Row, name: str) -> dict[str, Any]:
    value = row.values.get(name)
    return value if isinstance(value, dict) else {}


def _id(source: Source) -> str:
    extra = _inner(source.row, "extra_info")
    parts = [str(extra[key]) for key in ("split", "index") if extra.get(key) is not None]
    # Rows of several files share splits and indexes.
    return "-".join(["deepeyes", *parts, str(source.number)])
