"""What pip makes of the tree: a wheel with the right names in it, or the compiler's message.

Builds happen in copies: a build folder in the tree itself would leak into the next wheel.
"""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = ("pyproject.toml", "setup.py", "CMakeLists.txt", "LICENSE", "README.md")
FOLDERS = ("pixelis_fast", "kernels", "tools_trt", "bench", "tests")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    copy = tmp_path / "tree"
    copy.mkdir()
    for name in FILES:
        if (ROOT / name).exists():
            shutil.copy2(ROOT / name, copy / name)
    for name in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__", "*.so", "*.egg-info")
        shutil.copytree(ROOT / name, copy / name, ignore=ignored)
    return copy


def build_wheel(tree: Path, wheels: Path) -> subprocess.CompletedProcess[str]:
    """The build dependencies come from this environment: nothing is downloaded."""
    options = ["--no-deps", "--no-build-isolation", "--wheel-dir", str(wheels)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(tree)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_wheel_installs_pixelis_fast_and_nothing_else(tree, tmp_path):
    done = build_wheel(tree, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"pixelis_fast"}
    extensions = [n for n in names if n.endswith(".so")]
    assert len(extensions) == 1
    assert extensions[0].startswith("pixelis_fast/kernels/_cpu.")
    sources = {path.relative_to(ROOT).as_posix() for path in (ROOT / "tools_trt").rglob("*.py")}
    sources |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "kernels").rglob("*.py")}
    assert {f"pixelis_fast/{source}" for source in sources} <= set(names)
    assert "pixelis_fast/serve/viewer/index.html" in names
    assert "pixelis_fast/policy/pixelworld_5m/model.safetensors" in names
    imported = "from pixelis_fast.kernels import _cpu; print(_cpu.__file__, _cpu.simd_level())"
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:0] = sys.argv[1:]; {imported}"]
    paths = [str(site), *(path for path in sys.path if path.endswith("site-packages"))]
    output = subprocess.run([*command, *paths], capture_output=True, text=True, check=True).stdout
    assert output.startswith(str(site))


def test_a_failed_build_fails_the_install_with_the_compilers_message(tree, tmp_path):
    for source in (tree / "kernels" / "csrc").glob("*.cpp"):
        source.unlink()
    (tree / "kernels" / "csrc" / "broken.cpp").write_text("int broken( { return 0; }\n")
    done = build_wheel(tree, tmp_path)
    assert done.returncode != 0
    assert "broken.cpp:1:" in done.stdout + done.stderr
    assert not list(tmp_path.glob("*.whl"))


def test_a_warning_fails_the_build_too(tree, tmp_path):
    for source in (tree / "kernels" / "csrc").glob("*.cpp"):
        source.unlink()
    (tree / "kernels" / "csrc" / "careless.cpp").write_text("static int unused() { return 0; }\n")
    done = build_wheel(tree, tmp_path)
    assert done.returncode != 0
    assert "unused" in done.stdout + done.stderr
