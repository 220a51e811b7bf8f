"""What is found out of every sample, block by block; a block that is done is kept, so that a killed command goes on."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from diptych.curation.blocks import Block, opened
from diptych.data.decode import BrokenSample

if TYPE_CHECKING:
    import pyarrow as pa

AT_A_TIME = 32
"""Samples that are decoded before a model sees them, at once."""
_FORM = "1"  # of what is kept; another one makes it be measured again


class Look(Protocol):
    """What is found out of samples, without regard to others."""

    @property
    def identity(self) -> str:
        """Settings, model and versions that the result depends on."""
        ...

    @property
    def fields(self) -> tuple[str, ...]:
        """Fields of which the members are read."""
        ...

    @property
    def columns(self) -> Mapping[str, str]:
        """Name of a column -> its Arrow type."""
        ...

    def see(self, key: str, members: Mapping[str, bytes]) -> Any:
        """What one sample shows; raises `BrokenSample` where it cannot be used."""
        ...

    def tell(self, seen: Sequence[Any]) -> Iterable[Mapping[str, Any]]:
        """The columns of several samples that were seen, in their order."""
        ...


Spread = Callable[[Look, Sequence[Block]], Iterator[tuple[Block, "pa.Table"]]]
"""Measures blocks, here or elsewhere, and yields them in any order."""
Progress = Callable[[int, int | None], None]


def measure(look: Look, block: Block) -> pa.Table:
    """A row a sample of the block: key, the reason where it is broken, and the columns of the look."""
    import pyarrow as pa

    data = opened(block.path, block.split)
    rows: list[Mapping[str, Any]] = []
    for numbers in _runs(block.begin, block.end):
        seen = [_seen(look, block, number) for number in numbers]
        told = iter(look.tell([one for one in seen if not isinstance(one, BrokenSample)]))
        rows += [{"broken": one.reason} if isinstance(one, BrokenSample) else next(told) for one in seen]
    columns: dict[str, list[Any]] = {"key": [data.key(number) for number in range(block.begin, block.end)]}
    types = {"key": "string", "broken": "string", **look.columns}
    columns |= {name: [row.get(name) for row in rows] for name in types if name != "key"}
    return pa.table({name: pa.array(columns[name], arrow_type(kind)) for name, kind in types.items()})


def _runs(begin: int, end: int) -> Iterator[range]:
    return (range(start, min(start + AT_A_TIME, end)) for start in range(begin, end, AT_A_TIME))


def arrow_type(kind: str) -> Any:
    """An Arrow type by its name, `string` or `list<float>`."""
    import pyarrow as pa

    return pa.list_(pa.type_for_alias(kind[5:-1])) if kind.startswith("list<") else pa.type_for_alias(kind)


def _seen(look: Look, block: Block, number: int) -> Any:
    data = opened(block.path, block.split)
    try:
        return look.see(data.key(number), data.raw(number, look.fields))
    except BrokenSample as broken:
        return broken


def here(look: Look, blocks: Sequence[Block]) -> Iterator[tuple[Block, pa.Table]]:
    """Measures one block after the other in this process."""
    return ((block, measure(look, block)) for block in blocks)


class Store:
    """A folder with a file a block that was measured, named by all that its content depends on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, look: Look, block: Block) -> Path:
        """Where the rows of a block are."""
        parts = "\0".join((_FORM, look.identity, block.identity))
        return self.folder / f"{hashlib.sha256(parts.encode('utf-8', 'surrogatepass')).hexdigest()[:40]}.arrow"

    def keep(self, look: Look, block: Block, table: pa.Table) -> None:
        """Writes the rows of a block: whole, or not at all."""
        import pyarrow as pa

        path = self.path(look, block)
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        with open(part, "wb") as file:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    def read(self, look: Look, block: Block) -> pa.Table:
        """The rows of a block, mapped into memory rather than read."""
        import pyarrow as pa

        with pa.memory_map(str(self.path(look, block))) as file:
            return pa.ipc.open_file(file).read_all()


@dataclass(frozen=True)
class Facts:
    """All that was found out: a row a sample, in the order of the parts and of the samples in them."""

    table: pa.Table
    part: np.ndarray
    """(N,) int64: place of the part"""
    number: np.ndarray
    """(N,) int64: number of the sample in its part"""

    def __len__(self) -> int:
        return len(self.part)

    def column(self, name: str, absent: Any = 0) -> np.ndarray:
        """(N,) numbers, `absent` where a sample is broken."""
        import pyarrow.compute as pc

        return np.asarray(pc.fill_null(self.table[name], absent).to_numpy())

    @property
    def whole(self) -> np.ndarray:
        """(N,) bool: whether the sample could be used."""
        return np.asarray(self.table["broken"].is_null().to_numpy())

    def matrix(self, name: str, rows: np.ndarray, shape: tuple[int, ...], dtype: str, file: Path) -> np.ndarray:
        """Some rows, sorted, of a column of bytes: an array (len(rows), *shape) that lies in a file, not in memory."""
        size = (len(rows), *shape)
        if not len(rows):
            return np.zeros(size, dtype)
        array = np.lib.format.open_memmap(file, "w+", np.dtype(dtype), size)
        start = first = 0
        for chunk in self.table[name].chunks:
            until = int(np.searchsorted(rows, first + len(chunk)))
            taken = chunk.take(rows[start:until] - first).to_pylist()
            array[start:until] = np.frombuffer(b"".join(taken), dtype).reshape(len(taken), *shape)
            start, first = until, first + len(chunk)
        return array


def measured(
    look: Look, blocks: Sequence[Block], store: Store, spread: Spread = here, progress: Progress | None = None
) -> Facts:
    """Measures what is not kept yet, and opens all of it."""
    import pyarrow as pa

    store.folder.mkdir(parents=True, exist_ok=True)
    todo = [block for block in blocks if not store.path(look, block).is_file()]
    total = sum(map(len, blocks))
    done = total - sum(map(len, todo))
    for block, table in spread(look, todo) if todo else ():
        store.keep(look, block, table)
        done += len(block)
        if progress:
            progress(done, total)
    tables = [store.read(look, block) for block in blocks]
    lengths = [len(block) for block in blocks]
    return Facts(
        pa.concat_tables(tables),
        np.repeat([block.part for block in blocks], lengths).astype(np.int64),
        np.concatenate([np.arange(block.begin, block.end) for block in blocks]).astype(np.int64),
    )
