import functools
import operator
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from loader_helpers import Numbers, flat, forked, numbers, views
from shard_helpers import write_set

from diptych.batch import Sample
from diptych.data.dataset import ShardedData
from diptych.data.decode import BrokenSample
from diptych.data.loader import BrokenShare, Loader, collate

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def loader(data=None, batch=4, seed=0, **options):
    return Loader(data if data is not None else Numbers(10), views, ("number",), batch, seed, **options)


# --- collate ----------------------------------------------------------------------------------------------------------


def test_equal_shapes_are_stacked():
    batch = collate([{"x": torch.full((2, 3), i, dtype=torch.uint8)} for i in range(4)], ["a", "b", "c", "d"])
    assert batch.x.shape == (4, 2, 3)
    assert batch.x.dtype == torch.uint8
    assert batch.x[:, 0, 0].tolist() == [0, 1, 2, 3]
    assert (batch.size, batch.sample_keys) == (4, ("a", "b", "c", "d"))


def test_shorter_ones_are_padded_at_the_end():
    ids = [torch.tensor([5, 6, 7]), torch.tensor([8])]
    batch = collate([{"ids": x, "mask": torch.ones_like(x, dtype=torch.bool)} for x in ids])
    assert batch.ids.tolist() == [[5, 6, 7], [8, 0, 0]]
    assert batch.mask.tolist() == [[True] * 3, [True, False, False]]
    grids = collate([{"g": np.ones((1, 3), np.float32)}, {"g": np.ones((2, 1), np.float32)}]).g
    assert grids.tolist() == [[[1, 1, 1], [0, 0, 0]], [[1, 0, 0], [1, 0, 0]]]


def test_numbers_become_tensors_and_the_rest_lists():
    batch = collate(
        [{"i": 1, "f": 1.5, "m": 2, "b": True, "s": "x"}, {"i": 2, "f": 2.5, "m": 0.5, "b": False, "s": "y"}]
    )
    kinds = {name: batch[name].dtype for name in "ifmb"}
    assert kinds == {"i": torch.int64, "f": torch.float32, "m": torch.float32, "b": torch.bool}
    assert batch.m.tolist() == [2.0, 0.5]
    assert batch.s == ["x", "y"]
    assert collate([{"n": np.int32(3)}]).n.dtype == torch.int64


def test_what_cannot_be_stacked_is_named():
    with pytest.raises(ValueError, match=r"\['a'\] for one sample and \['b'\]"):
        collate([{"a": 1}, {"b": 1}])
    with pytest.raises(ValueError, match="'x' that cannot be stacked"):
        collate([{"x": torch.zeros(2)}, {"x": torch.zeros(2, 2)}])
    with pytest.raises(ValueError, match="'x' that cannot be stacked"):
        collate([{"x": torch.zeros(2)}, {"x": torch.zeros(2, dtype=torch.int64)}])
    assert collate([]).size == 0


# --- the stream -------------------------------------------------------------------------------------------------------


def test_epochs_follow_one_another_without_a_gap():
    data = Numbers(10)
    batches = list(loader(data).batches(0, 20))
    assert [batch.size for batch in batches] == [4] * 5
    assert flat(batches) == [*data.order(0, 0, True), *data.order(1, 0, True)]
    assert batches[0].sample_keys == tuple(data.key(i) for i in data.order(0, 0, True)[:4])


def test_only_full_batches_before_the_end():
    assert len(list(loader().batches(0, 23))) == 5
    assert len(list(loader().batches(8, 12))) == 1
    assert list(loader().batches(8, 11)) == []


def test_a_batch_may_be_larger_than_the_data_set():
    data = Numbers(3)
    order = np.concatenate([data.order(epoch, 0, True) for epoch in range(4)])
    assert flat(loader(data, batch=10).batches(0, 10)) == order[:10].tolist()


@pytest.mark.parametrize("start", [0, 4, 7, 12, 33])
def test_a_run_goes_on_anywhere(start):
    whole = flat(loader(batch=1).batches(0, 53))
    assert flat(loader().batches(start, start + 20)) == whole[start : start + 20]


def test_random_numbers_belong_to_the_place_in_the_run():
    noises = {world: [b.noise for b in loader(batch=4, world=world).batches(0, 40)] for world in (1, 2)}
    assert torch.equal(torch.cat(noises[1]).view(-1, 4)[:, :2].reshape(-1, 1), torch.cat(noises[2]))
    assert len(set(torch.cat(noises[1]).flatten().tolist())) == 40  # no two alike, also across epochs
    again = torch.cat([b.noise for b in loader().batches(20, 40)])
    assert torch.equal(torch.cat(noises[1])[20:], again)


@pytest.mark.parametrize("world", [2, 4])
def test_processes_share_each_batch_and_the_order_is_the_same(world):
    whole = numbers(loader(batch=8).batches(0, 40))
    ranks = [numbers(loader(batch=8, rank=rank, world=world).batches(0, 40)) for rank in range(world)]
    assert [functools.reduce(operator.iadd, parts, []) for parts in zip(*ranks, strict=True)] == whole


def test_a_batch_must_be_divisible():
    with pytest.raises(ValueError, match="batch of 6 cannot be divided among 4"):
        loader(batch=6, world=4)
    with pytest.raises(ValueError, match="rank 2"):
        loader(batch=4, rank=2, world=2)
    with pytest.raises(ValueError, match="has no samples"):
        loader(Numbers(0))


def test_once_gives_each_sample_once_in_order_without_chance():
    batches = list(loader().once())
    assert numbers(batches) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert all((batch.noise == 0).all() for batch in batches)
    ranks = [flat(loader(rank=rank, world=2).once()) for rank in range(2)]
    assert sorted(ranks[0] + ranks[1]) == list(range(10))


def test_a_data_set_whose_order_has_another_length_is_refused():
    data = Numbers(10)
    data.order = lambda *_: np.arange(9)
    with pytest.raises(ValueError, match="orders 9 samples and has 10"):
        next(loader(data).batches())


# --- broken samples ---------------------------------------------------------------------------------------------------


def test_a_broken_sample_shifts_nothing():
    whole = numbers(loader(Numbers(200), batch=8).batches(0, 400))
    holes = loader(Numbers(200, broken=[17, 60]), batch=8)
    expected = [[n for n in batch if n not in (17, 60)] for batch in whole]
    found = numbers(holes.batches(0, 400))
    assert found == expected
    assert sorted(map(len, found)).count(8) == 46
    assert holes.quarantine == {"numbers_17": "damaged", "numbers_60": "damaged"}


def test_a_batch_of_broken_samples_is_empty():
    batches = list(loader(Numbers(4, broken=[2]), batch=1, shuffle=False, max_broken=0.5).batches(0, 4))
    assert [batch.size for batch in batches] == [1, 1, 0, 1]
    assert batches[2].sample_keys == ()


def test_too_many_broken_samples_end_the_run_early():
    batches = loader(Numbers(1000, broken=range(0, 1000, 5)), batch=10).batches()
    assert len([next(batches) for _ in range(9)]) == 9
    with pytest.raises(BrokenShare, match=r"of 100 samples of numbers are broken, more than the allowed 5%.*damaged"):
        next(batches)  # completes the first hundred


def test_the_allowed_share_is_not_too_many():
    assert len(list(loader(Numbers(100, broken=range(5)), batch=10).batches(0, 100))) == 10


def test_a_small_data_set_is_judged_at_its_end():
    spoiled = loader(Numbers(10, broken=[0]), max_broken=0.05)
    batches = spoiled.once()
    assert [next(batches).size for _ in range(3)] == [3, 4, 2]
    with pytest.raises(BrokenShare, match="1 of 10"):
        next(batches)
    assert len(list(loader(Numbers(10, broken=[0]), max_broken=0.1).once())) == 3


def test_views_may_find_a_sample_unfit():
    def picky(sample, rng):
        if sample.number == 3:
            raise BrokenSample("", "too thin")
        return views(sample, rng)

    picked = Loader(Numbers(10), picky, ("number",), 5, 0, max_broken=0.2)
    assert sorted(flat(picked.batches(0, 10))) == [0, 1, 2, 4, 5, 6, 7, 8, 9]
    assert picked.quarantine == {"numbers_3": "too thin"}


# --- workers ----------------------------------------------------------------------------------------------------------


def pixels(sample, rng):
    image = np.asarray(sample.image).copy()
    return {"image": torch.from_numpy(image), "noise": rng.random() if rng else 0.0, "text": sample.text}


def test_workers_do_not_change_the_result(tmp_path):
    data = ShardedData(write_set(tmp_path, 23, max_bytes=20_000))
    (tmp_path / "train-00001.tar").write_bytes(b"")  # the samples in it cannot be read any more
    runs = []
    for workers in (0, 1, 2):
        one = Loader(data, pixels, ("image", "text"), 4, 7, workers=workers, max_broken=1.0)
        state = torch.random.get_rng_state()
        batches = list(one.batches(8, 88)) + list(one.once())
        assert torch.equal(state, torch.random.get_rng_state())  # the run's own chance is left alone
        runs.append((batches, one.quarantine))
        one.close()
    assert len(runs[0][1]) > 3
    assert all(quarantine == runs[0][1] for _, quarantine in runs[1:])
    for batches, _ in runs[1:]:
        assert len(batches) == len(runs[0][0]) == 26
        for one, other in zip(batches, runs[0][0], strict=True):
            assert one.sample_keys == other.sample_keys
            assert set(one) == set(other)
            assert all(torch.equal(one[name], other[name]) for name in one if name != "text")


def test_workers_read_from_urls(tmp_path):
    import fsspec

    write_set(tmp_path, 10)
    system = fsspec.filesystem("memory")
    for path in tmp_path.iterdir():
        system.pipe_file(f"/for_workers/{path.name}", path.read_bytes())
    one = Loader(ShardedData("memory://for_workers"), pixels, ("image", "text"), 5, 0, workers=1)
    assert [text for batch in one.once() for text in batch.text] == [f"number {n}" for n in range(10)]
    one.close()


def pid_view(sample, rng):
    handler = int(signal.getsignal(signal.SIGINT) == signal.SIG_IGN)
    return {"pid": os.getpid(), "threads": torch.get_num_threads(), "ignores": handler}


def test_workers_outlive_an_iteration_and_close_ends_them():
    one = Loader(Numbers(16), pid_view, (), 4, 0, workers=2)
    pids = [{pid for batch in one.once() for pid in batch.pid.tolist()} for _ in range(2)]
    assert len(pids[0]) == 2
    assert pids[0] == pids[1]
    assert os.getpid() not in pids[0]
    batch = next(one.once())
    assert batch.threads.unique().tolist() == [1]
    assert batch.ignores.unique().tolist() == [1]  # Ctrl-C is for the main process
    one.close()
    assert not any(_alive(pid) for pid in pids[0])
    assert len(list(one.once())) == 4  # with new ones
    one.close()


def test_dropping_a_loader_ends_its_workers():
    one = Loader(Numbers(1000), pid_view, (), 4, 0, workers=1)
    batches = one.batches()
    pid = next(batches).pid[0].item()
    del batches, one
    assert not _alive(pid)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_newer_iteration_ends_the_older(workers):
    one = loader(workers=workers)
    older, newer = one.batches(), one.batches(20)
    next(older)
    assert flat([next(newer)]) == flat(loader().batches(20, 24))
    with pytest.raises(RuntimeError, match="ended by a newer one"):
        next(older)
    assert flat([next(newer)]) == flat(loader().batches(24, 28))
    one.close()


def faulty(sample, rng):
    raise KeyError("no such thing")


@pytest.mark.parametrize("workers", [0, 1])
def test_a_fault_in_views_is_no_broken_sample(workers):
    one = Loader(Numbers(10), faulty, (), 4, 0, workers=workers)
    with pytest.raises(KeyError, match="no such thing"):
        next(one.batches())
    one.close()


def dying(sample, rng):
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_dead_worker_is_explained():
    one = Loader(Numbers(10), dying, (), 4, 0, workers=1)
    with pytest.raises(RuntimeError, match=r"a data worker died, .* shared memory .* fewer workers"):
        next(one.batches())
    one.close()


def slow(sample, rng):
    time.sleep(0.01)
    return {"x": 1}


def test_waiting_is_measured():
    one = Loader(Numbers(100), slow, (), 5, 0)
    assert one.wait_share == 0
    begin = time.perf_counter()
    for _ in one.batches(0, 20):
        time.sleep(0.05)
    total = time.perf_counter() - begin
    assert 0.2 <= one.wait_seconds <= total - 0.2  # 20 samples of 10 ms; four pauses of 50 ms
    assert one.wait_share == pytest.approx(one.wait_seconds / total, abs=0.02)


def training_process(say):
    batches = Loader(Numbers(10**6), pid_view, (), 4, 0, workers=2).batches()
    say(*{next(batches).pid[0].item() for _ in range(8)})
    time.sleep(60)


@linux
def test_workers_die_with_the_main_process():
    pid, told = forked(training_process)
    pids = [int(word) for word in told.readline().split()]
    assert len(pids) == 2
    assert all(map(_alive, pids))
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    deadline = time.monotonic() + 3  # torch's own watchdog needs 5 seconds, if it comes to it at all
    while any(map(_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not any(map(_alive, pids))


class Heavy(Numbers):
    """Carries 128 MiB that workers must share and not copy."""

    def __init__(self):
        super().__init__(4)
        self.ballast = np.ones(1 << 24, np.float64)

    def read(self, index, fields):
        assert self.ballast[index] == 1.0
        pages = Path("/proc/self/smaps_rollup").read_text().splitlines()
        private = sum(int(line.split()[1]) for line in pages if line.startswith("Private"))
        return Sample("x", {"number": private // 1024})


@linux
def test_workers_share_the_memory_of_the_main_process():
    one = Loader(Heavy(), views, (), 4, 0, workers=1)
    assert max(flat(one.once())) < 96  # MiB of its own, of more than 128 + torch
    one.close()


def _alive(pid):
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
