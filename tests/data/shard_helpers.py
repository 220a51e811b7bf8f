"""Small shards and tars, good and bad, made on the fly."""

import io
import json
import struct
import tarfile
import zlib

import numpy as np
import pytest
from PIL import Image, ImageDraw

from diptych.data.shards import ShardWriter


def picture(size=(8, 6), colour=(200, 30, 40), kind="PNG", **options):
    buffer = io.BytesIO()
    image = Image.new("RGB", size, colour) if isinstance(colour, tuple) and len(colour) == 3 else colour
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def members_of(number, **more):
    """Sample `number`: its picture is `number` grey, its caption and category say so too."""
    record = {"category": ("dog", "ant", "cat")[number % 3], "number": number} | more
    grey = (number % 256,) * 3
    return {"png": picture((4, 4), grey), "txt": f"number {number}".encode(), "json": json.dumps(record).encode()}


def write_set(folder, count, split="train", first=0, **options):
    with ShardWriter(folder, split, **options) as writer:
        for number in range(first, first + count):
            writer.add(f"sample_{number:05d}", members_of(number))
    return folder


def tar_bytes(members, kind=tarfile.GNU_FORMAT):
    """A tar of (name or TarInfo, data) pairs, written by the standard library."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=kind) as tar:
        for name, data in members:
            info = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def special(name, kind, target=""):
    """A TarInfo that is no plain file."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def encoded(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def film(frames=6, size=(32, 16), container="mp4", codec="mpeg4", **options):
    """A video of two frames a second, frame n of which is `40 * n % 256` grey; `options` are the encoder's."""
    av = pytest.importorskip("av")
    if codec not in av.codecs_available:
        pytest.skip(f"this PyAV has no {codec}")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as file:
        stream = file.add_stream(codec, rate=2, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, "rgb8" if codec == "gif" else "yuv420p"
        for n in range(frames):
            grey = np.full((size[1], size[0], 3), 40 * n % 256, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        file.mux(stream.encode())
    return buffer.getvalue()


def npz(**arrays):
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


# --- headers that claim any size, with next to nothing behind them ---


def png_header(width, height):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


def webp_header(width, height):
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + bytes(32)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def gif_header(width, height):
    return (
        b"GIF89a"
        + struct.pack("<HH", width, height)
        + bytes(3)
        + b","
        + struct.pack("<HHHH", 0, 0, width, height)
        + b"\0\2\0;"
    )


def bmp_header(width, height):
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


def jpeg_header(width, height):
    data = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def drawing(seed: int, size: int = 96) -> Image.Image:
    """A scene of discs on a coloured ground: no two seeds alike."""
    rng = np.random.default_rng(seed)
    image = Image.new("RGB", (size, size), tuple(rng.integers(0, 256, 3).tolist()))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y, r = [*rng.uniform(0, size, 2).tolist(), rng.uniform(size / 12, size / 4)]
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(rng.integers(0, 256, 3).tolist()))
    return image
