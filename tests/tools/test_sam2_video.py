"""Video sessions of SAM 2: the same masks as the original predictor, in bounded memory."""

import warnings
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.engine_buckets import fitting, named_sizes
from pixelis_fast.tools_trt.models.sam2_config import config_for
from pixelis_fast.tools_trt.models.sam2_model import OUTPUTS
from pixelis_fast.tools_trt.models.sam2_weights import random_graphs
from pixelis_fast.tools_trt.results import MissingWeightsError, ToolInputError
from pixelis_fast.tools_trt.rle import decode_mask
from pixelis_fast.tools_trt.sam2 import Sam2
from pixelis_fast.tools_trt.sam2_attend import AttendRule, attend
from pixelis_fast.tools_trt.sam2_session import SessionConfig
from pixelis_fast.tools_trt.sam2_specs import Sam2Specs
from pixelis_fast.tools_trt.sam2_track import Sam2Track
from pixelis_fast.tools_trt.sam2_video import VideoSession
from tests.scenes import photograph

TOLERANCE = 1e-3
"""Logits, fp32. A memory's rounding to bfloat16 may fall to either side."""
NUM_FRAMES = 12
SIZE = (96, 144)
BOX = (10, 20, 70, 80)
MICRO_SIDE = 64


def panned(count=NUM_FRAMES):
    """A camera that moves over a photograph."""
    picture = photograph("astronaut.png")
    height, width = SIZE
    crops = [picture[n : n + height, 12 * n : 12 * n + width] for n in range(count)]
    return [np.ascontiguousarray(crop) for crop in crops]


def drawn():
    mask = np.zeros(SIZE, dtype=bool)
    mask[20:60, 30:90] = True
    return mask


def original(side, version):
    """The original predictor with seeded weights that let a wrong memory show.

    Fresh weights hardly look at the memory, and their object scores never change sign.
    """
    build = pytest.importorskip("sam2.build_sam")
    grid = f"[{side // 16},{side // 16}]"
    attention = "++model.memory_attention.layer"
    overrides = [
        f"++model.image_size={side}",
        f"{attention}.self_attention.feat_sizes={grid}",
        f"{attention}.cross_attention.feat_sizes={grid}",
    ]
    torch.manual_seed(0)
    name = f"configs/sam{version}/sam{version}_hiera_t.yaml"
    model = build.build_sam2_video_predictor(
        name, None, device="cpu", hydra_overrides_extra=overrides
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.ndim <= 1 or tensor.shape[0] == 1:
                tensor += 0.05 * torch.randn(tensor.shape, generator=generator)
        for layer in model.memory_attention.layers:
            cross = layer.cross_attn_image
            for part in (cross.q_proj, cross.k_proj, cross.out_proj):
                part.weight *= 2.5
        model.maskmem_tpos_enc *= 8
        model.no_obj_ptr *= 5
        if version == "2.1":
            model.no_obj_embed_spatial *= 5
            model.obj_ptr_tpos_proj.weight *= 4
        for head in model.sam_mask_decoder.output_hypernetworks_mlps:
            head.layers[-1].weight *= 20
        score = model.sam_mask_decoder.pred_obj_score_head.layers[-1]
        score.weight *= 20
        score.bias -= 2.9
    return model


@pytest.fixture(scope="module")
def predictors(tmp_path_factory):
    """(The original predictor, ours with its checkpoint) of a side and a version."""

    @cache
    def pair(side, version):
        model = original(side, version)
        path = tmp_path_factory.mktemp("sam2") / "tiny.pt"
        torch.save({"model": model.state_dict()}, path)
        return model, Sam2.load(path, side=side)

    return pair


class Both:
    """Does the same with the original and with ours, and compares what comes back."""

    def __init__(
        self, predictors, monkeypatch, *, side, frames, version="2.1", corrections_stay=True
    ):
        theirs = pytest.importorskip("sam2.sam2_video_predictor")
        from sam2.modeling.sam2_base import SAM2Base

        self.model, sam2 = predictors(side, version)
        self.model.add_all_frames_to_correct_as_cond = corrections_stay
        pixels = torch.cat([sam2.preprocess(frame) for frame in frames])
        monkeypatch.setattr(theirs, "load_video_frames", lambda **_: (pixels, *SIZE))
        monkeypatch.setattr(theirs, "tqdm", lambda order, **_: order)
        encoded = cache(lambda number: SAM2Base.forward_image(self.model, pixels[number][None]))
        places = {pixels[number].data_ptr(): number for number in range(len(frames))}
        monkeypatch.setattr(
            self.model, "forward_image", lambda image: encoded(places[image.data_ptr()])
        )
        self.state = self.model.init_state("frames")
        config = SessionConfig(num_frames=len(frames), corrections_stay=corrections_stay)
        self.session = VideoSession(sam2, config=config)
        for number, frame in enumerate(frames):
            self.session.add_frame(frame, key=f"{side}/{number}")
        self.scores = []

    def prompt(self, object_id, frame, **prompt):
        ours = self.session.prompt(object_id, frame, **prompt)
        if "mask_HW" in prompt:
            answer = self.model.add_new_mask(self.state, frame, object_id, prompt["mask_HW"])
        else:
            given = {
                "points": np.array(prompt.get("points_px", ()), np.float32).reshape(-1, 2),
                "labels": np.array(prompt.get("labels", ()), np.int32),
                "box": prompt.get("box_px"),
                "clear_old_points": not prompt.get("add_to_clicks", False),
            }
            answer = self.model.add_new_points_or_box(self.state, frame, object_id, **given)
        _, object_ids, masks = answer
        self.compare(ours.logits()[0], masks[object_ids.index(object_id), 0])

    def propagate(self, start, *, reverse=False):
        theirs = self.model.propagate_in_video(self.state, start, reverse=reverse)
        for (frame, object_ids, masks), ours in zip(
            theirs, self.session.propagate(start, reverse=reverse), strict=True
        ):
            assert (frame, tuple(object_ids)) == (ours.frame, ours.object_ids)
            self.compare(ours.logits(), masks[:, 0])
            scores = [self.score(index, frame) for index in range(len(object_ids))]
            assert ours.object_scores == pytest.approx(scores, abs=TOLERANCE)
            self.scores += scores

    def score(self, index, frame):
        outputs = self.state["output_dict_per_obj"][index]
        kinds = (outputs["cond_frame_outputs"], outputs["non_cond_frame_outputs"])
        found = next(kind[frame] for kind in kinds if frame in kind)
        return float(found["object_score_logits"])

    @staticmethod
    def compare(ours, theirs):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=TOLERANCE)


@pytest.fixture(autouse=True)
def no_warning_of_unbuilt_hole_filling():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="(?s).*post-processing step")
        yield


@pytest.mark.parametrize("corrections_stay", [True, False])
def test_same_masks_as_the_original(predictors, monkeypatch, corrections_stay):
    """Three objects by clicks, box and mask; a correction, backwards, one object less."""
    both = Both(
        predictors, monkeypatch, side=128, frames=panned(), corrections_stay=corrections_stay
    )
    both.prompt("clicked", 0, points_px=[(40, 30)], labels=[1])
    both.prompt("clicked", 0, points_px=[(60, 50)], labels=[0], add_to_clicks=True)
    both.prompt("boxed", 0, box_px=BOX)
    both.prompt("drawn", 2, mask_HW=drawn())
    both.propagate(2)
    both.prompt("boxed", 5, points_px=[(50, 50), (20, 30)], labels=[1, 0])
    both.propagate(5)
    both.propagate(7, reverse=True)
    both.model.remove_object(both.state, "clicked")
    both.session.remove_object("clicked")
    both.prompt("drawn", 9, points_px=[(70, 40)], labels=[1])
    both.propagate(4)
    assert min(both.scores) < 0 < max(both.scores), "objects should come and go"
    assert min(map(abs, both.scores)) > TOLERANCE, "a score at zero decides nothing"


@pytest.mark.parametrize(("side", "version"), [(256, "2.1"), (128, "2")])
def test_one_box(predictors, monkeypatch, side, version):
    """A side where windows are not cut; the version whose pointers know no time."""
    both = Both(predictors, monkeypatch, side=side, frames=panned(4), version=version)
    both.prompt("boxed", 0, box_px=BOX)
    both.propagate(0)


def test_more_prompts_than_a_compiled_bank_holds(predictors, monkeypatch):
    """Nine memories and eighteen pointers."""
    both = Both(predictors, monkeypatch, side=128, frames=panned(20))
    for frame in range(3):
        both.prompt("boxed", frame, box_px=BOX)
    both.propagate(0)


def test_taking_a_prompt_back(predictors, monkeypatch):
    """The frame's result stays, as if it had been tracked."""
    both = Both(predictors, monkeypatch, side=128, frames=panned(5))
    both.prompt("boxed", 0, box_px=BOX)
    both.prompt("boxed", 2, points_px=[(50, 50), (20, 30)], labels=[1, 0])
    both.propagate(0)
    both.model.clear_all_prompts_in_frame(both.state, 2, "boxed")
    both.session.clear_prompt("boxed", 2)
    both.propagate(3)
    both.prompt("boxed", 4, points_px=[(60, 40)], labels=[1])
    both.propagate(2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("limit", [None, 2, 3], ids=str)
@pytest.mark.parametrize("reverse", [False, True])
def test_attends_to_the_same_frames(stride, limit, reverse):
    """Frames and their places in time are read off the original's tensors."""
    generator = np.random.default_rng(stride)
    rule = AttendRule(stride=stride, max_conditioning=limit)
    for _ in range(20):
        frame = int(generator.integers(20, 40))
        kinds = generator.choice([0, 1, 2], p=[0.3, 0.6, 0.1], size=60)
        prompted, tracked = (np.flatnonzero(kinds == kind).tolist() for kind in (2, 1))
        if not prompted or frame in prompted:
            continue
        ours = attend(frame, conditioning=prompted, tracked=tracked, reverse=reverse, rule=rule)
        memories, pointers = attended_by_the_original(
            frame, prompted, tracked, rule=rule, reverse=reverse
        )
        assert sorted(ours.memories) == sorted(memories)
        assert sorted(ours.pointers) == sorted(pointers)


def attended_by_the_original(frame, prompted, tracked, *, rule, reverse):
    """Runs its selection on memories that hold their frame's number and rows that hold theirs."""
    base = pytest.importorskip("sam2.modeling.sam2_base")
    seen = {}
    self = SimpleNamespace(
        hidden_dim=4,
        mem_dim=4,
        num_maskmem=rule.memory_frames,
        memory_temporal_stride_for_eval=rule.stride,
        max_cond_frames_in_attn=rule.max_conditioning or -1,
        training=False,
        use_obj_ptrs_in_encoder=True,
        max_obj_ptrs_in_encoder=rule.pointer_slots,
        only_obj_ptrs_in_the_past_for_eval=True,
        use_signed_tpos_enc_to_obj_ptrs=True,
        add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True,
        maskmem_tpos_enc=torch.arange(1.0, rule.memory_frames + 1).view(-1, 1, 1, 1),
        obj_ptr_tpos_proj=lambda code: code,
        memory_attention=lambda **kwargs: seen.update(kwargs) or torch.zeros(1, 1, 4),
    )
    outputs = {
        number: {
            "maskmem_features": torch.full((1, 4, 1, 1), float(number)),
            "maskmem_pos_enc": [torch.zeros(1, 4, 1, 1)],
            "obj_ptr": torch.full((1, 4), float(number)),
        }
        for number in (*prompted, *tracked)
    }
    base.SAM2Base._prepare_memory_conditioned_features(
        self,
        frame_idx=frame,
        is_init_cond_frame=False,
        current_vision_feats=[torch.zeros(1, 1, 4)],
        current_vision_pos_embeds=[torch.zeros(1, 1, 4)],
        feat_sizes=[(1, 1)],
        output_dict={
            "cond_frame_outputs": {number: outputs[number] for number in prompted},
            "non_cond_frame_outputs": {number: outputs[number] for number in tracked},
        },
        num_frames=60,
        track_in_reverse=reverse,
    )
    count = seen["num_obj_ptr_tokens"]
    numbers = seen["memory"][:, 0, 0].round().int().tolist()
    places = seen["memory_pos"][:, 0]
    split = len(numbers) - count
    backs = [int(row) % rule.memory_frames for row in places[:split, 0]]
    # The code of a distance d is sin(d / 15) first.
    shares = places[split:, 0].asin() if count else places[split:, 0]
    assert split == len(seen["memory"]) - count
    steps = [abs(frame - number) for number in numbers[split:]]
    near = [step for step in steps if step <= 15]
    found = (shares * (rule.pointer_slots - 1)).round().int().tolist()
    assert [d for d, step in zip(found, steps, strict=True) if step <= 15] == near
    return list(zip(numbers[:split], backs, strict=True)), list(
        zip(numbers[split:], steps, strict=True)
    )


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
    specs = Sam2Specs(sam2.graphs, name="micro", trained=False)
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
