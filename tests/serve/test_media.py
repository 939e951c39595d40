"""What clients may send as media, and the many ways to a file they may not have."""

import base64
import io
import os

import numpy as np
import pytest
from PIL import Image

from pixelis_fast.serve.config import MediaRules
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.media import MediaLedger, MediaUrl, check_media, media_bytes
from pixelis_fast.tools import ToolConfig, open_tools
from pixelis_fast.types import MediaKind
from tests.media import clip, picture

MAX_BYTES = 1 << 20
RULES = MediaRules()


def part(url: str, kind: MediaKind = MediaKind.IMAGE) -> MediaUrl:
    return MediaUrl(url, kind, "messages[0].content[0]")


def data_url(data: bytes, mime: str = "image/png") -> str:
    return f"data:{mime};base64,{base64.b64encode(data).decode()}"


def png(width: int = 8, height: int = 8, value: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path):
    """A media root with a picture, a folder, and ways out of it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    folder = tmp_path / "media"
    (folder / "holiday").mkdir(parents=True)
    (folder / "a b.png").write_bytes(png())
    (folder / "holiday" / "sea.png").write_bytes(png(value=9))
    (folder / "large.png").write_bytes(bytes(MAX_BYTES + 1))
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(folder / "a b.png")
    (folder / "out").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    return folder


def read(url: str, root=None) -> bytes:
    return media_bytes(part(url), MediaRules(root=root), max_bytes=MAX_BYTES)


def test_data_urls_carry_bytes():
    assert read(data_url(b"abc")) == b"abc"
    assert read("DATA:image/png;charset=x;base64,YWJj") == b"abc"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("data:image/png,abc", "expected data:image/…;base64,…"),
        ("data:video/mp4;base64,YWJj", "expected data:image/…;base64,…"),
        ("data:text/html;base64,YWJj", "expected data:image/…;base64,…"),
        ("data:image/png;base64,YW Jj", "expected base64"),
        ("data:image/png;base64,YWJ", "expected base64"),
        (
            "http://169.254.169.254/latest",
            "may fetch from (none), or a data: URL, got http://169.254.169.254",
        ),
        (
            "HTTPS://example.org/cat.png",
            "may fetch from (none), or a data: URL, got https://example.org",
        ),
        ("ftp://example.org/cat.png", "expected a data:, file: or http: URL"),
        ("/etc/passwd", "expected a data:, file: or http: URL"),
        ("file:///a.png", "this server has no media root"),
    ],
)
def test_other_urls_are_refused(url, message):
    with pytest.raises(ApiError, match=r"^messages\[0\]\.content\[0\]: ") as caught:
        read(url)
    assert message in str(caught.value)


def test_files_below_the_root_are_read(root):
    assert read("file:///a%20b.png", root) == png()
    assert read("file:holiday/sea.png", root) == png(value=9)
    assert read("file://localhost/holiday/sea.png", root) == png(value=9)


@pytest.mark.parametrize(
    "url",
    [
        "file:///../secret.png",
        "file:///holiday/../../secret.png",
        "file:///%2e%2e/secret.png",
        "file:///%2E%2E%2Fsecret.png",
        "file:///./a%20b.png",
        "file:////etc/passwd",
        "file:///link.png",
        "file:///inside.png",
        "file:///out/secret.png",
        "file:///pipe.png",
        "file:///holiday",
        "file:///",
        "file:///a%00b.png",
        "file:///missing.png",
        "file:///holiday/sea.png/x",
        "file://other.host/a%20b.png",
        "file:///a%20b.png?x=1",
        "file:///%ff.png",
        "file:///" + "a" * 5000,
        "file://[/a.png",
    ],
)
def test_nothing_else_is_read(root, url):
    with pytest.raises(ApiError) as caught:
        read(url, root)
    assert caught.value.status == 400
    assert "secret" not in str(caught.value).replace("secret.png", "")


def test_an_absolute_path_is_one_below_the_root(root):
    with pytest.raises(ApiError, match="expected a plain file below the media root"):
        read(f"file://{root}/a%20b.png", root)


def test_a_large_file_is_refused_unread(root):
    with pytest.raises(ApiError, match=f"at most {MAX_BYTES} bytes") as caught:
        read("file:///large.png", root)
    assert caught.value.status == 413


def check(data: bytes, kind: MediaKind = MediaKind.IMAGE, **rules) -> None:
    check_media(data, part("data:", kind), MediaRules(**rules))


def test_pictures_and_videos_within_the_rules_pass():
    check(png())
    check(picture("coins.png").read_bytes())
    check(clip("carphone_pristine.mp4").read_bytes(), MediaKind.VIDEO)


PLAYLIST = b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n"


@pytest.mark.parametrize(
    ("data", "kind", "rules", "message"),
    [
        (b"", MediaKind.IMAGE, {}, "expected one of PNG"),
        (b"\x93NUMPY\x01\x00", MediaKind.IMAGE, {}, "expected one of PNG"),
        (b"<svg/>", MediaKind.IMAGE, {}, "expected one of PNG"),
        (png(64, 64), MediaKind.IMAGE, {"max_image_pixels": 4095}, "at most 4095 pixels, got 4096"),
        (png(), MediaKind.VIDEO, {}, "expected MP4, MOV"),
        (PLAYLIST, MediaKind.VIDEO, {}, "expected MP4, MOV"),
        (b"\0\0\0\x18ftypmp42" + bytes(64), MediaKind.VIDEO, {}, "expected an encoded video"),
    ],
)
def test_other_bytes_are_refused(data, kind, rules, message):
    with pytest.raises(ApiError) as caught:
        check(data, kind, **rules)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_video_frames": 10}, "at most 10 frames"),
        ({"max_video_pixels": 100}, "at most 100 pixels a frame"),
        ({"max_video_s": 0.5}, "at most 0.5 seconds"),
    ],
)
def test_a_video_has_limits_before_it_is_decoded(rules, message):
    data = clip("carphone_pristine.mp4").read_bytes()
    with pytest.raises(ApiError, match=message):
        check(data, MediaKind.VIDEO, **rules)


@pytest.fixture(scope="module")
def tools():
    return open_tools(ToolConfig())


def test_media_stay_while_somebody_holds_them(tools):
    ledger = MediaLedger(tools)
    first, second = (ledger.add(png(value=3), part("data:")) for _ in range(2))
    assert first == second
    ledger.release([first.id])
    assert first.id in ledger.store
    crop = ledger.store.add_crop(first.id, (0, 0, 500, 500), None, 4, 4)
    ledger.release([first.id])
    assert first.id not in ledger.store
    assert crop.id not in ledger.store
    assert ledger.num_media == 0


def test_media_that_do_not_decode_leave_nothing(tools):
    ledger = MediaLedger(tools)
    cut = png(64, 64, value=7)[:-40]
    with pytest.raises(ApiError, match=r"messages\[0\]\.content\[0\]: image: expected"):
        ledger.add(cut, part("data:"))
    assert ledger.num_media == 0
