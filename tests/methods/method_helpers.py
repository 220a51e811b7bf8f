"""Methods small enough to learn something in seconds."""

from collections.abc import Sequence
from dataclasses import fields

import torch

from diptych import methods
from diptych.batch import Batch, Step
from diptych.data.dataset import Dataset
from diptych.data.loader import collate
from diptych.evaluation.tasks import evaluate
from diptych.results import Row
from diptych.world.data import World
from diptych.world.knobs import Knobs

SMALL = {
    "image_size": 32,
    "image_width": 32,
    "image_layers": 1,
    "image_heads": 2,
    "text_width": 32,
    "text_layers": 1,
    "text_heads": 2,
    "embed": 16,
}


def small(id: str, **options):
    """A small method, the same at every call; options that it does not have are left out."""
    config_class = methods.config_class(id)
    names = {field.name for field in fields(config_class)}
    torch.manual_seed(0)
    return methods.build(id, config_class(**{k: v for k, v in {**SMALL, **options}.items() if k in names}))


def batch_of(method, data: Dataset, size: int = 8) -> Batch:
    """The first samples of a data set as the method sees them."""
    samples = [data.read(index, method.card.needs) for index in range(size)]
    return collate([method.views(sample, None) for sample in samples])


def learn(method, batch: Batch, steps: int = 150) -> None:
    """Learns a batch by heart."""
    optimiser = torch.optim.AdamW(method.parameters(), lr=3e-3)
    for _ in range(steps):
        optimiser.zero_grad()
        method.loss(batch, Step()).total.backward()
        optimiser.step()


def figures(id: str, tasks: Sequence[str], **options) -> dict[str, Row]:
    """'task metric' -> figure, on eight scenes of one object that the method has learned by heart."""
    method, knobs = small(id, **options), Knobs(objects=(1, 1))
    scenes = World(size=8, knobs=knobs)
    learn(method, batch_of(method, scenes))
    rows = evaluate(method, scenes, tasks, train_data=World(size=64, knobs=knobs))
    return {f"{row.task} {row.metric}": row for row in rows}
