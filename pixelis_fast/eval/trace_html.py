"""One trajectory as a piece of HTML that needs no file and no script; every text is escaped."""

from __future__ import annotations

import base64
import json
from html import escape
from typing import Any

from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.tools import MediaStore
from pixelis_fast.trace_pictures import Picture, render
from pixelis_fast.trace_record import make_record
from pixelis_fast.types import Trajectory

LONGEST_SIDE = 420
Json = dict[str, Any]


def trace_html(trajectory: Trajectory, tokenizer: Tokenizer, store: MediaStore) -> str:
    """Its media and steps, as cards of the viewer's style sheet."""
    record = make_record("", trajectory, tokenizer, about={})
    page = json.loads(record.page)
    drawn = _Drawn(record.pictures, store)
    media = "".join(drawn.figure(each["picture"]) for each in page["media"])
    steps = "".join(_step(step, drawn) for step in page["steps"])
    left = f'<p class="said">{escape(page["unfinished"])}</p>' if page["unfinished"] else ""
    error = f'<p class="error">{escape(page["error"])}</p>' if page["error"] else ""
    return f'<div class="pictures">{media}</div>{steps}{left}{error}'


def _step(step: Json, drawn: _Drawn) -> str:
    observation = step["observation"]
    call = step["call"]
    title = call["operation"] if call else "unreadable call" if observation else "answer"
    arguments = call["arguments"].items() if call else ()
    chips = "".join(f'<span class="chip">{_text(f"{k} {v}")}</span>' for k, v in arguments)
    said = f'<p class="said">{escape(step["text"])}</p>' if step["text"] else ""
    pictures = "".join(drawn.figure(each) for each in step["pictures"])
    shown = f'<div class="pictures">{pictures}</div>' if pictures else ""
    head = f'<span class="number">{step["number"]}</span><h2>{_text(title)}</h2>{chips}'
    return (
        f'<section class="card"><div class="row">{head}</div>'
        f"{said}{shown}{_observation(observation)}</section>"
    )


def _observation(observation: Json | None) -> str:
    if observation is None:
        return ""
    if observation["error"]:
        return f'<p class="error">{_text(observation["error"])}</p>'
    content = json.dumps(observation["content"], ensure_ascii=False)
    engine = f"{observation['engine']}{', degraded' if observation['degraded'] else ''}"
    summary = f"What the policy read ({_text(engine)})"
    return f"<details><summary>{summary}</summary><pre>{_text(content)}</pre></details>"


class _Drawn:
    """A record's pictures as figures with their bytes in them."""

    def __init__(self, pictures: tuple[Picture, ...], store: MediaStore) -> None:
        self._pictures, self._store = pictures, store

    def figure(self, row: Json) -> str:
        jpeg = render(self._pictures[row["number"]], self._store, longest_side=LONGEST_SIDE)
        source = f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"
        boxes = "".join(_box(each["box"], each["label"]) for each in row["boxes"])
        points = "".join(
            f'<circle cx="{x}" cy="{y}" r="9"><title>asked</title></circle>'
            for x, y in row["points"]
        )
        drawing = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{boxes}{points}</svg>'
        caption = _text(row["caption"])
        return (
            f'<figure><div class="frame"><img alt="{caption}" src="{source}">{drawing}</div>'
            f"<figcaption>{caption}</figcaption></figure>"
        )


def _box(box: list[int], label: str) -> str:
    x0, y0, x1, y1 = (int(value) for value in box)
    kind = ' class="asked"' if label == "asked" else ""
    title = f"<title>{_text(label)}</title>"
    return f'<rect{kind} x="{x0}" y="{y0}" width="{x1 - x0}" height="{y1 - y0}">{title}</rect>'


def _text(value: Any) -> str:
    return escape(str(value))
