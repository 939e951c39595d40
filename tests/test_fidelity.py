"""VisFid by hand: true claims score high, false ones low, none at all 0; equal seeds agree."""

from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from pixelis_fast.fidelity import (
    JitterConfig,
    evidence_scores,
    label_free_fidelity,
    repeat_scores,
    visual_fidelity,
)
from pixelis_fast.fidelity_claims import mask_box, mask_iou, spans_iou, view_score
from pixelis_fast.fidelity_replay import jittered, moved_box
from pixelis_fast.tools import ToolBox, ToolConfig, open_tools
from pixelis_fast.types import Evidence, Mask, Observation
from tests.chains import (
    DISK_BOX,
    SIGN_BOX,
    add_clip,
    add_picture,
    call,
    chain,
    disk_frames,
    drawn_picture,
    resting_frames,
)

SEGMENT = call("segment", media=0, point=[375, 750])
READ = call("read_text", media=0, box=list(SIGN_BOX))
ZOOM = call("zoom", media=0, box=[580, 60, 920, 340])
FAILS = call("properties", mask=7)


@pytest.fixture(scope="module")
def tools() -> ToolBox:
    return open_tools(ToolConfig())


@pytest.fixture(scope="module")
def media(tools, tmp_path_factory):
    return add_picture(tools, drawn_picture(), tmp_path_factory.mktemp("media"))


def mask_of(shape: np.ndarray, media_id: str = "m") -> Mask:
    rle = coco.encode(np.asfortranarray(shape.astype(np.uint8)))
    return Mask(media_id, None, tuple(rle["size"]), rle["counts"].decode())


def disk_mask(media) -> Mask:
    y, x = np.mgrid[:400, :800]
    return mask_of((x - 300) ** 2 + (y - 300) ** 2 <= 60**2, media.id)


def test_a_true_mask_a_true_box_and_a_true_text(tools, media):
    truth = [Evidence("segment", mask=disk_mask(media)), Evidence("read_text", text="kx42")]
    trajectory = chain(tools, media, SEGMENT, READ, evidence=truth)
    mask, text, answer = evidence_scores(trajectory)
    assert mask > 0.93
    assert text == 1
    assert answer is None
    assert visual_fidelity(trajectory) == pytest.approx((mask + text) / 2)
    by_box = replace(trajectory.sample, evidence=(Evidence("segment", box=DISK_BOX),))
    assert visual_fidelity(replace(trajectory, sample=by_box)) > 0.9


def test_false_claims_score_low(tools, media):
    truth = [Evidence("segment", box=SIGN_BOX), Evidence("read_text", text="nothing alike")]
    assert visual_fidelity(chain(tools, media, SEGMENT, READ, evidence=truth)) == 0


def test_one_of_several_objects_may_be_meant(tools, media):
    truth = [Evidence("segment", box=SIGN_BOX), Evidence("segment", box=DISK_BOX)]
    assert visual_fidelity(chain(tools, media, SEGMENT, evidence=truth)) > 0.9


def test_what_looked_at_nothing_scores_nothing(tools, media):
    truth = [Evidence("read_text", text="KX42")]
    assert visual_fidelity(chain(tools, media, evidence=truth)) == 0
    assert visual_fidelity(chain(tools, media, FAILS, evidence=truth)) == 0
    empty = call("read_text", media=0, box=[0, 800, 150, 1000])
    assert visual_fidelity(chain(tools, media, empty, evidence=truth)) == 0
    assert label_free_fidelity(chain(tools, media, empty), tools) == 0


def test_steps_that_no_evidence_is_about_do_not_count(tools, media):
    truth = [Evidence("read_text", text="KX42"), Evidence("read_text", media=1, text="other")]
    assert evidence_scores(chain(tools, media, ZOOM, READ, evidence=truth)) == [None, 1, None]


def test_properties_are_judged_by_their_box(tools, media):
    truth = [Evidence("properties", box=DISK_BOX)]
    trajectory = chain(tools, media, SEGMENT, call("properties", mask=0), evidence=truth)
    first, second, _ = evidence_scores(trajectory)
    assert first is None
    assert second > 0.9


def test_without_evidence_tools_are_needed(tools, media):
    trajectory = chain(tools, media, SEGMENT)
    with pytest.raises(ValueError, match="evidence: expected ground truth in sample 's'"):
        visual_fidelity(trajectory)
    assert visual_fidelity(trajectory, tools) == label_free_fidelity(trajectory, tools) > 0.8


def test_label_free_scores_never_see_the_truth(tools, media):
    calls = (SEGMENT, call("properties", mask=0), READ, ZOOM, FAILS)
    blind = chain(tools, media, *calls)
    lied_to = chain(tools, media, *calls, evidence=[Evidence("read_text", text="wrong")])
    scores = repeat_scores(blind, tools, JitterConfig(draws=2))
    assert repeat_scores(lied_to, tools, JitterConfig(draws=2)) == scores
    segment, properties, read, zoom, failed, answer = scores
    assert min(segment, properties, read) > 0.8
    assert zoom == 1
    assert failed is answer is None


def test_a_recorded_claim_that_does_not_come_back_scores_low(tools, media):
    trajectory = chain(tools, media, READ)
    invented = Observation('{"lines":[{"text":"WWWW","box":[600,100,900,300]}]}')
    trajectory.steps[0].observation = invented
    assert label_free_fidelity(trajectory, tools) == 0


def test_masks_keep_their_indexes_where_a_second_run_makes_none(tools, media):
    trajectory = chain(tools, media, SEGMENT, SEGMENT, call("properties", mask=1))
    no_point = call("segment", media=0, point=[375, 750], time=1.0)
    # The second run of the first call fails: an image has no time.
    trajectory.steps[0].call = no_point
    first, second, properties, _ = repeat_scores(trajectory, tools, JitterConfig())
    assert first == 0
    assert min(second, properties) > 0.8


def test_tracks(tools, tmp_path):
    frames, boxes = disk_frames()
    clip = add_clip(tools, frames, tmp_path)
    track = call("track", media=0, box=list(boxes[0]), start=0.0, end=0.8)
    truth = [Evidence("track", box=boxes[i], time_s=i / 10) for i in (0, 4, 8)]
    unasked = Evidence("track", box=(0, 0, 10, 10), time_s=1.5)
    trajectory = chain(tools, clip, track, evidence=[*truth, unasked])
    assert visual_fidelity(trajectory) > 0.7
    assert label_free_fidelity(trajectory, tools) > 0.7
    wrong = [Evidence("track", box=boxes[0], time_s=i / 10) for i in (4, 8)]
    assert visual_fidelity(chain(tools, clip, track, evidence=wrong)) < 0.2


def test_times(tools, tmp_path):
    clip = add_clip(tools, resting_frames(), tmp_path)
    localize = call("localize", media=0, event="motion")
    truth = [Evidence("localize", span=(0.8, 1.7))]
    trajectory = chain(tools, clip, localize, evidence=truth)
    assert visual_fidelity(trajectory) > 0.7
    assert label_free_fidelity(trajectory, tools) > 0.7
    wrong = [Evidence("localize", span=(2.0, 2.5))]
    assert visual_fidelity(chain(tools, clip, localize, evidence=wrong)) == 0


def test_a_view_is_right_where_it_holds_its_target_closely():
    target = (400, 400, 500, 500)
    assert view_score((380, 380, 520, 520), target) == 1
    assert view_score((400, 400, 450, 500), target) == 0.5
    assert view_score((0, 0, 1000, 1000), target) == pytest.approx(0.08)
    assert view_score((0, 0, 100, 100), target) == 0


def test_masks_by_hand_and_by_pycocotools():
    one, other = np.zeros((2, 20, 40), bool)
    one[0:10, 0:20], other[0:10, 10:30] = True, True
    assert mask_iou(mask_of(one), mask_of(other)) == pytest.approx(100 / 300)
    assert mask_box(mask_of(other)) == (250, 0, 750, 500)
    with pytest.raises(ValueError, match="mask: expected the size"):
        mask_iou(mask_of(one), mask_of(np.ones((2, 2))))


def test_sets_of_seconds():
    assert spans_iou([(0, 2), (1, 3)], [(2, 4)]) == pytest.approx(1 / 4)
    assert spans_iou([(1, 1)], [(1, 1)]) == 1
    assert spans_iou([(1, 1)], [(2, 2)]) == 0


def test_jitter_stays_a_valid_call_and_moves_something():
    rng = np.random.default_rng(0)
    for _ in range(200):
        x0, y0, x1, y1 = moved_box([990, 0, 1000, 1000], rng, 0.4)
        assert 0 <= x0 < x1 <= 1000
        assert 0 <= y0 < y1 <= 1000
    near = jittered(SEGMENT, rng, box_share=0.04, point=6).arguments["point"]
    assert max(abs(np.array(near) - [375, 750])) <= 6
    whole = jittered(call("read_text", media=0), rng, box_share=0.04, point=6)
    assert whole.arguments["box"][0] > 0
    look = call("localize", media=0, event="appearance")
    assert jittered(look, rng, box_share=0.04, point=6) == look


@pytest.mark.parametrize("wrong", [{"draws": 0}, {"box_share": 0.5}, {"point": -1}])
def test_jitter_settings_are_checked(wrong):
    with pytest.raises(ValueError, match="expected"):
        JitterConfig(**wrong)
