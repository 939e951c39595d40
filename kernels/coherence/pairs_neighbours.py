"""A vote among the neighbours that top-k found: k small steps, in order of their rank.

Shapes: N = queries, K = neighbours, M = keys, A = answers.
"""

import torch
from torch import Tensor

from pixelis_fast.kernels.coherence.pairs_inputs import unknown_answers, unknown_weights
from pixelis_fast.kernels.coherence.pairs_problem import Ballot, Pairs, TopK


def neighbour_vote(found: TopK, ballot: Ballot) -> Tensor:
    """votes (N, A). No key gets more than one step, so nothing is added out of order."""
    votes_NA = found.similarity_NK.new_zeros((found.index_NK.shape[0], ballot.num_answers))
    if ballot.answers_M.shape[0] == 0:
        return votes_NA
    index_NK = found.index_NK.clamp_min(0)
    answer_NK = ballot.answers_M[index_NK].long().clamp(0, ballot.num_answers - 1)
    # A missing neighbour has similarity -inf and so no share.
    share_NK = (found.similarity_NK - ballot.floor).clamp_min(0)
    if ballot.weights_M is not None:
        share_NK = share_NK * ballot.weights_M[index_NK]
    for answer_N1, share_N1 in zip(answer_NK.split(1, 1), share_NK.split(1, 1), strict=True):
        votes_NA.scatter_(1, answer_N1, votes_NA.gather(1, answer_N1) + share_N1)
    return votes_NA


def spoiled(pairs: Pairs, ballot: Ballot) -> Tensor:
    """() bool: a valid key has an answer or a weight that no vote can count."""
    wrong_M = unknown_answers(ballot, pairs.valid_M) | unknown_weights(ballot, pairs.valid_M)
    return wrong_M.any()


def poisoned(votes_NA: Tensor, pairs: Pairs, ballot: Ballot) -> Tensor:
    """All NaN where a vote was spoiled; on the CPU that has raised already."""
    if votes_NA.device.type == "cpu":
        return votes_NA
    return torch.where(spoiled(pairs, ballot), float("nan"), votes_NA)
