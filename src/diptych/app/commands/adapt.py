"""`diptych adapt RUN`: adapts a dual encoder to classes by a few pictures of each, and judges it as papers do."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from diptych.app import options

if TYPE_CHECKING:
    from diptych.app.comparison import Score


@dataclass(frozen=True)
class Options:
    """Adapt a dual encoder to classes by a few pictures of each: `diptych adapt RUN --method coop --data SRC --out
    OUT --protocol base2new`.
    """

    run: options.RunOrModel
    """folder of a run or of a saved dual encoder, or the name of both towers: hf:PATH, open_clip:NAME/TAG"""
    data: str
    """data with classes to learn from (its train split) and to be judged on (its val split)"""
    out: Path
    """folder of the study; the same command goes on where an interrupted one stopped"""
    method: str = "coop"
    """id of the method by which it is adapted; `diptych adapt --method ID --help` also tells its own options"""
    protocol: Literal["few_shot", "base2new", "cross", "shift"] = "few_shot"
    """few_shot: all classes; base2new: learns the first half of the classes and is judged on either half; cross: is
    also judged on the data sets of --val; shift: the same, where those have no other classes"""
    val: options.Several = ()
    """other data sets to be judged on, for cross and shift"""
    shots: tuple[int, ...] = (16,)
    """pictures of each class to learn from; several numbers make a line each"""
    seeds: int = 3
    """draws of those pictures, each with initial weights and an order of its own"""
    template: str = ""
    """prompt to compare with, '{}' stands for the class; default: the one that papers use for the data set, if any"""
    preset: str = ""
    """a named configuration of the method, such as `paper`; its towers are those of RUN in any case, and without one
    its recipe is that of `paper`"""
    at_a_time: int = 0
    """trainings beside each other; 0: one a GPU, or one for every four cores"""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N"""
    json: bool = False
    """print the figures as JSON"""


def run(args: Sequence[str]) -> int:
    """Adapts, judges, and prints the table."""
    if {*args} <= {"--help", "-h"}:  # of no method: told without loading one
        options.parse(Options, [*args] or ["--help"], "adapt", Options.__doc__)
    from diptych.app import contestants
    from diptych.app.commands.train import options_of
    from diptych.recipe import Preset

    method = options.value_of("method", args) or Options.method
    named = options.value_of("preset", args)
    preset = contestants.preset_of(method, named)
    recipe = preset.recipe if named else contestants.preset_of(method, "paper").recipe
    config: Any = preset.config
    if args and not args[0].startswith("-"):
        from diptych.app import adapt

        config = adapt.config_of(args[0], config)
    elif "--help" not in args and "-h" not in args:
        print("diptych: name the run first: diptych adapt RUN --data SRC --out OUT", file=sys.stderr)
        return 2
    defaults = Preset(config, replace(recipe, evaluations=0, checkpoints=1))
    chosen: Any = options.parse(options_of(method, defaults, Options), args, "adapt", Options.__doc__)
    return _adapt(chosen)


def _adapt(chosen: Any) -> int:
    from diptych.app import adapt, terminal

    asked = chosen.run
    study = adapt.Study(
        method=asked.method,
        config=chosen.method,
        recipe=chosen.recipe,
        data=asked.data,
        protocol=asked.protocol,
        val=asked.val,
        shots=asked.shots,
        seeds=asked.seeds,
        template=asked.template,
    )
    scores = adapt.adapt(study, asked.out, device=asked.device, at_a_time=asked.at_a_time)
    if asked.json:
        print((asked.out / adapt.RESULTS).read_text(encoding="utf-8"), end="")
        return 0
    columns, lines = table(scores)
    many = f"mean of {study.seeds} seeds" if study.seeds > 1 else "1 seed"
    terminal.table(columns, lines, right=columns[1:], title=f"{asked.run} on {study.data}, {study.protocol}, {many}")
    terminal.say("[ ] 95 % interval over seeds and samples; of the hand-written prompt over samples.")
    return 0


def table(scores: Sequence[Score]) -> tuple[list[str], list[list[str]]]:
    """The figures as people print them: a line a way of adapting, a column a metric or data set, in percent."""
    from diptych.app import wording

    columns = list(dict.fromkeys((score.data, score.metric) for score in scores))
    sets = {data for data, _ in columns}
    titles = [wording.metric_title(metric) if len(sets) == 1 else data for data, metric in columns]
    found = {(score.label, score.data, score.metric): score for score in scores}
    lines = [
        [label, *(_cell(found[label, data, metric]) for data, metric in columns)]
        for label in dict.fromkeys(score.label for score in scores)
    ]
    return ["", *titles], lines


def _cell(score: Score) -> str:
    bounds = "" if math.isnan(score.low) else f" [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    return f"{100 * score.value:.1f}{bounds}"
