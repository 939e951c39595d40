"""Shared prompts once: the same hidden states and gradients as with every prompt repeated."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from pixelis_fast.advantages import learned_tokens
from pixelis_fast.agent import Agent, AgentConfig, build_agent
from pixelis_fast.guidance import WatchedAttention
from pixelis_fast.pieces import pieces_of
from pixelis_fast.policy.sampling import Sampling
from pixelis_fast.rollout import RolloutConfig
from pixelis_fast.training_batch import IGNORE, training_batch
from pixelis_fast.tree_batch import tree_batch
from pixelis_fast.types import Sample, Trajectory
from tests.media import clip, picture

LIMITS = RolloutConfig(
    max_steps=2, max_tokens=64, max_thought_tokens=2, sampling=Sampling(temperature=1.0, seed=7)
)


@pytest.fixture(scope="module")
def agent() -> Agent:
    return build_agent(AgentConfig(policy="unit", rollout=LIMITS))


@pytest.fixture(scope="module")
def trajectories(agent) -> list[Trajectory]:
    coins = agent.tools.add_media(picture("coins.png"))
    video = agent.tools.add_media(clip("carphone_pristine.mp4"))
    samples = [Sample("a", (coins,), "How many?")] * 3 + [Sample("b", (video,), "When?")] * 2
    return agent.rollout.run([*samples, Sample("c", (coins,), "What now?"), Sample("d", (), "Hm")])


def test_pieces_share_the_system_prompt_and_each_groups_prompt(trajectories):
    pieces = pieces_of(trajectories)
    system, *_ = pieces
    assert system.behind == ()
    assert system.start == 0
    assert system.stop > 1000
    leaves = {p.trajectory: p for p in pieces if p.stop == len(trajectories[p.trajectory].ids)}
    assert sorted(leaves) == list(range(len(trajectories)))
    # Three of one group stand behind one prompt; the lone ones behind less.
    assert leaves[0].behind == leaves[1].behind == leaves[2].behind
    assert leaves[3].behind == leaves[4].behind != leaves[0].behind
    assert leaves[6].behind == (0,)
    for leaf in leaves.values():
        covered = [pieces[i] for i in leaf.behind] + [leaf]
        assert covered[0].start == 0
        assert all(a.stop == b.start for a, b in pairwise(covered))


def test_no_sampled_token_is_shared(trajectories):
    pieces = pieces_of([trajectories[0], trajectories[0]])
    prompt = trajectories[0].roles.index(next(r for r in trajectories[0].roles if r))
    assert [p.stop for p in pieces if not p.behind] == [prompt - 1]
    assert len(pieces) == 3


def test_equal_ids_of_other_pictures_are_not_shared(trajectories):
    twin = replace(trajectories[0])
    twin.spans = [replace(span, media_id="another") for span in twin.spans]
    [shared, *_] = pieces_of([trajectories[0], twin])
    assert shared.stop == trajectories[0].spans[0].start - 1


def numbered(trajectories: list[Trajectory]) -> list[list[float]]:
    """Another number for every token."""
    return [[float(100_000 * n + i) for i in range(len(t.ids))] for n, t in enumerate(trajectories)]


def in_order(numbers_N: torch.Tensor, wanted_N: torch.Tensor) -> torch.Tensor:
    """Indices of the wanted rows in the order of the trajectories' tokens."""
    rows = wanted_N.nonzero()[:, 0]
    return rows[numbers_N[rows].argsort()]


def test_tree_batch_equals_training_batch(agent, trajectories):
    policy, load = agent.policy, agent.views.patches
    learned = [[float(each) for each in learned_tokens(t)] for t in trajectories]
    probe_D = torch.randn(policy.config.text.hidden_size)
    found = []
    for make in (training_batch, tree_batch):
        batch = make(policy, trajectories, load)
        hidden_ND, weights_N = batch.hidden(policy), batch.rows(learned)
        policy.zero_grad()
        ((hidden_ND @ probe_D).square() * weights_N).sum().backward()
        gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        rows = in_order(batch.rows(numbered(trajectories)), weights_N > 0)
        found.append((hidden_ND[rows].detach(), batch.targets_N[rows], gradients, len(weights_N)))
    policy.zero_grad()
    (whole, whole_targets, wanted, most), (tree, targets, gradients, fewer) = found
    assert torch.equal(targets, whole_targets)
    torch.testing.assert_close(tree, whole, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        scale = wanted[name].abs().max().item()
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4 * scale, msg=name)
    assert fewer < most / 4


def test_a_training_batch_that_shares_has_all_rows_and_computes_fewer(agent, trajectories):
    policy, load = agent.policy, agent.views.patches
    probe_D = torch.randn(policy.config.text.hidden_size)
    found = []
    for share in (False, True):
        batch = training_batch(policy, trajectories, load, share=share)
        watched = WatchedAttention((1,), batch.shared and batch.shared.places_N)
        policy.zero_grad()
        hidden_ND = batch.hidden_behind(policy, batch.encode(policy), watch=watched.wrap)
        seen = watched.last[1]
        ((hidden_ND @ probe_D).square().sum() + (seen.queries_NF * seen.mixed_NF).sum()).backward()
        gradients = {n: p.grad.clone() for n, p in policy.named_parameters() if p.grad is not None}
        found.append((hidden_ND.detach(), seen.keys_NF.detach(), gradients))
    policy.zero_grad()
    (whole, whole_keys, wanted), (shared, keys, gradients) = found
    torch.testing.assert_close(shared, whole, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(keys, whole_keys, rtol=1e-4, atol=1e-5)
    assert gradients.keys() == wanted.keys()
    for name, gradient in gradients.items():
        scale = wanted[name].abs().max().item()
        torch.testing.assert_close(gradient, wanted[name], rtol=1e-3, atol=1e-4 * scale, msg=name)
    assert len(batch.shared.kept_T) < len(whole) / 4


def test_nothing_is_shared_among_strangers(agent, trajectories):
    [stranger] = [t for t in trajectories if t.sample.id == "d"]
    alone = training_batch(agent.policy, [stranger], agent.views.patches, share=True)
    assert alone.shared is None


def test_rows_and_targets_follow_the_pieces(agent, trajectories):
    batch = tree_batch(agent.policy, trajectories, agent.views.patches)
    following = batch.rows([[float(i) for i in t.ids] for t in trajectories])
    known = batch.targets_N != IGNORE
    assert torch.equal(following[known], batch.targets_N[known].float())
    assert int((~known).sum()) == len(trajectories)
    with pytest.raises(ValueError, match="values: expected one per token"):
        batch.rows([[0.0]])


def test_no_trajectories_are_an_error(agent):
    with pytest.raises(ValueError, match="expected at least one"):
        tree_batch(agent.policy, [], agent.views.patches)
