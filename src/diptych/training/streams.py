"""A stream of tasks: the parts of a mixture, learned one after the other.

What a task trains on is always read through the whole mixture, so that keys, fields and labels are the same whether its
parts are learned in turn or all at once. The exemplars of a buffer are what is left of the earlier tasks: equally many
of each, and fewer of each as there are more of them. They are drawn by lot, and a buffer that shrinks keeps some of
those that it had. They join the samples of the task, so that every sample comes equally often, as in the code of CTP
(Zhu et al., 2023, arXiv 2308.07146, `pretrain_product_dataset.py`). There reservoir sampling gives each task a share by
its size; here shares are equal.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from diptych.data.dataset import Dataset, Subset, permutation
from diptych.data.mixture import Mixture
from diptych.recipe import Recipe, Stage


def stages(own: Sequence[Stage], recipe: Recipe, data: Dataset) -> list[Stage]:
    """The stages of a run: the method's own, or, of a stream, all of them on each task in turn.

    Raises:
        ValueError: the data are no mixture, a stage trains on a part of its own, or there is a buffer and no stream.
    """
    if not recipe.stream:
        if recipe.buffer:
            raise ValueError(f"buffer={recipe.buffer} keeps samples of the tasks of a stream: add stream.")
        return list(own)
    if not isinstance(data, Mixture) or len(data.parts) < 2:
        raise ValueError(
            f"a stream needs at least two tasks, and {data.name} is one data set: give several, or SPEC#tasks5."
        )
    named = next((stage for stage in own if stage.data), None)
    if named:
        raise ValueError(
            f"stage {named.name!r} trains on the part {named.data!r} of a mixture, and in a stream every stage trains "
            "on every part: train without stream."
        )
    if recipe.buffer < 0:
        raise ValueError(f"buffer is {recipe.buffer}: it keeps at least 0 samples.")
    shares = enumerate(data.weights)
    return [replace(stage, task=task, share=stage.share * share) for task, share in shares for stage in own]


def seen_in(task: int, data: Dataset, recipe: Recipe) -> Subset:
    """What is trained on in a task of a stream: its part of the mixture, and behind it the exemplars."""
    assert isinstance(data, Mixture)
    own = np.arange(*data.offsets[task : task + 2])
    return Subset(data, np.concatenate([own, exemplars(task, data, recipe)]))


def exemplars(task: int, data: Mixture, recipe: Recipe) -> np.ndarray:
    """int64 (at most buffer,): the samples of earlier tasks that are there in a task, by their indices in the mixture.

    Each of the t earlier tasks has buffer // t, and the first buffer % t of them one more; those of a smaller task are
    all there, and its free places stay empty.
    """
    kept = [np.empty(0, np.int64)]
    for earlier in range(task):
        places = recipe.buffer // task + (earlier < recipe.buffer % task)
        drawn = permutation(len(data.parts[earlier]), earlier, recipe.seed, shuffle=True)[:places]
        kept.append(data.offsets[earlier] + np.sort(drawn))
    return np.concatenate(kept)
