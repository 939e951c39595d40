"""Versions in the engine: a session keeps the one it opened with, new ones get the new one."""

from dataclasses import replace

import pytest
import torch

from pixelis_fast.policy import static_decode
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.engine import Chunk, Engine, EngineConfig
from pixelis_fast.policy.published import Published, Shelf
from pixelis_fast.spans import Spans
from tests.policy.engine_media import extend, load_picture, opening
from tests.policy.test_adapters import trained
from tests.tiny_policy import tiny_policy

TAIL = [Chunk([60]), Chunk([61, 62]), Chunk([63])]
CONFIGS = {
    "invariant": EngineConfig(batch_invariant=True, share_prefix=False),
    "packed": EngineConfig(),
    "static": EngineConfig(static_decode=True),
    "no kv": EngineConfig(keep_kv=False),
}
CLOSE = 2e-4


@pytest.fixture(scope="module")
def policy():
    return tiny_policy().requires_grad_(False)


@pytest.fixture(scope="module")
def versions(policy):
    return [Published.of(trained(policy, seed=seed), f"v{seed}") for seed in (1, 2)]


def alone(policy, published, *chunks, config=CONFIGS["packed"]):
    engine = Engine(policy, load_picture, config=config)
    return extend(engine, engine.open(under=published), *chunks)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_session_keeps_its_version_over_publishes(policy, versions, name):
    """Old, older and new run in one forward, each as if nothing else was ever served."""
    engine = Engine(policy, load_picture, config=CONFIGS[name], version="base")
    prompt = opening(policy)
    sessions = []
    for published in (None, *versions):
        if published is not None:
            engine.publish_bank(published)
        sessions.append(engine.open())
        extend(engine, sessions[-1], prompt)
    assert [session.version for session in sessions] == ["base", "v1", "v2"]
    forked = engine.fork(sessions[1])
    for chunk in TAIL:
        logits_BV = engine.extend([*sessions, forked], [chunk] * 4, spans=Spans())
    expected = [
        alone(policy, p or Published.base("base"), prompt, *TAIL, config=CONFIGS[name])
        for p in (None, *versions, versions[0])
    ]
    assert (expected[0] - expected[1]).abs().max() > 0.01
    assert (expected[1] - expected[2]).abs().max() > 0.01
    for got_V, expected_V in zip(logits_BV, expected, strict=True):
        if name == "invariant":
            assert torch.equal(got_V, expected_V)
        else:
            assert (got_V - expected_V).abs().max() < CLOSE


def test_static_decode_changes_versions_without_a_new_bucket(policy, versions, monkeypatch):
    """One version's sessions decode in buffers that stay; the next version is copied in."""
    engine = Engine(policy, load_picture, config=CONFIGS["static"])
    prompt, made = opening(policy), []
    init = static_decode.Bucket.__init__
    monkeypatch.setattr(
        static_decode.Bucket, "__init__", lambda self, *args: made.append(args) or init(self, *args)
    )
    tail = [Chunk([60]), Chunk([61]), Chunk([62])]
    sessions = []
    for published in versions:
        engine.publish_bank(published)
        sessions.append(engine.open())
        got_V = extend(engine, sessions[-1], prompt, *tail)
        assert (got_V - alone(policy, published, prompt, *tail)).abs().max() < CLOSE
    again_V = extend(engine, sessions[0], Chunk([63]))
    expected_V = alone(policy, versions[0], prompt, *tail, Chunk([63]))
    assert (again_V - expected_V).abs().max() < CLOSE
    assert len(made) == 1
    wider = Published.of(trained(policy, seed=3, rank=8), "v3")
    engine.publish_bank(wider)
    got_V = extend(engine, engine.open(), prompt, *tail)
    assert (got_V - alone(policy, wider, prompt, *tail)).abs().max() < CLOSE


def test_a_prefix_belongs_to_its_version(policy, versions):
    engine = Engine(policy, load_picture)
    prompt = opening(policy)
    for published in versions:
        engine.publish_bank(published)
        got_V = extend(engine, engine.open(), prompt)
        assert (got_V - alone(policy, published, prompt)).abs().max() < CLOSE
    assert engine.stats().prefix_hits == 0
    extend(engine, engine.open(), prompt)
    assert engine.stats().prefix_hits == 1
    engine.rollback("v1")
    got_V = extend(engine, engine.open(), prompt)
    assert engine.stats().prefix_hits == 2
    assert (got_V - alone(policy, versions[0], prompt)).abs().max() < CLOSE


def test_prefixes_stay_of_versions_that_can_be_served_again(policy, versions):
    engine = Engine(policy, load_picture, config=EngineConfig(keep_versions=1))
    prompt, first, sizes = opening(policy), None, []
    for number, published in enumerate([*versions, *versions]):
        engine.publish_bank(replace(published, version=f"v{number}"))
        first = first or engine.open()
        extend(engine, engine.open(), prompt)
        sizes.append(engine.stats().prefix_bytes)
    assert sizes[0] > 0
    assert sizes == sizes[:1] * 4
    got_V = extend(engine, first, prompt)
    assert (got_V - alone(policy, versions[0], prompt)).abs().max() < CLOSE


def test_rollback_is_bitwise(policy, versions):
    engine = Engine(policy, load_picture, config=CONFIGS["invariant"])
    prompt = opening(policy)
    before = []
    for published in versions:
        engine.publish_bank(published)
        before.append(extend(engine, engine.open(), prompt, *TAIL))
    found = engine.rollback("v1")
    assert found.bank.equals(versions[0].bank)
    assert found.bank.fingerprint() == found.fingerprint == versions[0].fingerprint
    assert engine.version == "v1"
    assert torch.equal(extend(engine, engine.open(), prompt, *TAIL), before[0])
    engine.rollback("base")
    base_V = alone(policy, Published.base("base"), prompt, *TAIL, config=CONFIGS["invariant"])
    assert torch.equal(extend(engine, engine.open(), prompt, *TAIL), base_V)


def test_a_published_bank_is_a_copy(policy):
    bank = trained(policy, seed=5)
    published = Published.of(bank, "v5")
    with torch.no_grad():
        next(bank.parameters()).zero_()
    assert not published.bank.equals(bank)
    assert published.bank.fingerprint() == published.fingerprint
    assert not any(p.requires_grad for p in published.bank.parameters())


def test_an_update_of_the_base_ends_all_banks(policy, versions):
    engine = Engine(policy, load_picture, version="base")
    engine.publish_bank(versions[0])
    engine.publish("base 2")
    session = engine.open()
    assert (session.version, session.bank) == ("base 2", None)
    with pytest.raises(ValueError, match=r"version: expected one of \['base 2'\], got 'v1'"):
        engine.rollback("v1")


def test_a_tenant_with_a_version_of_its_own(policy, versions):
    engine = Engine(policy, load_picture, version="base")
    engine.publish_bank(versions[0], salt="one")
    assert engine.open(salt="one").version == "v1"
    assert [engine.open(salt=salt).version for salt in ("", "two")] == ["base", "base"]
    engine.rollback("base", salt="one")
    assert engine.open(salt="one").version == "base"


def test_the_shelf_keeps_so_many_and_never_renames(policy):
    shelf = Shelf("base", keep=2)
    bank = AdapterBank(policy.config, rank=2)
    for number in range(4):
        with torch.no_grad():
            next(bank.parameters()).fill_(number)
        shelf.publish(Published.of(bank, f"v{number}"))
    assert shelf.versions() == ["base", "v2", "v3"]
    shelf.rollback("v2")
    assert shelf.serving().version == "v2"
    with pytest.raises(ValueError, match="version: expected one of"):
        shelf.rollback("v0")
    with pytest.raises(ValueError, match="version: expected a new name, got 'v2' again"):
        shelf.publish(Published.of(bank, "v2"))
