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


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)
