"""What the benchmarks against other libraries compare is the same work."""

import pytest
import torch

from diptych import methods
from diptych.app.bench import generative, reading, step
from diptych.batch import Batch, require

READING = reading.Options(samples=24)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(reading.ours, reading.theirs), (reading.ours_normalised, reading.theirs_normalised)],
)
def test_both_readers_give_tensors_of_one_kind(ours, theirs, monkeypatch) -> None:
    pytest.importorskip("webdataset")
    seen: list[list[torch.Tensor]] = []
    monkeypatch.setattr(reading, "consume", lambda batches, samples: seen.append(list(batches())))
    ours(READING)
    theirs(READING)
    mine, other = (torch.cat(batches) for batches in seen)
    assert (mine.shape, mine.dtype) == (other.shape, other.dtype) == ((24, 3, 224, 224), other.dtype)
    # crops of nearly the whole picture, drawn by generators of their own: the means of a picture hardly differ
    scale = 255 if mine.dtype == torch.uint8 else 4
    difference = (mine.double().mean((2, 3)) - other.double().mean((2, 3))).abs() / scale
    assert difference.max() < 0.05


def test_reading_at_random_is_another_order_of_the_same_pictures(monkeypatch) -> None:
    seen: list[list[torch.Tensor]] = []
    monkeypatch.setattr(reading, "consume", lambda batches, samples: seen.append(list(batches())))
    reading.ours(READING)
    reading.ours_shuffled(READING)
    first, second = (torch.cat(batches).flatten(1) for batches in seen)
    assert not first.equal(second)
    assert sorted(map(bytes, first.numpy())) == sorted(map(bytes, second.numpy()))


def test_a_reader_that_loses_pictures_is_found_out() -> None:
    with pytest.raises(RuntimeError, match="2 pictures were read of 3"):
        reading.consume(lambda: iter([torch.zeros(2)]), 3)()


def test_a_batch_that_is_ready_is_read_as_it_is() -> None:
    batch = Batch({"image": torch.arange(6).view(2, 3), "text": torch.eye(2)})
    data = step.Ready(batch)
    assert len(data) == 2
    require(data.has, methods.card("clip").needs, who="clip", source="ready")
    views = [step.views(data.read(index, ()), None) for index in data.order(0, 0, True)]
    assert all(torch.stack([view[name] for view in views]).equal(batch[name]) for name in batch)


SMALL = generative.Options(batch=2, words=4, width=32, layers=1)


def test_both_write_the_same_captions() -> None:
    ours, theirs = generative.written(SMALL)(), generative.generated(SMALL)()
    assert ours == theirs
    assert len(ours) == 2


@pytest.mark.slow
def test_the_trainer_takes_one_step_at_a_time_from_our_loss() -> None:
    """`theirs` raises where its loss on our weights is not ours."""
    ours, theirs = generative.ours(SMALL), generative.theirs(SMALL)
    first = ours().terms["text"]
    for _ in range(2):
        theirs()
    assert first.isfinite()


@pytest.mark.slow
def test_both_steps_start_from_equal_losses() -> None:
    """`theirs` raises where its loss on our weights is not ours."""
    pytest.importorskip("open_clip")
    options = step.Options(batch=4)
    ours, theirs = step.ours(options, "fp32", 77), step.theirs(options, "fp32")
    first = ours().terms["contrastive"]
    theirs()
    assert first.isfinite()


@pytest.mark.slow
def test_texts_are_padded_only_for_equal_work() -> None:
    options, method = step.Options(batch=4), step.built()
    short, long = step.real_batch(method, options), step.real_batch(method, options, 77)
    assert short.text.shape[1] < long.text.shape[1] == 77
    assert int(short.text_mask.sum()) == int(long.text_mask.sum())
    with torch.no_grad():
        torch.testing.assert_close(method.pooled(short), method.pooled(long), atol=1e-5, rtol=1e-4)
