"""The folders import downwards only; the README's tree and the wheel are checked elsewhere."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOWER_TO_UPPER = ("kernels", "tools_trt", "pixelis_fast", "bench", "tests")
"""A folder may import itself and what stands before it."""
TOOLS = ("graphs", "backends", "engines", "models", "pixels", "classical", "ocr", "sam2", "micro")
"""Packages of tools_trt; the same rule holds for them."""
ABOVE_THE_PARTS = (
    {"loop", "rollout", "replay", "agent"},
    {"phases", "eval"},
    {"reproduce", "serve"},
    {"options", "cli_learning", "doctor", "cli"},
)
"""What of pixelis_fast stands above its parts (policy, tools, rewards, memory, data, …), lowest
first; modules named loop_… belong to loop. types stands below them all."""
PEERS = ({"phases", "eval"}, {"reproduce", "serve"})
"""Folders of one height that do not import each other."""
UPWARDS = {
    # It opens a checkpoint folder as the agent does, and nobody opens one in a second way.
    ("data/preparer.py", "agent"),
}
PHASES = ("sft", "rft", "ttrl")


def imported_names(path: Path) -> set[str]:
    return names_in(ast.walk(ast.parse(path.read_text())))


def names_in(nodes: Iterator[ast.AST]) -> set[str]:
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def run_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """All below it but what is for type checkers alone."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from run_nodes(child)


def imported_folders(path: Path) -> set[str]:
    """Our folders that a file imports, by folder name."""
    return {folder for name in imported_names(path) if (folder := folder_of(name))}


def imported_tools(path: Path) -> set[str]:
    """What stands directly below tools_trt and a file imports."""
    below = "pixelis_fast.tools_trt."
    names = (name for name in imported_names(path) if name.startswith(below))
    return {name.removeprefix(below).split(".")[0] for name in names}


def agent_files() -> Iterator[tuple[str, set[str]]]:
    """Files of pixelis_fast by their path in it, with the parts they import when they run."""
    folder = ROOT / "pixelis_fast"
    for path in folder.rglob("*.py"):
        imported = names_in(run_nodes(ast.parse(path.read_text())))
        names = (name.split(".") for name in imported)
        parts = {part_of(name[1]) for name in names if name[0] == "pixelis_fast" and name[1:]}
        yield path.relative_to(folder).as_posix(), parts - {"kernels", "tools_trt"}


def part_of(name: str) -> str:
    """The module or folder directly below pixelis_fast that a path or an import names."""
    part = name.split("/")[0].removesuffix(".py")
    return "loop" if part.startswith("loop_") else part


def height(part: str) -> int:
    """0 for types, 1 for the parts, more for what stands above them."""
    above = [rank for rank, names in enumerate(ABOVE_THE_PARTS, start=2) if part in names]
    return above[0] if above else int(part != "types")


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


def test_the_agent_imports_downwards_only():
    found = set()
    for path, parts in agent_files():
        own = part_of(path)
        wrong = {part for part in parts if height(part) > height(own)}
        wrong |= {part for peers in PEERS if own in peers for part in parts & (peers - {own})}
        found |= {(path, part) for part in wrong}
    assert found == UPWARDS


def test_the_agent_has_no_circle_of_imports():
    below: dict[str, set[str]] = {}
    for path, parts in agent_files():
        allowed = {part for part in parts if (path, part) not in UPWARDS}
        below.setdefault(part_of(path), set()).update(allowed - {part_of(path)})
    TopologicalSorter(below).prepare()


def test_what_stands_above_the_parts_is_there():
    parts = {part_of(path) for path, _ in agent_files()}
    assert set().union(*ABOVE_THE_PARTS) <= parts


def test_phases_do_not_import_each_other():
    files = [*(ROOT / "pixelis_fast" / "phases").glob("[!_]*.py")]
    assert {path.stem.split("_")[0] for path in files} == set(PHASES)
    for path in files:
        assert phases_of(imported_names(path)) <= {path.stem.split("_")[0]}, path.name


def phases_of(names: set[str]) -> set[str]:
    """Which phases' modules are among the names."""
    below = "pixelis_fast.phases."
    modules = (name.removeprefix(below).split(".")[0] for name in names if name.startswith(below))
    return {module.split("_")[0] for module in modules}


def test_types_imports_nothing_of_ours():
    assert not imported_folders(ROOT / "pixelis_fast" / "types.py")


def test_no_top_level_kernels_import_name():
    for folder in LOWER_TO_UPPER:
        for path in (ROOT / folder).rglob("*.py"):
            tree = ast.parse(path.read_text())
            froms = [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)]
            assert not [m for m in froms if m.split(".")[0] in ("kernels", "tools_trt")], path
