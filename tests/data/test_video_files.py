import gc
import pickle
import weakref

import numpy as np
import pytest
from shard_helpers import film

from diptych.data import video
from diptych.data.check import Checks, check
from diptych.data.decode import BrokenSample, Limits
from diptych.data.fields import decode_sample
from diptych.data.raw import RawSample
from diptych.data.sheet import shown_of
from diptych.data.video import Video

KINDS = [
    ("mp4", "mp4", "mpeg4", {}),
    ("mp4", "mp4", "libx264", {"g": "10", "bf": "3"}),  # packets come in another order than frames
    ("matroska", "mkv", "libx264", {"g": "10", "bf": "3"}),
    ("webm", "webm", "libvpx", {"auto-alt-ref": "1", "lag-in-frames": "16", "g": "12"}),
    ("webm", "webm", "libvpx-vp9", {"auto-alt-ref": "1", "lag-in-frames": "16"}),
    ("avi", "avi", "mpeg4", {"g": "10", "bf": "2"}),
    ("gif", "video.gif", "gif", {}),
]
H264 = {"codec": "libx264", "g": "10", "bf": "3", "sc_threshold": "0"}


def pixels(frame):
    return np.asarray(frame)


@pytest.fixture
def decoded(monkeypatch):
    """Counts the frames that are decoded."""
    count = [0]
    plain = video._frames

    def counting(*args):
        for frame in plain(*args):
            count[0] += 1
            yield frame

    monkeypatch.setattr(video, "_frames", counting)
    return count


@pytest.mark.parametrize(("container", "name", "codec", "options"), KINDS)
def test_frames_come_in_order_of_time_and_each_one_is_found(container, name, codec, options):
    clip = Video(film(30, container=container, codec=codec, **options), container=name)
    assert (len(clip), clip.fps) == (30, 2.0)
    frames = list(clip)
    assert [frame.size for frame in frames] == [(32, 16)] * 30
    assert np.abs([pixels(frame).mean() - 40 * n % 256 for n, frame in enumerate(frames)]).max() < 6
    for number in np.random.default_rng(0).permutation(30):
        assert (pixels(clip[number]) == pixels(frames[number])).all()


def test_slices_and_negative_numbers_are_those_of_a_list():
    clip = Video(film(12))
    frames = list(clip)
    for which in (slice(None), slice(3, 9, 2), slice(None, None, -3), slice(5, 2), slice(-2, None)):
        assert [pixels(a).tolist() for a in clip[which]] == [pixels(b).tolist() for b in frames[which]]
    assert (pixels(clip[-1]) == pixels(frames[11])).all()
    for number in (12, -13):
        with pytest.raises(IndexError, match="of a video of 12 frames"):
            clip[number]


def test_only_what_is_needed_is_decoded(decoded):
    clip = Video(film(40, **H264))
    assert len(clip) == 40
    assert decoded == [0]
    clip[35]
    assert decoded == [6]  # 30, which is a key frame, to 35
    clip[37]
    assert decoded == [8]  # goes on from there
    clip[22]
    assert decoded == [11]  # back to the key frame 20
    clip[34]
    assert decoded == [16]  # jumps to the key frame 30
    decoded[0] = 0
    assert len(list(clip)) == 40
    assert decoded == [40]  # one pass


def test_packets_without_times_are_counted():
    clip = Video(film(25, container="avi", **H264), container="avi")
    assert [round(pixels(clip[number]).mean() / 40) for number in (5, 2, 3)] == [5, 2, 3]


@pytest.mark.parametrize("quarters", [1, 2, 3])
def test_a_video_that_was_filmed_on_its_side_stands_upright(quarters):
    data = bytearray(film(2))
    place = data.index(b"tkhd") + 4 + 40  # the matrix a b u c d v x y w, as 16.16
    a, b = [(0, 1), (-1, 0), (0, -1)][quarters - 1]  # clockwise
    for offset, value in ((0, a), (4, b), (12, -b), (16, a)):
        data[place + offset : place + offset + 4] = (value << 16).to_bytes(4, "big", signed=True)
    plain, turned = Video(film(2))[1], Video(bytes(data))[1]
    assert (pixels(turned) == np.rot90(pixels(plain), -quarters)).all()


def test_another_process_gets_the_same_video():
    clip = Video(film(12), Limits(frames=12), "mp4")
    other = pickle.loads(pickle.dumps(clip))
    assert (len(other), other.fps) == (len(clip), clip.fps)
    assert (pixels(other[7]) == pixels(clip[7])).all()


def test_memory_is_given_back_at_once():
    clip = Video(film(30, **H264))
    clip[3]
    gone = weakref.ref(clip)
    gc.disable()
    try:
        del clip
        assert gone() is None
    finally:
        gc.enable()


def test_a_pack_looks_into_videos_and_the_sheet_shows_three_frames():
    data = bytearray(film(7, **H264))
    start = data.index(b"mdat") + 4
    data[start : data.index(b"moov", start) - 4] = bytes(data.index(b"moov", start) - 4 - start)
    assert len(Video(bytes(data))) == 7  # its header is whole
    found = check(RawSample("k", "", {"mp4": bytes(data), "txt": b"a"}), Checks())
    assert isinstance(found, BrokenSample)
    assert "the video" in found.reason
    whole = check(RawSample("k", "", {"mp4": film(7), "txt": b"a"}), Checks())
    shown = shown_of("k", "train", whole.values).image
    assert shown.width > 5.5 * shown.height  # three frames of 2 : 1 side by side


def test_a_glance_is_at_the_first_the_middle_and_the_last_frame():
    clip = Video(film(7))
    assert [round(pixels(frame).mean() / 40) for frame in video.glance(clip)] == [0, 3, 6]
    assert len(video.glance(clip[:2])) == 2
    assert len(video.glance(clip[:1])) == 1


def test_a_sample_has_a_video():
    sample = decode_sample("k", {"mp4": film(), "txt": b"grey"}, ["video", "text"])
    assert len(sample.video) == 6
    sample = decode_sample("k", {"video.gif": film(container="gif", codec="gif")}, ["video"])
    assert len(sample.video) == 6


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (Limits(frames=2), "6 frames in 3.0 seconds"),  # all six are known before the third is decoded
        (Limits(seconds=2.5), "in 3.0 seconds"),
        (Limits(pixels=511), "frames of 512 pixels; the limit is 511"),
        (Limits(bytes=100), "the limit is 100"),
    ],
)
def test_long_or_large_video_is_refused_by_its_header(limits, reason, decoded):
    with pytest.raises(BrokenSample, match=reason):
        Video(film(), limits)
    assert decoded == [0]


def test_all_frames_together_have_a_limit_and_so_have_those_of_one_slice():
    limits = Limits(pixels=512)
    assert len(Video(film(40), limits)) == 40
    with pytest.raises(BrokenSample, match="41 frames of 512 pixels; the limit is 512 a frame and 20,480 in all"):
        Video(film(41), limits)
    assert len(Video(film(6), limits)[:4]) == 4
    with pytest.raises(BrokenSample, match="5 frames of 512 pixels are too many at once"):
        Video(film(6), limits)[:5]


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5])
def test_video_that_is_cut_short_is_broken(share):
    data = film()
    with pytest.raises(BrokenSample):
        Video(data[: int(len(data) * share)])


def test_a_video_whose_end_is_damaged_has_its_beginning():
    data = film(40, size=(64, 64), container="matroska", **H264)
    clip = Video(data[: len(data) * 3 // 4], container="mkv")  # files of this kind may end anywhere
    whole = Video(data, container="mkv")
    assert 20 < len(clip) < 40
    assert (pixels(clip[5]) == pixels(whole[5])).all()


def test_a_playlist_is_no_video(tmp_path):
    pytest.importorskip("av")
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(film())
    playlists = [
        f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{secret}\n#EXT-X-ENDLIST\n",
        f"ffconcat version 1.0\nfile '{secret}'\n",
    ]
    for playlist in playlists:
        for container in sorted(video.CONTAINERS):
            with pytest.raises(BrokenSample):
                Video(playlist.encode(), container=container)
