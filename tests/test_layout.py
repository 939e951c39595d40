"""The folders import downwards only; the README's tree and the wheel are checked elsewhere."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOWER_TO_UPPER = ("kernels", "tools_trt", "pixelis_fast", "bench", "tests")
"""A folder may import itself and what stands before it."""
TOOLS = ("graphs", "backends", "engines", "models", "pixels", "classical", "ocr", "sam2", "micro")
"""Packages of tools_trt; the same rule holds for them."""


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_folders(path: Path) -> set[str]:
    """Our folders that a file imports, by folder name."""
    return {folder for name in imported_names(path) if (folder := folder_of(name))}


def imported_tools(path: Path) -> set[str]:
    """What stands directly below tools_trt and a file imports."""
    below = "pixelis_fast.tools_trt."
    names = (name for name in imported_names(path) if name.startswith(below))
    return {name.removeprefix(below).split(".")[0] for name in names}


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


def test_packages_of_tools_trt_import_downwards_only():
    packages = {path.parent.name for path in (ROOT / "tools_trt").glob("*/__init__.py")}
    assert packages == set(TOOLS)
    for rank, package in enumerate(TOOLS):
        for path in (ROOT / "tools_trt" / package).rglob("*.py"):
            wrong = imported_tools(path) & set(TOOLS[rank + 1 :])
            assert not wrong, f"{path.relative_to(ROOT)} imports {wrong}"


def test_types_imports_nothing_of_ours():
    assert not imported_folders(ROOT / "pixelis_fast" / "types.py")


def test_no_top_level_kernels_import_name():
    for folder in LOWER_TO_UPPER:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            froms = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
            assert not [m for m in froms if m.split(".")[0] in ("kernels", "tools_trt")], path
