"""What the command line's "auto" stands for."""

from pathlib import Path

import pytest

from pixelis_fast import options
from pixelis_fast.options import LARGE_BYTES, agent_config, chosen_dtype


def checkpoint(folder: Path, *, size: int) -> str:
    """A folder whose two weight files are as large together, without taking up the room."""
    for name in ("model-1.safetensors", "model-2.safetensors"):
        with (folder / name).open("wb") as file:
            file.truncate(size // 2)
    return str(folder)


@pytest.mark.parametrize(
    ("size", "units", "expected"),
    [
        (LARGE_BYTES, True, "bfloat16"),
        (LARGE_BYTES, False, "float32"),
        (LARGE_BYTES - 2, True, "float32"),
    ],
)
def test_a_large_checkpoint_takes_bfloat16_where_the_processor_has_it(
    tmp_path, monkeypatch, size, units, expected
):
    monkeypatch.setattr(options, "has_bf16_units", lambda: units)
    assert chosen_dtype("auto", checkpoint(tmp_path, size=size), device="cpu") == expected


def test_presets_stay_in_float32_on_a_processor(monkeypatch):
    monkeypatch.setattr(options, "has_bf16_units", lambda: True)
    assert agent_config().dtype == "float32"


def test_a_gpu_and_int8_weights_take_bfloat16():
    assert chosen_dtype("auto", "pixelworld-5m", device="cuda:1") == "bfloat16"
    assert agent_config(int8=True).dtype == "bfloat16"


def test_what_is_asked_for_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr(options, "has_bf16_units", lambda: True)
    large = checkpoint(tmp_path, size=LARGE_BYTES)
    assert chosen_dtype("float32", large, device="cpu") == "float32"
    assert agent_config(dtype="bfloat16").dtype == "bfloat16"
    with pytest.raises(ValueError, match="dtype"):
        agent_config(dtype="float16")
