"""SAM 2's graphs against the original package's modules with the same weights."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pixelis_fast.tools_trt.models.sam2_choice import chosen, stable_choice
from pixelis_fast.tools_trt.models.sam2_config import SIZES, Sam2Config, config_for
from pixelis_fast.tools_trt.models.sam2_convert import convert
from pixelis_fast.tools_trt.models.sam2_encoder import ImageEncoder
from pixelis_fast.tools_trt.models.sam2_layers import bake
from pixelis_fast.tools_trt.models.sam2_memory import rotation_table, sine_positions, time_code
from pixelis_fast.tools_trt.models.sam2_model import Sam2Graphs
from pixelis_fast.tools_trt.models.sam2_prompts import (
    BOX_END,
    BOX_START,
    EMPTY,
    NEGATIVE,
    NO_POINT,
    POSITIVE,
    empty_mask,
)
from pixelis_fast.tools_trt.models.sam2_weights import random_graphs, ready, told_config
from pixelis_fast.tools_trt.results import MissingWeightsError
from tests.sam2_original import original

pytest.importorskip("sam2", reason="needs sam2, the original: the `baseline` extra")
SIDE = 256
TOLERANCE = 1e-4
"""fp32, absolute."""


def ours_for(model, *, side=SIDE, config=None):
    """Our graphs with the weights of an original model."""
    tensors = model.state_dict()
    config = told_config(tensors, side=side) if config is None else config
    converted, unexpected = convert(tensors, config)
    assert not unexpected
    graphs = Sam2Graphs(config)
    graphs.load_state_dict(converted)
    return ready(graphs)


@pytest.fixture(scope="module")
def pair():
    """(the original, ours)."""
    model = original("tiny", side=SIDE, dynamic_choice=False)
    return model, ours_for(model)


def pixels(side, *, batch=1, seed=0):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))


def near(found, expected):
    assert float(expected.max() - expected.min()) > 0.1, "a test of constants proves nothing"
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_encoder(pair):
    model, ours = pair
    picture = pixels(SIDE, batch=2)
    for found, expected in zip(
        ours.encoder(picture), model.forward_image(picture)["backbone_fpn"], strict=True
    ):
        near(found, expected)


@pytest.mark.parametrize(
    ("size", "side"),
    [("tiny", 96), ("small", 224), ("base_plus", 160), ("large", 192)],
    ids=str,
)
@torch.no_grad()
def test_encoder_of_every_size(size, side):
    """Windows that divide the grid, windows larger than it, padding before a stage's pooling.

    Each size with its widths, heads and windows, but few blocks: their number costs only time.
    """
    config = replace(config_for(size, side=side), blocks=(1, 2, 3, 2), global_blocks=(4, 7))
    trunk = "++model.image_encoder.trunk"
    fewer = (f"{trunk}.stages=[1,2,3,2]", f"{trunk}.global_att_blocks=[4,7]")
    model = original(size, side=side, overrides=fewer)
    ours = ours_for(model, config=config)
    picture = pixels(side)
    for found, expected in zip(
        ours.encoder(picture), model.forward_image(picture)["backbone_fpn"], strict=True
    ):
        near(found, expected)


@pytest.mark.parametrize("version", ["2", "2.1"])
@pytest.mark.parametrize("size", ["tiny", "small", "base_plus", "large"])
def test_released_models_are_told_from_their_tensors(size, version):
    expected = config_for(size, side=64, version=version)
    trunk = "image_encoder.trunk"
    blocks = range(sum(expected.blocks))
    tensors = {f"{trunk}.blocks.{n}.norm1.weight": torch.zeros(1) for n in blocks}
    tensors[f"{trunk}.patch_embed.proj.weight"] = torch.zeros(expected.width, 3, 7, 7)
    tensors["maskmem_tpos_enc"] = torch.zeros(1)
    if version == "2.1":
        tensors["no_obj_embed_spatial"] = torch.zeros(1)
    assert told_config(tensors, side=64) == expected
    del tensors["maskmem_tpos_enc"]
    assert told_config(tensors, side=64) == replace(expected, has_memory=False)
    del tensors[f"{trunk}.blocks.0.norm1.weight"]
    with pytest.raises(MissingWeightsError, match="released size"):
        told_config(tensors, side=64)


PROMPTS = {
    "point": [[(40, 60, POSITIVE), (0, 0, NO_POINT)]],
    "points": [[(40, 60, POSITIVE), (200, 9, NEGATIVE), (3, 250, POSITIVE), (0, 0, NO_POINT)]],
    "box": [[(30, 20, BOX_START), (200, 220, BOX_END), (0, 0, NO_POINT)]],
    "box and point": [
        [(30, 20, BOX_START), (200, 220, BOX_END), (99, 90, NEGATIVE), (0, 0, NO_POINT)]
    ],
    "three prompts": [
        [(40, 60, POSITIVE), (0, 0, NO_POINT)],
        [(70, 200, NEGATIVE), (0, 0, NO_POINT)],
        [(255, 0, POSITIVE), (0, 0, NO_POINT)],
    ],
}


def decoded(ours, features, slots_BP3, *, mask=None):
    slots = torch.tensor(slots_BP3, dtype=torch.float32)
    given, has_mask = empty_mask(ours.config, len(slots), device=slots.device)
    if mask is not None:
        given, has_mask = mask, torch.ones_like(has_mask)
    fine, middle, coarse = features
    return ours.decoder(
        coarse + ours.no_memory, fine, middle, slots[..., :2], slots[..., 2], given, has_mask
    )


def originally_decoded(model, features, slots_BP3, *, mask=None):
    """All four masks, scores and mask tokens of the original's modules."""
    fine, middle, coarse = features
    # The original appends the token of no point itself.
    slots = torch.tensor(slots_BP3, dtype=torch.float32)[:, :-1]
    points = (slots[..., :2], slots[..., 2].int())
    sparse, dense = model.sam_prompt_encoder(points=points, boxes=None, masks=mask)
    masks, ious, tokens, score = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse + model.no_mem_embed.view(1, -1, 1, 1),
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=True,
        high_res_features=[fine, middle],
    )
    return masks, ious, model.obj_ptr_proj(tokens), score


@pytest.mark.parametrize("with_mask", [False, True], ids=["plain", "mask"])
@pytest.mark.parametrize("name", PROMPTS)
@torch.no_grad()
def test_decoder(pair, name, with_mask):
    model, ours = pair
    features = ours.encoder(pixels(SIDE))
    slots = PROMPTS[name]
    mask = 8 * torch.randn(len(slots), 1, SIDE // 4, SIDE // 4) if with_mask else None
    found = decoded(ours, features, slots, mask=mask)
    expected = originally_decoded(model, features, slots, mask=mask)
    near(found[0], expected[0])
    for ours_part, their_part in zip(found[1:], expected[1:], strict=True):
        torch.testing.assert_close(ours_part, their_part, rtol=0, atol=TOLERANCE)


@torch.no_grad()
def test_mask_alone(pair):
    """Without points there is no token of no point either."""
    model, ours = pair
    features = ours.encoder(pixels(SIDE))
    mask = 8 * torch.randn(1, 1, SIDE // 4, SIDE // 4)
    found = decoded(ours, features, [[(0, 0, EMPTY)]], mask=mask)
    sparse, dense = model.sam_prompt_encoder(points=None, boxes=None, masks=mask)
    fine, middle, coarse = features
    masks, *_ = model.sam_mask_decoder.predict_masks(
        image_embeddings=coarse + model.no_mem_embed.view(1, -1, 1, 1),
        image_pe=model.sam_prompt_encoder.get_dense_pe(),
        sparse_prompt_embeddings=sparse,
        dense_prompt_embeddings=dense,
        repeat_image=False,
        high_res_features=[fine, middle],
    )
    near(found[0], masks)


@torch.no_grad()
def test_empty_slots_change_nothing(pair):
    _, ours = pair
    features = ours.encoder(pixels(SIDE))
    prompt = [(40, 60, POSITIVE), (0, 0, NO_POINT)]
    filled = [[*prompt, (7, 7, EMPTY), (99, 200, EMPTY)]]
    for padded, plain in zip(
        decoded(ours, features, filled), decoded(ours, features, [prompt]), strict=True
    ):
        torch.testing.assert_close(padded, plain, rtol=0, atol=2e-5)


@torch.no_grad()
def test_stable_choice_is_the_originals(pair):
    decoder = pair[0].sam_mask_decoder
    generator = torch.Generator().manual_seed(3)
    masks = torch.randn(6, 4, 8, 8, generator=generator)
    masks[:3] *= 1000
    masks[3, 0] = -1
    ious = torch.rand(6, 4, generator=generator)
    decoder.dynamic_multimask_stability_delta = 0.05
    decoder.dynamic_multimask_stability_thresh = 0.98
    expected, expected_iou = decoder._dynamic_multimask_via_stability(masks, ious)
    index = stable_choice(masks, ious)
    assert set(index.tolist()) > {0}, "both branches must be taken"
    assert torch.equal(chosen(masks, index), expected[:, 0])
    assert torch.equal(chosen(ious, index), expected_iou[:, 0])


@pytest.mark.parametrize("version", ["2", "2.1"])
@torch.no_grad()
def test_memory_encoder(version):
    model = original("tiny", side=SIDE, version=version, dynamic_choice=False)
    ours = ours_for(model)
    generator = torch.Generator().manual_seed(5)
    coarse = torch.randn(3, 256, SIDE // 16, SIDE // 16, generator=generator)
    logits = 3 * torch.randn(3, 1, SIDE, SIDE, generator=generator)
    scores = torch.tensor([[2.0], [-1.0], [0.0]])
    model.binarize_mask_from_pts_for_mem_enc = True
    for is_clicked in (False, True):
        expected, positions = model._encode_new_memory(
            [coarse.flatten(2).permute(2, 0, 1)], [(SIDE // 16,) * 2], logits, scores, is_clicked
        )
        clicked = torch.full((3, 1), float(is_clicked))
        near(ours.memory.encoder(coarse, logits, clicked, scores), expected)
    spatial = positions[-1][:1].flatten(2).transpose(1, 2)
    torch.testing.assert_close(ours.memory.memory_positions, spatial, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("frames", "pointers"), [(1, 4), (3, 12), (7, 64), (2, 0)], ids=lambda number: str(number)
)
@torch.no_grad()
def test_memory_attention(pair, frames, pointers):
    """A bank with empty slots gives what the original gives for the frames and pointers in use."""
    model, ours = pair
    tokens, objects = (SIDE // 16) ** 2, 2
    generator = torch.Generator().manual_seed(frames)
    current = torch.randn(1, tokens, 256, generator=generator)
    memory = torch.randn(objects, frames * tokens + pointers, 64, generator=generator)
    places = torch.randn(objects, frames * tokens + pointers, 64, generator=generator)
    expected = model.memory_attention(
        curr=current.expand(objects, -1, -1).transpose(0, 1),
        curr_pos=ours.memory.frame_positions.expand(objects, -1, -1).transpose(0, 1),
        memory=memory.transpose(0, 1),
        memory_pos=places.transpose(0, 1),
        num_obj_ptr_tokens=pointers,
    ).transpose(0, 1)
    for slots in sorted({frames, 7}):
        graph = ours.memory.attention.for_bank(slots, pointer_tokens=64)
        bank, bank_places, bias = filled_bank(memory, places, pointers, slots * tokens)
        found = graph(current, ours.memory.frame_positions, bank, bank_places, bias)
        near(found, expected)


def filled_bank(memory_BMK, places_BMK, pointers, frame_slots):
    """(memory, positions, bias) of a bank whose empty slots hold rubbish."""
    objects, used, channels = memory_BMK.shape
    used -= pointers
    bank = torch.full((objects, frame_slots + 64, channels), 7.0)
    places, bias = bank.clone(), torch.full((objects, 1, 1, frame_slots + 64), -1e4)
    for start, rows in ((0, slice(0, used)), (frame_slots, slice(used, used + pointers))):
        stop = start + rows.stop - rows.start
        bank[:, start:stop], places[:, start:stop] = memory_BMK[:, rows], places_BMK[:, rows]
        bias[..., start:stop] = 0
    return bank, places, bias


@torch.no_grad()
def test_position_codes(pair):
    from sam2.modeling.position_encoding import compute_axial_cis
    from sam2.modeling.sam2_utils import get_1d_sine_pe

    model, ours = pair
    angles = rotation_table(5, 64)
    turned = compute_axial_cis(64, 5, 5)
    torch.testing.assert_close(torch.polar(torch.ones_like(angles), angles), turned)
    expected = model.image_encoder.neck.position_encoding(torch.zeros(1, 256, 16, 16))
    flat = expected.flatten(2).transpose(1, 2)
    torch.testing.assert_close(sine_positions(16, 256), flat, rtol=0, atol=1e-6)
    steps = torch.tensor([0.0, 3.0, 15.0])
    torch.testing.assert_close(time_code(steps / 15, 256), get_1d_sine_pe(steps / 15, 256))
    expected = model.obj_ptr_tpos_proj(get_1d_sine_pe(steps / 15, 256))
    torch.testing.assert_close(ours.memory.pointer_positions(steps, longest=15), expected)


@torch.no_grad()
def test_loose_parts(pair):
    model, ours = pair
    memory = ours.memory
    for frames_back in range(7):
        expected = model.maskmem_tpos_enc[(frames_back or 7) - 1, 0]
        found = memory.position_of(frames_back) - memory.memory_positions
        torch.testing.assert_close(found, expected.expand_as(found)[:1], rtol=0, atol=1e-6)
    pointers = torch.randn(2, 256)
    kept = memory.visible_or_not(pointers, torch.tensor([[0.5], [-0.5]]))
    assert torch.equal(kept[0], pointers[0])
    assert torch.equal(kept[1], model.no_obj_ptr[0])
    drawn = (torch.rand(1, 1, SIDE, SIDE) > 0.5).float()
    near(memory.mask_to_prompt(drawn), model.mask_downsample(drawn))
    tokens = memory.pointer_tokens(torch.arange(512.0).view(1, 2, 256))
    assert torch.equal(tokens.flatten(), torch.arange(512.0))


def test_version_2_has_no_place_in_time():
    graphs = random_graphs(config_for("micro", version="2"))
    assert torch.equal(
        graphs.memory.pointer_positions(torch.arange(3), longest=2), torch.zeros(3, 32)
    )
    assert graphs.memory.encoder.out_of_sight is None


def test_micro_is_small_and_every_weight_learns():
    graphs = Sam2Graphs(config_for("micro"))
    assert sum(weight.numel() for weight in graphs.parameters()) <= 3_000_000
    features = graphs.encoder(pixels(256))
    masks, ious, pointers, score = decoded(graphs, features, PROMPTS["box and point"])
    half = 0.5 * torch.ones(1, 1)
    drawn = graphs.decoder.prompts.mask(masks[:, :1], half)
    full = torch.nn.functional.interpolate(masks[:, :1], (256, 256))
    memory = graphs.memory.encoder(features[2], full, half, -score.abs()).flatten(2).transpose(1, 2)
    bank = torch.cat((memory, graphs.memory.pointer_tokens(pointers)), dim=1)
    places = torch.cat(
        (
            graphs.memory.position_of(1),
            graphs.memory.pointer_positions(torch.arange(4), longest=3).repeat_interleave(4, 0)[
                None
            ],
        ),
        dim=1,
    )
    seen = graphs.memory.attention.for_bank(1, pointer_tokens=16)(
        features[2].flatten(2).transpose(1, 2),
        graphs.memory.frame_positions,
        bank,
        places,
        torch.zeros(1, 1, 1, bank.shape[1]),
    )
    lost = graphs.memory.visible_or_not(pointers[:, 0], score - 9)
    parts = (masks, ious, score, drawn, seen, lost, graphs.memory.mask_to_prompt(full))
    sum(part.square().mean() for part in parts).backward()
    unused = {name for name, weight in graphs.named_parameters() if weight.grad is None}
    assert not unused


def test_baked_tables_follow_the_weights():
    graphs = random_graphs(config_for("micro", side=64))
    picture = pixels(64)
    with torch.no_grad():
        before = graphs.encoder(picture)[2]
        graphs.encoder.positions.background += 1
        assert torch.equal(graphs.encoder(picture)[2], before), "baked"
        graphs.train()
        assert not torch.equal(graphs.encoder(picture)[2], before)
        graphs.eval()
        bake(graphs)
        anew = graphs.encoder(picture)[2]
        other = random_graphs(config_for("micro", side=64), seed=1)
        other.load_state_dict(graphs.state_dict())
        assert torch.equal(other.encoder(picture)[2], anew)


def test_half_precision_keeps_points_in_place():
    """Rounded to bf16, coordinates around 900 would move by whole pixels."""
    graphs = random_graphs(config_for("micro", side=1024))
    points, labels = torch.tensor([[[901.0, 677.0]]]), torch.ones(1, 1)
    exact, _ = graphs.decoder.prompts.points(points, labels)
    rounded, _ = graphs.decoder.prompts.bfloat16().points(points, labels)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"side": 100}, "multiple of 32"),
        ({"side": 0}, "multiple of 32"),
        ({"version": "3"}, "version"),
        ({"global_blocks": (1,)}, "global_blocks"),
        ({"global_blocks": (99,)}, "global_blocks"),
        ({"windows": (7, 4, 8, 4)}, "windows"),
        ({"windows": (16, 4, 8, 4)}, "window"),
        ({"channels": 100}, "channels"),
    ],
    ids=str,
)
def test_bad_configurations(change, message):
    with pytest.raises(ValueError, match=message):
        replace(SIZES["micro"], **change)


def test_unknown_size():
    with pytest.raises(ValueError, match="micro"):
        config_for("huge")


@torch.no_grad()
def test_widths_are_free():
    config = Sam2Config("own", 24, 2, (1, 1, 2, 1), (4, 2, 6, 3), (3,), 5, side=96)
    encoder = ImageEncoder(replace(config, channels=64, decoder_heads=4))
    shapes = [tuple(level.shape) for level in encoder(pixels(96, batch=2))]
    assert shapes == [(2, 8, 24, 24), (2, 16, 12, 12), (2, 64, 6, 6)]
    assert all(np.isfinite(level.numpy()).all() for level in encoder(pixels(96)))
