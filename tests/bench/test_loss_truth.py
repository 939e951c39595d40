"""The benchmark's float64 answers against autograd of the textbook, and what they call wrong."""

import math

import pytest
import torch

from bench.loss_cases import Point, Scene, Shape
from bench.loss_inputs import Inputs, make_inputs, make_scene
from bench.loss_ops import PROVIDERS, make_truth
from bench.loss_truth import Errors, HeadTruth, Output

SHAPE = Shape(21, 64, 333)
TASKS = [
    ("masked_imitation", "weighted"),
    ("masked_imitation", "unweighted"),
    ("token_kl", "reverse"),
    ("token_kl", "forward"),
    ("policy_loss", "policy"),
]


def textbook(task: str, inputs: Inputs) -> Output:
    """Whole logits in float64; leaves the gradients in the leaves, in their own dtype."""
    hidden, weight = (leaf.detach().double().requires_grad_() for leaf in inputs.leaves)
    logp_NV = (hidden @ weight.T).log_softmax(-1)
    valid_N = inputs.rest["valid"].double()
    if task == "policy":
        rows_N = policy_rows(logp_NV, inputs)
    elif task in ("weighted", "unweighted"):
        rows_N = -logp_NV.gather(1, inputs.rest["targets"].clamp_min(0)[:, None])[:, 0]
    else:
        reference = (
            inputs.rest[name].double() for name in ("reference_hidden", "reference_weight")
        )
        hidden_q, weight_q = reference
        logq_NV = (hidden_q @ weight_q.T).log_softmax(-1)
        pair = (logp_NV, logq_NV) if task == "reverse" else (logq_NV, logp_NV)
        rows_N = (pair[0].exp() * (pair[0] - pair[1])).sum(-1)
    if task == "weighted":
        valid_N = valid_N * inputs.rest["token_weights"].double()
    loss = (rows_N * valid_N).sum() / valid_N.sum()
    loss.backward()
    for leaf, exact in zip(inputs.leaves, (hidden, weight), strict=True):
        leaf.grad = exact.grad.to(leaf.dtype)
    return Output(loss.detach(), rows_N.detach())


def policy_rows(logp_NV: torch.Tensor, inputs: Inputs) -> torch.Tensor:
    """Each part in its own line, as the loss's docstring says it."""
    hidden_q, weight_q, advantages_N, behaviour_N, weights_N = (
        inputs.rest[name].double()
        for name in (
            "reference_hidden",
            "reference_weight",
            "advantages",
            "behaviour",
            "token_weights",
        )
    )
    logq_NV = (hidden_q @ weight_q.T).log_softmax(-1)
    logprob_N = logp_NV.gather(1, inputs.rest["targets"].clamp_min(0)[:, None])[:, 0]
    ratio_N = (logprob_N - behaviour_N).exp()
    gained_N = torch.minimum(ratio_N * advantages_N, ratio_N.clamp(0.8, 1.28) * advantages_N)
    kl_N = (logp_NV.exp() * (logp_NV - logq_NV)).sum(-1)
    entropy_N = -(logp_NV.exp() * logp_NV).sum(-1)
    return -gained_N + 0.05 * kl_N - 0.01 * entropy_N - 0.1 * weights_N * logprob_N


def made(op: str, *, regime: str = "peaked", mask: float = 0.4) -> tuple[HeadTruth, Inputs]:
    scene = Scene(op, "fp32", SHAPE, regime)
    tensors = make_scene(scene, device="cpu")
    return make_truth(op, tensors), make_inputs(Point(scene, mask), tensors)


@pytest.mark.parametrize("regime", ["uniform", "peaked"])
@pytest.mark.parametrize(("op", "task"), TASKS, ids=lambda name: name)
def test_truth_is_the_textbook(op, task, regime):
    truth, inputs = made(op, regime=regime)
    output = textbook(task, inputs)
    for one in (output, Output(output.loss)):
        errors = truth.errors(task, inputs, one)
        assert errors.loss < 1e-11
        assert errors.gradient < 1e-6
        assert errors.weight_gradient < 1e-6


def test_truth_does_not_depend_on_its_slices(monkeypatch):
    whole, _ = made("token_kl")
    monkeypatch.setattr("bench.loss_truth.SLICE_BYTES", 8 * 64 * 10)
    sliced, _ = made("token_kl")
    for name in ("nll_N1", "kl_N1", "forward_kl_N1"):
        torch.testing.assert_close(
            getattr(sliced, name), getattr(whole, name), rtol=1e-10, atol=1e-12
        )


def test_nearly_certain_rows_stay_exact():
    """nll = log(1 + others / target) of one row, by exact rational arithmetic of exponentials."""
    truth, _ = made("masked_imitation", regime="saturated", mask=0.0)
    z_V = (truth.policy.hidden_ND[0] @ truth.policy.weight_VD.double().T).tolist()
    target = int(truth.targets_N[0])
    others = [math.exp(z - z_V[target]) for word, z in enumerate(z_V) if word != target]
    assert float(truth.nll_N1[0]) == pytest.approx(math.log1p(math.fsum(others)), rel=1e-9)


def test_wrong_results_have_their_error():
    truth, inputs = made("masked_imitation")
    output = textbook("weighted", inputs)
    inputs.leaves[0].grad[inputs.rest["valid"].nonzero()[0]] *= 1.1
    inputs.leaves[1].grad *= 0.8
    errors = truth.errors("weighted", inputs, Output(output.loss * 1.01))
    assert errors == pytest.approx(Errors(0.01, 0.1, 0.2), rel=1e-3)


def test_a_masked_token_must_move_nothing():
    truth, inputs = made("masked_imitation")
    output = textbook("weighted", inputs)
    inputs.leaves[0].grad[~inputs.rest["valid"]] = 1e-30
    assert truth.errors("weighted", inputs, output).gradient == math.inf


def test_without_gradients_only_the_loss_is_judged():
    truth, inputs = made("masked_imitation")
    output = textbook("weighted", inputs)
    inputs.clear()
    assert truth.errors("weighted", inputs, output)[1:] == (None, None)


@pytest.mark.parametrize("op", ["corridor", "coherence", "pooled_coherence", "top_k"])
def test_eager_agrees_with_float64(op):
    scene = Scene(op, "fp32", Shape(70, 64, 90), "peaked")
    tensors = make_scene(scene, device="cpu")
    truth, inputs = make_truth(op, tensors), make_inputs(Point(scene), tensors)
    eager = next(each for each in PROVIDERS[op] if each.name == "eager")
    output = eager.open(inputs)()
    if inputs.leaves:
        output.loss.backward()
    errors = truth.errors(eager.task, inputs, output)
    # A KL of whole logits in float32 loses what p and q share.
    assert errors.loss < (1e-4 if op == "corridor" else 1e-5)
    assert errors.gradient is None or errors.gradient < 1e-5
