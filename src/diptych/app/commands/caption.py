"""`diptych caption RUN PICTURE...`: what a trained run says of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Say what pictures show: a line each, its path and the caption."""

    run: options.RunOrModel
    """folder of a run, or a model on the hub (OWNER/NAME)"""
    pictures: options.Pictures
    """paths of pictures"""
    longest: int = 32
    """tokens of a caption at most"""
    beams: int = 1
    """sequences that are followed at a time; 1: always the likeliest token"""
    checkpoint: str = "last"
    """which weights: last, or best (by the evaluations during training)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print the captions as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints a caption for each picture."""
    chosen = options.parse(Options, args, "caption")
    import json

    from diptych.app import talking, terminal

    how = {"checkpoint": chosen.checkpoint, "device": chosen.device, "longest": chosen.longest, "beams": chosen.beams}
    said = talking.caption(chosen.run, chosen.pictures, **how)  # type: ignore[arg-type]
    told = [{"picture": path, "caption": text} for path, text in zip(chosen.pictures, said, strict=True)]
    if chosen.json:
        print(json.dumps(told, ensure_ascii=False, indent=1))
    else:
        for one in told:
            terminal.say(f"{one['picture']}: {one['caption']}")
    return 0
