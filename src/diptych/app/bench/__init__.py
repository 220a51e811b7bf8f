"""Benchmarks: each sets ours against a peer, or against the plain form of the same computation, in one run.

A benchmark is a module of this package with a frozen dataclass `Options` (every field has a default and a docstring;
one called `device` says where it runs) and `cases(options) -> list[Case]`, and a line in `NAMES`. `measure` times the
forms of a case in turn and takes the memory of each in a process of its own; `page` writes docs/speed.md from results.
"""

from __future__ import annotations

NAMES: dict[str, str] = {
    "info_nce": "tiled InfoNCE against the plain form",
    "late_interaction": "tiled late interaction against the plain form",
    "grad_cache": "GradCache against a small batch and against a large one at once",
    "saving": "how long a save stops training, against saving at once",
    "retrieval": "ranks among many pictures and captions against chunks of rows that are sorted",
    "start": "how soon commands answer, against importing torch",
    "step": "a training step of CLIP, ViT-B/32, against open_clip",
    "depth_maps": "depth maps of point clouds, all at once against map after map and against point after point",
    "generative": "a small LLaVA: a training step against transformers' Trainer, captions against its generate",
    "packing": "sequences of pictures and words packed into rows against padded ones",
    "reading": "reading shards of JPEGs to augmented tensors, against webdataset, PIL and torchvision",
}
"""module -> what it sets against what, in the order in which they are listed"""
