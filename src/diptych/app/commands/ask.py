"""`diptych ask RUN PICTURE "question"`: a trained run answers a question about a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diptych.app import options


@dataclass(frozen=True)
class Options:
    """Answer a question about a picture."""

    run: options.RunOrModel
    """folder of a run, or a model on the hub (OWNER/NAME)"""
    picture: options.Picture
    """path of a picture"""
    question: options.Question
    """what is asked, in quotes"""
    longest: int = 32
    """tokens of the answer at most"""
    beams: int = 1
    """sequences that are followed at a time; 1: always the likeliest token"""
    checkpoint: str = "last"
    """which weights: last, or best (by the evaluations during training)"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print the answer as JSON"""


def run(args: Sequence[str]) -> int:
    """Prints the answer."""
    chosen = options.parse(Options, args, "ask")
    import json

    from diptych.app import talking, terminal

    how = {"checkpoint": chosen.checkpoint, "device": chosen.device, "longest": chosen.longest, "beams": chosen.beams}
    answer = talking.ask(chosen.run, chosen.picture, chosen.question, **how)  # type: ignore[arg-type]
    if chosen.json:
        told = {"picture": chosen.picture, "question": chosen.question, "answer": answer}
        print(json.dumps(told, ensure_ascii=False, indent=1))
    else:
        terminal.say(answer)
    return 0
