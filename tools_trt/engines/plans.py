"""Plans on disk: built once per key, checked at every load, set aside when damaged.

A plan is a folder: the backend's files, samples of the outputs it gave when it was built, and
`plan.json` with the whole key, the gate's report, each file's sha256, its size and the seconds it
took. It is written elsewhere and renamed, under a lock per key, so two processes build once and
nobody sees half a plan. Plans are code to whatever loads them: the folder must be the owner's
alone, and a file that `plan.json` does not list is refused. Knows no backend.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from pixelis_fast.tools_trt.backends.builder import PlanError
from pixelis_fast.tools_trt.graphs.file_lock import file_lock

LOG = logging.getLogger(__name__)
CACHE_VARIABLE = "PIXELIS_FAST_PLANS"
SIDECAR = "plan.json"
KEY_DIGITS = 24
"""Of the sha256 in a folder's name; the whole key is compared after that."""
Loaded = TypeVar("Loaded")


@dataclass(frozen=True)
class Plan:
    """One plan as its sidecar tells it."""

    key: Mapping[str, Any]
    facts: Mapping[str, Any]
    """What the build reported: precision, gate, rejected precisions."""
    files: Mapping[str, str]
    """sha256 by name."""
    num_bytes: int
    build_seconds: float
    folder: Path
    found: str
    """ "built", "cached", or why an earlier one was set aside."""


def default_root() -> Path:
    """$PIXELIS_FAST_PLANS, else a folder in the user's cache."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "pixelis_fast" / "plans"


def canonical(document: Mapping[str, Any]) -> str:
    """One text per meaning: sorted keys, no spaces. TypeError for what is not JSON."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_sha256(key: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(key).encode()).hexdigest()


class PlanStore:
    """Plans under one root folder.

    Example:
        session, plan = PlanStore().obtain(key, name="encoder", build=build, load=load)
    """

    def __init__(self, root: Path | None = None) -> None:
        self.root = default_root() if root is None else Path(root)
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        check_owner(self.root)

    def obtain(
        self,
        key: Mapping[str, Any],
        *,
        name: str,
        build: Callable[[Path], Mapping[str, Any]],
        load: Callable[[Plan], Loaded],
    ) -> tuple[Loaded, Plan]:
        """Loads the key's plan; builds it where there is none, or none that loads.

        `build` writes files into a folder and returns the facts; `load` raises PlanError for a plan
        that does not work.
        """
        folder = self.folder(key, name)
        with file_lock(folder.with_suffix(".lock")):
            found = "built"
            if folder.exists():
                try:
                    plan = read_plan(folder, key)
                    return load(plan), plan
                except PlanError as error:
                    found = f"rebuilt, the plan before was set aside: {error}"
                    set_aside(folder, error)
            self._build(folder, key, build)
            plan = read_plan(folder, key, found=found)
            return load(plan), plan

    def folder(self, key: Mapping[str, Any], name: str) -> Path:
        slug = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
        return self.root / f"{slug}-{key_sha256(key)[:KEY_DIGITS]}"

    def _build(
        self, folder: Path, key: Mapping[str, Any], build: Callable[[Path], Mapping[str, Any]]
    ) -> None:
        """Inside the root, so that builders may share files there and the rename is one step."""
        start = time.perf_counter()
        fresh = Path(tempfile.mkdtemp(prefix=".building-", dir=self.root))
        try:
            facts = build(fresh)
            seconds = time.perf_counter() - start
            _write_sidecar(fresh, key, facts=facts, seconds=seconds)
            fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def read_plan(folder: Path, key: Mapping[str, Any], *, found: str = "cached") -> Plan:
    """The plan in a folder once every file in it is the one that was built."""
    check_owner(folder)
    document = _read_sidecar(folder)
    if canonical(document["key"]) != canonical(key):
        raise PlanError(f"plan {folder.name}: expected the key asked for, got another one")
    files: dict[str, str] = document["files"]
    there = {path.name for path in folder.iterdir()} - {SIDECAR}
    if there != set(files):
        raise PlanError(f"plan {folder.name}: expected {sorted(files)}, got {sorted(there)}")
    for name, digest in files.items():
        check_owner(folder / name)
        if file_sha256(folder / name) != digest:
            raise PlanError(f"plan {folder.name}: expected {name} as built, got other content")
    return Plan(
        key=document["key"],
        facts=document["facts"],
        files=files,
        num_bytes=document["num_bytes"],
        build_seconds=document["build_seconds"],
        folder=folder,
        found=found,
    )


def set_aside(folder: Path, error: PlanError) -> Path:
    """Renames a damaged plan or file to `.bad`, replacing an earlier one; the log says so."""
    bad = folder.with_suffix(".bad")
    if bad.is_dir():
        shutil.rmtree(bad)
    folder.rename(bad)
    LOG.warning("plan set aside as %s: %s", bad.name, error)
    return bad


def check_owner(path: Path) -> None:
    """PlanError unless this user alone can write here: a plan is code."""
    status = path.lstat()
    if path.is_symlink() or status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise PlanError(
            f"{path}: expected no link, owner {os.getuid()} and no other writer, got owner "
            f"{status.st_uid} and mode {status.st_mode & 0o777:o}"
        )


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return _digest(file)


def _digest(file: Any) -> str:
    digest = hashlib.sha256()
    while block := file.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _write_sidecar(
    folder: Path, key: Mapping[str, Any], *, facts: Mapping[str, Any], seconds: float
) -> None:
    paths = sorted(folder.iterdir())
    for path in paths:
        path.chmod(0o600)
    document = {
        "key": dict(key),
        "facts": dict(facts),
        "files": {path.name: file_sha256(path) for path in paths},
        "num_bytes": sum(path.stat().st_size for path in paths),
        "build_seconds": seconds,
    }
    (folder / SIDECAR).write_text(json.dumps(document, indent=1))


def _read_sidecar(folder: Path) -> dict[str, Any]:
    try:
        document = json.loads((folder / SIDECAR).read_text())
    except (OSError, ValueError) as error:
        raise PlanError(f"plan {folder.name}: expected {SIDECAR}, got {error}") from error
    fields = {"key", "facts", "files", "num_bytes", "build_seconds"}
    if not isinstance(document, dict) or not fields <= set(document):
        raise PlanError(f"plan {folder.name}: expected the fields {sorted(fields)} in {SIDECAR}")
    return document
