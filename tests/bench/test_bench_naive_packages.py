"""What is missing of the baseline is said in one message, before anything is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench.naive_packages import PACKAGES, missing_packages, require_baseline

BENCH = Path(__file__).resolve().parents[2] / "bench"


def test_all_is_there():
    assert missing_packages() == []
    require_baseline()


def test_all_that_is_missing_is_named_at_once(monkeypatch):
    for name in PACKAGES:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(SystemExit, match="extra `baseline`") as raised:
        require_baseline()
    message = str(raised.value)
    assert all(package in message for package, _ in PACKAGES.values())
    assert "pip install 'pixelis-fast[baseline]'" in message


def test_only_what_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    [missing] = missing_packages()
    assert missing.startswith("scikit-image (")


def test_the_script_ends_without_a_traceback():
    """A module that is None in sys.modules is one that cannot be found."""
    code = (
        "import runpy, sys\n"
        f"sys.path.insert(0, {str(BENCH)!r})\n"
        "sys.modules |= {'skimage': None, 'easyocr': None}\n"
        f"runpy.run_path({str(BENCH / 'latency.py')!r}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    assert "easyocr (" in ended.stderr
    assert "scikit-image (" in ended.stderr
