"""Who is named, who is dropped, and that an op of ours which is wrong prints no speed."""

import json

import pytest
import torch

from bench import loss_ceilings, loss_ops, loss_run
from bench.harness import Report, finish, parse_options
from bench.loss_cases import MODES, Point, Scene, Shape
from bench.loss_ceilings import Ceilings, measure_ceilings
from bench.loss_imitation import eager
from bench.loss_inputs import Inputs, make_inputs, make_scene
from bench.loss_picture import draw_bars, draw_roofline
from bench.loss_probe import Probe, measured, probe
from bench.loss_provider import Call, Provider, why_not
from bench.loss_report import tables
from bench.loss_row import Plan
from bench.loss_run import run_op
from bench.loss_timing import Rounds, Span, Split, Stopwatch, split_sample
from bench.loss_truth import Output

SCENE = Scene("masked_imitation", "fp32", Shape(12, 64, 100), "peaked")
POINTS = [Point(SCENE), Point(SCENE, 0.4, primary=False)]
CEILINGS = Ceilings("made", {"bf16": {"logits": 2.0}, "fp32": {"logits": 1.0}}, 10.0)


def right(inputs: Inputs) -> Call:
    """Whole logits in float64: a correct op."""
    targets_N, weights_N = inputs.rest["targets"], inputs.rest["token_weights"].double()
    weights_N = weights_N * inputs.rest["valid"]

    def call() -> Output:
        hidden, weight = (leaf.double() for leaf in inputs.leaves)
        nll_N = torch.nn.functional.cross_entropy(hidden @ weight.T, targets_N, reduction="none")
        return Output((nll_N * weights_N).sum() / weights_N.sum(), nll_N)

    return call


def wrong(inputs: Inputs) -> Call:
    def call() -> Output:
        output = right(inputs)()
        return Output(output.loss * 1.01, output.rows_N)

    return call


def plan(**changes: object) -> Plan:
    usual = {"arms": ("eager", "peer", "ours"), "modes": MODES, "device": "cpu", "threads": 1}
    usual |= {"quick": False, "runs": 2, "ceilings": CEILINGS}
    return Plan(**(usual | changes))


def report() -> Report:
    options = parse_options("test", arms=("eager", "peer", "ours"), argv=[])
    return Report("kernels", options, ours="ours", baseline={})


@pytest.fixture
def providers(monkeypatch):
    """Sets the op's providers; nobody gets a process of its own."""

    def use(*each: Provider) -> None:
        monkeypatch.setitem(loss_ops.PROVIDERS, "masked_imitation", each)
        monkeypatch.setattr(loss_run, "probe", lambda *_, **__: Probe(1_000, 2_000))

    return use


@pytest.fixture(autouse=True)
def _little_to_copy(monkeypatch):
    monkeypatch.setitem(loss_ceilings.COPY_BYTES, "cpu", 1 << 20)


EAGER = Provider("eager", "weighted", eager)


def test_a_right_op_is_timed_in_every_mode(providers, capsys):
    providers(EAGER, Provider("ours", "weighted", right))
    made = report()
    rows = run_op("masked_imitation", POINTS, plan(), made, tick=lambda _: None)
    assert len(made.timings) == len(POINTS) * 2 * len(MODES)
    assert set(made.ratios()) == {f"{point.name} {mode}" for point in POINTS for mode in MODES}
    assert finish(made, made.options) == 0
    case = json.loads(capsys.readouterr().out)["cases"][0]
    assert case["n"] == 2
    for key in ("p20_ms", "p50_ms", "p80_ms", "percent_of_gemm", "percent_of_copy", "loss_error"):
        assert case[key] > 0, key
    assert case["extra_bytes"] == 1_000
    assert [row.provider.name for row in rows] == ["eager", "ours"] * 2


def test_a_wrong_op_prints_no_speed(providers, capsys):
    providers(EAGER, Provider("ours", "weighted", wrong))
    made = report()
    assert run_op("masked_imitation", POINTS, plan(), made, tick=lambda _: None) == []
    assert finish(made, made.options) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["cases"] == []
    assert document["ratios"] == {}
    assert not document["equal"]
    assert any("gradient error against float64" in words for words in document["failed"])
    assert "masked_imitation: no times, its checks failed" in document["notes"]


def test_a_wrong_peer_is_timed_and_its_error_shown(providers):
    providers(EAGER, Provider("peer", "weighted", wrong), Provider("ours", "weighted", right))
    made = report()
    rows = run_op("masked_imitation", POINTS[:1], plan(), made, tick=lambda _: None)
    assert made.equal
    peer = next(t for t in made.timings if t.arm == "peer")
    assert peer.extra["gradient_error"] == pytest.approx(0.01, rel=1e-3)
    (table,) = tables(rows, CEILINGS)
    assert [line[1] for line in table["rows"]] == ["eager", "peer", "ours"]
    assert table["rows"][1][3] == "1.0e-02"


def test_a_peer_that_fails_alone_is_named_and_dropped(providers, monkeypatch):
    providers(EAGER, Provider("peer", "weighted", wrong), Provider("ours", "weighted", right))
    dies = {"peer": Probe(failure="RuntimeError: no kernel image")}
    monkeypatch.setattr(loss_run, "probe", lambda _, name, **__: dies.get(name, Probe()))
    made = report()
    run_op("masked_imitation", POINTS[:1], plan(), made, tick=lambda _: None)
    assert {timing.arm for timing in made.timings} == {"eager", "ours"}
    assert any("peer: failed: RuntimeError: no kernel image" in note for note in made.notes)


def test_ours_failing_alone_is_a_failed_check(providers, monkeypatch):
    providers(EAGER, Provider("ours", "weighted", right))
    dies = {"ours": Probe(failure="ValueError: bad")}
    monkeypatch.setattr(loss_run, "probe", lambda _, name, **__: dies.get(name, Probe()))
    made = report()
    assert run_op("masked_imitation", POINTS, plan(), made, tick=lambda _: None) == []
    assert not made.timings
    assert made.failed[0].value == "ValueError: bad"


def test_secondary_points_hold_the_two_of_the_ratio(providers):
    providers(EAGER, Provider("peer", "weighted", wrong), Provider("ours", "weighted", right))
    made = report()
    run_op("masked_imitation", POINTS, plan(modes=("full",)), made, tick=lambda _: None)
    arms = [timing.arm for timing in made.timings if "masked 40%" in timing.name]
    assert arms == ["eager", "ours"]


@pytest.mark.parametrize("op", loss_ops.PROVIDERS)
def test_everyone_who_cannot_run_here_is_named(op):
    made = report()
    found = loss_run.available(op, plan(arms=loss_ops.ARMS), made)
    names = {each.name for each in found}
    for each in loss_ops.PROVIDERS[op]:
        said = [note for note in made.notes if note.startswith(f"{op} {each.name}:")]
        assert each.name in names or len(said) == 1, each.name


def test_reasons_not_to_run():
    missing = Provider("a", "t", eager, module="no_such_module", package="no-such-package")
    assert why_not(missing, "cpu") == "not installed: no-such-package"
    assert why_not(Provider("a", "t", eager, devices=("cuda",)), "cpu") == "needs CUDA"
    old = Provider("a", "t", eager, module="torch.nn.functional", attribute="of_tomorrow")
    assert why_not(old, "cpu").endswith("has no of_tomorrow")
    assert why_not(EAGER, "cuda:0") is None


def test_a_process_that_fails_says_why():
    found = probe(SCENE, "nobody", device="cpu", threads=1)
    assert found.extra_bytes is None
    assert "StopIteration" in found.failure


def test_memory_of_eager_is_about_its_logits():
    large = Scene("masked_imitation", "fp32", Shape(256, 64, 20_000), "uniform")
    inputs = make_inputs(Point(large), make_scene(large, device="cpu"))
    found = measured("eager", inputs, device="cpu")
    if found.extra_bytes is None:
        pytest.skip("no /proc/self/clear_refs on this system")
    logits = 256 * 20_000 * 4
    assert 0.5 * logits < found.extra_bytes < 8 * logits
    assert found.peak_bytes > found.extra_bytes


def test_a_sample_has_the_modes_asked_for():
    inputs = make_inputs(POINTS[0], make_scene(SCENE, device="cpu"))
    call, watch = eager(inputs), Stopwatch("cpu")
    only_forward = split_sample(call, inputs, ("forward",), watch)
    assert only_forward.backward is None
    assert only_forward.forward.ms > 0
    assert only_forward.of_mode("full") is None
    training = split_sample(call, inputs, ("backward", "full"), watch)
    assert training.forward is None
    assert training.of_mode("full").ms > training.of_mode("backward").ms > 0


def test_full_is_both_halves():
    split = Split(Span(1, 1), Span(2, 3), Span(4, 5))
    assert [split.of_mode(mode) for mode in MODES] == [(1, 1), (4, 5), (6, 8)]


@pytest.mark.parametrize(
    ("round_seconds", "count"), [(100, 3), (10, 4), (0.1, 50), (0, 50)], ids=str
)
def test_rounds_fit_their_time(round_seconds, count):
    assert Rounds(seconds=45, least=3, most=50).count(round_seconds) == count


def test_ceilings_of_this_machine():
    found = measure_ceilings(Shape(8, 64, 96), dtypes=("fp32",), device="cpu", quick=True)
    assert found.gemm_tflops("fp32") == max(found.products_tflops["fp32"].values()) > 0
    assert found.copy_gb_per_s > 0
    assert len(found.table()["rows"]) == 4


def test_pictures_show_every_arm(providers, tmp_path):
    providers(EAGER, Provider("ours", "weighted", right))
    rows = run_op("masked_imitation", POINTS[:1], plan(), report(), tick=lambda _: None)
    for path in (tmp_path / "bars.svg", tmp_path / "roofline.svg"):
        if path.stem == "bars":
            draw_bars(rows, path, title="t")
        else:
            draw_roofline(rows, CEILINGS, path, title="t")
        text = path.read_text()
        assert text.startswith("<?xml")
        assert "ours" in text
        assert "eager" in text


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("op", "name"),
    [(op, each.name) for op, group in loss_ops.PROVIDERS.items() for each in group],
    ids=str,
)
def test_every_installed_provider_runs_on_a_gpu(op, name):
    chosen = loss_ops.provider(op, name)
    reason = why_not(chosen, "cuda")
    if reason:
        pytest.skip(reason)
    scene = Scene(op, "bf16", Shape(256, 256, 1024), "peaked")
    tensors = make_scene(scene, device="cuda")
    inputs = make_inputs(Point(scene), tensors)
    errors = loss_run.compare(chosen.open(inputs), chosen, inputs, loss_ops.make_truth(op, tensors))
    assert errors.loss < 0.5
