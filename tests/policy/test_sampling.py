"""Sampling: distributions, masks, recorded log-probs, and logits nothing can be drawn from."""

import pytest
import torch

from pixelis_fast.policy.sampling import Sampling, mask_logits, sample, seed_of

VOCAB = 50
DRAWS = 2000


def logits_row(seed=0):
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2


def draws(logits, sampling, **keywords):
    generator = sampling.generator()
    return [
        sample(logits, sampling=sampling, generator=generator, **keywords)[0] for _ in range(DRAWS)
    ]


def test_greedy_takes_the_largest_and_records_its_logprob():
    logits = logits_row()
    token, logprob = sample(logits, sampling=Sampling())
    assert token == int(logits.argmax())
    assert logprob == pytest.approx(float(torch.log_softmax(logits, 0)[token]))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
def test_frequencies_are_the_softmax(temperature):
    logits = logits_row(1)
    counts = torch.bincount(torch.tensor(draws(logits, Sampling(temperature))), minlength=VOCAB)
    expected = torch.softmax(logits / temperature, 0)
    assert (counts / DRAWS - expected).abs().max() < 4 * (0.25 / DRAWS) ** 0.5


def test_logprob_is_tempered_and_inside_the_allowed_set():
    logits = logits_row(2)
    allowed = torch.arange(VOCAB) % 3 == 0
    sampling = Sampling(temperature=0.7, top_k=5, top_p=0.9, seed=3)
    token, logprob = sample(
        logits,
        sampling=sampling,
        generator=sampling.generator(),
        allowed=allowed,
        banned_ids=[0, 3],
    )
    left = [i for i in range(0, VOCAB, 3) if i not in (0, 3)]
    expected = torch.log_softmax(logits[left] / 0.7, 0)[left.index(token)]
    assert logprob == pytest.approx(float(expected), abs=1e-5)


def test_banned_and_disallowed_tokens_never_come():
    logits = torch.zeros(VOCAB)
    logits[7] = 50.0
    banned = frozenset({7, 11})
    allowed = torch.zeros(VOCAB, dtype=torch.bool)
    allowed[[7, 11, 20, 21]] = True
    seen = set(draws(logits, Sampling(1.0), allowed=allowed, banned_ids=banned))
    assert seen == {20, 21}
    assert sample(logits, sampling=Sampling(), banned_ids=torch.tensor([7]))[0] != 7


def test_top_k_and_top_p_narrow_the_draw():
    logits = torch.log(torch.tensor([0.5, 0.3, 0.15, 0.05]))
    assert set(draws(logits, Sampling(1.0, top_k=2))) == {0, 1}
    assert set(draws(logits, Sampling(1.0, top_p=0.5))) == {0}
    assert set(draws(logits, Sampling(1.0, top_p=0.51))) == {0, 1}
    assert set(draws(logits, Sampling(1.0, top_p=0.9))) == {0, 1, 2}
    assert set(draws(logits, Sampling(1.0, top_k=400))) == {0, 1, 2, 3}


def test_a_seed_repeats_its_draws():
    logits = logits_row(4)
    assert draws(logits, Sampling(1.0, seed=5)) == draws(logits, Sampling(1.0, seed=5))
    assert draws(logits, Sampling(1.0, seed=5)) != draws(logits, Sampling(1.0, seed=6))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(1.0, top_k=3)], ids=["greedy", "drawn"])
def test_logits_without_a_token_raise_and_name_the_step(sampling):
    for bad in (float("nan"), float("inf")):
        logits = logits_row()
        logits[3] = bad
        with pytest.raises(ValueError, match="step 17: expected finite logits"):
            sample(logits, sampling=sampling, step=17)
    with pytest.raises(ValueError, match="step 4: expected a token that may be sampled"):
        sample(torch.full((VOCAB,), -torch.inf), sampling=sampling, step=4)
    with pytest.raises(ValueError, match="expected a token that may be sampled"):
        sample(logits_row(), sampling=sampling, banned_ids=range(VOCAB))


def test_masking_leaves_the_callers_logits():
    logits = logits_row()
    before = logits.clone()
    mask_logits(logits, banned_ids=[1])
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    "options", [{"temperature": -1}, {"top_k": -1}, {"top_p": 0}, {"top_p": 1.1}], ids=str
)
def test_options_are_checked(options):
    with pytest.raises(ValueError, match="expected"):
        Sampling(**options)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected one row"):
        sample(torch.zeros(2, VOCAB), sampling=Sampling())
    with pytest.raises(ValueError, match="allowed: expected bool"):
        sample(logits_row(), sampling=Sampling(), allowed=torch.ones(VOCAB))


def test_two_runs_share_no_draws():
    draws = {run: {seed_of(run, number) for number in range(10_000)} for run in range(4)}
    assert all(0 <= seed < 2**32 for seeds in draws.values() for seed in seeds)
    assert sum(map(len, draws.values())) == len(set.union(*draws.values())) == 40_000
