"""Where figures go besides `log.jsonl`: TensorBoard, Weights & Biases, trackio. One table, name -> function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from diptych.config import nearest


class Writer(Protocol):
    """Takes named numbers."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """The values after `step` steps."""
        ...

    def close(self) -> None:
        """Ends the log; nothing is written after it."""
        ...


def open_writer(name: str, folder: Path, settings: Mapping[str, Any], step: int) -> Writer:
    """The writer of a name, for a run in `folder` that goes on after `step` steps.

    Raises:
        ValueError: no such name. ImportError: its package is not installed.
    """
    if name not in WRITERS:
        raise ValueError(nearest(name, WRITERS, "log called"))
    try:
        return WRITERS[name](folder, settings, step)
    except ImportError as error:
        raise ImportError(f"logs={name!r} needs a package that is not installed: pip install {name}.") from error


class _TensorBoard:
    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # points after `step` are of a part of the run that was lost, and are hidden
        self._writer: Any = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1 if step else None)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Tracker:
    """wandb, and trackio, which has the same interface."""

    def __init__(self, module: Any, folder: Path, settings: Mapping[str, Any], **options: Any) -> None:
        self._module = module
        module.init(project="diptych", name=folder.name, config=dict(settings), **options)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._module.log(dict(values), step=step)

    def close(self) -> None:
        self._module.finish()


def _wandb(folder: Path, settings: Mapping[str, Any], step: int) -> Writer:
    import wandb

    # the same id on every start makes wandb go on with the same curve
    return _Tracker(wandb, folder, settings, dir=str(folder), id=folder.name, resume="allow")


def _trackio(folder: Path, settings: Mapping[str, Any], step: int) -> Writer:
    import trackio

    return _Tracker(trackio, folder, settings, resume="allow")


class _Nothing:
    def __init__(self, folder: Path, settings: Mapping[str, Any], step: int) -> None:
        pass

    def write(self, step: int, values: Mapping[str, float]) -> None:
        pass

    def close(self) -> None:
        pass


WRITERS: dict[str, Callable[[Path, Mapping[str, Any], int], Writer]] = {
    "tensorboard": _TensorBoard,
    "wandb": _wandb,
    "trackio": _trackio,
    "none": _Nothing,
}
