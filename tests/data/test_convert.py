"""Public formats become records whose boxes are the original's, and whose calls the tools take."""

import io
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import typer
from PIL import ExifTags, Image
from typer.testing import CliRunner

from pixelis_fast.data.convert import ConvertConfig, convert, main
from pixelis_fast.data.convert_media import MediaFolder
from pixelis_fast.data.convert_messages import split_answer
from pixelis_fast.data.convert_types import UnsupportedError
from pixelis_fast.data.convert_views import View, in_units
from pixelis_fast.data.cota import RecordError, read_records
from pixelis_fast.data.rows import RowError
from pixelis_fast.tools import ToolConfig, Workspace, open_tools
from pixelis_fast.types import AnswerKind, ToolCall
from tests.chains import disk_frames, drawn_picture
from tests.scenes import encoded


def said(text: str, **call) -> dict:
    body = f"<tool_call>\n{json.dumps(call)}\n</tool_call>" if call else ""
    return {"role": "assistant", "content": [{"type": "text", "text": text + body}]}


def crop(box, target: int = 1, name: str = "crop_image") -> dict:
    return {"name": name, "arguments": {"bbox_2d": box, "target_image": target}}


def shown(text: str, *paths: str) -> dict:
    pictures = [{"type": "image", "image": path} for path in paths]
    return {"role": "user", "content": [*pictures, {"type": "text", "text": text}]}


SYSTEM = {"role": "system", "content": [{"type": "text", "text": "You are helpful."}]}


@pytest.fixture
def folder(tmp_path) -> Path:
    """picture.png of 800 x 400 pixels, and clip.mp4 of ten frames at 10 per second."""
    cv2.imwrite(str(tmp_path / "picture.png"), drawn_picture())
    (tmp_path / "clip.mp4").write_bytes(encoded(disk_frames()[0]))
    return tmp_path


def converted(folder: Path, name: str, rows: list[dict], **options):
    (folder / "rows.json").write_text(json.dumps(rows))
    config = ConvertConfig(name, (folder / "rows.json",), folder / "out", **options)
    found = main(config)
    assert list(read_records(folder / "out/records.jsonl")) == list(found.records)
    return found


def boxes(record) -> list[list[int]]:
    return [turn.call.arguments["box"] for turn in record.turns]


def test_pixel_reasoners_crops_become_zooms_on_the_original(folder):
    cv2.imwrite(str(folder / "crop.png"), cv2.resize(drawn_picture(), (1200, 600)))
    messages = [
        SYSTEM,
        shown("What does the sign say?", "picture.png"),
        said("I look at the right half. ", **crop([400, 0, 800, 200])),
        shown("Here is the cropped image:", "crop.png"),
        said("<think>Closer.</think> ", **crop([0, 0, 600, 600], target=2)),
        shown("Here is the cropped image:", "gone.png"),
        said("And closer. ", **crop([50, 50, 100, 100], target=3)),
        shown("Here."),
        said("It says \\text{KX42}. \\boxed{KX{42}}"),
    ]
    [record] = converted(
        folder, "pixel-reasoner", [{"message_list": messages, "qid": "q7"}]
    ).records
    # The first crop is shown with 1200 x 600 pixels: its left half is a quarter of the width.
    # The second is not there to be measured: it has the 600 x 600 pixels it was cut from.
    assert boxes(record) == [[500, 0, 1000, 500], [500, 0, 750, 500], [521, 42, 542, 84]]
    assert [turn.thought for turn in record.turns] == [
        "I look at the right half.",
        "Closer.",
        "And closer.",
    ]
    assert all(turn.observation is None for turn in record.turns)
    assert (record.id, record.answer, record.question) == (
        "q7",
        "KX{42}",
        "What does the sign say?",
    )
    assert record.answer_thought == "It says \\text{KX42}."
    assert (folder / "out" / record.media[0]).is_file()
    assert len(list((folder / "out/media").iterdir())) == 1


def test_shares_are_told_from_pixels(folder):
    messages = [shown("Which?", "picture.png"), said("", **crop([0.25, 0.5, 0.5, 1])), said("A")]
    normalized = said("", **crop([0, 0, 0.5, 0.5], name="crop_image_normalized"))
    rows = [
        {"message_list": messages, "answer": "3"},
        {"message_list": [messages[0], normalized], "answer": ["B"]},
    ]
    one, other = converted(folder, "pixel-reasoner", rows).records
    assert boxes(one) == [[250, 500, 500, 1000]]
    assert boxes(other) == [[0, 0, 500, 500]]
    assert (one.answer, one.answer_kind) == ("3", AnswerKind.NUMBER)
    assert (other.answer, other.answer_kind) == ("B", AnswerKind.EXACT)


def select(*numbers: int) -> dict:
    return {"name": "select_frames", "arguments": {"target_frames": list(numbers)}}


def test_selected_frames_become_zooms_on_whole_frames(folder):
    video = {"role": "user", "content": [{"type": "video", "video": "clip.mp4"}]}
    video["content"].append({"type": "text", "text": "Where does it go?"})
    messages = [video, said("I look.", **select(1, 16)), said("\\boxed{right}")]
    [record] = converted(folder, "pixel-reasoner", [{"message_list": messages}]).records
    first, last = (turn.call.arguments for turn in record.turns)
    assert first == {"media": 0, "box": [0, 0, 1000, 1000], "time": 0.0}
    assert last["time"] == pytest.approx(0.9, abs=0.02)
    assert [turn.thought for turn in record.turns] == ["I look.", ""]
    tools = open_tools(ToolConfig())
    workspace = Workspace((tools.add_media(folder / "out" / record.media[0]),))
    assert all(tools.run(turn.call, workspace).error is None for turn in record.turns)


def test_a_list_of_frames_becomes_that_many_pictures(folder):
    cv2.imwrite(str(folder / "later.png"), drawn_picture()[::-1])
    video = {"type": "video", "video": ["picture.png", "later.png"]}
    asked = {"role": "user", "content": [video, {"type": "text", "text": "What changed?"}]}
    rows = [{"message_list": [asked, said("", **select(2)), said("\\boxed{all}")]}]
    [record] = converted(folder, "pixel-reasoner", rows).records
    assert len(record.media) == 2
    assert record.turns[0].call == ToolCall("zoom", {"media": 1, "box": [0, 0, 1000, 1000]})


def test_rows_without_messages_have_no_chain(folder):
    row = {"question": "Which?", "image": ["picture.png"], "answer": ["\\boxed{A}"], "qid": "r1"}
    [record] = converted(folder, "pixel-reasoner", [row]).records
    assert (record.id, record.turns, record.answer) == ("r1", (), "A")


PROMPT = [
    {"role": "system", "content": "You are a helpful assistant. # Tools …"},
    {
        "role": "user",
        "content": "<image>\nWhat does the sign say?\nThink first, call **image_zoom_in_tool** if "
        "needed, then answer.",
    },
]


def deepeyes_row(picture: dict | str, **changes) -> dict:
    return {
        "data_source": "vstar",
        "prompt": PROMPT,
        "images": [picture],
        "reward_model": {"style": "rule", "ground_truth": "KX42"},
        "extra_info": {"index": 3, "split": "train"},
        **changes,
    }


def test_deepeyes_rows(folder):
    zoom = {
        "name": "image_zoom_in_tool",
        "arguments": {"bbox_2d": [400, 0, 800, 200], "label": "s"},
    }
    inner = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": [0, 0, 200, 200]}}
    inner["arguments"]["target_image"] = 1
    rollout = [*PROMPT, said("Closer.", **zoom), shown("<tool_response>"), said("", **inner)]
    rollout += [shown("<tool_response>"), said("<think>So.</think><answer>KX42</answer>")]
    asked = {"question": "What is there?", "index": 1, "split": "train"}
    rows = [
        deepeyes_row({"path": "picture.png", "bytes": None}),
        deepeyes_row("picture.png", prompt=rollout, extra_info=asked),
    ]
    one, other = converted(folder, "deepeyes", rows).records
    assert (one.question, one.answer, one.turns) == ("What does the sign say?", "KX42", ())
    assert (one.id, one.task) == ("deepeyes-train-3-0", "deepeyes-vstar")
    assert one.media == other.media
    assert other.question == "What is there?"
    assert boxes(other) == [[500, 0, 1000, 500], [500, 0, 750, 500]]
    assert other.answer_thought == "So."


def test_deepeyes_pictures_may_be_bytes(folder):
    stored = MediaFolder(folder / "out").add_bytes((folder / "picture.png").read_bytes())
    assert stored.size == (800, 400)
    assert (folder / "out" / stored.path).suffix == ".png"


def camera_jpeg() -> bytes:
    """It lies on its side in its file, 400 wide and 200 high, red in its left half; its orientation
    says a quarter to the right, so upright it is red above."""
    raster_HWC = np.full((200, 400, 3), 230, dtype=np.uint8)
    raster_HWC[:, :200] = (200, 30, 30)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    buffer = io.BytesIO()
    Image.fromarray(raster_HWC).save(buffer, "JPEG", quality=95, exif=exif)
    return buffer.getvalue()


def zoomed(folder: Path, record) -> np.ndarray:
    """What the tools cut for the record's first call."""
    tools = open_tools(ToolConfig())
    workspace = Workspace((tools.add_media(folder / "out" / record.media[0]),))
    observation = tools.run(record.turns[0].call, workspace)
    assert observation.error is None
    return tools.image(observation.media[0].id)


@pytest.mark.parametrize("name", ["pixel-reasoner", "deepeyes"])
def test_releases_mean_the_raster_whatever_its_orientation_says(folder, name):
    content = camera_jpeg()
    (folder / "camera.jpg").write_bytes(content)
    box = [220, 20, 380, 180]
    messages = [shown("?", "camera.jpg"), said("", **crop(box)), said("\\boxed{grey}")]
    zoom = {"name": "image_zoom_in_tool", "arguments": {"bbox_2d": box}}
    rollout = [*PROMPT, said("", **zoom), shown(""), said("<answer>grey</answer>")]
    rows = {
        "pixel-reasoner": {"message_list": messages},
        "deepeyes": deepeyes_row("camera.jpg", prompt=rollout),
    }
    [record] = converted(folder, name, [rows[name]]).records
    assert boxes(record) == [[550, 100, 950, 900]]
    kept, given = Image.open(folder / "out" / record.media[0]), Image.open(folder / "camera.jpg")
    np.testing.assert_array_equal(np.asarray(kept), np.asarray(given))
    assert zoomed(folder, record).min() > 200, "grey: beside the half that is red as it lies"


def test_bytes_are_taken_as_they_lie_or_upright(folder):
    content = camera_jpeg()
    media = MediaFolder(folder / "out")
    upright, raw = media.add_bytes(content), media.add_bytes(content, raw=True)
    assert (upright.size, raw.size) == ((200, 400), (400, 200))
    tools = open_tools(ToolConfig())
    for stored in (upright, raw):
        seen = tools.add_media(folder / "out" / stored.path)
        assert (seen.width, seen.height) == stored.size


def test_ones_own_boxes_are_of_the_upright_picture(folder):
    content = camera_jpeg()
    (folder / "camera.jpg").write_bytes(content)
    step = {"thought": "", "tool": "zoom", "arguments": {"media": 0, "box": [20, 220, 180, 380]}}
    row = {"id": "1", "media": ["camera.jpg"], "question": "?", "answer": "grey", "steps": [step]}
    [record] = converted(folder, "generic", [row | {"coordinates": "pixels"}]).records
    assert boxes(record) == [[100, 550, 900, 950]]
    assert (folder / "out" / record.media[0]).read_bytes() == content
    assert zoomed(folder, record).min() > 200, "grey: below the half that is red upright"


def test_deepeyes_parquet(folder):
    pyarrow = pytest.importorskip("pyarrow", reason="needs pyarrow, as parquet files do")
    from pyarrow import parquet

    content = (folder / "picture.png").read_bytes()
    row = deepeyes_row({"bytes": content, "path": None})
    parquet.write_table(pyarrow.Table.from_pylist([row]), folder / "rows.parquet")
    config = ConvertConfig("deepeyes", (folder / "rows.parquet",), folder / "out")
    [record] = main(config).records
    assert (folder / "out" / record.media[0]).read_bytes() == content


GENERIC = {
    "id": "g1",
    "media": ["picture.png"],
    "question": "How large is the disk?",
    "answer": "12",
    "answer_kind": "number",
    "difficulty": 0.5,
    "coordinates": "pixels",
    "steps": [
        {
            "thought": "wrong place",
            "tool": "zoom",
            "arguments": {"media": 0, "box": [0, 0, 80, 40]},
            "kind": "trap",
        },
        {"tool": "segment", "arguments": {"media": 0, "point": [300, 300]}, "kind": "correction"},
        {"tool": "properties", "arguments": {"mask": 0}},
    ],
}


def test_generic_rows_in_all_coordinates(folder):
    shares = {**GENERIC, "id": "g2", "coordinates": "shares", "steps": [{"tool": "read_text"}]}
    shares["steps"][0]["arguments"] = {"media": 0, "box": [0.5, 0, 1, 0.5]}
    units = {**shares, "id": "g3", "coordinates": "units", "steps": [{"tool": "read_text"}]}
    units["steps"][0]["arguments"] = {"media": 0, "box": [500, 0, 1000, 500]}
    one, two, three = converted(folder, "generic", [GENERIC, shares, units]).records
    assert [turn.call.arguments for turn in one.turns] == [
        {"media": 0, "box": [0, 0, 100, 100]},
        {"media": 0, "point": [375, 750]},
        {"mask": 0},
    ]
    assert [turn.kind for turn in one.turns] == ["trap", "correction", "step"]
    assert (one.answer_kind, one.difficulty, one.task) == (AnswerKind.NUMBER, 0.5, "generic")
    assert two.turns[0].call == three.turns[0].call


@pytest.mark.parametrize(
    ("name", "change", "error", "message"),
    [
        ("generic", {"media": ["gone.png"]}, RowError, "item 0: media: expected the file"),
        ("generic", {"media": ["rows.json"]}, RowError, "media: expected a picture, got something"),
        ("generic", {"answer": None}, RowError, "item 0: answer: expected a value"),
        ("generic", {"coordinates": "inches"}, RowError, "coordinates: expected one of units"),
        ("generic", {"steps": [{"tool": "zoom"}]}, RowError, r"steps\[0\]: arguments: expected an"),
        ("generic", {"difficulty": 2}, RecordError, "difficulty: expected 0..1"),
        ("generic", {"answer_kind": "x"}, RowError, "answer_kind: expected one of exact, number"),
        ("deepeyes", {"images": []}, RowError, "images: expected a list of pictures"),
        ("deepeyes", {"reward_model": {}}, RowError, "reward_model.ground_truth: expected text"),
        ("deepeyes", {"prompt": PROMPT[:1]}, RowError, "prompt: expected a message of the user"),
        ("pixel-reasoner", {"message_list": []}, RowError, "message_list: expected a list of"),
        ("pixel-reasoner", {"message_list": [SYSTEM]}, RowError, "expected a message of the user"),
        (
            "pixel-reasoner",
            {"message_list": [{"content": ""}]},
            RowError,
            "expected an object with",
        ),
    ],
)
def test_broken_rows_name_file_row_and_field(name, change, error, message, folder):
    row = {"generic": GENERIC, "deepeyes": deepeyes_row("picture.png"), "pixel-reasoner": {}}[name]
    with pytest.raises(error, match=message):
        converted(folder, name, [{**row, **change}])
    assert not (folder / "out/records.jsonl").exists()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            {"name": "image_rotate_tool", "arguments": {"angle": 90}},
            "operation: expected crop_image",
        ),
        (crop([0, 0, 10, 10], target=5), "target_image: expected 1 to 1, got 5"),
        (crop([0, 0, 10]), "box: expected four numbers"),
        ({"name": "crop_image"}, "call: expected a name and arguments"),
        (select(1), "select_frames: expected a video"),
        ({"name": "select_frames", "arguments": {}}, "target_frames: expected a list"),
    ],
)
def test_what_no_tool_can_do_is_an_error_or_left_out(call, message, folder):
    bad = {"message_list": [shown("Which?", "picture.png"), said("", **call)], "answer": "A"}
    good = {"message_list": [shown("Which?", "picture.png"), said("\\boxed{A}")]}
    with pytest.raises(UnsupportedError, match=f"item 1: {message}"):
        converted(folder, "pixel-reasoner", [good, bad])
    found = converted(folder, "pixel-reasoner", [good, bad], skip_unsupported=True)
    assert len(found.records) == 1
    assert found.reasons() == {message.partition(":")[0]: 1}


def test_boxes_outside_or_inside_out_are_errors(folder):
    for box in ([900, 0, 950, 10], [10, 10, 10, 20]):
        row = {"message_list": [shown("Which?", "picture.png"), said("", **crop(box))]}
        with pytest.raises(RowError, match="item 0: box: expected"):
            converted(folder, "pixel-reasoner", [row])


def test_a_link_to_a_picture_is_followed(folder):
    """As the Hugging Face cache has its files: relative links into another folder."""
    (folder / "cache").mkdir()
    (folder / "cache/linked.png").symlink_to("../picture.png")
    row = {**GENERIC, "media": ["cache/linked.png"]}
    [record] = converted(folder, "generic", [row]).records
    kept = folder / "out" / record.media[0]
    assert not kept.is_symlink()
    assert kept.read_bytes() == (folder / "picture.png").read_bytes()


def test_a_copy_that_was_cut_is_no_media(folder, monkeypatch):
    def no_links(*given, **named):
        raise OSError("another disk")

    def cut(source, target):
        Path(target).write_bytes(Path(source).read_bytes()[:100])
        raise KeyboardInterrupt

    monkeypatch.setattr("pixelis_fast.data.convert_media.os.link", no_links)
    with monkeypatch.context() as patch:
        patch.setattr("pixelis_fast.data.convert_media.shutil.copyfile", cut)
        with pytest.raises(KeyboardInterrupt):
            converted(folder, "generic", [GENERIC])
    [record] = converted(folder, "generic", [GENERIC]).records
    kept = folder / "out" / record.media[0]
    assert kept.read_bytes() == (folder / "picture.png").read_bytes()


def test_an_answer_that_is_a_box_is_in_units_too(folder):
    boxed = {**GENERIC, "answer_kind": "box", "answer": "[400, 0, 800, 200]"}
    shares = {**boxed, "id": "g2", "coordinates": "shares", "answer": "[0.5, 0, 1, 0.5]"}
    shares["steps"] = []
    units = {**shares, "id": "g3", "coordinates": "units", "answer": "[500, 0, 1000, 500]"}
    found = converted(folder, "generic", [boxed, shares, units]).records
    assert [record.answer for record in found] == ["[500, 0, 1000, 500]"] * 3
    for answer in ("[400, 0, 800]", "left", '["a", 1, 2, 3]'):
        with pytest.raises(RowError, match="item 0: answer: expected four numbers"):
            converted(folder, "generic", [{**boxed, "answer": answer}])
    two = {**boxed, "media": ["picture.png", "picture.png"]}
    with pytest.raises(RowError, match="answer: expected units, or one picture"):
        converted(folder, "generic", [two])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"arguments": {"media": 0, "box": 7}}, r"steps\[0\]: box: expected four numbers, got 7"),
        ({"arguments": {"media": 0, "box": [1, 2, "a", 4]}}, r"steps\[0\]: box: expected four"),
        ({"arguments": {"media": 0, "point": [1]}}, r"steps\[0\]: point: expected two numbers"),
        ({"arguments": {"media": 0, "point": None}}, r"steps\[0\]: point: expected two numbers"),
        (
            {"arguments": {"media": 0, "box": [0, 0, 9, 9]}, "observation": {"view": 1}},
            r"steps\[0\]: observation: expected text",
        ),
    ],
)
def test_broken_steps_are_named(folder, step, message):
    row = {**GENERIC, "steps": [{"tool": "segment", **step}]}
    with pytest.raises(RowError, match=message):
        converted(folder, "generic", [row])


def test_repeated_ids_are_an_error(folder):
    with pytest.raises(RecordError, match="id: expected each once, got 'g1'"):
        converted(folder, "generic", [GENERIC, GENERIC])


def test_the_command(folder):
    (folder / "rows.jsonl").write_text(json.dumps(GENERIC) + "\n")
    app = typer.Typer()
    app.command()(convert)
    given = ["generic", str(folder / "rows.jsonl"), "--out", str(folder / "out")]
    told = CliRunner().invoke(app, given)
    assert told.exit_code == 0, told.output
    assert "1 records in" in told.output


def test_settings_are_checked(tmp_path):
    with pytest.raises(ValueError, match="format: expected one of generic"):
        ConvertConfig("other", (tmp_path,), tmp_path)
    with pytest.raises(ValueError, match="files: expected at least one"):
        ConvertConfig("generic", (), tmp_path)
    with pytest.raises(RowError, match="expected a name that ends in one of"):
        main(ConvertConfig("generic", (tmp_path / "rows.xml",), tmp_path))


def test_views_of_views():
    inner = View(0, (800, 400)).part([400, 0, 800, 200], pixels=True)
    assert (inner.box, inner.size) == ((500, 0, 1000, 500), (400, 200))
    assert inner.part([0.5, 0.5, 1, 1], pixels=False).box == (750, 250, 1000, 500)


def test_pixels_in_units_stay_a_box():
    assert in_units((0, 0, 800, 400), (800, 400)) == (0, 0, 1000, 1000)
    assert in_units((799.9, -5, 799.95, 0.01), (800, 400)) == (999, 0, 1000, 1)


@pytest.mark.parametrize(
    ("text", "thought", "answer"),
    [
        ("So \\boxed{A}", "So", "A"),
        ("\\boxed{A} no, \\boxed{\\frac{1}{2}}.", "\\boxed{A} no,", "\\frac{1}{2}"),
        ("<think>x</think><answer> left </answer>", "x", "left"),
        ("just text", "just text", None),
        ("\\boxed{never closed", "", None),
        ("<answer> </answer>", "", None),
    ],
)
def test_answers_in_boxes_and_tags(text, thought, answer):
    assert split_answer(text) == (thought, answer)
