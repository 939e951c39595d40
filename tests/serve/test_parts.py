"""Small parts of the server alone: places, fields, recorded alternatives."""

import pytest
import torch
from starlette.testclient import TestClient

from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.serve.admission import Admission
from pixelis_fast.serve.errors import ApiError
from pixelis_fast.serve.fields import Fields, parse_json
from pixelis_fast.serve.metrics import Metrics
from pixelis_fast.serve.top_logprobs import RecordingSampler


def test_places_are_counted_and_given_back_once():
    admission = Admission(3)
    first = admission.enter()
    first.grow(1)
    second = admission.enter()
    with pytest.raises(ApiError, match="at most 3 completions at a time, got 1 more than 3"):
        admission.enter()
    with pytest.raises(ApiError) as caught:
        second.grow(2)
    assert caught.value.status == 429
    first.leave(5.0)
    first.leave(5.0)
    second.leave()
    assert admission.num_inside == 0


def test_who_is_refused_is_told_how_long_others_take():
    admission = Admission(1)
    for _ in range(60):
        admission.enter().leave(20.0)
    admission.enter()
    with pytest.raises(ApiError) as caught:
        admission.enter()
    assert caught.value.headers == {"Retry-After": "20"}


def test_nobody_enters_a_server_that_stops():
    admission = Admission(1)
    admission.is_draining = True
    with pytest.raises(ApiError) as caught:
        admission.enter()
    assert caught.value.status == 503


def test_null_is_a_field_left_out():
    fields = Fields({"a": None, "b": 1}, "request")
    assert "a" not in fields
    assert fields.integer("a", 7, low=0, high=9) == 7
    with pytest.raises(ApiError, match="request: unknown field b"):
        fields.finish()


@pytest.mark.parametrize("body", [b'{"a": Infinity}', b"nul", b"{} {}", b'"\xff"'])
def test_json_is_strict(body):
    with pytest.raises(ApiError, match="body: expected JSON"):
        parse_json(body)


def test_alternatives_are_of_the_tokens_own_distribution():
    logits_V = torch.tensor([1.0, 3.0, 2.0, 9.0, 8.0])
    allowed_V = torch.tensor([True, True, True, True, False])
    sampler = RecordingSampler(
        Sampling(temperature=2.0, seed=1), banned_ids=torch.tensor([3]), count=4
    )
    token, logprob = sampler.choose(logits_V, allowed_V)
    sampler.follow([4])
    chosen, forced = sampler.ranked
    assert [token_id for token_id, _ in chosen] == [1, 2, 0]
    assert dict(chosen)[token] == pytest.approx(logprob)
    total = sum(torch.tensor([value for _, value in chosen]).exp())
    assert float(total) == pytest.approx(1.0)
    assert forced == [(4, 0.0)]


def test_numbers_of_other_parts_are_shown_under_their_names():
    stats = {"held_bytes": 3, "hits": 2, "names": "x", "zoom": {"calls": 1}}
    shown = Metrics(model="m", stats={"part": lambda: stats}).text().decode()
    assert "# TYPE pixelis_part_held_bytes gauge" in shown
    assert "# TYPE pixelis_part_hits_total counter" in shown
    assert "pixelis_part_zoom_calls_total 1.0" in shown
    assert "names" not in shown


def test_an_error_nobody_foresaw_is_still_openais(agent):
    from pixelis_fast.serve.app import make_app
    from pixelis_fast.serve.config import ServeConfig

    app = make_app(agent, ServeConfig())
    app.state.service.metrics_text = None
    client = TestClient(app, raise_server_exceptions=False)
    response = client.get("/metrics")
    assert response.status_code == 500
    assert response.json()["error"]["type"] == "server_error"
