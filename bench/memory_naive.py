"""The memory people write first: lines of JSON, synced, and a matrix in memory."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import numpy as np

from pixelis_fast.memory import Experience, HybridWeights, MemoryKey
from pixelis_fast.memory.key import hybrid_vector
from pixelis_fast.memory.rows import trajectory_body
from pixelis_fast.trace import trajectory_from_json
from pixelis_fast.types import Trajectory


class NaiveMemory:
    """Every add is on the disk and copies the matrix; a search multiplies all of it."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+b")
        self._places: list[int] = []
        self._file.seek(0)
        rows = []
        for line in self._file:
            self._places.append(self._file.tell() - len(line))
            rows.append(np.frombuffer(base64.b64decode(json.loads(line)["key"]), np.float32))
        self._vectors_ND = np.stack(rows) if rows else None

    def add(self, experience: Experience) -> None:
        self.add_many([experience])

    def add_many(self, experiences: list[Experience]) -> None:
        vectors_ND = np.stack([hybrid_vector(each.key, HybridWeights()) for each in experiences])
        for each, vector_D in zip(experiences, vectors_ND, strict=True):
            self._places.append(self._file.seek(0, os.SEEK_END))
            key = base64.b64encode(vector_D.tobytes()).decode()
            trajectory = json.loads(trajectory_body(each.trajectory))
            row = {"id": each.id, "key": key, "trajectory": trajectory}
            self._file.write(json.dumps(row).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        held = self._vectors_ND
        self._vectors_ND = vectors_ND if held is None else np.concatenate([held, vectors_ND])

    def nearest(self, key: MemoryKey, k: int) -> list[tuple[str, float, Trajectory]]:
        assert self._vectors_ND is not None, "something was added"
        similarity_N = self._vectors_ND @ hybrid_vector(key, HybridWeights())
        best = np.argsort(-similarity_N, kind="stable")[:k]
        found = []
        for place in best.tolist():
            self._file.seek(self._places[place])
            row = json.loads(self._file.readline())
            trajectory = trajectory_from_json(row["trajectory"])
            found.append((row["id"], float(similarity_N[place]), trajectory))
        return found

    def close(self) -> None:
        self._file.close()
