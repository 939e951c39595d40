"""The folders import downwards only; the README's tree and the wheel are checked elsewhere."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOWER_TO_UPPER = ("kernels", "tools_trt", "pixelis_fast", "bench", "tests")
"""A folder may import itself and what stands before it."""


def imported_folders(path: Path) -> set[str]:
    """Our folders that a file imports, by folder name."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {folder for name in names if (folder := folder_of(name))}


def folder_of(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] == "pixelis_fast" and parts[1:2] and parts[1] in ("kernels", "tools_trt"):
        return parts[1]
    return parts[0] if parts[0] in LOWER_TO_UPPER else None


def test_folders_import_downwards_only():
    for rank, folder in enumerate(LOWER_TO_UPPER):
        allowed = set(LOWER_TO_UPPER[: rank + 1])
        for path in (ROOT / folder).rglob("*.py"):
            wrong = imported_folders(path) - allowed
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_only_tools_py_imports_tools_trt():
    importers = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "pixelis_fast").rglob("*.py")
        if "tools_trt" in imported_folders(path)
    }
    assert importers <= {"pixelis_fast/tools.py"}


def test_types_imports_nothing_of_ours():
    assert not imported_folders(ROOT / "pixelis_fast" / "types.py")


def test_no_top_level_kernels_import_name():
    for folder in LOWER_TO_UPPER:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            froms = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
            assert not [m for m in froms if m.split(".")[0] in ("kernels", "tools_trt")], path
