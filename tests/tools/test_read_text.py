"""read_text against rapidocr, which runs the same weights through its own code.

The oracle runs on ONNX Runtime in fp32 with the same resize limit. The reader compared with it
enlarges without bound, believes the angle classifier, and batches six lines padded to the widest as
the oracle does, so both graphs see the same pixels. The defaults are tested against known text.
"""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from rapidfuzz.distance import Levenshtein
from rapidocr import RapidOCR

from pixelis_fast.tools_trt.geometry import box_to_px
from pixelis_fast.tools_trt.ocr.detector import DetectorConfig, resize_for_graph
from pixelis_fast.tools_trt.ocr.gate import has_bfloat16
from pixelis_fast.tools_trt.ocr.order import reading_order
from pixelis_fast.tools_trt.ocr.recognizer import RecognizerConfig, read_ctc
from pixelis_fast.tools_trt.read_text import ReadText, ReadTextConfig
from pixelis_fast.tools_trt.results import ToolInputError
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import clip, picture
from tests.tools.rendered import LINES, document

SHORT_SIDE = 384
"""Below the default of 736, whose pictures have four times the pixels."""
BOX_PX = 1.0
"""Largest difference of a box's side, on top of rounding to thousandths of the frame."""
SAME_CHARACTERS = 0.98
"""Least share of equal characters between default padding and the oracle's."""
SMALL = ReadTextConfig(detector=DetectorConfig(short_side=SHORT_SIDE))
LIKE_ORACLE_FULL_SIZE = ReadTextConfig(
    detector=DetectorConfig(max_enlargement=None, max_enlarged_px=None),
    recognizer=RecognizerConfig(batch_size=6, min_width=320, width_step=None),
    trusted_score=None,
)
LIKE_ORACLE = replace(
    LIKE_ORACLE_FULL_SIZE,
    detector=replace(LIKE_ORACLE_FULL_SIZE.detector, short_side=SHORT_SIDE),
)
PAGE = (
    "Region-based segmentation",
    "Let us first determine markers of the coins and the",
    "background. These markers are pixels that we can label",
    "unambiguously as either object or background. Here,",
    "the markers are found at the two extreme parts of the",
    "histogram of grey values:",
)


def turned(name, angle):
    """A real picture, turned on a grey ground."""
    image = Image.open(picture(name)).convert("RGB")
    return np.array(image.rotate(angle, expand=True, fillcolor=(128,) * 3))


CASES = {
    "page": lambda: picture("page.png"),
    "text": lambda: picture("text.png"),
    "coins": lambda: picture("coins.png"),
    "astronaut": lambda: picture("astronaut.png"),
    "coffee": lambda: picture("coffee.png"),
    "rocket": lambda: picture("rocket.jpg"),
    "small": lambda: document(12, width=300),
    "serif": lambda: document(16, name="DejaVuSerif.ttf"),
    "bold": lambda: document(22, name="DejaVuSans-Bold.ttf", width=640),
    "mono turned 8": lambda: document(16, name="DejaVuSansMono.ttf", angle=8),
    "turned -5": lambda: document(16, angle=-5),
    "upside down": lambda: document(16, angle=180),
    "standing": lambda: document(16, angle=90),
    "white on blue": lambda: document(18, ink=(255,) * 3, paper=(20, 40, 120)),
    "one wide line": lambda: document(18, lines=LINES[:1], width=900)[15:55],
    "very large": lambda: document(70, lines=LINES[:2], width=2400),
    "thin": lambda: document(14, lines=LINES[:1], width=300)[18:44],
    "blank": lambda: np.full((120, 160, 3), 255, np.uint8),
    "camera": lambda: picture("camera.png"),
    "motorcycle": lambda: picture("motorcycle_left.png"),
    "page turned 7": lambda: turned("page.png", 7),
    "text turned -12": lambda: turned("text.png", -12),
    "coins turned 30": lambda: turned("coins.png", 30),
    "dense": lambda: document(12, lines=LINES * 3, width=300),
    "dense serif": lambda: document(11, name="DejaVuSerif.ttf", lines=LINES * 3, width=300),
    "dense, turned 4": lambda: document(12, lines=LINES * 2, width=300, angle=4),
    "dark": lambda: document(18, ink=(230,) * 3, paper=(15, 15, 15)),
    "pale": lambda: document(18, ink=(190, 195, 200), paper=(225, 222, 220)),
    **{
        f"{face} turned {angle}": lambda face=face, angle=angle: document(
            16, name=f"{face}.ttf", angle=angle, lines=LINES[:3]
        )
        for face in ("DejaVuSans", "DejaVuSerif", "STIXGeneral")
        for angle in (3, 15, 45, -8)
    },
}


@pytest.fixture(scope="module")
def store():
    return MediaStore()


@pytest.fixture(scope="module")
def reader(store):
    return ReadText(store, backend="openvino", config=SMALL)


@pytest.fixture(scope="module")
def like_oracle(store):
    return ReadText(store, backend="openvino", config=LIKE_ORACLE)


def make_oracle(short_side):
    threads = dict.fromkeys(("intra_op_num_threads", "inter_op_num_threads"), 1)
    params = {f"EngineConfig.onnxruntime.{key}": value for key, value in threads.items()}
    limits = {"Det.limit_side_len": short_side, "Global.log_level": "critical"}
    return RapidOCR(params=params | limits)


@pytest.fixture(scope="module")
def oracle():
    return make_oracle(SHORT_SIDE)


def read_by_oracle(oracle, image_HWC):
    """{(text, whole-pixel box)} as (text, bounds) pairs."""
    output = oracle(np.ascontiguousarray(image_HWC[..., ::-1]))
    if output.boxes is None:
        return []
    bounds = [(*quad.min(0), *quad.max(0)) for quad in np.asarray(output.boxes)]
    return sorted(zip(output.txts, bounds, strict=True))


def assert_equals_oracle(lines, expected, info):
    found = sorted((line.text, line.box) for line in lines)
    assert [text for text, _ in found] == [text for text, _ in expected]
    unit = np.array((info.width, info.height) * 2) / 1000
    for (_, box), (_, bounds) in zip(found, expected, strict=True):
        assert (np.abs(np.array(box) * unit - bounds) <= BOX_PX + unit).all(), (box, bounds)


def test_there_are_enough_pictures():
    assert len(CASES) >= 40


@pytest.mark.parametrize("case", CASES)
def test_read_text_equals_rapidocr(store, like_oracle, oracle, case):
    info = store.add_image(CASES[case]())
    expected = read_by_oracle(oracle, store.image(info.id))
    assert_equals_oracle(like_oracle(info.id).lines, expected, info)


def test_default_padding_reads_nearly_the_same(store, reader):
    """Lines read with little confidence are noise in either."""
    config = replace(SMALL, recognizer=LIKE_ORACLE.recognizer)
    padded_like_oracle = ReadText(store, backend="openvino", config=config)
    ours, theirs = [], []
    for case in ("page", "coins", "small", "serif", "bold", "turned -5"):
        info = store.add_image(CASES[case]())
        ours += [line.text for line in reader(info.id).lines if line.score > 0.8]
        theirs += [line.text for line in padded_like_oracle(info.id).lines if line.score > 0.8]
    assert len(ours) == len(theirs) > 20
    assert Levenshtein.normalized_similarity("\n".join(ours), "\n".join(theirs)) > SAME_CHARACTERS


def test_a_line_reads_the_same_beside_any_other(store, reader):
    alone = reader(store.add_image(document(20, lines=LINES[:1], width=600)).id).lines[0]
    beside = reader(store.add_image(document(20, lines=(LINES[0], "x"), width=600)).id).lines[0]
    assert alone.text == beside.text


def test_read_text_equals_rapidocr_at_default_size(store):
    info = store.add_image(picture("page.png"))
    expected = read_by_oracle(make_oracle(736), store.image(info.id))
    result = ReadText(store, backend="ort", config=LIKE_ORACLE_FULL_SIZE)(info.id)
    assert_equals_oracle(result.lines, expected, info)
    assert result.engine == "ort:pp-ocrv6-small"
    assert result.degraded is None
    assert "Region-based segmentation" in [line.text for line in result.lines]


@pytest.mark.parametrize("angle", [0, 6, 180])
def test_rendered_documents_are_read_right(store, reader, angle):
    result = reader(store.add_image(document(20, angle=angle, width=600)).id)
    found = [line.text for line in result.lines]
    expected = LINES if angle < 90 else LINES[::-1]
    for text, truth in zip(found, expected, strict=True):
        assert (
            Levenshtein.normalized_similarity(text.replace(" ", ""), truth.replace(" ", "")) > 0.93
        )


@pytest.fixture(scope="module")
def default_reader(store):
    return ReadText(store, backend="openvino")


def test_upright_lines_are_not_turned(store, default_reader):
    """The angle classifier calls a line of this page upside down."""
    found = [line.text for line in default_reader(store.add_image(picture("page.png")).id).lines]
    assert found[: len(PAGE)] == list(PAGE)


@pytest.mark.parametrize("size", [10, 16, 40])
def test_one_short_word_is_read(store, default_reader, size):
    word = document(size, lines=("EXIT 7",), width=size * 6 + 40)[12 : size * 2 + 12]
    found = default_reader(store.add_image(word).id).lines
    assert [line.text.replace(" ", "") for line in found] == ["EXIT7"]


def test_upside_down_lines_are_turned(store, default_reader):
    found = default_reader(store.add_image(document(20, angle=180, width=600)).id).lines
    text = "".join(line.text for line in found).replace(" ", "")
    assert Levenshtein.normalized_similarity(text, "".join(LINES[::-1]).replace(" ", "")) > 0.93


@pytest.mark.parametrize(
    ("limits", "size"),
    [
        ({"max_enlargement": None, "max_enlarged_px": None}, (736, 4416)),
        ({"max_enlarged_px": None}, (128, 768)),
        ({"max_enlarged_px": 128 * 384}, (96, 544)),
        ({"max_enlargement": 1.0}, (64, 384)),
        ({"short_side": 96}, (96, 576)),
    ],
)
def test_enlargement_is_bounded(limits, size):
    strip = np.zeros((64, 384, 3), np.uint8)
    assert resize_for_graph(strip, DetectorConfig(**limits)).shape[:2] == size


def test_bad_bounds_are_refused():
    with pytest.raises(ValueError, match="max_enlargement: expected"):
        DetectorConfig(max_enlargement=0.5)
    with pytest.raises(ValueError, match="max_enlarged_px: expected"):
        DetectorConfig(max_enlarged_px=0)


def test_polygon_starts_at_the_text_s_own_top_left(store, reader):
    upright = reader(store.add_image(document(20, width=600)).id).lines[0]
    turned = reader(store.add_image(document(20, width=600, angle=180)).id).lines[-1]
    standing = reader(store.add_image(document(20, width=600, angle=90)).id).lines[0]
    # Turned counter-clockwise, text runs upwards: it starts at the bottom left.
    for line, first in ((upright, 0), (turned, 2), (standing, 3)):
        x0, y0, x1, y1 = line.box
        corners = np.roll([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], -first, axis=0)
        assert np.abs(corners - line.polygon).max() <= 8


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes in bf16 on no unit of this CPU")
def test_bfloat16_serves_behind_its_gate(store, reader):
    config = replace(SMALL, precision="bf16")
    narrow = ReadText(store, backend="openvino", config=config)
    assert narrow.engine == "openvino+openvino-bf16:pp-ocrv6-small"
    assert "bf16 passed its gate" in narrow.reasons["detector"]
    for case in ("page", "small", "serif", "turned -5"):
        info = store.add_image(CASES[case]())
        found = [line.text for line in narrow(info.id).lines if line.score > 0.9]
        expected = [line.text for line in reader(info.id).lines if line.score > 0.9]
        assert found == expected
    with pytest.raises(ValueError, match="precision bf16: expected backend openvino"):
        ReadText(store, backend="ort", config=config)


def test_a_box_restricts_reading(store, like_oracle):
    """Enlarged to one size, the strip's lines and the page's have the same box."""
    reader = like_oracle
    info = store.add_image(document(20, width=600))
    whole = reader(info.id).lines
    third = whole[2].box
    box = (0, max(third[1] - 30, 0), 1000, third[3] + 30)
    (line,) = reader(info.id, box).lines
    assert line.text == whole[2].text
    assert np.abs(np.subtract(line.box, third)).max() <= 12
    image = store.image(info.id)
    x0, y0, x1, y1 = box_to_px(box, info.width, info.height)
    cut = store.add_image(image[y0:y1, x0:x1])
    assert [line.text] == [other.text for other in reader(cut.id).lines]


def test_results_change_with_the_pixels(store, reader):
    one = reader(store.add_image(document(20, lines=("Platform 7",), width=300)).id)
    other = reader(store.add_image(document(20, lines=("Platform 9",), width=300)).id)
    assert [line.text for line in one.lines] == ["Platform 7"]
    assert [line.text for line in other.lines] == ["Platform 9"]


def test_a_blank_picture_has_no_lines(store, reader):
    assert reader(store.add_image(np.full((200, 300, 3), 255, np.uint8)).id).lines == ()


def test_stages_are_measured(store):
    reader = ReadText(store, backend="openvino", config=SMALL)
    stages = reader(store.add_image(document(16)).id).stage_ms
    assert min(stages.queue, stages.pre, stages.run, stages.post) > 0


def test_frames_need_a_time(store, reader):
    video = store.add_video(clip("carphone_pristine.mp4"))
    assert isinstance(reader(video.id, time_s=1.0).lines, tuple)
    with pytest.raises(ToolInputError, match="time: expected"):
        reader(video.id)
    with pytest.raises(ToolInputError, match="time: expected"):
        reader(store.add_image(document(16)).id, time_s=1.0)


def test_bad_boxes_are_refused(store, reader):
    info = store.add_image(document(16))
    for box in [(0, 0, 0, 0), (0, 0, 1001, 5), ()]:
        with pytest.raises(ToolInputError, match="box: expected"):
            reader(info.id, box)


def test_read_ctc():
    alphabet = ["", "a", "b", " "]
    probability = np.array([0.9, 0.5, 0.7, 0.9, 0.6, 0.8, 0.9], np.float32)
    line = read_ctc(np.array([0, 1, 1, 0, 1, 3, 2]), probability, alphabet)
    assert line.text == "aa b"
    assert line.score == pytest.approx((0.5 + 0.6 + 0.8 + 0.9) / 4)
    assert read_ctc(np.zeros(3, int), probability[:3], alphabet).score == 0


def test_reading_order():
    def quad(x, y, width=50, height=10):
        return np.array([[x, y], [x + width, y], [x + width, y + height], [x, y + height]])

    boxes = [quad(100, 3), quad(0, 40), quad(0, 0), quad(200, 0), quad(60, 44)]
    assert reading_order(boxes) == [2, 0, 3, 1, 4]
    assert reading_order([]) == []
