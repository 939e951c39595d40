"""Video sessions of SAM 2: bounded memory, objects that come and go, calls that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.engines.buckets import fitting, named_sizes
from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_model import OUTPUTS
from pixelis_fast.tools_trt.models.sam2_weights import random_graphs
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.session import SessionConfig
from pixelis_fast.tools_trt.sam2.specs import Sam2Specs
from pixelis_fast.tools_trt.sam2.track import Sam2Track
from pixelis_fast.tools_trt.sam2.video import VideoSession
from tests.panned import BOX, NUM_FRAMES, SIZE, drawn, panned

MICRO_SIDE = 64


def micro(**options):
    """Random weights whose objects are visible and whose memory shows."""
    graphs = random_graphs(config_for("micro", side=MICRO_SIDE))
    graphs.decoder.object_head.layers[-1].bias += 2
    for layer in graphs.memory.attention.layers:
        layer.to_bank.out.weight *= 5
    return Sam2(graphs, name="sam2:micro", degraded=None, **options)


def started(sam2, *, frames=NUM_FRAMES, **config):
    """A session with some frames."""
    session = VideoSession(sam2, config=SessionConfig(**config))
    for number, frame in enumerate(panned(frames)):
        session.add_frame(frame, key=str(number))
    return session


def test_nothing_grows_with_the_video():
    sam2 = micro(cache_bytes=1 << 20)
    session = VideoSession(sam2, config=SessionConfig(window=3))
    frames = panned(4)
    sizes = set()
    for number in range(200):
        session.add_frame(frames[number % 4], key=str(number % 4))
        if number == 0:
            session.prompt("thing", 0, box_px=BOX)
        found = session.step(number)
        tracked = session._objects["thing"]
        sizes.add((session.num_bytes, found.logits_B1mm.shape))
    assert len(sizes) == 1
    assert max(len(tracked.visited), len(tracked.bank.recent)) <= 17
    assert len(tracked.clicks) == 1
    assert list(session.frames.numbers()) == [197, 198, 199]
    assert len(session.frames._held) <= 1
    with pytest.raises(ToolInputError, match=r"frame: expected one of 197\.\.199, got 20"):
        session.prompt("thing", 20, box_px=BOX)


def test_a_forgotten_frame_was_never_visited():
    """A correction beyond the ring starts anew, as on a frame that was not tracked."""
    session = started(micro(), frames=24)
    session.prompt("thing", 0, box_px=BOX)
    for _ in session.propagate():
        pass
    fresh = started(micro(), frames=24)
    click = {"points_px": [(30, 30)], "labels": [1]}
    again, first = session.prompt("thing", 5, **click), fresh.prompt("thing", 5, **click)
    assert torch.equal(again.logits_B1mm, first.logits_B1mm)
    near, new = session.prompt("thing", 20, **click), fresh.prompt("other", 20, **click)
    assert not torch.equal(near.logits_B1mm, new.logits_B1mm)


def followed(*, others):
    """Logits of one object per frame while others come ({frame: object}) or go ({frame: None})."""
    session = started(micro())
    session.prompt("first", 0, box_px=BOX)
    logits = []
    if 0 in others:
        session.prompt(others[0], 0, points_px=[(90, 60)], labels=[1])
    for found in session.propagate():
        logits.append(found.logits_B1mm[0])
        if (following := found.frame + 1) not in others:
            continue
        if others[following] is None:
            session.remove_object(session.object_ids[-1])
        else:
            session.prompt(others[following], following, mask_HW=drawn())
    assert min(float(np.ptp(one.numpy())) for one in logits) > 0.1
    return logits, session.object_ids


def test_an_object_added_changes_no_other():
    """It attends to fewer memories, so it is in no batch with the first: equal bit by bit."""
    (alone, _), (found, object_ids) = followed(others={}), followed(others={6: "later"})
    assert object_ids == ("first", "later")
    assert all(map(torch.equal, found, alone))


def test_an_object_removed_changes_no_other():
    """Up to the order of sums: matrix products of two objects are blocked otherwise."""
    (alone, _), (found, object_ids) = followed(others={}), followed(others={0: "second", 4: None})
    assert object_ids == ("first",)
    torch.testing.assert_close(found, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize("encode_batch", [1, 4])
def test_features_cached_or_not(encode_batch):
    def tracked(**options):
        session = started(micro(**options), encode_batch=encode_batch)
        session.prompt("thing", 0, box_px=BOX)
        return [found.logits_B1mm for found in session.propagate()], session

    (cached, first), (plain, _) = tracked(), tracked(cache_bytes=0)
    assert all(map(torch.equal, cached, plain))
    again = VideoSession(first.sam2, config=first.config)
    misses = first.sam2.cache.misses
    for number, frame in enumerate(panned()):
        again.add_frame(frame, key=str(number))
    again.prompt("thing", 0, box_px=BOX)
    repeated = [found.logits_B1mm for found in again.propagate()]
    assert all(map(torch.equal, repeated, cached))
    assert first.sam2.cache.misses == misses, "every frame was known"


def test_frames_may_come_as_features():
    sam2 = micro()
    frames = panned(3)
    session, encoded = started(sam2, frames=3), VideoSession(sam2)
    for number, frame in enumerate(frames):
        features = sam2.encode(frame, key=str(number))
        encoded.add_frame(features=features, size=SIZE)
    for one in (session, encoded):
        one.prompt("thing", 0, box_px=BOX)
    for ours, theirs in zip(encoded.propagate(), session.propagate(), strict=True):
        assert torch.equal(ours.logits_B1mm, theirs.logits_B1mm)


def test_masks_leave_as_runs():
    session = started(micro(), frames=2)
    session.prompt("drawn", 0, mask_HW=drawn())
    session.prompt("empty", 0, mask_HW=np.zeros(SIZE, dtype=bool))
    found = next(session.propagate())
    mask, nothing = found.rle()
    assert nothing is None
    assert found.visible()[0] > 0.99 > 0.01 > found.visible()[1]
    overlap = decode_mask(mask) & drawn()
    assert overlap.sum() / (decode_mask(mask) | drawn()).sum() > 0.9


def test_prompts_that_do_not_fit():
    session = started(micro(), frames=4, prompted_frames=2)
    point = {"points_px": [(5, 5)], "labels": [1]}
    refused = {
        "box: expected": {"box_px": (float("nan"), 0, 9, 9)},
        r"box: .* x0 < x1": {"box_px": (9, 0, 9, 9)},
        "point: expected": {"points_px": [(5, 1000)], "labels": [1]},
        "label": {"points_px": [(5, 5)], "labels": [1, 1]},
        "label 0 or 1": {"points_px": [(5, 5)], "labels": [2]},
        "got none of them": {},
        "got both": {"mask_HW": drawn(), **point},
        "mask: expected": {"mask_HW": np.zeros(3)},
    }
    for message, prompt in refused.items():
        with pytest.raises(ToolInputError, match=message):
            session.prompt("thing", 0, **prompt)
    assert session.object_ids == (), "a refused prompt makes no object"
    session.prompt("thing", 0, **point)
    with pytest.raises(ToolInputError, match="before any click"):
        session.prompt("thing", 0, box_px=BOX, add_to_clicks=True)
    session.prompt("thing", 1, **point)
    with pytest.raises(ToolInputError, match="at most 2 prompted frames"):
        session.prompt("thing", 2, **point)


def test_calls_that_do_not_fit():
    sam2 = micro()
    with pytest.raises(ToolInputError, match="a frame first"):
        VideoSession(sam2).frames.size  # noqa: B018
    session = started(sam2, frames=2)
    with pytest.raises(ToolInputError, match="a prompted object first"):
        next(session.propagate())
    with pytest.raises(ToolInputError, match=r"object: expected one of \[\], got 'ghost'"):
        session.remove_object("ghost")
    with pytest.raises(ToolInputError, match=r"frame: expected one of 0\.\.1, got 7"):
        session.prompt("thing", 7, box_px=BOX)
    session.prompt("thing", 0, box_px=BOX)
    with pytest.raises(ToolInputError, match="prompted one of 'thing'"):
        session.clear_prompt("thing", 1)
    session.clear_prompt("thing", 0)
    with pytest.raises(ToolInputError, match="a prompted frame for every object"):
        next(session.propagate())
    with pytest.raises(ToolInputError, match="expected the size"):
        session.add_frame(np.zeros((9, 9, 3), np.uint8))
    with pytest.raises(ToolInputError, match="pixels, or features"):
        session.add_frame()
    with pytest.raises(ToolInputError, match="at most 2, got one more"):
        started(sam2, frames=3, num_frames=2)
    with pytest.raises(ValueError, match="recent"):
        started(sam2, recent_frames=4).prompt("thing", 0, box_px=BOX)
    for config in ({"stride": 0}, {"object_batch": 0}, {"window": 0}, {"encode_batch": 0}):
        with pytest.raises(ValueError, match="expected"):
            started(sam2, **config)


def test_calls_fit_compiled_graphs():
    """With one object per call every input has the sizes that graphs are compiled for."""
    sam2 = micro()
    specs = Sam2Specs(sam2.graphs, trained=False)
    fitted = {name: FittedSession(getattr(specs, name)(), sam2.sessions[name]) for name in OUTPUTS}
    sam2.use(fitted)
    session = started(sam2, object_batch=1)
    session.prompt("one", 0, box_px=BOX)
    session.prompt("two", 0, mask_HW=drawn())
    seen = [found.logits_B1mm for found in session.propagate()]
    session.prompt("one", 4, points_px=[(50, 50)], labels=[0])
    assert len(seen) == NUM_FRAMES
    tokens, pointers = sam2.config.coarse_side**2, sam2.config.pointer_tokens
    rows = {sizes["M"] for sizes in fitted["memory_attention"].sizes}
    assert rows == {frames * tokens + pointers for frames in range(1, 8)}


class FittedSession:
    """Runs a graph after a bucket of its specification was found for the inputs."""

    def __init__(self, spec, session):
        self.spec, self.session, self.sizes = spec, session, []
        self.name, self.reason, self.device = session.name, "test", session.device
        self.input_names, self.metadata = session.input_names, {}

    def run(self, inputs):
        sizes = named_sizes(self.spec, inputs)
        bucket = fitting(self.spec, sizes)
        assert bucket.get("M") == sizes.get("M"), "rows behind the pointers are no frame"
        self.sizes.append(sizes)
        return self.session.run(inputs)


def test_track_engine():
    """A box through frames, encoded one by one or in batches."""
    frames = panned(6)
    keys = [str(number) for number in range(6)]
    one, four = (
        list(Sam2Track(micro(), encode_batch=batch).track(iter(frames), BOX, keys=keys))
        for batch in (1, 4)
    )
    assert len(one) == 6
    for (mask, score), (other, same) in zip(one, four, strict=True):
        assert score == pytest.approx(same, abs=1e-4)
        assert (mask is None) == (other is None)
    with pytest.raises(ToolInputError, match="at least one frame"):
        list(Sam2Track(micro()).track([], BOX, keys=[]))


def test_weights_without_a_memory():
    config = config_for("micro", side=MICRO_SIDE)
    picture = random_graphs(replace(config, has_memory=False))
    sam2 = Sam2(picture, name="sam2:picture", degraded=None)
    with pytest.raises(MissingWeightsError, match="weights with a memory"):
        Sam2Track(sam2)
    with pytest.raises(MissingWeightsError, match="weights with a memory"):
        VideoSession(sam2)
