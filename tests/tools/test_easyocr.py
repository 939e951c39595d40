"""Our EasyOCR reader against the easyocr package on the same weights.

The oracle is not quantised: on the CPU easyocr rounds its LSTM to int8 unless told otherwise, which
changes what it reads, and no other device does that.
"""

import functools

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from rapidfuzz.distance import Levenshtein

from pixelis_fast.kernels import _cpu
from pixelis_fast.tools_trt.ocr.easyocr_components import word_boxes
from pixelis_fast.tools_trt.ocr.easyocr_config import ComponentConfig, EasyOcrConfig, LineConfig
from pixelis_fast.tools_trt.ocr.easyocr_crops import with_contrast
from pixelis_fast.tools_trt.ocr.easyocr_lines import Upright, group_lines
from pixelis_fast.tools_trt.ocr.easyocr_reader import EasyOcr, open_easyocr
from pixelis_fast.tools_trt.ocr.easyocr_recognizer import EasyOcrRecognizer, confidence, read_logits
from pixelis_fast.tools_trt.ocr.easyocr_weights import ALPHABET
from pixelis_fast.tools_trt.ocr.engine import read_at_once
from pixelis_fast.tools_trt.ocr.gate import (
    PrecisionGateError,
    difference,
    has_bfloat16,
    open_gated,
)
from pixelis_fast.tools_trt.read_text import ReadText
from pixelis_fast.tools_trt.results import MissingWeightsError
from pixelis_fast.tools_trt.store import MediaStore
from tests.media import picture
from tests.tools.rendered import LINES, document

easyocr_models = pytest.importorskip(
    "easyocr_en_models", reason="needs EasyOCR's weights: the `baseline` extra"
)

BOX_PX = 1.0
MAP_PX = 2.0
"""One pixel of the map that words are found in: what another rounding may move a corner by."""
SCORE = 1e-3
MIN_PICTURES = 40
MIN_LINES = 150
FACES = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono-Bold.ttf", "STIXGeneral.ttf")


def part(name, left, top, width, height):
    """A piece of a photograph or scan."""
    pixels = np.array(Image.open(picture(name)).convert("RGB"))
    return np.ascontiguousarray(pixels[top : top + height, left : left + width])


def real_pictures():
    for top in (0, 48, 96, 144):
        yield f"page.png from {top}", part("page.png", 0, top, 384, 47)
    yield "page.png's left half", part("page.png", 0, 0, 190, 191)
    yield "text.png", part("text.png", 0, 0, 448, 90)
    yield "text.png below", part("text.png", 0, 80, 448, 90)
    yield "coins", part("coins.png", 0, 0, 200, 160)
    yield "astronaut's badge", part("astronaut.png", 280, 300, 200, 200)
    yield "coffee", part("coffee.png", 200, 100, 200, 160)
    yield "rocket", part("rocket.jpg", 260, 60, 120, 260)
    yield "motorcycle", part("motorcycle_left.png", 250, 150, 240, 200)


def rendered_pictures():
    for n, size in enumerate((9, 11, 13, 15)):
        for face in FACES:
            lines = LINES[n % 3 : n % 3 + 2]
            yield f"{face} of {size} px", document(size, name=face, lines=lines, width=14 * size)
    for angle in (4, 9, 15, 30, 60, 90, 180, -7, -20, -45):
        yield f"turned {angle}", document(13, angle=angle, lines=LINES[:2], width=240)
    for size in (9, 10):
        yield f"dense, {size} px", document(size, lines=LINES * 2, width=230)
    pale = {"ink": (196, 200, 204), "paper": (216, 214, 212)}
    yield "pale", document(16, lines=LINES[:2], width=300, **pale)
    yield (
        "white on blue",
        document(16, lines=LINES[1:3], width=300, ink=(255,) * 3, paper=(9, 30, 90)),
    )
    yield "one wide line", document(18, lines=LINES[:1], width=460)[15:55]
    yield "one letter", document(40, lines=("Q",), width=80)
    yield "blank", np.full((64, 96, 3), 255, np.uint8)
    yield "a thread", document(14, lines=LINES[:1], width=300)[18:44]


PICTURES = dict([*real_pictures(), *rendered_pictures()])


@functools.cache
def expected(name):
    """What easyocr reads, as (text, corners, score)."""
    found = oracle().readtext(PICTURES[name])
    return [(text, np.array(quad, float), float(score)) for quad, text, score in found]


@functools.cache
def oracle():
    easyocr = pytest.importorskip(
        "easyocr", reason="needs easyocr, the original: the `baseline` extra"
    )
    return easyocr.Reader(
        ["en"],
        gpu=False,
        quantize=False,
        model_storage_directory=f"{easyocr_models.__path__[0]}/models",
        download_enabled=False,
        verbose=False,
    )


@functools.cache
def reader(precision):
    store = MediaStore()
    return store, ReadText(store, backend="openvino", config=EasyOcrConfig(precision=precision))


def engine(precision):
    return reader(precision)[1]._engine


def assert_equals_oracle(engine, name):
    found = read_at_once(engine, PICTURES[name])
    assert [line.text for line in found] == [text for text, _, _ in expected(name)]
    for line, (_, corners, _) in zip(found, expected(name), strict=True):
        assert np.abs(line.quad_42 - corners).max() <= BOX_PX
    return found


@pytest.mark.parametrize("name", PICTURES)
def test_equals_easyocr(name):
    found = assert_equals_oracle(engine("fp32"), name)
    for line, (_, _, score) in zip(found, expected(name), strict=True):
        assert line.score == pytest.approx(score, abs=SCORE)


@pytest.mark.skipif("amx" not in _cpu.linear_levels(), reason="needs AMX, bit for bit")
@pytest.mark.parametrize("name", PICTURES)
def test_equals_easyocr_in_mixed_precision(name):
    assert engine("bf16").name.startswith("openvino-bf16:")
    assert_equals_oracle(engine("bf16"), name)


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes in bf16 on no unit of this CPU")
@pytest.mark.parametrize("name", PICTURES)
def test_reads_as_easyocr_in_mixed_precision(name):
    assert engine("bf16").name.startswith("openvino-bf16:")
    found = read_at_once(engine("bf16"), PICTURES[name])
    assert len(found) == len(expected(name))
    assert wrong_letters(found, name) <= 1
    for line, (_, corners, _) in zip(found, expected(name), strict=True):
        assert np.abs(line.quad_42 - corners).max() <= MAP_PX


@pytest.mark.skipif(not has_bfloat16(), reason="OpenVINO computes in bf16 on no unit of this CPU")
def test_hardly_a_letter_differs_in_mixed_precision():
    """A unit may round otherwise than AMX: AVX-512 BF16 reads "Market_" on a turned page."""
    found = {name: read_at_once(engine("bf16"), picture) for name, picture in PICTURES.items()}
    assert sum(wrong_letters(lines, name) for name, lines in found.items()) <= 2


def wrong_letters(found, name):
    pairs = zip(found, expected(name), strict=True)
    return sum(Levenshtein.distance(line.text, text) for line, (text, _, _) in pairs)


def test_there_is_enough_to_read():
    assert len(PICTURES) >= MIN_PICTURES
    assert sum(len(expected(name)) for name in PICTURES) >= MIN_LINES
    slanted = [q for n in PICTURES for _, q, _ in expected(n) if len(set(q[:, 1])) == 4]
    doubtful = [score for n in PICTURES for _, _, score in expected(n) if score < 0.1]
    assert len(slanted) >= 20
    assert len(doubtful) >= 5, "no line was read a second time with more contrast"


def test_read_text_on_these_weights():
    store, read_text = reader("fp32")
    page = store.add_image(document(18, lines=LINES[2:4], width=420))
    result = read_text(page.id)
    assert result.engine == "openvino:easyocr-en"
    assert result.degraded is None
    assert [line.text for line in result.lines] == list(LINES[2:4])
    lower = read_text(page.id, (0, 500, 1000, 1000))
    assert [line.text for line in lower.lines] == [LINES[3]]
    assert abs(lower.lines[0].box[1] - result.lines[1].box[1]) <= 25


def test_a_line_reads_the_same_beside_any_other():
    exact = engine("fp32")
    alone = read_at_once(exact, document(14, lines=LINES[:1], width=330))
    beside = read_at_once(exact, document(14, lines=(LINES[0], *LINES[2:4]), width=330))
    assert [line.text for line in alone] == [line.text for line in beside[: len(alone)]]


class Distorted:
    """A session whose outputs are off by a little."""

    def __init__(self, session, by):
        self.session, self.by = session, by
        self.name, self.reason, self.input_names = session.name, session.reason, session.input_names

    def run(self, inputs):
        return {name: tensor + self.by for name, tensor in self.session.run(inputs).items()}


def test_the_gate_sees_a_distorted_detector():
    exact = engine("fp32")
    recognizer = exact._recognizer.session
    shifted = EasyOcr(Distorted(exact._detector, 0.1), recognizer, exact.config)
    assert difference(exact, exact) is None
    assert "expected" in difference(exact, shifted)
    opened = {"fp32": exact, "bf16": shifted}.__getitem__
    with pytest.raises(PrecisionGateError, match="precision bf16: level: expected"):
        open_gated("bf16", opened, may_narrow=True)
    assert open_gated("auto", opened, may_narrow=True) is exact
    assert "bf16 failed its gate" in exact.reasons["detector"]


def test_close_calls_are_read_again_exactly():
    """One line's two best classes lie close together: the exact session decides."""
    columns = np.full((12, len(ALPHABET) + 1), -9.0, np.float32)
    columns[:, 0] = 3
    columns[4, 1], columns[8, 2] = 6, 6
    certain = columns.copy()
    columns[8, 3] = 5.9
    recognizer = EasyOcrRecognizer(None, EasyOcrConfig().recognizer, exact=object())
    assert recognizer._is_unsure(columns, read_logits(columns))
    assert not recognizer._is_unsure(certain, read_logits(certain))
    # A close call between a character and its own repetition changes no text.
    certain[5, 1] = 2.9
    assert not recognizer._is_unsure(certain, read_logits(certain))


def test_read_logits():
    logits = np.full((6, len(ALPHABET) + 1), -20.0, np.float32)
    for column, label in enumerate((0, 11, 11, 0, 11, 45)):
        logits[column, label] = 20
    assert read_logits(logits).text == "!!" + ALPHABET[44]
    assert read_logits(logits).score == pytest.approx(1)
    assert confidence(np.array([0.5, 0.5])) == pytest.approx(0.25 ** (2 / 2**0.5))
    assert confidence(np.array([])) == 0


def test_word_boxes_of_components():
    """One sure word, one unsure, one too small; a link joins two parts."""
    text, link = np.zeros((2, 40, 80), np.float32)
    text[10:16, 5:20], text[10:16, 24:40], link[12:14, 19:25] = 0.9, 0.9, 0.9
    text[25:31, 50:70] = 0.6
    text[35:37, 2:5] = 0.9
    [box] = word_boxes(text, link, ComponentConfig())
    (left, top), (right, bottom) = box.min(0), box.max(0)
    assert left < 5
    assert right > 39
    assert top < 10 < 15 < bottom
    assert word_boxes(np.zeros((8, 8)), np.zeros((8, 8)), ComponentConfig()).shape == (0, 4, 2)


def test_group_lines():
    def word(x, y, width=60, height=20, slant=0):
        quad = [(x, y), (x + width, y + slant), (x + width, y + height + slant), (x, y + height)]
        return np.array(quad, np.float32)

    words = np.array(
        [word(0, 0), word(66, 2), word(200, 0), word(0, 100, slant=30), word(9, 200, 8, 8)]
    )
    lines, slanted = group_lines(words, LineConfig())
    assert lines == [Upright(-2, 128, -2, 24), Upright(198, 262, -2, 22)]
    assert len(slanted) == 1
    assert group_lines(np.zeros((0, 4, 2)), LineConfig()) == ([], [])


def test_contrast_is_spread_only_where_it_is_low():
    pale = np.tile(np.arange(60, 120, dtype=np.uint8), (64, 1))
    assert np.ptp(with_contrast(pale, 0.5)) > 150
    vivid = np.tile(np.array([0, 255], np.uint8), (64, 8))
    assert with_contrast(vivid, 0.5) is vivid


def test_odd_sizes_are_read():
    for height, width in ((1, 1), (1, 700), (700, 2), (33, 31)):
        image = np.full((height, width, 3), 128, np.uint8)
        assert read_at_once(engine("fp32"), image) == []


def test_bad_options_are_refused(tmp_path):
    with pytest.raises(ValueError, match="backend: expected openvino, torch_cpu"):
        open_easyocr(EasyOcrConfig(precision="fp32"), backend="ort", threads=1)
    with pytest.raises(ValueError, match="precision bf16: expected backend openvino"):
        open_easyocr(EasyOcrConfig(precision="bf16"), backend="torch_cpu", threads=1)
    with pytest.raises(MissingWeightsError, match="easyocr weights: expected"):
        open_easyocr(EasyOcrConfig(weights_folder=tmp_path), backend="openvino", threads=1)
    with pytest.raises(ValueError, match="batch_size: expected"):
        type(EasyOcrConfig().recognizer)(batch_size=0)


def test_torch_reads_the_same():
    name = "white on blue"
    torch_engine = open_easyocr(
        EasyOcrConfig(), backend="torch_cpu", threads=torch.get_num_threads()
    )
    assert torch_engine.name == "torch_cpu:easyocr-en"
    assert_equals_oracle(torch_engine, name)
    assert cv2.getNumThreads() >= 1
