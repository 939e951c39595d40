"""PixelWorld: generated pictures and videos with questions, exact truth and plans of calls."""

from pixelis_fast.data.pixelworld.config import FAMILIES, SPLITS, PixelWorldConfig
from pixelis_fast.data.pixelworld.dataset import (
    StoredTask,
    read_dataset,
    sample_of,
    write_dataset,
)
from pixelis_fast.data.pixelworld.media import save_media
from pixelis_fast.data.pixelworld.task import PlannedTurn, Target, Task, WorldObject
from pixelis_fast.data.pixelworld.world import PixelWorld

__all__ = [
    "FAMILIES",
    "SPLITS",
    "PixelWorld",
    "PixelWorldConfig",
    "PlannedTurn",
    "StoredTask",
    "Target",
    "Task",
    "WorldObject",
    "read_dataset",
    "sample_of",
    "save_media",
    "write_dataset",
]
