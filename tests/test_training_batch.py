"""Trajectories packed for training give the forward of the loop that made them."""

from __future__ import annotations

import pytest
import torch

from pixelis_fast.agent import AgentConfig, build_agent
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.training_batch import IGNORE, training_batch
from pixelis_fast.types import Sample
from tests.loop_fixtures import ANSWER, READ, ZOOM, script
from tests.media import clip, picture


@pytest.fixture(scope="module")
def agent():
    return build_agent(AgentConfig(policy="unit", rollout=RolloutConfig(overlap=False)))


@pytest.fixture(scope="module")
def trajectories(agent):
    """Two of one picture with a zoom between, one of a video."""
    still = agent.tools.add_media(picture("coins.png"))
    video = agent.tools.add_media(clip("carphone_pristine.mp4"))
    samples = [Sample("1", (still,), "How many?"), Sample("2", (still,), "How many?")]
    samples.append(Sample("3", (video, still), "What is it?"))
    turns = [(ZOOM, ANSWER), (READ, ZOOM, ANSWER), (ANSWER,)]
    return agent.rollout.run(samples, make_chooser=lambda i: script(agent, *turns[i]))


def test_log_probs_are_those_of_the_rollout(agent, trajectories):
    batch = training_batch(agent.policy, trajectories, agent.views.patches)
    with torch.no_grad():
        logits_NV = agent.policy.logits(batch.hidden(agent.policy))
    logprobs_N = torch.log_softmax(logits_NV, -1).gather(1, batch.targets_N.clamp(min=0)[:, None])
    recorded_N = batch.rows([t.logprobs for t in trajectories])
    sampled_N = recorded_N != 0
    assert int(sampled_N.sum()) >= 20
    torch.testing.assert_close(
        logprobs_N[:, 0][sampled_N], recorded_N[sampled_N], atol=2e-5, rtol=0
    )


def test_a_picture_is_encoded_once(agent, trajectories):
    batch = training_batch(agent.policy, trajectories, agent.views.patches)
    assert len(set(batch.media_ids)) == len(batch.media_ids)
    shown = {span.media_id for t in trajectories for span in t.spans}
    assert set(batch.media_ids) == shown
    assert len(batch.feature_index_M) == sum(s.num_tokens for t in trajectories for s in t.spans)


def test_rows_predict_the_token_behind_them(agent, trajectories):
    batch = training_batch(agent.policy, trajectories, agent.views.patches)
    start = 0
    for trajectory in trajectories:
        count = len(trajectory.ids)
        targets = batch.targets_N[start : start + count].tolist()
        assert targets == [*trajectory.ids[1:], IGNORE]
        start += count
    moved = batch.rows([[float(i) for i in t.ids] for t in trajectories])
    known = batch.targets_N != IGNORE
    assert torch.equal(moved[known].long(), batch.targets_N[known])


def test_gradients_reach_the_tower_once_per_picture(agent, trajectories):
    policy = agent.policy.requires_grad_(True)
    batch = training_batch(policy, trajectories[:2], agent.views.patches)
    batch.hidden(policy).square().mean().backward()
    together = policy.vision.patch_embed.weight.grad.clone()
    policy.zero_grad()
    for trajectory in trajectories[:2]:
        one = training_batch(policy, [trajectory], agent.views.patches)
        share = len(trajectory.ids) / sum(batch.lengths)
        (one.hidden(policy).square().mean() * share).backward()
    torch.testing.assert_close(
        policy.vision.patch_embed.weight.grad, together, atol=1e-6, rtol=1e-3
    )
    policy.zero_grad()
    policy.requires_grad_(False)


def test_numbers_that_do_not_fit_are_refused(agent, trajectories):
    batch = training_batch(agent.policy, trajectories, agent.views.patches)
    with pytest.raises(ValueError, match="values: expected one per token"):
        batch.rows([[0.0]] * 3)
