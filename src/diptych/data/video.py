"""Bytes -> a video whose frames are decoded when they are asked for, each limit checked before and while decoding.

All packets are read at once, which decodes nothing and tells the number of frames, their times and the key frames.
A frame is then decoded from the key frame before it, or from where the last one ended if that is nearer.
"""

from __future__ import annotations

import io
import operator
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from math import inf
from typing import TYPE_CHECKING, Any, overload

from diptych.data.decode import NORMAL, Limits, check_bytes, decoding, refuse

if TYPE_CHECKING:
    from PIL.Image import Image

CONTAINERS = {"mp4": "mp4", "mov": "mp4", "webm": "matroska", "mkv": "matroska", "avi": "avi", "video.gif": "gif"}
"""Extension of a member -> the demuxer that may open it. FFmpeg's guess could be a playlist that opens other files."""

AT_ONCE = 4  # times the pixels of a picture: memory
IN_ALL = 40  # times the pixels of a picture: time


class Video(Sequence["Image"]):
    """The frames of a video in order of time, as PIL images in RGB; `fps` of them a second, None if that is unknown.

    `video[3]` decodes one frame, a slice those in it. Frames that are asked for in order are decoded in one pass.

    Args:
        data: the file.
        limits: of bytes, frames, seconds, and pixels of a frame and of all frames together.
        container: the extension, one of `CONTAINERS`.

    Raises:
        BrokenSample: damaged, no picture inside, or longer or larger than the limits; so does asking for a frame.
        ModuleNotFoundError: PyAV is not installed.
    """

    fps: float | None

    def __init__(self, data: bytes, limits: Limits = NORMAL, container: str = "mp4") -> None:
        self._data, self._limits, self._container = data, limits, container
        check_bytes(data, limits.bytes, "video")
        with decoding("video"):
            self._stream = _opened(data, limits, CONTAINERS[container])
            self._packets = _packets(self._stream, limits)
        self.fps = float(self._stream.average_rate) if self._stream.average_rate else None
        shown = [packet.pts for packet in self._packets]
        # an AVI has no times of presentation, only FFmpeg's guess at them
        self._timed = container != "avi" and None not in shown and len(set(shown)) == len(shown)
        self._times = sorted(shown) if self._timed else list(range(len(shown)))
        keys = [(p.pts, number) for number, p in enumerate(self._packets) if p.is_keyframe] if self._timed else []
        self._keys = sorted(
            [(-inf, 0), *keys]
        )  # time from which on frames can be decoded, and the packet to begin with
        self._time = inf  # of the frame that was decoded last
        self._coming: Iterator[tuple[float, Any]] = iter(())  # those that follow it

    def __len__(self) -> int:
        return len(self._times)

    @overload
    def __getitem__(self, which: int) -> Image: ...
    @overload
    def __getitem__(self, which: slice) -> list[Image]: ...
    def __getitem__(self, which: int | slice) -> Image | list[Image]:
        if isinstance(which, slice):
            numbers = range(*which.indices(len(self)))
            size = self._stream.codec_context.width * self._stream.codec_context.height
            if len(numbers) * size > AT_ONCE * self._limits.pixels:
                refuse(f"{len(numbers)} frames of {size:,} pixels are too many at once; ask for fewer")
            return [self._frame(number) for number in numbers]
        number = operator.index(which)
        number += len(self) if number < 0 else 0
        if not 0 <= number < len(self):
            raise IndexError(f"frame {operator.index(which)} of a video of {len(self)} frames")
        return self._frame(number)

    @decoding("video")
    def _frame(self, number: int) -> Image:
        """The first frame that is shown at its time or later: some codecs have packets of which nothing is shown."""
        wanted = self._times[number]
        key, packet = self._keys[bisect_right(self._keys, (wanted, inf)) - 1]
        if not key <= self._time < wanted:
            timed = self._timed  # a generator that knew this object would keep it alive
            frames = _frames(self._stream, self._packets[packet:], len(self), self._limits)
            self._coming = ((frame.pts if timed else count, frame) for count, frame in enumerate(frames))
        self._time = inf  # unless a frame is found
        for time, frame in self._coming:
            if time >= wanted:
                self._time = time
                return _picture(frame)
        refuse("the video ends before its last frames")

    def __reduce__(self) -> Any:
        return Video, (self._data, self._limits, self._container)

    def __del__(self) -> None:
        if hasattr(self, "_stream"):  # else it would wait for the garbage collector, with all its memory
            self._stream.container.close()


def glance(video: Sequence[Image]) -> list[Image]:
    """The first, the middle and the last frame; fewer of a video that has fewer."""
    return [video[number] for number in sorted({0, len(video) // 2, len(video) - 1})]


def _opened(data: bytes, limits: Limits, demuxer: str) -> Any:
    """The first video of the file, after a look at its header."""
    try:
        import av
    except ModuleNotFoundError:
        raise ModuleNotFoundError("video needs PyAV: pip install 'diptych[video]'.") from None
    options = {"max_pixels": str(2 * limits.pixels + (1 << 16))}  # the decoder adds borders; frames are checked too
    file = av.open(io.BytesIO(data), mode="r", format=demuxer, options=options)
    if not file.streams.video:
        refuse("the video has no pictures")
    stream = file.streams.video[0]
    stream.codec_context.thread_count = 1
    stream.codec_context.options = options
    length = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    _check(max(stream.frames, 1), max(length, (file.duration or 0) / 1_000_000), stream.codec_context, limits)
    return stream


def _packets(stream: Any, limits: Limits) -> list[Any]:
    """The packets that are shown, in order of decoding."""
    packets: list[Any] = []
    for packet in stream.container.demux(stream):
        if packet.size and not packet.is_discard:
            packets.append(packet)
            _check(len(packets), 0.0, stream.codec_context, limits)
    if not packets:
        refuse("the video has no frames")
    times = [packet.pts for packet in packets if packet.pts is not None] or [0]
    _check(len(packets), float((max(times) - min(times)) * (stream.time_base or 0)), stream.codec_context, limits)
    return packets


def _frames(stream: Any, packets: Sequence[Any], count: int, limits: Limits) -> Iterator[Any]:
    """The frames of these packets, in order of time, in a video of `count`."""
    stream.codec_context.flush_buffers()
    for packet in [*packets, None]:  # None makes the decoder give what it holds back
        for frame in stream.codec_context.decode(packet):
            _check(count, 0.0, frame, limits)  # the header may have lied
            yield frame


def _picture(frame: Any) -> Image:
    from av.video.reformatter import VideoReformatter
    from PIL import Image as Pictures

    # seven times faster than `frame.to_image()`
    picture = Pictures.fromarray(VideoReformatter().reformat(frame, format="rgb24").to_ndarray())
    return picture.rotate(frame.rotation, expand=True) if frame.rotation else picture


def _check(frames: int, seconds: float, frame: Any, limits: Limits) -> None:
    size = frame.width * frame.height
    if frames > limits.frames or seconds > limits.seconds:
        refuse(
            f"the video has {frames} frames in {seconds:.1f} seconds; "
            f"the limits are {limits.frames} frames and {limits.seconds} seconds"
        )
    if size > limits.pixels or frames * size > IN_ALL * limits.pixels:
        refuse(
            f"the video has {frames} frames of {size:,} pixels; "
            f"the limit is {limits.pixels:,} a frame and {IN_ALL * limits.pixels:,} in all"
        )
