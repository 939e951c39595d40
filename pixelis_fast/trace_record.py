"""A trajectory as the JSON that the viewer and the report show: steps, texts, pictures, times."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from pixelis_fast.conversation import Conversation, Message
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.trace_pictures import Gallery, Picture, first_look
from pixelis_fast.types import Media, Step, TokenRole, Trajectory

Json = dict[str, Any]


@dataclass(frozen=True)
class TraceRecord:
    """One kept trace: its page's JSON, its pictures, and the media they are made of."""

    id: str
    page: bytes
    pictures: tuple[Picture, ...]
    media_ids: tuple[str, ...]

    @property
    def num_bytes(self) -> int:
        """What keeping it takes, the media aside."""
        return len(self.page) + sum(picture.num_bytes for picture in self.pictures)


def make_record(
    trace_id: str, trajectory: Trajectory, tokenizer: Tokenizer, *, about: Json
) -> TraceRecord:
    """`about` is what the server knows: model, times, finish reason."""
    writer = _Writer(trajectory, tokenizer)
    page = {"id": trace_id, **about, **writer.page()}
    encoded = json.dumps(page, ensure_ascii=False, allow_nan=False).encode()
    media_ids = tuple(dict.fromkeys(media.id for media in trajectory.sample.media))
    return TraceRecord(trace_id, encoded, tuple(writer.pictures), media_ids)


class _Writer:
    def __init__(self, trajectory: Trajectory, tokenizer: Tokenizer) -> None:
        self._trajectory, self._tokenizer = trajectory, tokenizer
        self._gallery = Gallery(trajectory)
        self.pictures: list[Picture] = []

    def page(self) -> Json:
        trajectory = self._trajectory
        return {
            "question": trajectory.sample.question,
            "messages": self._messages(),
            "media": [self._media(media) for media in trajectory.sample.media],
            "steps": [self._step(i, step) for i, step in enumerate(trajectory.steps, start=1)],
            "unfinished": self._unfinished(),
            "answer": trajectory.answer,
            "status": trajectory.status.value if trajectory.status else None,
            "error": trajectory.error,
            "seed": trajectory.seed,
            "policy_version": trajectory.policy_version,
            "tokens": self._token_counts(),
            "stage_ms": {name: round(ms, 3) for name, ms in trajectory.stage_ms.items()},
        }

    def _messages(self) -> list[Json]:
        sample = self._trajectory.sample
        messages = sample.messages if isinstance(sample, Conversation) else ()
        return [_message(message) for message in messages]

    def _media(self, media: Media) -> Json:
        row = asdict(media)
        row["kind"] = media.kind.value
        del row["id"]
        return {**row, "picture": self._picture(first_look(media), media)}

    def _step(self, number: int, step: Step) -> Json:
        trajectory = self._trajectory
        chosen = [
            trajectory.logprobs[i] for i in range(step.start, step.end) if not trajectory.forced[i]
        ]
        row: Json = {
            "number": number,
            "text": self._text(step),
            "call": asdict(step.call) if step.call else None,
            "tokens": step.end - step.start,
            "forced": sum(trajectory.forced[step.start : step.end]),
            "mean_logprob": round(sum(chosen) / len(chosen), 4) if chosen else None,
            "pictures": [self._picture(*each) for each in self._gallery.of(step)],
            "observation": None,
        }
        if step.observation is not None:
            row["observation"] = {
                "content": json.loads(step.observation.text),
                "error": step.observation.error,
                "degraded": step.observation.degraded,
                "engine": step.observation.engine,
                "stage_ms": {k: round(ms, 3) for k, ms in step.observation.stage_ms.items()},
            }
        return row

    def _text(self, step: Step) -> str:
        """What the policy said before its call; the answer's turn whole."""
        spoken = (TokenRole.THOUGHT, TokenRole.ANSWER)
        roles: tuple[TokenRole, ...] = spoken if step.observation is None else (TokenRole.THOUGHT,)
        if step.call is None and step.observation is not None:
            # A call that did not parse is shown as it was written.
            roles = tuple(TokenRole)
        return self._decode(step.start, step.end, roles)

    def _unfinished(self) -> str:
        """A turn that a limit, a stop string or the client cut off."""
        steps = self._trajectory.steps
        generated = [
            i
            for i, role in enumerate(self._trajectory.roles)
            if role not in (TokenRole.PROMPT, TokenRole.OBSERVATION)
            and i >= (steps[-1].end if steps else 0)
        ]
        if not generated:
            return ""
        return self._decode(generated[0], len(self._trajectory.ids), tuple(TokenRole))

    def _decode(self, start: int, end: int, roles: tuple[TokenRole, ...]) -> str:
        ids = [
            self._trajectory.ids[i] for i in range(start, end) if self._trajectory.roles[i] in roles
        ]
        return self._tokenizer.decode(ids).removesuffix("<|im_end|>").strip()

    def _picture(self, picture: Picture, media: Media) -> Json:
        self.pictures.append(picture)
        return picture.to_json(len(self.pictures) - 1, media)

    def _token_counts(self) -> Json:
        counts = Counter(role.name.lower() for role in self._trajectory.roles)
        return {**counts, "forced": sum(self._trajectory.forced)}


def _message(message: Message) -> Json:
    return {
        "role": message.speaker.value,
        "parts": [
            {"text": part} if isinstance(part, str) else {"media": part} for part in message.parts
        ],
        "thought": message.thought,
        "calls": [asdict(call) for call in message.calls],
    }
