"""Reports: figures in the right cells, pictures inside, no text read as markup."""

import base64
import io
import re

import pytest
from PIL import Image

from pixelis_fast.eval.report import CaseTraces, Told, report_html
from pixelis_fast.eval.trace_html import LONGEST_SIDE, trace_html
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.tools import ToolConfig, open_tools
from pixelis_fast.types import Observation, Step
from tests.chains import SIGN_BOX, add_picture, call, chain, drawn_picture

ATTACK = '"><script>alert(1)</script>'
INTERVAL = {"mean": 0.5, "low": 0.4, "high": 0.6}


def arm(score: float, **more) -> dict:
    return {
        "scores": {"overall": score, ATTACK: 0.5},
        "over_samples": INTERVAL,
        "over_seeds": None,
        "chains": {"visfid": 0.875, "length": 1.5, "validity": None, "rapr": 0.1, "racpr": None},
        "grounding": {"segment": 0.9},
        "tracking": {"hota": 0.75, "deta": 0.75, "assa": 0.75, "idf1": 0.5},
        "latency_ms": {"total": {"p50": 10.0, "p90": 20.04, "p99": 30.0}},
        "statuses": {"answered": 2},
        **more,
    }


def results(baseline: float = 0.5) -> dict:
    gain = {"relative": 0.2, "difference": {"mean": 0.1, "low": -0.05, "high": 0.25}}
    arms = {"base": arm(baseline), "ours": arm(0.6, gain=gain)}
    return {"name": ATTACK, "cases": 2, "seeds": [0], "baseline": "base", "arms": arms}


def test_tables():
    page = report_html(results(), [])
    overall = re.search(r"<tr><td>overall</td>(.*?)</tr>", page)
    assert re.findall(r">([^<]+)<", overall.group(1)) == ["50.00 %", "60.00 %", "+20.00 %"]
    assert "gain over base" in page
    assert "-5.00 to +25.00 points" in page
    assert 'HOTA of tracks</td><td class="figure">0.750' in page
    assert "10.0 / 20.0 / 30.0" in page
    assert re.search(r"<td>valid calls</td><td[^>]*>–</td>", page)
    assert "+" not in re.search(
        r"<tr><td>overall</td>(.*?)</tr>", report_html(results(0), [])
    ).group(1)


def test_nothing_is_markup():
    told = Told(ATTACK, ATTACK, 0.0, "answered", "")
    page = report_html(results(), [CaseTraces(ATTACK, ATTACK, ATTACK, (told,))])
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 7
    assert "script-src" not in page
    assert "default-src 'none'" in page


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    tools = open_tools(ToolConfig())
    media = add_picture(tools, drawn_picture(), tmp_path_factory.mktemp("media"))
    trajectory = chain(
        tools,
        media,
        call("zoom", media=0, box=[0, 0, 500, 500]),
        call("segment", media=0, point=[375, 750]),
        call("read_text", media=0, box=list(SIGN_BOX)),
        call("properties", mask=9),
        answer=ATTACK,
    )
    said = Observation(f'{{"error": "{ATTACK[2:]}"}}', error=ATTACK)
    trajectory.steps.insert(4, Step(0, 0, None, said))
    return trace_html(trajectory, Tokenizer.embedded(), tools.store)


def test_a_trace_shows_its_pictures(trace):
    sources = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', trace)
    # The picture, where it looked, what it saw, the mask, the text.
    assert len(sources) == 5
    for source in sources:
        with Image.open(io.BytesIO(base64.b64decode(source))) as image:
            assert max(image.size) <= LONGEST_SIDE
    assert 'class="asked" x="0" y="0" width="500" height="500"' in trace
    assert '<circle cx="375" cy="750"' in trace
    assert "<title>KX42</title>" in trace


def test_a_trace_tells_errors_and_escapes_them(trace):
    assert "<script" not in trace
    assert "expected one from segment or track first" in trace or "expected 0..0" in trace
    assert "unreadable call" in trace
    assert "&lt;script&gt;" in trace
