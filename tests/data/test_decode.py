import io
import struct
import zipfile

import numpy as np
import pytest
from PIL import Image
from shard_helpers import (
    bmp_header,
    encoded,
    gif_header,
    jpeg_header,
    npz,
    picture,
    png_header,
    webp_header,
)

from diptych.data import decode
from diptych.data.decode import (
    AUDIO_RATE,
    BrokenSample,
    Limits,
    decode_audio,
    decode_image,
    decode_json,
    decode_npz,
    decode_text,
    image_header,
    resample,
)


def noise(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


# --- pictures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "GIF", "BMP", "JPEG"])
def test_every_allowed_format_comes_out_as_rgb(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    data = picture((9, 5), (250, 10, 20), kind, **options)
    image = decode_image(data)
    assert (image.mode, image.size) == ("RGB", (9, 5))
    assert np.abs(np.asarray(image, int) - [250, 10, 20]).max() <= (6 if kind == "JPEG" else 0)
    assert image_header(data) == (kind, 9, 5)


@pytest.mark.parametrize("size", [(64, 64), (37, 51), (16, 3)])
@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}, {"progressive": True}])
def test_a_jpeg_is_the_same_bit_for_bit_with_and_without_simplejpeg(size, options, monkeypatch):
    data = encoded(noise(*size), "JPEG", quality=80, **options)
    library = pytest.importorskip("simplejpeg")
    calls = []
    monkeypatch.setattr(
        library, "decode_jpeg", lambda data, decode=library.decode_jpeg: calls.append(1) or decode(data)
    )
    fast = decode_image(data)
    monkeypatch.setattr(decode, "_simplejpeg", lambda: None)
    assert fast.tobytes() == decode_image(data).tobytes() == Image.open(io.BytesIO(data)).tobytes()
    assert (fast.size, len(calls)) == (size, 1)


def test_only_whole_upright_jpegs_in_common_colours_go_to_simplejpeg(monkeypatch):
    library = pytest.importorskip("simplejpeg")
    exif = Image.Exif()
    exif[0x0112] = 6
    left = [encoded(noise(20, 10).convert(mode), "JPEG") for mode in ("L", "CMYK")]
    left += [encoded(noise(20, 10), "JPEG", exif=exif), encoded(noise(20, 10), "PNG")]
    huge = encoded(noise(20, 10), "JPEG")
    monkeypatch.setattr(library, "decode_jpeg", lambda data: pytest.fail("decoded"))
    for data in left:
        assert decode_image(data).mode == "RGB"
    with pytest.raises(BrokenSample, match="20 x 10 pixels; the limit is 199"):
        decode_image(huge, Limits(pixels=199))
    with pytest.raises(BrokenSample, match="the limit is 100"):
        decode_image(huge, Limits(bytes=100))


@pytest.mark.parametrize("kind", ["TIFF", "PPM", "ICO", "PDF", "SGI"])
def test_other_formats_are_never_decoded(kind):
    with pytest.raises(BrokenSample, match="damaged or not one of JPEG, PNG"):
        decode_image(encoded(Image.new("RGB", (8, 8)), kind))


def test_transparency_is_shown_on_white():
    clear = Image.new("RGBA", (2, 1), (10, 20, 30, 0))
    clear.putpixel((1, 0), (200, 0, 0, 128))
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        left, right = np.asarray(decode_image(encoded(clear, kind, **options)), int)[0]
        assert left.tolist() == [255, 255, 255]
        assert np.abs(right - [227, 127, 127]).max() <= 1  # half of 200, 0, 0 and half of white
    grey = Image.new("LA", (1, 1), (0, 0))
    assert np.asarray(decode_image(encoded(grey))).tolist() == [[[255, 255, 255]]]
    palette = Image.new("P", (1, 1), 0)
    palette.putpalette([9, 9, 9])
    assert np.asarray(decode_image(encoded(palette, transparency=0))).tolist() == [[[255, 255, 255]]]


def test_sixteen_bit_grey_is_scaled_and_not_clipped():
    image = Image.fromarray(np.array([[0, 257 * 100, 65535]], dtype=np.uint16))
    assert np.asarray(decode_image(encoded(image)))[0, :, 0].tolist() == [0, 100, 255]


def test_exif_orientation_is_applied():
    image = Image.new("RGB", (40, 20))
    image.paste((255, 255, 255), (0, 0, 20, 20))  # white on the left
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise: left becomes top
    turned = decode_image(encoded(image, "JPEG", exif=exif, quality=95))
    assert turned.size == (20, 40)
    pixels = np.asarray(turned, int)
    assert pixels[5].min() > 200
    assert pixels[35].max() < 50


def test_damaged_exif_does_not_cost_the_picture():
    data = encoded(Image.new("RGB", (8, 8)), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff" + bytes(20))
    assert decode_image(data).size == (8, 8)


def test_cmyk_grey_and_animation():
    assert decode_image(encoded(Image.new("CMYK", (8, 8)), "JPEG")).mode == "RGB"
    assert decode_image(encoded(Image.new("L", (8, 8), 7))).getpixel((0, 0)) == (7, 7, 7)
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    moving = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(moving).getpixel((0, 0)) == (255, 0, 0)


def test_side_lets_a_jpeg_shrink_but_never_below_it():
    data = encoded(noise(640, 480), "JPEG")
    assert decode_image(data).size == (640, 480)
    assert decode_image(data, side=240).size == (320, 240)
    assert decode_image(data, side=241).size == (640, 480)
    assert decode_image(data, side=60).size == (80, 60)
    assert decode_image(encoded(noise(64, 48)), side=6).size == (64, 48)  # other formats stay as they are


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9])
def test_a_picture_that_is_cut_short_is_broken(kind, share):
    data = encoded(noise(64, 64), kind)
    with pytest.raises(BrokenSample):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("header", [png_header, webp_header, gif_header, bmp_header, jpeg_header])
def test_too_many_pixels_are_refused_before_decoding(header, monkeypatch):
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("decoded"))
    side = 16_000 if header in (webp_header, gif_header) else 60_000
    with pytest.raises(BrokenSample, match=r"pixels; the limit is 50,000,000|more than [\d,]+ pixels"):
        decode_image(header(side, side))


def test_no_canvas_is_made_for_a_webp_that_is_too_large(monkeypatch):
    from PIL import WebPImagePlugin

    monkeypatch.setattr(WebPImagePlugin._webp, "WebPAnimDecoder", lambda _: pytest.fail("opened"))
    with pytest.raises(BrokenSample, match="12000 x 11000 pixels"):
        decode_image(webp_header(12_000, 11_000))
    for lossless in (True, False):
        with pytest.raises(BrokenSample, match="30 x 20 pixels; the limit is 599"):
            decode_image(picture((30, 20), kind="WEBP", lossless=lossless), Limits(pixels=599))


def test_the_limit_of_pixels_is_inclusive():
    data = picture((10, 10))
    assert decode_image(data, Limits(pixels=100)).size == (10, 10)
    with pytest.raises(BrokenSample, match="10 x 10 pixels; the limit is 99"):
        decode_image(data, Limits(pixels=99))


def test_too_many_bytes_are_refused():
    data = picture()
    with pytest.raises(BrokenSample, match="the limit is 10"):
        decode_image(data, Limits(bytes=10))


# --- text and JSON ----------------------------------------------------------------------------------------------------


def test_text_is_utf8_without_mark_and_trailing_space():
    assert decode_text("\ufeffein Käfer \r\n".encode()) == "ein Käfer"
    assert decode_text(b"  two") == "  two"  # spans count from the beginning


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b" \n\t", "the text is empty"),
        (b"\xff\xfe", "cannot be decoded"),
        (b"\xed\xa0\x80", "cannot be decoded"),
        (b"x" * (1 << 21), "1,048,576"),
    ],
)
def test_text_that_is_none(data, reason):
    with pytest.raises(BrokenSample, match=reason):
        decode_text(data)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"[1]", "a list, not an object"),
        (b"{", "JSONDecodeError"),
        (b"\xff", "cannot be decoded"),
        (b'{"a":' * 200_000, "RecursionError"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "ValueError"),
        (b'{"a": "' + b"x" * (1 << 22) + b'"}', "4,194,304"),
    ],
)
def test_json_that_is_none(data, reason):
    with pytest.raises(BrokenSample, match=reason):
        decode_json(data)
    assert decode_json(b'{"a": [1, "\xc3\xa4"]}') == {"a": [1, "ä"]}


# --- arrays -----------------------------------------------------------------------------------------------------------


def test_arrays_come_back():
    arrays = {
        "f": np.arange(6, dtype=np.float16).reshape(2, 3),
        "t": np.asfortranarray(np.eye(3)),
        "b": np.array([True]),
    }
    found = decode_npz(npz(**arrays))
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        assert np.array_equal(found[name], array)
    found["f"][0, 0] = 7  # writable


def test_pickled_arrays_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    buffer = io.BytesIO()
    np.savez(buffer, x=np.array([Evil()], dtype=object))
    with pytest.raises(BrokenSample, match="not numbers"):
        decode_npz(buffer.getvalue())
    assert not (tmp_path / "ran").exists()


def test_an_array_bomb_is_refused_by_its_header():
    with pytest.raises(BrokenSample, match="unpacks to 80,000,128 bytes"):
        decode_npz(npz(x=np.zeros(10_000_000)))


def test_a_header_that_claims_more_than_there_is_allocates_nothing():
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }"
    header += b" " * (118 - len(header) - 1) + b"\n"
    member = b"\x93NUMPY\x01\x00" + struct.pack("<H", 118) + header + bytes(80)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", member)
    with pytest.raises(BrokenSample, match=r"claims the shape \(1000000000000,\) and has 80 bytes"):
        decode_npz(buffer.getvalue())


# --- sound ------------------------------------------------------------------------------------------------------------


def tone(rate, seconds=0.5, hertz=440.0):
    return np.sin(2 * np.pi * hertz * np.arange(int(rate * seconds)) / rate).astype(np.float32)


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 16_000])
def test_resampling_keeps_a_tone(rate):
    found = resample(tone(rate), rate, 16_000)
    assert found.shape == (8_000,)
    assert found.dtype == np.float32
    assert np.abs(found - tone(16_000)).max() < 1e-4  # 220 whole periods: exact but for rounding


def test_resampling_downwards_removes_what_the_new_rate_cannot_hold():
    assert np.abs(resample(tone(16_000, hertz=6_000.0), 16_000, 8_000)).max() < 1e-5


@pytest.mark.parametrize(("kind", "subtype"), [("WAV", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS")])
def test_sound_is_mono_at_one_rate(kind, subtype):
    soundfile = pytest.importorskip("soundfile")
    stereo = np.stack([tone(8_000), np.zeros(4_000, np.float32)], axis=1)
    buffer = io.BytesIO()
    soundfile.write(buffer, stereo, 8_000, format=kind, subtype=subtype)
    found = decode_audio(buffer.getvalue())
    assert found.shape == (AUDIO_RATE // 2,)
    spectrum = np.abs(np.fft.rfft(found))
    assert np.argmax(spectrum) == 220  # 440 Hz in half a second
    assert abs(np.abs(found).max() - 0.5) < 0.1  # the mean of the tone and silence


def test_long_sound_is_refused_by_its_header(monkeypatch):
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, np.zeros(16_000 * 3, np.float32), 16_000, format="FLAC")
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *_, **__: pytest.fail("decoded"))
    with pytest.raises(BrokenSample, match=r"lasts 3\.0 seconds"):
        decode_audio(buffer.getvalue(), Limits(seconds=2.9))


@pytest.mark.parametrize("data", [b"", b"RIFF", b"OggS" + bytes(100), b"fLaC" + bytes(50), bytes(1000)])
def test_sound_that_is_none(data):
    pytest.importorskip("soundfile")
    with pytest.raises(BrokenSample, match=r"sound|audio"):
        decode_audio(data)
