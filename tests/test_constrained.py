"""Losses of the policy that the grammar constrained, against masked softmax in float64."""

from dataclasses import replace

import pytest
import torch

from pixelis_fast.advantages import learned_tokens
from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.constrained import FREE, Choices, choices_of, constrain
from pixelis_fast.kernels.linear_loss import ReferenceHead
from pixelis_fast.kernels.policy_loss import linear_policy_loss
from pixelis_fast.phases.rft_parts import grammar_of
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.script import Script
from pixelis_fast.training_batch import training_batch
from pixelis_fast.types import Sample, Trajectory
from tests.loop_fixtures import script_ids
from tests.media import picture
from tests.rft_fixtures import unit_folder

N, D, V, K = 40, 24, 96, 5
TEMPERATURE = 0.7
CLIP = (0.2, 0.28)


@pytest.fixture(scope="module")
def agent(tmp_path_factory) -> Agent:
    limits = RolloutConfig(
        max_steps=2,
        max_tokens=96,
        max_thought_tokens=3,
        sampling=Sampling(temperature=TEMPERATURE, seed=3),
    )
    folder = unit_folder(tmp_path_factory.mktemp("policy"))
    return build_agent(AgentConfig(policy=str(folder), rollout=limits))


@pytest.fixture(scope="module")
def trajectories(agent) -> list[Trajectory]:
    sample = Sample("a", (agent.tools.add_media(picture("coins.png")),), "How many?")
    return agent.rollout.run([sample] * 6)


@pytest.fixture(scope="module")
def choices(agent, trajectories) -> Choices:
    return choices_of(trajectories, grammar_of(agent), agent.loop.banned_ids)


def test_every_sampled_token_was_allowed(trajectories, choices):
    for trajectory, masks in zip(trajectories, choices.masks, strict=True):
        for token, mask, learned in zip(
            trajectory.ids, masks, learned_tokens(trajectory), strict=True
        ):
            assert (mask != FREE) == learned
            assert mask == FREE or bool(choices.allowed_KV[mask, token])
    assert len(choices.allowed_KV) == len({bytes(row.numpy()) for row in choices.allowed_KV})


def test_the_trainer_computes_the_rollouts_log_probabilities(agent, trajectories, choices):
    batch = training_batch(agent.policy, trajectories, agent.views.patches)
    valid_N = batch.rows([learned_tokens(t) for t in trajectories]) > 0
    rollout_N = batch.rows([t.logprobs for t in trajectories])
    with torch.no_grad():
        hidden_ND = batch.hidden(agent.policy)
        wide = constrain(
            hidden_ND, agent.policy.head_weight, choices.rows(hidden_ND), choices.allowed_KV
        )
        plain = (hidden_ND, agent.policy.head_weight)
        found, naive = (
            linear_policy_loss(
                *pair, batch.targets_N, rollout_N, rollout_N, valid_N=valid_N,
                temperature=TEMPERATURE,
            ).logprob_N
            for pair in (wide, plain)
        )  # fmt: skip
    torch.testing.assert_close(found[valid_N], rollout_N[valid_N], rtol=0, atol=1e-5)
    # Without the grammar it would be another policy: the test can tell.
    assert (naive - rollout_N)[valid_N].abs().mean() > 0.1


def test_the_last_turns_masks_leave_only_an_answer(agent):
    """Behind its only call, the trainer replays what the rollout allowed."""
    rollout = agent.rollout.with_config(replace(agent.rollout.config, max_steps=1, max_tokens=256))
    sample = Sample("a", (agent.tools.add_media(picture("coins.png")),), "How many?")
    zoom = '<tool_call>\n{"name":"zoom","arguments":{"media":0,"box":[0,0,500,500]}}\n</tool_call>'
    ids = script_ids(agent, zoom, "<answer>7</answer>")
    [found] = rollout.run([sample], make_chooser=lambda index: Script(ids))
    assert (len(found.steps), found.call_limit) == (2, 1)
    assert not calls_allowed(agent, found)[found.steps[1].start :].any()
    assert calls_allowed(agent, replace(found, call_limit=None))[found.steps[1].start :].any()


def calls_allowed(agent: Agent, trajectory: Trajectory) -> torch.Tensor:
    """For each token, whether a call could have begun there."""
    choices = choices_of([trajectory], grammar_of(agent), agent.loop.banned_ids)
    call = agent.tokenizer.special.tool_call_open
    return torch.tensor([m != FREE and choices.allowed_KV[m, call] for m in choices.masks[0]])


def problem(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    allowed_KV = torch.rand(K, V, generator=generator) < 0.3
    allowed_KV[:, :2] = True
    mask_N = torch.randint(-1, K, (N,), generator=generator)
    open_NV = torch.where((mask_N < 0)[:, None], torch.tensor(True), allowed_KV[mask_N])
    return {
        "hidden": torch.randn(N, D, generator=generator),
        "weight": torch.randn(V, D, generator=generator) * 0.3,
        "other": torch.randn(N, D, generator=generator),
        "advantages": torch.randn(N, generator=generator),
        "drift": torch.randn(N, generator=generator) * 0.3,
        "targets": torch.multinomial(open_NV.float(), 1, generator=generator)[:, 0],
        "valid": torch.rand(N, generator=generator) < 0.8,
        "allowed_KV": allowed_KV,
        "mask_N": mask_N,
        "open_NV": open_NV,
    }


def masked_logprobs(hidden: torch.Tensor, weight: torch.Tensor, open_NV: torch.Tensor):
    logits = (hidden @ weight.T / TEMPERATURE).masked_fill(~open_NV, -torch.inf)
    return torch.log_softmax(logits, dim=-1)


def reference_loss(p: dict[str, torch.Tensor], behaviour: torch.Tensor):
    """The textbook objective over the allowed tokens, by autograd in float64."""
    hidden, weight = (p[n].double().requires_grad_() for n in ("hidden", "weight"))
    logs = masked_logprobs(hidden, weight, p["open_NV"])
    anchor = masked_logprobs(p["other"].double(), p["weight"].double(), p["open_NV"])
    chosen = logs.gather(1, p["targets"][:, None])[:, 0]
    ratio = (chosen - behaviour.double()).exp()
    bounded = ratio.clamp(1 - CLIP[0], 1 + CLIP[1])
    gain = torch.minimum(ratio * p["advantages"], bounded * p["advantages"])
    finite = p["open_NV"]
    safe, known = logs.masked_fill(~finite, 0.0), anchor.masked_fill(~finite, 0.0)
    kl = (safe.exp() * (safe - known)).masked_fill(~finite, 0.0).sum(1)
    entropy = -(safe.exp() * safe).masked_fill(~finite, 0.0).sum(1)
    loss = (-gain + 0.1 * kl - 0.05 * entropy)[p["valid"]].mean()
    loss.backward()
    return loss.detach(), hidden.grad, weight.grad


def test_constrained_loss_and_gradients_are_those_of_the_clipped_objective():
    p = problem()
    start = masked_logprobs(p["hidden"], p["weight"], p["open_NV"])
    behaviour = start.gather(1, p["targets"][:, None])[:, 0] + p["drift"]
    wanted, wanted_hidden, wanted_weight = reference_loss(p, behaviour)
    hidden, weight = p["hidden"].clone().requires_grad_(), p["weight"].clone().requires_grad_()
    wide = constrain(hidden, weight, p["mask_N"], p["allowed_KV"])
    anchor = constrain(p["other"], p["weight"], p["mask_N"], p["allowed_KV"])
    found = linear_policy_loss(
        *wide, p["targets"], p["advantages"], behaviour, valid_N=p["valid"], clip=CLIP,
        reference=ReferenceHead(*anchor), kl_weight=0.1, entropy_weight=0.05,
        temperature=TEMPERATURE,
    )  # fmt: skip
    found.loss.backward()
    assert found.clipped_low > 0
    assert found.clipped_high > 0
    torch.testing.assert_close(found.loss.detach().double(), wanted, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(hidden.grad.double(), wanted_hidden, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(weight.grad.double(), wanted_weight, rtol=1e-4, atol=1e-6)


def test_a_row_without_a_mask_is_unconstrained():
    p = problem()
    free_N = torch.full_like(p["mask_N"], FREE)
    wide = constrain(p["hidden"], p["weight"], free_N, p["allowed_KV"])
    torch.testing.assert_close(wide[0] @ wide[1].T, p["hidden"] @ p["weight"].T)
    assert wide[0].shape[1] == wide[1].shape[1] == 64
