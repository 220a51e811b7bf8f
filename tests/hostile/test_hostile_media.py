"""Pictures, sound, video and arrays that a stranger made: refused by what their headers claim, in little memory."""

import io
import pickle
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hostile_helpers import Bomb, limited
from PIL import Image
from shard_helpers import encoded, film, npz, picture, png_header

from diptych.data.check import Checks, check
from diptych.data.decode import (
    JPEG_SCANS,
    BrokenSample,
    Limits,
    decode_audio,
    decode_image,
    decode_json,
    decode_npz,
)
from diptych.data.fields import decode_sample
from diptych.data.raw import RawSample
from diptych.data.video import Video

MIB = 1 << 20


def refused(decode, data, memory=150, seconds=10):
    """The reason why something is broken, found within limits."""

    def work():
        try:
            decode(data)
        except BrokenSample as broken:
            print(broken.reason)
            return 0
        return 1

    said = limited(work, memory, seconds)
    assert said.code == 0, said
    assert "MemoryError" not in said.text
    return said.text


# --- arrays -----------------------------------------------------------------------------------------------------------


def member(data):
    buffer = io.BytesIO()
    np.save(buffer, data, allow_pickle=True)
    return buffer.getvalue()


def zipped(method, data, claimed=None):
    """An npz of one member whose headers claim a size of their own."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method, compresslevel=1) as archive:
        archive.writestr("x.npy", data)
    made = bytearray(buffer.getvalue())
    if claimed is not None:
        central = made.index(b"PK\x01\x02")
        made[22:26] = made[central + 24 : central + 28] = struct.pack("<I", claimed)
    return bytes(made)


@pytest.mark.parametrize(
    ("method", "reason"),
    [(zipfile.ZIP_DEFLATED, "CRC"), (zipfile.ZIP_BZIP2, "not compressed"), (zipfile.ZIP_LZMA, "not compressed")],
)
def test_arrays_that_unpack_to_more_than_they_claim(method, reason):
    ten = member(np.zeros(10))
    assert reason in refused(decode_npz, zipped(method, ten + bytes(40 * MIB), len(ten)), memory=30)


def test_a_million_arrays():
    entry = b"PK\x01\x02" + bytes(42)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 65535, 65535, len(entry) * 500_000, 0, 0)
    assert "more than 1,024 arrays" in refused(decode_npz, entry * 500_000 + end, memory=60)


def test_pickles_in_arrays_are_not_read(tmp_path):
    data = zipped(zipfile.ZIP_STORED, member(np.array([Bomb(tmp_path / "ran")], dtype=object)))
    assert "not numbers" in refused(decode_npz, data)
    assert refused(decode_npz, pickle.dumps(Bomb(tmp_path / "ran")))
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("shape", ["(0, 9223372036854775807)", "(-1, -80)", "(99999999999999,)", "(" * 400, "0" * 9000])
def test_shapes_that_lie(shape):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}}}".encode()
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + bytes(640)
    assert refused(decode_npz, zipped(zipfile.ZIP_STORED, data))


# --- pictures ---------------------------------------------------------------------------------------------------------


def scans(count, side, mode="L"):
    """A progressive JPEG whose last scan comes again and again, each time for a few bytes."""
    data = encoded(Image.new(mode, (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * count + b"\xff\xd9"


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_jpeg_with_thousands_of_scans_costs_no_time(mode):
    assert "64 progressive scans" in refused(decode_image, scans(5_000, 4_000, mode), seconds=5)


def test_ordinary_progressive_jpegs_and_what_phones_append_are_read():
    data = encoded(Image.effect_noise((64, 64), 90).convert("RGB"), "JPEG", progressive=True)
    assert decode_image(data + b"\xff\xda" * (2 * JPEG_SCANS)).size == (64, 64)  # a video behind the picture


def png_with(*chunks):
    data = picture()
    made = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    ]
    return data[:33] + b"".join(made) + data[33:]


@pytest.mark.parametrize("name", [b"zTXt", b"iCCP"])
def test_compressed_chunks_of_a_png(name):
    squeezed = zlib.compress(bytes(100 * MIB), 1)
    assert "too large" in refused(decode_image, png_with((name, b"k\0\0" + squeezed)), memory=60)


def tiff(width, height, tile_width, tile_height):
    """A TIFF of one compressed tile that claims any size."""
    data = zlib.compress(bytes(1000))
    tags = [(256, width), (257, height), (258, 8), (259, 8), (262, 1), (277, 1), (322, tile_width), (323, tile_height)]
    tags += [(324, 400), (325, len(data))]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries).ljust(400, b"\0") + data


@pytest.mark.parametrize("sizes", [(16, 16, 2**31 - 16, 16), (16, 16, 60_000, 60_000), (60_000, 60_000, 256, 256)])
def test_tiffs_that_claim_giant_tiles(sizes):
    raw = RawSample("k", "", {"tif": tiff(*sizes)})
    said = limited(lambda: print(check(raw, Checks()).reason), memory=300, seconds=10)
    assert said.code == 0
    assert "picture" in said.text


@pytest.mark.parametrize(
    "data", [b"\0\0\1\0" + bytes(300), b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run", b"%PDF-1.7"]
)
def test_other_formats_are_never_opened(data):
    assert "damaged or not one of" in refused(decode_image, data)  # ICO, and EPS, which PIL hands to Ghostscript


def test_many_large_pictures_in_one_sample():
    members = {f"{number}.png": png_header(5_000, 5_000) for number in range(20)}
    assert "together" in refused(lambda data: decode_sample("k", data, ["images"]), members, memory=60)


# --- sound ------------------------------------------------------------------------------------------------------------


def sound(kind, subtype, rate=16_000):
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(4_000, np.float32), rate, format=kind, subtype=subtype)
    return bytearray(buffer.getvalue())


def flac(samples):
    data = sound("FLAC", "PCM_16")
    data[21] = (data[21] & 0xF0) | (samples >> 32)
    data[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(data)


@pytest.mark.parametrize("samples", [2**36 - 1, 0, 16_000 * 599])
def test_a_flac_that_claims_hours(samples):
    assert "sound" in refused(decode_audio, flac(samples), memory=200) or samples == 16_000 * 599


def test_an_mp3_that_claims_hours():
    data = sound("MP3", "MPEG_LAYER_III")
    place = max(data.find(b"Xing"), data.find(b"Info"))
    data[place + 8 : place + 12] = struct.pack(">I", 2**31)
    assert "the limit is 600" in refused(decode_audio, bytes(data))


def test_an_ogg_that_claims_hours():
    data = sound("OGG", "VORBIS")
    place = data.rindex(b"OggS")
    data[place + 6 : place + 14] = struct.pack("<q", 16_000 * 360_000)
    assert refused(decode_audio, bytes(data))


def test_a_wav_that_claims_hours_has_what_is_there():
    data = sound("WAV", "PCM_16")
    place = data.index(b"data")
    data[place + 4 : place + 8] = struct.pack("<I", 2**32 - 40)
    assert len(decode_audio(bytes(data))) == 4_000


# --- video ------------------------------------------------------------------------------------------------------------


def field(data, box, offset, value):
    """The MP4 with a 32-bit number written behind the name of a box."""
    place = data.index(box) + 4 + offset
    return data[:place] + struct.pack(">I", value) + data[place + 4 :]


@pytest.mark.parametrize(
    ("box", "offset", "value"),
    [
        (b"mvhd", 16, 2**32 - 1),  # duration of the film
        (b"mdhd", 16, 2**32 - 2),  # duration of the track
        (b"mdhd", 12, 1),  # ticks a second
        (b"stsz", 8, 2**31),  # number of samples
        (b"stts", 8, 2**31),
        (b"stts", 12, 2**31 - 1),  # duration of a sample
        (b"mp4v", 24, 0xFFFFFFFF),  # width and height
        (b"stsc", 4, 2**31),
        (b"stco", 8, 2**31),
    ],
)
def test_videos_whose_boxes_lie(box, offset, value):
    data = field(film(size=(32, 32)), box, offset, value)

    def work():
        try:
            frames = list(Video(data))
            print(len(frames), frames[0].size)
        except BrokenSample as broken:
            print(broken.reason)

    said = limited(work, memory=300, seconds=15)
    assert said.code == 0
    assert "MemoryError" not in said.text


def test_a_playlist_that_calls_itself_a_video_reads_nothing(tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    playlist = f"#EXTM3U\n#EXTINF:10,\nfile://{tmp_path}/secret.txt\n#EXT-X-ENDLIST\n".encode()
    for container in ("mp4", "webm", "avi"):
        assert "secret" not in refused(lambda data, kind=container: Video(data, container=kind), playlist)


def test_an_endless_stream_of_small_frames_ends_at_the_limit():
    data = film(1100, (16, 16), "matroska")  # whose header has no number of frames
    said = refused(lambda data: Video(data, container="mkv"), data)
    assert said == "the video has 1025 frames in 0.0 seconds; the limits are 1024 frames and 600.0 seconds\n"


def test_an_animation_that_claims_to_be_huge():
    data = bytearray(film(3, container="gif", codec="gif"))
    data[6:10] = b"\xff\xff\xff\xff"  # width and height of the screen
    assert refused(lambda data: list(Video(data, container="video.gif")), bytes(data))


def test_frames_that_grow_on_the_way():
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(io.BytesIO(film(3, (640, 640), "webm", "libvpx"))) as large, av.open(buffer, "w", "webm") as file:
        small = av.open(io.BytesIO(film(3, (32, 32), "webm", "libvpx")))
        stream = file.add_stream_from_template(small.streams.video[0])
        for number, packet in enumerate([*small.demux(video=0)][:3] + [*large.demux(video=0)][:3]):
            packet.stream, packet.pts, packet.dts = stream, 500 * number, 500 * number
            file.mux(packet)
    video = Video(buffer.getvalue(), Limits(pixels=300_000), "webm")
    assert (len(video), video[2].size) == (6, (32, 32))
    with pytest.raises(BrokenSample, match="6 frames of 409,600 pixels"):
        video[4]
    assert video[1].size == (32, 32)


def test_sound_alone_is_no_video():
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as file:
        stream = file.add_stream("aac", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 16_000
        file.mux(stream.encode(frame))
        file.mux(stream.encode())
    assert refused(Video, buffer.getvalue()) == "the video has no pictures\n"


# --- JSON and numbers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [b'{"a":' * 100_000, b"[" * 4_000_000, b'{"a": ' + b"9" * 5_000 + b"}"])
def test_json_that_is_no_record(data):
    assert refused(decode_json, data)


def test_numbers_that_no_tensor_holds():
    with pytest.raises(BrokenSample, match="too large a number"):
        decode_sample("k", {"json": b'{"label": ' + b"9" * 400 + b"}"}, ["label"])


def test_reasons_are_one_short_line():
    broken = BrokenSample("k", "its category '" + "\x1b[2J\n" * 10_000 + "' is unknown")
    assert broken.reason.isprintable()
    assert len(broken.reason) <= 240
    assert decode_npz(npz(x=np.arange(3)), Limits(bytes=1000))["x"].tolist() == [0, 1, 2]
