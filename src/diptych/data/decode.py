"""Bytes -> values: pictures, text, JSON, arrays, sound and video, each with limits that are checked before decoding.

What comes in may be broken or hostile. Headers are read first; a member that claims too many bytes, pixels, frames or
seconds is refused before memory is spent on it. Whatever is wrong with the bytes becomes one `BrokenSample`.
"""

from __future__ import annotations

import io
import json
import math
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

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
_CONTAINERS = {"mp4": "mp4", "mov": "mp4", "webm": "matroska", "mkv": "matroska", "avi": "avi"}


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
    """pixels of a picture; all frames of a video together may have four times as many"""
    frames: int = 1024
    """frames of a video, or pictures of one sample"""
    seconds: float = 600.0
    """duration of a sound or a video"""


NORMAL = Limits()

_P = ParamSpec("_P")
_T = TypeVar("_T")


def _decoder(function: Callable[Concatenate[bytes, _P], _T]) -> Callable[Concatenate[bytes, _P], _T]:
    """Turns whatever a decoding library raises on bad bytes into `BrokenSample`."""

    @wraps(function)
    def guarded(data: bytes, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        try:
            return function(data, *args, **kwargs)
        except (BrokenSample, ModuleNotFoundError):
            raise
        except Exception as error:  # hostile bytes make decoders raise anything from KeyError to MemoryError
            what = function.__name__.removeprefix("decode_").removeprefix("_open_")
            raise BrokenSample("", f"the {what} cannot be decoded ({_brief(error)})") from error

    return guarded


def _brief(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:160] if text else type(error).__name__


def _refuse(reason: str) -> None:
    raise BrokenSample("", reason)


def _check_bytes(data: bytes, limit: int, what: str) -> None:
    if not data:
        _refuse(f"the {what} is empty (0 bytes)")
    if len(data) > limit:
        _refuse(f"the {what} has {len(data):,} bytes; the limit is {limit:,}")


# --- pictures ---------------------------------------------------------------------------------------------------------


def image_header(data: bytes, limits: Limits = NORMAL) -> tuple[str, int, int]:
    """Format, width and height of a picture, from its header alone.

    Raises:
        BrokenSample: no picture of an allowed format, or more bytes or pixels than allowed.
    """
    opened = _open_image(data, limits)
    return str(opened.format), opened.width, opened.height


@_decoder
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
    _check_bytes(data, limits.bytes, "picture")
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


@_decoder
def _open_image(data: bytes, limits: Limits) -> Image.Image:
    from PIL import Image

    _check_bytes(data, limits.bytes, "picture")
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
        _refuse(f"the picture has {width} x {height} pixels; the limit is {limits.pixels:,}")


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
            _refuse(f"the picture has more than {JPEG_SCANS} progressive scans")
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


@_decoder
def decode_text(data: bytes, limits: Limits = NORMAL) -> str:
    """UTF-8 text without a byte order mark and without white space at its end.

    Raises:
        BrokenSample: empty, not UTF-8, or longer than the limits.
    """
    _check_bytes(data, min(limits.bytes, TEXT_BYTES), "text")
    text = data.decode("utf-8-sig").rstrip()
    if not text:
        _refuse("the text is empty")
    return text


@_decoder
def decode_json(data: bytes, limits: Limits = NORMAL) -> dict[str, Any]:
    """The object of a `.json` member.

    Raises:
        BrokenSample: not JSON, no object, nested too deeply, broken Unicode, or longer than the limits.
    """
    _check_bytes(data, min(limits.bytes, JSON_BYTES), "json")
    record = json.loads(data)
    if not isinstance(record, dict):
        _refuse(f"the json is a {type(record).__name__}, not an object")
    return dict(record)


# --- arrays -----------------------------------------------------------------------------------------------------------


@_decoder
def decode_npz(data: bytes, limits: Limits = NORMAL) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` member, by name; numbers and booleans only, no pickles.

    Raises:
        BrokenSample: damaged, objects inside, or larger than `limits.bytes` when unpacked.
    """
    _check_bytes(data, limits.bytes, "npz")
    if data.count(b"PK\x01\x02") > limits.frames:  # entries, before an object is made of each
        _refuse(f"the npz has more than {limits.frames:,} arrays")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = archive.infolist()
        total = sum(entry.file_size for entry in entries)
        if total > limits.bytes or len(entries) > limits.frames:
            _refuse(f"the npz unpacks to {total:,} bytes in {len(entries)} arrays; the limit is {limits.bytes:,} bytes")
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


# --- sound and video --------------------------------------------------------------------------------------------------


@_decoder
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
    _check_bytes(data, limits.bytes, "sound")
    with soundfile.SoundFile(io.BytesIO(data)) as file:
        seconds = file.frames / file.samplerate
        if not 0 < seconds <= limits.seconds or file.frames * file.channels * 4 > 4 * limits.bytes:
            _refuse(f"the sound lasts {seconds:.1f} seconds ({file.channels} channels); the limit is {limits.seconds}")
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


@_decoder
def decode_video(data: bytes, limits: Limits = NORMAL, container: str = "mp4") -> list[Image.Image]:
    """The frames of a video in order of time, as PIL images in RGB.

    `container` is the extension (mp4, webm, mkv, mov, avi); it fixes the demuxer, for FFmpeg's guess could be a
    playlist that opens other files.

    Raises:
        BrokenSample: damaged, no picture inside, or longer or larger than the limits.
        ModuleNotFoundError: PyAV is not installed.
    """
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError("video needs PyAV: pip install 'diptych[video]'.") from None
    _check_bytes(data, limits.bytes, "video")
    with av.open(io.BytesIO(data), mode="r", format=_CONTAINERS[container]) as file:
        if not file.streams.video:
            _refuse("the video has no pictures")
        stream = file.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"max_pixels": str(limits.pixels)}
        seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
        seconds = max(seconds, (file.duration or 0) / 1_000_000)
        frames = max(stream.frames, 1)
        size = stream.codec_context.width * stream.codec_context.height
        _check_video(frames, seconds, size, limits)
        pictures: list[Image.Image] = []
        for frame in file.decode(stream):  # headers may lie, so that what comes out is counted too
            _check_video(len(pictures) + 1, 0.0, frame.width * frame.height, limits)
            pictures.append(frame.to_image())
    if not pictures:
        _refuse("the video has no frames")
    return pictures


def _check_video(frames: int, seconds: float, size: int, limits: Limits) -> None:
    if frames > limits.frames or seconds > limits.seconds:
        _refuse(
            f"the video has {frames} frames in {seconds:.1f} seconds; "
            f"the limits are {limits.frames} frames and {limits.seconds} seconds"
        )
    if size > limits.pixels or frames * size > 4 * limits.pixels:
        _refuse(f"the video has {frames} frames of {size:,} pixels; the limit is {limits.pixels:,} a picture")
