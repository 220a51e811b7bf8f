"""Random access to the files of one folder, on a local disk or behind an fsspec URL.

Both kinds are safe to use after a fork: local reads carry their own offset (`pread`), and a remote file system is
opened anew in every process.
"""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol

_OPEN_FILES = 128  # descriptors kept open, far below the usual limit of 1024 a process
_INDIRECT = ("reference", "filecache", "simplecache", "blockcache", "cached")  # the first can run templates
_TRIES = 4  # of a remote request; the pauses between them are 0.5, 1 and 2 seconds


class Files(Protocol):
    """The files of one folder, by name."""

    path: str
    readahead: int

    def names(self) -> list[str]:
        """Names of the files in the folder, sorted; sub-folders are not entered."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def stamp(self, name: str) -> str:
        """A string that changes when the file changes: address, size and time of change."""
        ...

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer where the file ends."""
        ...


def open_files(path: str | os.PathLike[str]) -> Files:
    """The folder at a local path or an fsspec URL (anything with `://`, such as `s3://bucket/folder`).

    Raises:
        FileNotFoundError: there is no such folder.
        ModuleNotFoundError: the URL's kind needs a package that is not installed.
    """
    text = os.fspath(path)
    return RemoteFiles(text) if "://" in text else LocalFiles(text)


class LocalFiles:
    """A folder on disk."""

    readahead = 1 << 14

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.path.expanduser(path))
        if os.path.isfile(self.path):
            raise NotADirectoryError(f"{self.path} is a file; give the folder that holds it.")
        if not os.path.isdir(self.path):
            raise FileNotFoundError(_absent(self.path))
        self._open: OrderedDict[str, Any] = OrderedDict()

    def names(self) -> list[str]:
        """Names of the files in the folder, sorted."""
        with os.scandir(self.path) as entries:
            return sorted(entry.name for entry in entries if entry.is_file())

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return os.stat(os.path.join(self.path, name)).st_size

    def stamp(self, name: str) -> str:
        """Path, size and time of change."""
        path = os.path.realpath(os.path.join(self.path, name))
        status = os.stat(path)
        return f"{path}\n{status.st_size}\n{status.st_mtime_ns}"

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer where the file ends."""
        return os.pread(self._file(name).fileno(), size, offset)

    def _file(self, name: str) -> Any:
        file = self._open.get(name)
        if file is None:
            path = os.path.join(self.path, name)
            if not os.path.isfile(path):  # to open a pipe would wait for ever
                raise FileNotFoundError(f"{path} does not exist or is no plain file; check the path.")
            file = self._open[name] = open(path, "rb", buffering=0)  # noqa: SIM115
            if len(self._open) > _OPEN_FILES:
                self._open.popitem(last=False)  # closed when nobody reads from it any more
        return file

    def __reduce__(self) -> Any:
        return LocalFiles, (self.path,)


class RemoteFiles:
    """A folder behind an fsspec URL; every read is one ranged request, repeated a few times if it fails."""

    readahead = 1 << 20

    def __init__(self, url: str) -> None:
        if "::" in url or url.partition("://")[0] in _INDIRECT:
            raise ValueError(
                f"{url} leads to other addresses, which are not followed: give a plain one (s3://, https://)."
            )
        self.path = url.rstrip("/")
        self._process, self._system, self._root = 0, None, ""

    def _files(self) -> Any:
        if self._process != os.getpid():  # a file system that was opened before a fork may hang
            from fsspec.core import url_to_fs

            try:
                self._system, self._root = url_to_fs(self.path, skip_instance_cache=True)
            except Exception as error:  # each back end has exceptions of its own
                raise ModuleNotFoundError(f"{self.path} cannot be opened: {error}.") from None
            self._process = os.getpid()
        return self._system

    def names(self) -> list[str]:
        """Names of the files in the folder, sorted; none where the server does not list them."""
        system = self._files()
        try:
            entries = system.ls(self._root, detail=True)
        except FileNotFoundError:
            raise FileNotFoundError(_absent(self.path)) from None
        return sorted(Path(entry["name"]).name for entry in entries if entry["type"] == "file")

    def size(self, name: str) -> int:
        """Bytes of a file."""
        size = self._info(name).get("size")
        if not isinstance(size, int) or size < 0:
            raise OSError(f"{self.path}/{name}: the server does not say its size; copy the shards to a disk.")
        return size

    def stamp(self, name: str) -> str:
        """URL, size and whatever the server says of the version."""
        info = self._info(name)
        versions = [str(info.get(key, "")) for key in ("etag", "ETag", "mtime", "LastModified", "created", "md5Hash")]
        return "\n".join([self._address(name), str(info["size"]), *versions])

    def read(self, name: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset`; fewer where the file ends.

        Raises:
            OSError: the request failed several times.
        """
        system, address = self._files(), self._address(name)
        for attempt in range(_TRIES):
            try:
                data = bytes(system.cat_file(address, start=offset, end=offset + size))
            except FileNotFoundError:
                raise
            except Exception as error:  # each fsspec back end has exceptions of its own
                if attempt == _TRIES - 1:
                    raise OSError(f"{self.path}/{name} could not be read after {_TRIES} tries: {error}") from error
                time.sleep(0.5 * 2**attempt)
                continue
            if len(data) > size:
                raise OSError(f"{self.path} sends whole files where parts are asked for: copy the shards to a disk.")
            return data
        raise AssertionError("unreachable")

    def _info(self, name: str) -> dict[str, Any]:
        try:
            return dict(self._files().info(self._address(name)))
        except FileNotFoundError:
            raise FileNotFoundError(_absent(f"{self.path}/{name}")) from None

    def _address(self, name: str) -> str:
        self._files()
        return f"{self._root}/{name}"

    def __reduce__(self) -> Any:
        return RemoteFiles, (self.path,)


def _absent(path: str) -> str:
    return f"{path} does not exist; check the path."
