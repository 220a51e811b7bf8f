"""Plain tar files: where each member lies, found without trusting a byte of them.

Nothing is ever extracted. A member's name becomes a key and an extension and never a path. What has no business in a
shard (links, devices, absolute or `..` names, pickles, ...) is left out of the index and reported.

Source of the layout: POSIX.1-2017, `pax`, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable
from dataclasses import dataclass, field

from diptych.text import one_line

BLOCK = 512
MAX_MEMBERS = 16_000_000  # of one tar; 40 bytes each, so that an index fits into memory
MAX_EXTENSIONS = 4096  # different ones in one tar
MAX_NAME = 4096  # bytes of a member's name
MAX_SIZE = 2**32 - 1  # bytes of one member, for the index holds 32 bits
PICKLES = frozenset({"pkl", "pickle", "pyd", "pth", "pt"})
"""Extensions whose usual readers run code; such members are never read."""

_HEADER_DATA = 1 << 20  # bytes of a long name or a pax header
_EXAMPLES = 20  # names remembered for each reason
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff\\]")
_EXTENSION = re.compile(r"[a-z0-9_+-]+(\.[a-z0-9_+-]+)*")

ReadAt = Callable[[int, int], bytes]
"""(offset, size) -> at most `size` bytes of the tar from `offset`."""


class UnreadableTar(ValueError):
    """The file is no uncompressed tar, or holds more than an index may."""


@dataclass
class Skipped:
    """Members that were left out: for each reason how many, and the first few names."""

    counts: dict[str, int] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, name: str) -> None:
        """Notes one member."""
        self.counts[reason] = self.counts.get(reason, 0) + 1
        names = self.names.setdefault(reason, [])
        if len(names) < _EXAMPLES:
            names.append(one_line(name, 200))

    def __bool__(self) -> bool:
        return bool(self.counts)


@dataclass
class Members:
    """All usable members of one tar, in order, as flat arrays: no Python object a member.

    A sample is a run of members with one key. Sample i has the members `first[i]` to `first[i + 1]` (or to the end)
    and the key `keys[key_ends[i - 1]:key_ends[i]]` (UTF-8).
    """

    keys: bytearray = field(default_factory=bytearray)
    key_ends: array[int] = field(default_factory=lambda: array("q"))
    first: array[int] = field(default_factory=lambda: array("q"))
    extension: array[int] = field(default_factory=lambda: array("H"))
    block: array[int] = field(default_factory=lambda: array("I"))
    size: array[int] = field(default_factory=lambda: array("I"))
    extensions: dict[str, int] = field(default_factory=dict)
    skipped: Skipped = field(default_factory=Skipped)


def split_name(name: str) -> tuple[str, str]:
    """`a/b.c.JPG` -> (`a/b`, `c.jpg`): the key up to the first dot of the basename, and the extension.

    Raises:
        ValueError: the name is not fit to be a key; the message is the reason.
    """
    if name.startswith("./"):
        name = name[2:]
    reason = _fault(name)
    if reason:
        raise ValueError(reason)
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    extension = extension.lower()
    if not stem or not _EXTENSION.fullmatch(extension):
        raise ValueError("the name has no key or no plain extension")
    if PICKLES & set(extension.split(".")):
        raise ValueError("a pickle could run code")
    return folder + slash + stem, extension


def _fault(name: str) -> str:
    if len(name) > MAX_NAME:
        return "the name is too long"
    if _CONTROL.search(name):
        return "the name has control characters, backslashes or broken Unicode"
    if name.startswith(("/", "~")) or re.match(r"[A-Za-z]:", name):
        return "the name is absolute"
    if ".." in name.split("/"):
        return "the name leads out of its folder"
    return ""


def scan(read_at: ReadAt, size: int, *, readahead: int = 1 << 14) -> Members:
    """Lists the members of an uncompressed tar of `size` bytes by reading its headers only.

    `readahead` is the number of bytes fetched at once: small for a local file, large where a request costs time.

    Raises:
        UnreadableTar: there is something else where a header should be, or more than `MAX_MEMBERS` members.
    """
    window = _Window(read_at, readahead)
    members, group, ahead = Members(), _Group(), _Ahead()
    position = 0
    while position + BLOCK <= size:
        header = window.read(position, BLOCK)
        if header == bytes(BLOCK):
            break
        kind, length, name = _header(header, position)
        position += BLOCK
        if kind in b"LKxXg":
            if length > _HEADER_DATA:
                raise UnreadableTar(f"its header at byte {position - BLOCK} claims {length} bytes of name")
            ahead.note(kind, window.read(position, length))
            position += _padded(length)
            continue
        name = name if ahead.name is None else ahead.name
        length = length if ahead.size is None else ahead.size
        if kind in b"0\x007":
            reason = ahead.refused or ("the tar is cut short" if position + length > size else "")
            _take(members, group, name, position, length, reason)
        elif kind != b"5":
            members.skipped.add(_KINDS.get(kind, "not a plain file"), name)
            position += _sparse_headers(kind, header, window, position)
        if kind not in b"123456":  # links, devices and folders have no data, whatever their size says
            position += _padded(length)
        ahead = _Ahead()
    return members


@dataclass
class _Ahead:
    """What GNU and pax headers say of the member that follows them."""

    name: str | None = None
    size: int | None = None
    refused: str = ""

    def note(self, kind: bytes, data: bytes) -> None:
        """Takes in the data of one such header; what concerns links or the whole archive is not needed."""
        if kind == b"L":
            self.name = _text(data.split(b"\0", 1)[0])
        if kind not in b"xX":
            return
        start = 0  # slices of what is left would take quadratic time, which a stranger could make use of
        while start < len(data):
            digits = data[start : start + 9].partition(b" ")[0]
            length = int(digits) if digits.isdigit() else 0
            if not len(digits) + 2 < length <= len(data) - start:
                self.refused = "its pax header is malformed"
                return
            keyword, _, value = data[start + len(digits) + 1 : start + length - 1].partition(b"=")
            self._record(keyword, value)
            start += length

    def _record(self, keyword: bytes, value: bytes) -> None:
        if keyword == b"path":
            self.name = _text(value)
        elif keyword == b"size" and value.isdigit() and len(value) < 19:
            self.size = int(value)
        elif keyword == b"size":
            self.refused = "its pax header is malformed"
        elif keyword.startswith(b"GNU.sparse."):
            self.refused = "a sparse file"


_KINDS = {b"1": "a link", b"2": "a link", b"3": "a device", b"4": "a device", b"6": "a pipe", b"S": "a sparse file"}


class _Group:
    """The sample that is being collected: its key and the extensions that it has."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.extensions: set[str] = set()


def _take(members: Members, group: _Group, name: str, position: int, length: int, reason: str) -> None:
    try:
        if reason or length > MAX_SIZE:
            raise ValueError(reason or "larger than 4 GiB")
        key, extension = split_name(name)
        if key == group.key and extension in group.extensions:
            raise ValueError("its sample has another member with this extension")
        if extension not in members.extensions and len(members.extensions) == MAX_EXTENSIONS:
            raise ValueError("too many different extensions")
    except ValueError as error:
        members.skipped.add(str(error), name)
        return
    if len(members.size) >= MAX_MEMBERS:
        raise UnreadableTar(f"it has more than {MAX_MEMBERS:,} members; pack it into several shards")
    if key != group.key:
        group.key, group.extensions = key, set()
        members.keys += key.encode("utf-8")
        members.key_ends.append(len(members.keys))
        members.first.append(len(members.size))
    group.extensions.add(extension)
    members.extension.append(members.extensions.setdefault(extension, len(members.extensions)))
    members.block.append(position // BLOCK)
    members.size.append(length)


class _Window:
    """Small reads served from larger ones."""

    def __init__(self, read_at: ReadAt, readahead: int) -> None:
        self._read_at, self._readahead = read_at, readahead
        self._start, self._data = 0, b""

    def read(self, offset: int, size: int) -> bytes:
        if not self._start <= offset <= offset + size <= self._start + len(self._data):
            self._start, self._data = offset, self._read_at(offset, max(size, self._readahead))
        begin = offset - self._start
        return self._data[begin : begin + size]


def _header(header: bytes, position: int) -> tuple[bytes, int, str]:
    """One header block -> (type, size of its data, name)."""
    try:
        if len(header) != BLOCK or _number(header[148:156]) != sum(header) - sum(header[148:156]) + 8 * 0x20:
            raise ValueError
        length = _number(header[124:136])
    except ValueError:
        raise UnreadableTar(
            f"there is no tar header at byte {position}"
            + ("" if position else "; a compressed tar must be unpacked with gzip or zstd first")
        ) from None
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0]
    if prefix and header[257:263] == b"ustar\0":
        name = prefix + b"/" + name
    return header[156:157], length, _text(name)


def _number(digits: bytes) -> int:
    """An octal field, or one in base 256 (GNU, for more than 8 GiB)."""
    if digits[0] == 0x80:
        return int.from_bytes(digits[1:], "big")
    number = int(digits.split(b"\0", 1)[0].strip(b" ") or b"0", 8)
    if number < 0:  # would lead backwards, for ever
        raise ValueError
    return number


def _padded(length: int) -> int:
    return -(-length // BLOCK) * BLOCK


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _sparse_headers(kind: bytes, header: bytes, window: _Window, position: int) -> int:
    """Bytes of further headers of an old GNU sparse member."""
    extra = 0
    flag = header[482:483] if kind == b"S" else b"\0"
    while flag not in (b"\0", b""):
        flag = window.read(position + extra, BLOCK)[504:505]
        extra += BLOCK
    return extra
