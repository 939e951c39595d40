"""Gradients of a cross-entropy loss against transformers', parameter by parameter."""

import pytest
import torch
from torch.nn.functional import cross_entropy

from pixelis_fast.policy.batch import pack
from pixelis_fast.policy.weights import hf_tensors
from tests.tiny_policy import hf_inputs, hf_twin, make_sample, our_batch, tiny_config
from tests.tiny_policy import tiny_policy as make_policy

RELATIVE = 1e-4
SAMPLES = (
    [4, ("image", 4, 6), 7],
    [("video", 2, 4, 4), 5, ("image", 6, 2), 9],
    [19],
)


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_gradients_equal_transformers(tied):
    policy = make_policy(tiny_config(tied=tied), seed=31)
    model = hf_twin(policy)
    samples = [make_sample(policy.config, pieces, seed=6) for pieces in SAMPLES]
    ours = _our_loss(policy, samples)
    theirs = _their_loss(model, samples)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)
    ours.backward()
    theirs.backward()

    expected = dict(model.named_parameters())
    got = hf_tensors(policy, of=lambda parameter: parameter.grad)
    assert got.keys() == expected.keys()
    for name, grad in got.items():
        scale = expected[name].grad.abs().max()
        assert scale > 0, name
        difference = (grad - expected[name].grad).abs().max() / scale
        assert difference < RELATIVE, f"{name}: {difference}"


def test_frozen_tower_gets_no_gradient():
    policy = make_policy(seed=32)
    policy.vision.requires_grad_(False)
    _our_loss(policy, [make_sample(policy.config, SAMPLES[0])]).backward()
    assert all(p.grad is None for p in policy.vision.parameters())
    assert policy.layers[0].attention.qkv.weight.grad is not None


def _our_loss(policy, samples):
    batch = pack([our_batch(policy, sample) for sample in samples])
    logits = policy.logits(policy.hidden(batch)).split(batch.lengths)
    rows = torch.cat([row[:-1] for row in logits])
    return cross_entropy(rows, _targets(samples))


def _their_loss(model, samples):
    logits = model(**hf_inputs(samples)).logits
    rows = [row[: len(sample.ids) - 1] for row, sample in zip(logits, samples, strict=True)]
    return cross_entropy(torch.cat(rows), _targets(samples))


def _targets(samples):
    return torch.cat([torch.tensor(sample.ids[1:]) for sample in samples])
