"""Lets timm, open_clip and transformers import where torchvision's compiled extension does not load.

torchvision wheels are built for one CUDA release. On a machine with the CPU build of torch their extension fails to
load, and `import torchvision` then dies with "operator torchvision::nms does not exist", taking timm and open_clip
with it, although none of the parts that we use need that extension. The remedy is to define the two missing operator
schemas before torchvision is imported. `install` only puts a finder in place; where torchvision is never imported,
or its extension loads, nothing happens. `torchvision.io.decode_jpeg` and `torchvision.ops.nms` stay unavailable.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_kept: list[object] = []  # a torch.library.Library undefines its operators when it is collected


class _TorchvisionFinder:
    """Runs the remedy when torchvision is first looked for, then leaves the import to the usual finders."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name == "torchvision":
            sys.meta_path.remove(_TorchvisionFinder)  # type: ignore[arg-type]
            spec = importlib.util.find_spec("torchvision")
            if spec is not None and spec.submodule_search_locations:
                _define_missing_operators(Path(spec.submodule_search_locations[0]))
        return None


def install() -> None:
    """Puts the remedy in place, once. Imports nothing."""
    if "torchvision" not in sys.modules and _TorchvisionFinder not in sys.meta_path:
        sys.meta_path.insert(0, _TorchvisionFinder)  # type: ignore[arg-type]


def _define_missing_operators(package: Path) -> None:
    import torch

    extensions = [file for file in package.glob("_C*") if file.suffix in {".so", ".pyd", ".dylib"}]
    try:
        for file in extensions:
            torch.ops.load_library(str(file))
    except OSError:
        extensions = []
    if not extensions:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for schema in _SCHEMAS:
            library.define(schema)
        _kept.append(library)
