"""How tokens are drawn, and the embeddings that their forwards leave."""

import pytest
import torch

from pixelis_fast.agent import Agent
from pixelis_fast.loop import Request
from pixelis_fast.policy.engine import Chunk, VisionSlot
from pixelis_fast.policy.sampling import Sampling, mask_logits
from pixelis_fast.types import Trajectory
from tests.loop_fixtures import ANSWER, READ, ZOOM, alone, ask, script


def test_a_call_can_be_drawn_otherwise(agent, coins):
    """Greedy inside calls, drawn outside, each log-probability at its own temperature."""
    request = Request(coins, Sampling(temperature=2.0, seed=1), call_sampling=Sampling())
    chooser, special = agent.loop.sampler(request), agent.tokenizer.special
    logits_V = torch.randn(agent.policy.config.text.vocab_size)
    open_V = mask_logits(logits_V, banned_ids=agent.loop.banned_ids)
    for _ in range(2):
        outside = [chooser.choose(logits_V, None) for _ in range(8)]
        assert len({token for token, _ in outside}) > 4
        at_two = torch.log_softmax(open_V / 2, dim=-1)
        assert [p for _, p in outside] == [float(at_two[token]) for token, _ in outside]
        chooser.follow([special.tool_call_open])
        inside = {chooser.choose(logits_V, None) for _ in range(4)}
        best = int(open_V.argmax())
        assert inside == {(best, float(torch.log_softmax(open_V, dim=-1)[best]))}
        chooser.follow([special.tool_call_close])


def test_step_embeddings_fall_out_of_the_same_passes(agent, coins):
    """Those of one forward over the whole trajectory, without a cache."""
    with agent.loop as loop:
        chooser = script(agent, "Closer. " + ZOOM, READ, ANSWER)
        request = Request(coins, embeddings=True, max_tokens=4096)
        trajectory = loop.submit(request, chooser=chooser).result(60)
    hidden_ND = hidden_states(agent, trajectory)
    first, second, last = trajectory.steps
    for step, end in ((first, second.start), (second, last.start)):
        mean_D = hidden_ND[step.start : end].mean(0)
        assert step.embedding == pytest.approx(mean_D.tolist(), abs=1e-4)
    assert last.embedding is not None
    plain = alone(agent, ask(coins, 0))
    assert all(step.embedding is None for step in plain.steps)


def hidden_states(agent: Agent, trajectory: Trajectory) -> torch.Tensor:
    slots = tuple(
        VisionSlot(s.start, s.num_tokens, s.media_id, s.frame, s.grid_thw) for s in trajectory.spans
    )
    batch = agent.engine.training_batch(Chunk(trajectory.ids, slots))
    with torch.no_grad():
        return agent.policy.hidden(batch)
