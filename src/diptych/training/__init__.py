"""How a run is trained: one loop over data, steps and files that knows nothing of any method."""

from __future__ import annotations

from diptych.training.checkpoint import DamagedCheckpoint, SaveFailed
from diptych.training.guards import NonFinite, OutOfMemory
from diptych.training.loop import Finished, Judge, train
from diptych.training.state import AfterStep, BeforeStage, DifferentRun

__all__ = [
    "AfterStep",
    "BeforeStage",
    "DamagedCheckpoint",
    "DifferentRun",
    "Finished",
    "Judge",
    "NonFinite",
    "OutOfMemory",
    "SaveFailed",
    "train",
]
