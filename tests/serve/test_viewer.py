"""The trace page in a real browser: what it says is text, what it shows is there."""

import io
import shutil
import subprocess

import numpy as np
import pytest
from PIL import Image

from pixelis_fast.pictures import PAINT_RGB
from tests.serve.running import image, text
from tests.serve.test_traces import IMAGE_TURNS, trace_of

BROWSER = shutil.which("chromium")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="needs Debian's package chromium")
QUIET = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--virtual-time-budget=10000",
    "--window-size=1200,2600",
    "--enable-logging=stderr",
]


@pytest.fixture(scope="module")
def page(server) -> str:
    """A chain with every kind of picture; its question and answer are markup."""
    server.script(*IMAGE_TURNS[:-1], "<answer>see <img src=x onerror=alert(1)></answer>")
    return server.url + trace_of(server.ask(image(), text("How <b>many</b>?")))


def browse(url: str, folder, *flags: str) -> tuple[str, str]:
    """What the browser prints, and what it complains about."""
    command = [BROWSER, *QUIET, f"--user-data-dir={folder / 'profile'}", *flags, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return done.stdout, done.stderr


def test_the_page_is_text_and_whole(page, tmp_path):
    dom, complaints = browse(page, tmp_path, "--dump-dom")
    assert "<h1>How &lt;b&gt;many&lt;/b&gt;?</h1>" in dom
    assert "see &lt;img src=x onerror=alert(1)&gt;" in dom
    assert "onerror=alert(1)>" not in dom.replace("&lt;img src=x onerror=alert(1)&gt;", "")
    for number, name in enumerate(("zoom", "segment", "properties", "read_text"), start=1):
        assert f'id="step-{number}"' in dom
        assert f"<h2>{name}</h2>" in dom
    assert "mask: expected 0..0, got 5" in dom
    assert dom.count("<img ") == 1 + 2 + 1 + 1 + 1
    assert "Where the time went" in dom
    for word in ("Refused to", "Uncaught", "Content Security Policy"):
        assert word not in complaints


def test_the_page_shows_the_mask(page, tmp_path):
    shot = tmp_path / "page.png"
    browse(page, tmp_path, f"--screenshot={shot}")
    pixels = np.asarray(Image.open(io.BytesIO(shot.read_bytes())).convert("RGB")).astype(int)
    assert pixels.shape == (2600, 1200, 3)
    # Painted grey: red far above green, blue between, as PAINT_RGB is.
    assert PAINT_RGB[0] > PAINT_RGB[2] > PAINT_RGB[1]
    red, green, blue = (pixels[..., i] for i in range(3))
    painted = (red - green > 60) & (red > blue) & (blue > green)
    assert painted.sum() > 500


def test_the_page_fits_a_phone(page, tmp_path):
    """Nothing reaches over the margin on the right: what did would need sideways scrolling."""
    shot = tmp_path / "phone.png"
    browse(page, tmp_path, "--window-size=360,5000", f"--screenshot={shot}")
    pixels = np.asarray(Image.open(shot).convert("RGB")).astype(int)
    assert pixels.shape == (5000, 360, 3)
    ground = pixels[-1, -1]
    assert (pixels[:, -11:] == ground).all()
    edges = (pixels[:, [12, -13]] != ground).any(axis=2)
    assert (edges.sum(axis=0) > 1000).all(), "the cards take all the width but twelve pixels a side"


def test_an_unknown_trace_says_so(server, tmp_path):
    dom, _ = browse(f"{server.url}/trace/nobody-knows", tmp_path, "--dump-dom")
    assert "expected the id of a kept trace" in dom
