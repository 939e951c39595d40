"""Each benchmark loads its release, says what is wrong with a folder, and scores by its rules."""

import json

import pytest

from pixelis_fast.data.rows import RowError, read_rows
from pixelis_fast.eval.benchmarks import BENCHMARKS, benchmark, load_items, summary, to_sample
from pixelis_fast.tools import ToolConfig, open_tools
from pixelis_fast.types import MediaKind
from tests.eval import releases

EXPECTED = {
    # name: (ids, truths, a right answer to the first item, a wrong one)
    "vstar": (["0", "1"], ["A", "B"], "The answer is (A).", "Blue, so B"),
    "mvbench": (
        ["action_sequence-0", "moving_direction-0", "episodic_reasoning-0"],
        ["B", "A", "A"],
        "(B) It went right.",
        "left",
    ),
    "vsibench": (["0", "1"], ["4", "B"], "4", "many"),
    "infovqa": (["98313"], ["KX42"], "kx42", "nothing"),
    "videomme": (["001-1"], ["B"], "The best answer is: B", "A"),
    "mmstar": (["0", "1"], ["A", "A"], "a. red", "I think A"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """name -> the release's folder, made once and not changed."""
    made = {}

    def of(name: str):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            getattr(releases, name)(made[name])
        return made[name]

    return of


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_release_loads_and_scores(name, folder, tmp_path):
    ids, truths, right, wrong = EXPECTED[name]
    items = load_items(name, folder(name), cache=tmp_path)
    assert [item.id for item in items] == ids
    assert [item.truths[0] for item in items] == truths
    assert all(path.is_file() for item in items for path in item.media)
    score = benchmark(name).score
    assert score(items[0], right) == 1
    assert score(items[0], wrong) == 0
    assert score(items[0], None) == score(items[0], "  ") == 0


def test_questions_carry_their_options_and_instructions(folder, tmp_path):
    def question(name: str) -> str:
        return load_items(name, folder(name), cache=tmp_path)[-1].question

    assert question("vsibench").endswith(
        "A. left\nB. right\nAnswer with the option's letter from the given choices directly."
    )
    assert "(A) It went left.\n(B) It went right.\nOnly give the best option." in question(
        "mvbench"
    )
    assert question("mmstar").startswith("Which side?\nOptions:\nA. left\nB. right\n")
    assert question("videomme").endswith("D. down\nThe best answer is:")


def test_media_and_evidence_reach_the_sample(folder, tmp_path):
    tools = open_tools(ToolConfig())
    item = load_items("vstar", folder("vstar"), cache=tmp_path)[0]
    sample = to_sample(item, tools)
    assert (sample.media[0].width, sample.media[0].height) == (800, 400)
    # 240 .. 360 of 800 and of 400 pixels.
    assert [each.box for each in sample.evidence] == [(300, 600, 450, 900)]
    items = load_items("mvbench", folder("mvbench"), cache=tmp_path)
    part, _, frames = (to_sample(each, tools).media[0] for each in items)
    assert part.kind is frames.kind is MediaKind.VIDEO
    assert part.num_frames == 11
    assert frames.num_frames == 4
    [picture] = to_sample(load_items("mmstar", folder("mmstar"), cache=tmp_path)[1], tools).media
    assert (picture.width, picture.height) == (800, 400)


def test_video_mme_nested_is_the_same(folder, tmp_path):
    flat = load_items("videomme", folder("videomme"), cache=tmp_path)
    nested = load_items(
        "videomme", releases.videomme(tmp_path / "nested", nested=True), cache=tmp_path
    )
    assert [i.question for i in nested] == [i.question for i in flat]
    assert nested[0].category == "short"


@pytest.mark.parametrize(
    ("name", "file", "change", "message"),
    [
        ("vstar", "test_questions.jsonl", {"label": "E"}, r":2: label: expected one of A, B, C, D"),
        ("vstar", "test_questions.jsonl", {"text": 0.5}, r":2: text: expected text, got 0.5"),
        ("vstar", "test_questions.jsonl", {"image": "gone.jpg"}, r":2: image: expected the file"),
        ("vstar", "test_questions.jsonl", {"question_id": 0}, r"expected each id once, got 0 2"),
        ("vsibench", "test.jsonl", {"question_type": "x"}, r":2: question_type: expected one of"),
        ("vsibench", "test.jsonl", {"options": "A"}, r":2: options: expected a list of texts"),
        ("vsibench", "test.jsonl", {"options": None}, r":2: options: expected a value, got None"),
        ("videomme", "test.jsonl", {"duration": "huge"}, r":1: duration: expected one of short"),
        ("videomme", "test.jsonl", {"answer": ""}, r":1: answer: expected text, got ''"),
    ],
)
def test_errors_name_file_line_and_field(name, file, change, message, tmp_path):
    getattr(releases, name)(tmp_path)
    releases.rewritten(tmp_path / file, change)
    with pytest.raises(ValueError, match=f"{file}{message}" if ":" in message[:2] else message):
        load_items(name, tmp_path, cache=tmp_path / "cache")


def test_errors_of_other_formats(tmp_path):
    with pytest.raises(RowError, match=r"expected one \*\.tsv, found none"):
        load_items("mmstar", tmp_path, cache=tmp_path)
    (tmp_path / "MMStar.tsv").write_text(
        "index\tquestion\timage\tanswer\tcategory\n0\tq\t7\tA\tc\n"
    )
    with pytest.raises(RowError, match=r"MMStar.tsv:2: image: expected base64 or the index"):
        load_items("mmstar", tmp_path, cache=tmp_path)
    (tmp_path / "MMStar.tsv").write_text(
        f"index\tquestion\timage\tanswer\tcategory\n0\tq\t{'!' * 80}\tA\tc\n"
    )
    with pytest.raises(RowError, match=r"MMStar.tsv:2: image: expected base64 \("):
        load_items("mmstar", tmp_path, cache=tmp_path)
    releases.mvbench(tmp_path)
    path = tmp_path / "json/moving_direction.json"
    path.write_text(json.dumps([{**json.loads(path.read_text())[0], "answer": "neither"}]))
    with pytest.raises(RowError, match="item 0: answer: expected one of the candidates"):
        load_items("mvbench", tmp_path, cache=tmp_path)
    with pytest.raises(ValueError, match="benchmark: expected one of vstar"):
        load_items("mmmu", tmp_path, cache=tmp_path)
    with pytest.raises(ValueError, match="folder: expected the folder of vstar"):
        load_items("vstar", tmp_path / "gone", cache=tmp_path)


@pytest.mark.parametrize("text", ["{", "[]", '"row"', ""])
def test_broken_files(text, tmp_path):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(RowError, match=r"rows\.jsonl"):
        read_rows(tmp_path, "rows.jsonl")


def test_parquet_as_json_lines(folder, tmp_path):
    pytest.importorskip("pyarrow", reason="needs pyarrow, as parquet files do")
    import pyarrow
    import pyarrow.parquet

    rows = [row.values for row in read_rows(folder("videomme"), "test.jsonl")]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "rows.parquet")
    assert [row.values for row in read_rows(tmp_path, "rows.parquet")] == rows


def test_vsi_bench_weighs_tasks_alike(folder, tmp_path):
    count, side = load_items("vsibench", folder("vsibench"), cache=tmp_path)
    score = benchmark("vsibench").score
    # 5 for 4 errs by 0.25 and keeps within 1 - level up to 0.75: six of ten levels.
    assert score(count, "5 chairs") == pytest.approx(0.6)
    assert score(count, "4.2") == pytest.approx(1.0)
    assert score(count, "6") == pytest.approx(0.1)
    assert score(count, "inf") == score(count, "-4") == 0
    assert score(side, "b. right") == 1
    told = summary("vsibench", [count, count, count, side], [1.0, 1.0, 1.0, 0.0])
    assert told == {"overall": 0.5, "object_counting": 1.0, "object_rel_direction": 0.0}


def test_other_benchmarks_weigh_items_alike(folder, tmp_path):
    one, other = load_items("vstar", folder("vstar"), cache=tmp_path)
    told = summary("vstar", [one, one, one, other], [1.0, 1.0, 1.0, 0.0])
    assert told == {"overall": 0.75, "direct_attributes": 1.0, "relative_position": 0.0}
