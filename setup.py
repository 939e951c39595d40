"""Packages by name and the C++ extension `pixelis_fast.kernels._cpu`, built by CMake.

The folders kernels/ and tools_trt/ are installed below pixelis_fast: a top-level import name
`kernels` belongs to another package that transformers looks for.
"""

import os
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


class CMakeBuild(build_ext):
    """Runs CMake; a compiler error is printed and ends the install."""

    def build_extension(self, extension: Extension) -> None:
        import pybind11

        target = Path(self.get_ext_fullpath(extension.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        build.mkdir(parents=True, exist_ok=True)
        cmake = [sys.executable, "-m", "cmake"] if _has_cmake_module() else ["cmake"]
        configure = [
            *cmake,
            "-S",
            str(ROOT),
            "-B",
            str(build),
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DEXTENSION_FILE={target}",
        ]
        subprocess.run(configure, check=True)
        jobs = str(os.cpu_count() or 1)
        subprocess.run([*cmake, "--build", str(build), "--parallel", jobs], check=True)


def _has_cmake_module() -> bool:
    try:
        import cmake  # noqa: F401
    except ModuleNotFoundError:
        return False
    return True


def mapped_packages(folder: str) -> dict[str, str]:
    """{"pixelis_fast.kernels.resize": "kernels/resize", ...} for one top folder."""
    below = find_packages(folder)
    names = {f"pixelis_fast.{folder}": folder}
    return names | {f"pixelis_fast.{folder}.{n}": f"{folder}/{n.replace('.', '/')}" for n in below}


AGENT = find_packages(include=["pixelis_fast", "pixelis_fast.*"])
# Files only, no modules: the tokenizer, and the trained policy.
DATA = ["pixelis_fast.policy.embedded", "pixelis_fast.policy.pixelworld_5m"]
MAPPED = mapped_packages("kernels") | mapped_packages("tools_trt")

setup(
    packages=[*AGENT, *DATA, *MAPPED],
    package_dir=MAPPED,
    package_data={
        "pixelis_fast": ["py.typed"],
        "pixelis_fast.kernels": ["_cpu.pyi"],
        "pixelis_fast.serve": ["viewer/*"],
        "pixelis_fast.tools_trt.micro": ["*.safetensors", "*.json"],
        **{name: ["*"] for name in DATA},
    },
    ext_modules=[Extension("pixelis_fast.kernels._cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
