"""Experiences as rows of the truth's tables, and back."""

from __future__ import annotations

import hashlib
import json
from dataclasses import fields
from enum import Enum
from typing import Any

import numpy as np

from pixelis_fast.memory.experience import Experience, Outcome, Provenance, Source
from pixelis_fast.memory.key import MemoryKey
from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.types import Trajectory

CHECKSUM_MODULUS = 1 << 63
"""Of digests and their sums: SQLite's integers have a sign."""
COLUMNS = (
    "tenant, id, sample_id, question, answer, confidence, success, visfid, "
    "policy_version, created_s, source"
)


def columns_of(experience: Experience) -> tuple[Any, ...]:
    """In the order of COLUMNS."""
    outcome, provenance = experience.outcome, experience.provenance
    return (
        experience.tenant,
        experience.id,
        experience.sample_id,
        experience.question,
        outcome.answer,
        outcome.confidence,
        outcome.success,
        experience.visfid,
        provenance.policy_version,
        provenance.created_s,
        provenance.source.value,
    )


def experience_from_row(row: tuple[Any, ...]) -> Experience:
    """COLUMNS, then the two embeddings and the trajectory."""
    tenant, id_, sample_id, question, answer, confidence, success, visfid = row[:8]
    policy_version, created_s, source, text, pixel, body = row[8:]
    return Experience(
        id=id_,
        tenant=tenant,
        sample_id=sample_id,
        question=question,
        trajectory=trajectory_from_json(json.loads(body)),
        key=MemoryKey(np.frombuffer(text, np.float32), np.frombuffer(pixel, np.float32)),
        outcome=Outcome(answer, confidence, success),
        visfid=visfid,
        provenance=Provenance(policy_version, created_s, Source(source)),
    )


def experience_text(experience: Experience) -> str:
    """One experience alone, as JSON; `experience_from_text` gives it back bit for bit."""
    words, pixels = experience.key.text_T.tobytes(), experience.key.pixel_P.tobytes()
    body = trajectory_body(experience.trajectory)
    return json.dumps([*columns_of(experience), words.hex(), pixels.hex(), body])


def experience_from_text(text: str) -> Experience:
    *columns, words, pixels, body = json.loads(text)
    return experience_from_row((*columns, bytes.fromhex(words), bytes.fromhex(pixels), body))


def trajectory_body(trajectory: Trajectory) -> str:
    """The JSON of its `asdict`, without that copy of every token."""
    try:
        return json.dumps(trajectory, allow_nan=False, default=_plain)
    except ValueError as error:
        raise ValueError(f"trajectory: expected finite numbers, got {error}") from error


def _plain(value: Any) -> Any:
    """What JSON does not know: the shared types' dataclasses and enums."""
    if isinstance(value, Enum):
        return value.value
    return {field.name: getattr(value, field.name) for field in fields(value)}


def stored_bytes(experience: Experience, body: str) -> int:
    """What one experience counts for: texts, trajectory and embeddings."""
    texts = [text for text in columns_of(experience) if isinstance(text, str)]
    key = experience.key
    written = sum(len(text.encode()) for text in (*texts, body))
    return written + key.text_T.nbytes + key.pixel_P.nbytes


def digest(number: int, text: bytes, pixel: bytes) -> int:
    """Of what an index holds; sums of digests are the checksum of a set, in any order."""
    hashed = hashlib.blake2b(number.to_bytes(8, "little"), digest_size=8)
    hashed.update(text)
    hashed.update(pixel)
    return int.from_bytes(hashed.digest(), "little") % CHECKSUM_MODULUS
