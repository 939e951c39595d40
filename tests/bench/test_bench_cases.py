"""Every scripted call is one the tools take, on media that exist; together the cases use all."""

import io

import av
import numpy as np
import pytest
from PIL import Image

from bench.cases import CASES, RECHECK, chosen_cases
from bench.scenes import DRAWN, fresh, scene, scene_names
from pixelis_fast.schemas import TOOL_SCHEMAS, format_call, parse_call

IDS = [case.name for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_calls_parse(case):
    for call in case.calls:
        assert parse_call(format_call(call)) == call


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_chain_has_three_to_six_steps_and_one_answer(case):
    assert 3 <= len(case.calls) <= 6
    assert [turn.answer is not None for turn in case.turns] == [False] * len(case.calls) + [True]


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_calls_fit_their_media(case):
    num_masks = 0
    for call in case.calls:
        arguments = call.arguments
        if call.operation == "properties":
            assert arguments["mask"] < num_masks
            continue
        num_masks += call.operation in ("segment", "track")
        kind = scene(case.scenes[arguments["media"]]).kind
        assert not (kind == "image" and {"time", "start"} & arguments.keys())
        if kind == "video" and call.operation not in ("localize", "track"):
            assert "time" in arguments


@pytest.mark.parametrize("case", CASES, ids=IDS)
def test_truths_exist(case):
    for turn in case.turns:
        if turn.object is not None:
            assert turn.object in scene(case.scenes[turn.call.arguments["media"]]).masks


def test_quick_cases_use_every_tool():
    cases = chosen_cases(quick=True, ablate=False)
    used = {call.operation for case in cases for call in case.calls}
    assert used == set(TOOL_SCHEMAS)


def test_cases_by_name():
    chosen = chosen_cases(quick=True, ablate=False, names=("coins",))
    assert [case.name for case in chosen] == ["coins"]
    with pytest.raises(ValueError, match="expected some of"):
        chosen_cases(quick=True, ablate=False, names=("nothing",))


def test_ablation_adds_its_own_chains():
    def names(*, quick: bool, ablate: bool) -> list[str]:
        return [case.name for case in chosen_cases(quick=quick, ablate=ablate)]

    assert names(quick=True, ablate=False) == ["tour"]
    assert names(quick=True, ablate=True) == ["tour", "recheck"]
    assert len(names(quick=False, ablate=False)) == 10


def test_a_chain_for_the_text_memo_repeats_a_read():
    reads = [call for call in RECHECK.calls if call.operation == "read_text"]
    assert len(reads) == 2
    assert reads[0] == reads[1]


@pytest.mark.parametrize("name", scene_names())
def test_media_decode(name):
    made = scene(name)
    if made.kind == "image":
        assert Image.open(io.BytesIO(made.encoded)).width > 64
    else:
        with av.open(io.BytesIO(made.encoded)) as container:
            assert container.streams.video[0].frames > 60


@pytest.mark.parametrize("name", list(DRAWN))
def test_drawn_scenes_are_the_same_each_time(name):
    assert DRAWN[name]().encoded == DRAWN[name]().encoded


@pytest.mark.parametrize("name", ["invoice", "coins", "carphone"])
def test_fresh_media_differ_in_content_only(name):
    source = scene(name)
    first, second = fresh(source, 1), fresh(source, 2)
    assert len({source.encoded, first.encoded, second.encoded}) == 3
    if source.kind == "image":
        left, right = (pixels(each.encoded) for each in (source, first))
        assert left.shape == right.shape
        difference = np.abs(left - right)
        assert difference.max() == 1
        assert (difference > 0).sum() <= 8
    else:
        assert [frame(each.encoded) for each in (source, first)] == [frame(second.encoded)] * 2


def pixels(encoded: bytes) -> np.ndarray:
    return np.array(Image.open(io.BytesIO(encoded))).astype(int)


def frame(encoded: bytes) -> bytes:
    with av.open(io.BytesIO(encoded)) as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").tobytes()
