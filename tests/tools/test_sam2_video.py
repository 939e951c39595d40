"""Video sessions of SAM 2: the same masks as the original predictor."""

import warnings
from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.sam2.attend import AttendRule, attend
from pixelis_fast.tools_trt.sam2.network import Sam2
from pixelis_fast.tools_trt.sam2.session import SessionConfig
from pixelis_fast.tools_trt.sam2.video import VideoSession
from tests.panned import BOX, SIZE, drawn, panned

TOLERANCE = 1e-3
"""Logits, fp32. A memory's rounding to bfloat16 may fall to either side."""


def original(side, version):
    """The original predictor with seeded weights that let a wrong memory show.

    Fresh weights hardly look at the memory, and their object scores never change sign.
    """
    build = pytest.importorskip(
        "sam2.build_sam", reason="needs sam2, the original: the `baseline` extra"
    )
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
        theirs = pytest.importorskip(
            "sam2.sam2_video_predictor", reason="needs sam2, the original: the `baseline` extra"
        )
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
    base = pytest.importorskip(
        "sam2.modeling.sam2_base", reason="needs sam2, the original: the `baseline` extra"
    )
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
