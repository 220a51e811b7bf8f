"""Blocks measured by workers on Ray Data: on this machine, or on a cluster.

Every worker is an actor that keeps its model. What comes back is written down by the one process that asked, block by
block, so that neither the number of workers nor the order in which they finish can be seen in the result.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from diptych import cluster
from diptych.curation.blocks import Block
from diptych.curation.measure import Look, Spread, measure

if TYPE_CHECKING:
    import pyarrow as pa


def on_ray(workers: int, *, address: str = "", gpus: float = 0.0) -> Spread:
    """A way to measure blocks: by `workers` actors, each with one core and `gpus` of a GPU.

    Args:
        workers: actors at work beside each other.
        address: of a cluster that runs already, such as `auto` or `ray://HOST:10001`, whose nodes have the library and
            reach the shards by the same path; empty starts one on this machine, which ends with the work.
        gpus: share of a GPU that each holds.

    Raises:
        ModuleNotFoundError: Ray is not installed.
    """
    cluster.demand("measure in this process with --workers 0")

    def spread(look: Look, blocks: Sequence[Block]) -> Iterator[tuple[Block, pa.Table]]:
        with cluster.connected(workers, address):
            yield from _measured(look, blocks, min(workers, len(blocks)), gpus, {} if address else {"max_restarts": 0})

    return spread


def _measured(
    look: Look, blocks: Sequence[Block], workers: int, gpus: float, more: dict[str, Any]
) -> Iterator[tuple[Block, pa.Table]]:
    import pyarrow as pa
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    shared = ray.put((look, list(blocks)))
    numbers = ray.data.from_items([{"id": number} for number in range(len(blocks))], override_num_blocks=len(blocks))
    with warnings.catch_warnings():  # that max_restarts will be given otherwise from Ray 2.64 on
        warnings.simplefilter("ignore", DeprecationWarning)
        rows = numbers.map_batches(
            _Worker,
            fn_constructor_args=(shared,),
            batch_size=1,
            concurrency=workers,
            num_cpus=1,
            num_gpus=gpus,
            **more,
        )
    try:
        for row in rows.iter_rows():
            yield blocks[row["block"]], pa.ipc.open_stream(row["table"]).read_all()
    except Exception as error:  # Ray wraps what happened in a worker, with its stack, in exceptions of many kinds
        last = str(error).strip().rpartition("\n")[2]
        raise OSError(f"a worker failed ({last}); what is done is kept, and the same command goes on.") from error


class _Worker:
    """An actor: takes the number of a block, gives the rows of the block as bytes."""

    def __init__(self, shared: Any) -> None:
        import ray

        self.look, self.blocks = ray.get(shared)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import pyarrow as pa

        numbers = [int(number) for number in batch["id"]]
        tables = []
        for number in numbers:
            table = measure(self.look, self.blocks[number])
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            tables.append(sink.getvalue().to_pybytes())
        return {"block": numbers, "table": tables}
