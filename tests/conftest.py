"""Settings every test shares: the Triton interpreter, one compute thread, no network."""

import os

# Triton decides at import time whether kernels are interpreted.
os.environ.setdefault("TRITON_INTERPRET", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
import torch
from hypothesis import settings

# One thread: with two on shared cores the OpenMP barrier costs more than the work it splits.
torch.set_num_threads(1)
settings.register_profile("default", deadline=None, derandomize=True)
settings.load_profile("default")


def pytest_collection_modifyitems(config, items):
    """Tests marked gpu need a device and compiled kernels; elsewhere they are deselected."""
    if torch.cuda.is_available() and os.environ["TRITON_INTERPRET"] == "0":
        return
    needs_gpu = [item for item in items if item.get_closest_marker("gpu")]
    config.hook.pytest_deselected(items=needs_gpu)
    items[:] = [item for item in items if not item.get_closest_marker("gpu")]


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
