"""Small shards and tars, good and bad, made on the fly."""

import io
import json
import tarfile

from PIL import Image

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
