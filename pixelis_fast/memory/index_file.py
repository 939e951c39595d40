"""A tenant's index on disk: a line of JSON that says what it is, then faiss's own bytes.

Rebuildable: a file that is missing, torn, of other settings or of another state of the truth is
no file.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict
from pathlib import Path

from pixelis_fast.memory.config import MemoryConfig
from pixelis_fast.memory.index import FAISS_VERSION, Stamp, TenantIndex

FORMAT = 1
FOLDER = "index"


def index_path(folder: Path, tenant: str) -> Path:
    """A tenant's name may hold anything; a file's may not."""
    name = hashlib.blake2b(tenant.encode(), digest_size=16).hexdigest()
    return folder / FOLDER / f"{name}.faiss"


def save_index(path: Path, index: TenantIndex, tenant: str, config: MemoryConfig) -> None:
    """Whole or not at all."""
    payload = index.to_bytes()
    head = _head(tenant, config, index.stamp) | {"payload": _digest(payload)}
    path.parent.mkdir(exist_ok=True)
    draft = path.with_suffix(".draft")
    try:
        draft.write_bytes(json.dumps(head).encode() + b"\n" + payload)
        os.replace(draft, path)
    finally:
        draft.unlink(missing_ok=True)


def load_index(path: Path, tenant: str, config: MemoryConfig, stamp: Stamp) -> TenantIndex | None:
    """None unless the file holds just this state, whole."""
    if not path.is_file():
        return None
    content = path.read_bytes()
    end = content.find(b"\n")
    # A view: a large index is not copied once more.
    line, payload = content[: max(end, 0)], memoryview(content)[end + 1 :]
    wanted = _head(tenant, config, stamp) | {"payload": _digest(payload)}
    if line != json.dumps(wanted).encode():
        return None
    return TenantIndex.from_bytes(payload, stamp)


def _head(tenant: str, config: MemoryConfig, stamp: Stamp) -> dict[str, object]:
    return {
        "format": FORMAT,
        "faiss": FAISS_VERSION,
        "tenant": tenant,
        "dimensions": [config.text_dimension, config.pixel_dimension],
        "weights": asdict(config.weights),
        "stamp": asdict(stamp),
    }


def _digest(payload: bytes | memoryview) -> str:
    return hashlib.sha256(payload).hexdigest()
