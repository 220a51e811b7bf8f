"""Bytes -> values: pictures, text, JSON, arrays and sound, each with limits that are checked before decoding.

What comes in may be broken or hostile. Headers are read first; a member that claims too many bytes, pixels, frames or
seconds is refused before memory is spent on it. Whatever is wrong with the bytes becomes one `BrokenSample`.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn

from diptych.text import one_line

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

IMAGE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""The only picture decoders that are ever started."""
AUDIO_RATE = 16_000
"""Samples a second of every decoded sound."""
TEXT_BYTES = 1 << 20
JSON_BYTES = 1 << 22
JPEG_SCANS = 64
"""Scans of a progressive JPEG, each of which costs the time of a whole picture; usual are up to twelve."""

_TURNED = (b"Exif\0", b"tiff:Orientation")  # where a JPEG says that it lies on its side
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # of a segment; the others stand within the data of a scan


class BrokenSample(Exception):
    """A sample that cannot be used: `key` names it, `reason` is half a sentence. It is quarantined, never fatal."""

    def __init__(self, key: str, reason: str) -> None:
        reason = one_line(reason)  # it may quote what a stranger wrote
        super().__init__(key, reason)
        self.key, self.reason = key, reason

    def __str__(self) -> str:
        return f"sample {self.key!r} is broken: {self.reason}"


@dataclass(frozen=True)
class Limits:
    """What one member may cost at most; checked on headers, before anything is decoded."""

    bytes: int = 64 << 20
    """bytes of a member, and of an unpacked array"""
    pixels: int = 50_000_000
    """pixels of a picture, and of a frame of a video"""
    frames: int = 1024
    """frames of a video, or pictures of one sample"""
    points: int = 5_000_000
    """points of a cloud or a mesh, and triangles of it"""
    seconds: float = 600.0
    """duration of a sound or a video"""


NORMAL = Limits()


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Around a block or a function: whatever a decoding library raises on bad bytes becomes `BrokenSample`."""
    try:
        yield
    except (BrokenSample, ModuleNotFoundError):
        raise
    except Exception as error:  # hostile bytes make decoders raise anything from KeyError to MemoryError
        raise BrokenSample("", f"the {what} cannot be decoded ({_brief(error)})") from error


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:160] if text else type(error).__name__


def refuse(reason: str) -> NoReturn:
    """Says why something is broken."""
    raise BrokenSample("", reason)


def check_bytes(data: bytes, limit: int, what: str) -> None:
    """Refuses what is empty or over the limit."""
    if not data:
        refuse(f"the {what} is empty (0 bytes)")
    if len(data) > limit:
        refuse(f"the {what} has {len(data):,} bytes; the limit is {limit:,}")


# --- pictures ---------------------------------------------------------------------------------------------------------


def image_header(data: bytes, limits: Limits = NORMAL) -> tuple[str, int, int]:
    """Format, width and height of a picture, from its header alone.

    Raises:
        BrokenSample: no picture of an allowed format, or more bytes or pixels than allowed.
    """
    opened = _open_image(data, limits)
    return str(opened.format), opened.width, opened.height


@decoding("image")
def decode_image(data: bytes, limits: Limits = NORMAL, side: int = 0) -> Image.Image:
    """A picture as PIL image in RGB, upright (EXIF orientation applied), transparent parts on white, first frame only.

    `side` > 0 allows a JPEG to be decoded at 1/2, 1/4 or 1/8 of its size, as long as both sides keep at least `side`
    pixels: several times faster for large photos.

    Raises:
        BrokenSample: not an allowed format, cut short, damaged, or larger than the limits.
    """
    plain = _plain_jpeg(data, limits) if side == 0 else None
    if plain is not None:
        return plain
    image = _open_image(data, limits)
    if side > 0:
        image.draft(None, (side, side))  # only JPEG listens
    image.load()
    return _rgb(_upright(image))


def _plain_jpeg(data: bytes, limits: Limits) -> Image.Image | None:
    """A JPEG by simplejpeg, where that is installed: bit for bit what PIL gives, in two thirds of the time.

    Both call libjpeg-turbo. None for what may be turned, is not in YCbCr or has any fault: that is left to PIL.
    """
    from PIL import Image

    library = _simplejpeg()
    if library is None or data[:2] != b"\xff\xd8" or any(mark in data for mark in _TURNED):
        return None
    check_bytes(data, limits.bytes, "picture")
    _check_scans(data)
    try:
        height, width, colours, _ = library.decode_jpeg_header(data)
    except ValueError:
        return None
    if colours != "YCbCr":
        return None
    _check_pixels(width, height, limits)
    try:
        return Image.fromarray(library.decode_jpeg(data))
    except ValueError:
        return None


@cache
def _simplejpeg() -> Any:
    try:
        import simplejpeg
    except ImportError:
        return None
    return simplejpeg


@decoding("image")
def _open_image(data: bytes, limits: Limits) -> Image.Image:
    from PIL import Image

    check_bytes(data, limits.bytes, "picture")
    _check_pixels(*_webp_size(data), limits)  # libwebp allocates its canvas when the file is opened
    _check_scans(data)
    try:
        image = Image.open(io.BytesIO(data), formats=IMAGE_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise BrokenSample("", f"the picture has more than {Image.MAX_IMAGE_PIXELS:,} pixels") from None
    except Image.UnidentifiedImageError:
        raise BrokenSample("", f"the picture is damaged or not one of {', '.join(IMAGE_FORMATS)}") from None
    _check_pixels(*image.size, limits)
    return image


def _check_pixels(width: int, height: int, limits: Limits) -> None:
    if width * height > limits.pixels:
        refuse(f"the picture has {width} x {height} pixels; the limit is {limits.pixels:,}")


def _webp_size(data: bytes) -> tuple[int, int]:
    """Canvas of a WebP file, (0, 0) for other files. Source: RFC 9649, sections 2.5 to 2.7."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return 0, 0
    if data[12:16] == b"VP8X":
        return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
    if data[12:16] == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return int.from_bytes(data[26:28], "little") & 0x3FFF, int.from_bytes(data[28:30], "little") & 0x3FFF


def _check_scans(data: bytes) -> None:
    """Refuses a JPEG of too many scans. Source of the layout: ITU-T T.81, annex B."""
    if data[:2] != b"\xff\xd8" or data.count(b"\xff\xda") <= JPEG_SCANS:
        return
    place, scans = 2, 0
    while found := _MARKER.search(data, place):
        if data[found.end() - 1] == 0xD9:  # whatever follows is no part of the picture
            return
        scans += data[found.end() - 1] == 0xDA
        if scans > JPEG_SCANS:
            refuse(f"the picture has more than {JPEG_SCANS} progressive scans")
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")


def _upright(image: Image.Image) -> Image.Image:
    from PIL import ImageOps

    try:
        turned = image.getexif().get(0x0112, 1) != 1
    except Exception:  # damaged EXIF is common in photos from the web; the picture itself is whole
        return image
    return ImageOps.exif_transpose(image) if turned else image


def _rgb(image: Image.Image) -> Image.Image:
    import numpy as np
    from PIL import Image

    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode.startswith("I"):  # 16-bit grey, which PIL would clip to white
        grey = np.asarray(image, dtype=np.int64).clip(0, 65535) // 257
        return Image.fromarray(grey.astype(np.uint8)).convert("RGB")
    if "A" in image.mode or "a" in image.mode or "transparency" in image.info:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, (255, 255, 255, 255))
        paper.alpha_composite(layer)
        return paper.convert("RGB")
    return image.convert("RGB")


# --- text and JSON ----------------------------------------------------------------------------------------------------


@decoding("text")
def decode_text(data: bytes, limits: Limits = NORMAL) -> str:
    """UTF-8 text without a byte order mark and without white space at its end.

    Raises:
        BrokenSample: empty, not UTF-8, or longer than the limits.
    """
    check_bytes(data, min(limits.bytes, TEXT_BYTES), "text")
    text = data.decode("utf-8-sig").rstrip()
    if not text:
        refuse("the text is empty")
    return text


@decoding("json")
def decode_json(data: bytes, limits: Limits = NORMAL) -> dict[str, Any]:
    """The object of a `.json` member.

    Raises:
        BrokenSample: not JSON, no object, nested too deeply, broken Unicode, or longer than the limits.
    """
    check_bytes(data, min(limits.bytes, JSON_BYTES), "json")
    record = json.loads(data)
    if not isinstance(record, dict):
        refuse(f"the json is a {type(record).__name__}, not an object")
    return dict(record)


# --- arrays -----------------------------------------------------------------------------------------------------------


@decoding("npz")
def decode_npz(data: bytes, limits: Limits = NORMAL) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` member, by name; numbers and booleans only, no pickles.

    Raises:
        BrokenSample: damaged, objects inside, or larger than `limits.bytes` when unpacked.
    """
    check_bytes(data, limits.bytes, "npz")
    if data.count(b"PK\x01\x02") > limits.frames:  # entries, before an object is made of each
        refuse(f"the npz has more than {limits.frames:,} arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > limits.bytes or len(entries) > limits.frames:
            refuse(f"the npz unpacks to {total:,} bytes in {len(entries)} arrays; the limit is {limits.bytes:,} bytes")
        return {entry.filename.removesuffix(".npy"): _array(archive, entry) for entry in entries}


def _array(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> np.ndarray:
    import numpy as np

    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without a bound
        raise ValueError(f"{entry.filename} is not compressed as numpy does it")
    with archive.open(entry) as file:  # yields at most `entry.file_size` bytes, whatever was compressed
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
        if dtype.kind not in "biufc":
            raise ValueError(f"{entry.filename} holds {dtype}, not numbers")
        data = file.read(entry.file_size)
    if math.prod(shape) * dtype.itemsize != len(data):  # before numpy allocates what the header claims
        raise ValueError(f"{entry.filename} claims the shape {shape} and has {len(data)} bytes")
    return np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C").copy()  # copied: writable


# --- sound ------------------------------------------------------------------------------------------------------------


@decoding("audio")
def decode_audio(data: bytes, limits: Limits = NORMAL) -> np.ndarray:
    """Mono sound, float32 (S,) in [-1, 1], at `AUDIO_RATE` samples a second.

    Raises:
        BrokenSample: damaged, empty, or longer than the limits.
        ModuleNotFoundError: soundfile is not installed.
    """
    try:
        import soundfile
    except ModuleNotFoundError:
        raise ModuleNotFoundError("sound needs soundfile: pip install 'diptych[audio]'.") from None
    check_bytes(data, limits.bytes, "sound")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        seconds = file.frames / file.samplerate
        if not 0 < seconds <= limits.seconds or file.frames * file.channels * 4 > 4 * limits.bytes:
            refuse(f"the sound lasts {seconds:.1f} seconds ({file.channels} channels); the limit is {limits.seconds}")
        sound = file.read(file.frames, dtype="float32", always_2d=True).mean(axis=1)
        return resample(sound, file.samplerate, AUDIO_RATE)


def resample(sound: np.ndarray, rate: int, target: int) -> np.ndarray:
    """(S,) at `rate` -> (round(S * target / rate),) at `target`, band-limited, by the discrete Fourier transform."""
    import numpy as np

    if rate == target or not len(sound):
        return sound.astype(np.float32, copy=False)
    length = max(1, round(len(sound) * target / rate))
    spectrum = np.fft.rfft(sound)[: length // 2 + 1]
    return (np.fft.irfft(spectrum, length) * (length / len(sound))).astype(np.float32)
