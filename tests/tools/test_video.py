"""Videos: timestamps, nearest frames, seeking, variable rates, rotation, broken files."""

import io
import threading
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import VideoReformatter
from hypothesis import given, settings
from hypothesis import strategies as st

from pixelis_fast.tools_trt.pixels.ahead import ahead
from pixelis_fast.tools_trt.pixels.video import index_video, read_video
from pixelis_fast.tools_trt.pixels.video_cursor import MAX_OPEN, OpenVideos, VideoCursor
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip

CLIPS = {"bikes.mp4": (250, 10.0), "carphone_pristine.mp4": (120, 4.004)}


def flat(level, *, width=64, height=48):
    return np.full((height, width, 3), level, np.uint8)


def encode(frames, pts, *, time_base=Fraction(1, 100), gop=1000, codec="mpeg4"):
    """An mp4 of the frames at these timestamps."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt, stream.gop_size = "yuv420p", gop
        stream.codec_context.time_base = stream.time_base = time_base
        for image, time in zip(frames, pts, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = time, time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return buffer.getvalue()


def all_frames(data):
    with av.open(io.BytesIO(data)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("name", CLIPS)
def test_add_video_real_clips(name):
    info = MediaStore().add_video(clip(name))
    assert (info.num_frames, info.duration_s) == pytest.approx(CLIPS[name])


@pytest.mark.parametrize("name", CLIPS)
def test_frames_equal_a_plain_decode(name):
    data = clip(name).read_bytes()
    index = index_video(data)
    expected = all_frames(data)
    numbers = [len(expected) - 1, 0, 77, 78, 40]
    cursor = VideoCursor(data, index)
    for n in numbers:
        np.testing.assert_array_equal(cursor.read(n).rgb(), expected[n])


@pytest.mark.parametrize("name", CLIPS)
def test_frames_kept_from_the_index_are_the_same(name):
    data = clip(name).read_bytes()
    index, kept = read_video(data, keep_bytes=1 << 30)
    assert index == index_video(data)
    assert list(kept) == list(range(len(index.pts)))
    for n, expected in enumerate(all_frames(data)):
        np.testing.assert_array_equal(kept[n].rgb(), expected)


def test_frames_are_kept_all_or_none():
    data = clip("carphone_pristine.mp4").read_bytes()
    total = sum(frame.nbytes for frame in read_video(data, keep_bytes=1 << 30)[1].values())
    assert len(read_video(data, keep_bytes=total)[1]) == 120
    assert read_video(data, keep_bytes=total - 1)[1] == {}


def test_store_answers_the_same_with_and_without_kept_frames():
    large, none = MediaStore(), MediaStore(byte_budget=0)
    video = large.add_video(clip("bikes.mp4"))
    assert none.add_video(clip("bikes.mp4")) == video
    assert 0 < large.pixel_bytes < 250 * 640 * 272 * 3
    numbers = [249, 3, 60, 3]
    pairs = [list(store.decoded_frames(video.id, numbers)) for store in (large, none)]
    assert [len(frames) for frames in pairs] == [3, 3]
    for one, other in zip(*pairs, strict=True):
        np.testing.assert_array_equal(one.rgb(), other.rgb())


@pytest.mark.parametrize(
    ("box", "size"),
    [
        ((0, 0, 640, 272), (96, 41)),
        ((33, 17, 512, 260), (96, 49)),
        ((101, 50, 299, 152), (96, 50)),
        ((101, 50, 181, 110), (80, 60)),
        ((7, 9, 8, 10), (1, 1)),
    ],
    ids=["whole", "odd", "nearly half", "own size", "pixel"],
)
def test_small_frames_are_close_to_reduced_rgb(box, size):
    data = clip("bikes.mp4").read_bytes()
    x0, y0, x1, y1 = box
    cursor = VideoCursor(data, index_video(data))
    for frame in (cursor.read(0), cursor.read(100)):
        small = frame.small(box, size, VideoReformatter()).astype(int)
        expected = cv2.resize(frame.rgb()[y0:y1, x0:x1], size, interpolation=cv2.INTER_AREA)
        assert small.shape == expected.shape
        assert np.abs(small - expected).mean() < 4


def test_small_frames_of_a_turned_video_are_turned():
    image = flat(0, width=640, height=480)
    image[:240, :320] = 255
    data = turned([image] * 3)
    frame = VideoCursor(data, index_video(data)).read(1)
    small = frame.small((0, 0, 480, 640), (72, 96), VideoReformatter())
    assert small[:40, 40:].mean() > 200 > 50 > small[:40, :32].mean()


def test_frames_keep_order_and_repeats():
    store = MediaStore()
    video = store.add_video(clip("carphone_pristine.mp4"))
    times = [2.0, 0.5, 2.0, 2.001]
    frames = store.frames(video.id, times)
    assert frames[0] is frames[2] is frames[3]
    for time_s, image in zip(times, frames, strict=True):
        np.testing.assert_array_equal(image, store.frame(video.id, time_s))
    assert not np.array_equal(frames[0], frames[1])


def test_variable_frame_rate_is_kept():
    pts = [0, 10, 15, 100, 300]
    levels = [10, 60, 110, 160, 210]
    store = MediaStore()
    video = store.add_video(encode([flat(level) for level in levels], pts))
    assert store.index(video.id).times_s == pytest.approx([p / 100 for p in pts])
    for time_s, level in [(0.0, 10), (0.11, 60), (0.16, 110), (0.9, 160), (2.1, 210), (1.9, 160)]:
        assert abs(store.frame(video.id, time_s).mean() - level) < 4


def test_times_start_at_the_first_frame():
    index = index_video(encode([flat(10), flat(90)], [500, 600]))
    assert index.times_s == pytest.approx((0.0, 1.0))


def test_nearest_prefers_the_earlier_frame_in_a_tie():
    index = index_video(encode([flat(10), flat(90)], [0, 100]))
    assert [index.nearest(t) for t in (-1, 0.49, 0.5, 0.51, 9)] == [0, 0, 0, 1, 1]


def test_seeks_between_keyframes_are_exact():
    levels = list(range(0, 240, 4))
    data = encode([flat(v) for v in levels], range(0, len(levels) * 4, 4), gop=7)
    index = index_video(data)
    assert len(index.keyframes) > 5
    expected = all_frames(data)
    for numbers in ([0], [6], [7], [13, 14], [59], [3, 30, 31, 58], [31, 30], list(range(60))):
        cursor = VideoCursor(data, index)
        for n in numbers:
            np.testing.assert_array_equal(cursor.read(n).rgb(), expected[n])


def long_groups():
    """A real clip as an mp4 of three long groups of pictures, its index and its frames."""
    data = encode(all_frames(clip("carphone_pristine.mp4").read_bytes()), range(120), gop=40)
    index = index_video(data)
    assert index.keyframes == (0, 40, 80)
    return data, index, all_frames(data)


def test_a_cursor_goes_on_from_where_it_stands():
    data, index, expected = long_groups()
    cursor = VideoCursor(data, index)
    for n in (50, 51, 60, 79, 80, 85):
        np.testing.assert_array_equal(cursor.read(n).rgb(), expected[n])
    assert cursor.num_entries == 1
    # From the keyframe at 40 to frame 85, each once.
    assert cursor.num_decoded == 46


@given(order=st.lists(st.integers(0, 119), min_size=1, max_size=20))
@settings(max_examples=20)
def test_no_group_is_entered_a_third_time(order):
    data, index, expected = LONG
    kept = {}
    cursor = VideoCursor(data, index)
    for n in order:
        frame = kept[n] if n in kept else cursor.read(n, keep=kept.setdefault)
        np.testing.assert_array_equal(frame.rgb(), expected[n])
    assert cursor.num_entries <= 2 * len(index.keyframes)
    assert cursor.num_decoded <= 2 * len(index.pts)


LONG = long_groups()


def test_the_store_keeps_the_group_it_decoded():
    data, index, expected = LONG
    rgb_bytes, group_bytes = 176 * 144 * 3, 40 * VideoCursor(data, index).read(0).nbytes
    # Room for one group beside some pictures, not for the whole video.
    store = MediaStore(byte_budget=2 * group_bytes + 8 * rgb_bytes)
    video = store.add_video(data)
    assert store.pixel_bytes == 0
    times_s = store.index(video.id).times_s
    for n in (70, 50, 69, 45, 70):
        np.testing.assert_array_equal(store.frame(video.id, times_s[n]), expected[n])
    cursor = store._videos.cursor(video.id, data, store.index(video.id))
    assert (cursor.num_entries, cursor.num_decoded) == (1, 31)


@pytest.fixture(scope="module")
def one_group():
    """A real clip as one group of 120 frames."""
    images = all_frames(clip("carphone_pristine.mp4").read_bytes())
    data = encode(images, range(120), gop=1000)
    assert index_video(data).keyframes == (0,)
    return data, all_frames(data)


class LongGroup:
    """A store whose budget holds 20 of the group's 120 decoded frames in half of it."""

    def __init__(self, data, expected):
        index = index_video(data)
        self.store = MediaStore(byte_budget=2 * 20 * index.frame_bytes)
        self.video = self.store.add_video(data)
        self.expected, self.times_s = expected, index.times_s
        self.cursor = self.store._videos.cursor(self.video.id, data, index)

    def decodes(self, *numbers):
        """How many frames were decoded to answer these, one call each."""
        before = self.cursor.num_decoded
        for number in numbers:
            image = self.store.frame(self.video.id, self.times_s[number])
            np.testing.assert_array_equal(image, self.expected[number])
        return self.cursor.num_decoded - before


def test_a_group_beyond_the_budget_is_decoded_once_in_order(one_group):
    group = LongGroup(*one_group)
    assert group.decodes(*range(0, 120, 7)) == 120
    assert group.cursor.num_entries == 1
    assert group.store.pixel_bytes <= 2 * 20 * index_video(one_group[0]).frame_bytes


def test_a_frame_of_a_group_beyond_the_budget_is_not_decoded_twice(one_group):
    group = LongGroup(*one_group)
    assert group.decodes(100) == 101
    # The twenty frames up to it are kept.
    assert group.decodes(100, 99, 90, 85, 100) == 0
    # Entered again: to ten frames behind the one asked for, and no further.
    assert group.decodes(60) == 71
    assert group.decodes(60, 70, 55, 60) == 0
    assert group.decodes(71, 72) == 2


def test_two_walks_through_one_group_share_their_passes(one_group):
    """Each pass for one of them reads ahead, so that not every step begins anew."""
    group = LongGroup(*one_group)
    steps = [number for pair in zip(range(30, 50), range(90, 110), strict=True) for number in pair]
    group.decodes(*steps)
    keeps_none = VideoCursor(one_group[0], index_video(one_group[0]))
    for number in steps:
        keeps_none.read(number)
    assert keeps_none.num_entries == 20
    assert group.cursor.num_entries <= 8


@given(order=st.lists(st.integers(0, 119), min_size=1, max_size=12), room=st.integers(0, 130))
@settings(max_examples=20)
def test_no_more_frames_are_offered_than_there_is_room_for(order, room):
    data, index, expected = LONG
    cursor = VideoCursor(data, index)
    for n in order:
        offered = {}
        frame = cursor.read(n, keep=offered.setdefault, room=room)
        np.testing.assert_array_equal(frame.rgb(), expected[n])
        assert len(offered) <= room
        assert all(np.array_equal(f.rgb(), expected[m]) for m, f in list(offered.items())[:2])


def test_a_closed_cursor_opens_again():
    data, index, expected = LONG
    cursor = VideoCursor(data, index)
    for n in (45, 44, 46):
        np.testing.assert_array_equal(cursor.read(n).rgb(), expected[n])
        cursor.close()


def test_only_a_few_videos_stay_open():
    data, index, expected = LONG
    videos = OpenVideos()
    first = videos.cursor("0", data, index)
    first.read(3)
    assert videos.cursor("0", data, index) is first
    for n in range(1, MAX_OPEN + 1):
        videos.cursor(str(n), data, index)
    assert videos.cursor("0", data, index) is not first
    np.testing.assert_array_equal(first.read(5).rgb(), expected[5])


def test_threads_share_a_cursor():
    data, index, expected = LONG
    cursor, wrong = VideoCursor(data, index), []

    def read(seed):
        for n in np.random.default_rng(seed).integers(0, 120, 15):
            if not np.array_equal(cursor.read(int(n)).rgb(), expected[n]):
                wrong.append(n)

    with ThreadPoolExecutor(3) as pool:
        list(pool.map(read, range(3)))
    assert not wrong


@pytest.mark.parametrize("name", CLIPS)
def test_decoding_ahead_is_a_sequential_decode(name):
    store = MediaStore(byte_budget=1 << 22)
    video = store.add_video(clip(name))
    times_s = store.index(video.id).times_s[:60]
    streamed = ahead(store.stream(video.id, times_s), depth=3)
    for image, expected in zip(streamed, all_frames(clip(name).read_bytes()), strict=False):
        np.testing.assert_array_equal(image, expected)
    assert next(streamed, None) is None


def test_a_stream_ends_with_its_consumer():
    made = []

    def source():
        for n in range(1000):
            made.append(n)
            yield n

    before = threading.active_count()
    taken = ahead(source(), depth=2)
    assert [next(taken) for _ in range(3)] == [0, 1, 2]
    taken.close()
    assert threading.active_count() == before
    # Three were taken, two wait, one is in the producer's hand, one was let through by closing.
    assert len(made) <= 3 + 2 + 2
    assert threading.active_count() == before, "a stream nobody started has no thread"
    ahead(source(), depth=2)
    assert threading.active_count() == before


def test_an_error_comes_where_its_frame_was_due():
    def source():
        yield 1
        raise ToolInputError("frame 2: expected pixels, got none")

    taken = ahead(source(), depth=4)
    assert next(taken) == 1
    with pytest.raises(ToolInputError, match="frame 2"):
        next(taken)


def test_a_depth_of_nothing_is_refused():
    with pytest.raises(ValueError, match="depth: expected"):
        ahead([], depth=0)


def turned(frames):
    """A video whose header asks for a quarter turn clockwise."""
    data = bytearray(encode(frames, [0, 4, 8]))
    # The display matrix of the track header: 9 numbers of 4 bytes, 40 bytes after the version.
    matrix = data.index(b"tkhd") + 4 + 40
    quarter = [0, 0x10000, 0, -0x10000, 0, 0, 0, 0, 0x40000000]
    data[matrix : matrix + 36] = b"".join(v.to_bytes(4, "big", signed=True) for v in quarter)
    return bytes(data)


def test_rotation_is_applied():
    image = flat(0)
    image[:24, :32] = 255
    store = MediaStore()
    video = store.add_video(turned([image] * 3))
    assert (video.width, video.height) == (48, 64)
    shown = store.frame(video.id, 0.0)
    assert shown.shape == (64, 48, 3)
    # A quarter turn clockwise brings the bright top left corner to the top right.
    assert shown[:30, 26:].mean() > 200 > 50 > shown[:30, :22].mean()


def test_a_time_outside_the_video_is_refused():
    store = MediaStore()
    video = store.add_video(clip("carphone_pristine.mp4"))
    store.frame(video.id, video.duration_s)
    for time_s in (-0.1, video.duration_s + 0.1, float("nan"), None):
        with pytest.raises(ToolInputError, match="time: expected"):
            store.frame(video.id, time_s)
    with pytest.raises(ToolInputError, match="time: expected"):
        store.add_crop(video.id, (0, 0, 500, 500), 99.0, 64, 64)


def sound_only():
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    return buffer.getvalue()


def no_frames():
    data = clip("carphone_pristine.mp4").read_bytes()
    start = data.index(b"mdat") + 4
    return data[:start] + bytes(len(data) - start) if data.index(b"moov") < start else data[:start]


@pytest.mark.parametrize(
    "make",
    [bytes, lambda: b"not a video", sound_only, no_frames, lambda: "no/such/clip.mp4"],
    ids=["empty", "text", "sound", "no-frames", "path"],
)
def test_broken_video_is_refused_and_nothing_is_lost(make):
    store = MediaStore()
    kept = store.add_video(encode([flat(10), flat(90)], [0, 100]))
    with pytest.raises(ToolInputError, match=r"expected .* got"):
        store.add_video(make())
    assert abs(store.frame(kept.id, 1.0).mean() - 90) < 4


def test_frames_share_the_budget():
    frame_bytes = 176 * 144 * 3
    store = MediaStore(byte_budget=3 * frame_bytes)
    video = store.add_video(clip("carphone_pristine.mp4"))
    frames = store.frames(video.id, [0.0, 1.0, 2.0, 3.0])
    assert store.pixel_bytes <= 3 * frame_bytes
    np.testing.assert_array_equal(store.frame(video.id, 0.0), frames[0])
