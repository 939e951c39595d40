"""A tenant that writes sure and wrong experiences: others see nothing of it, its own votes hold.

`python bench/memory.py` prints the figures of a larger run.
"""

from bench.memory_poison import TENANTS, poison
from pixelis_fast.voting import VoteKind, VotingConfig

SIZE = {"queries": 24, "memories": 60, "seed": 0}


def test_another_tenants_votes_are_the_same_to_the_bit(tmp_path):
    found = poison(tmp_path, wrong_share=0.5, config=VotingConfig(), **SIZE)
    assert found.others_unchanged
    assert found.poisoned != found.clean


def test_what_is_shared_is_seen(tmp_path):
    """The same poisoner, shared on purpose, does change others: the test above can fail."""
    shared = {"shared_tenants": TENANTS[:1]}
    found = poison(tmp_path, wrong_share=0.3, config=VotingConfig(), **SIZE, **shared)
    assert not found.others_unchanged


def test_consensus_bounds_what_a_third_of_lies_costs(tmp_path):
    found = poison(tmp_path / "memory", wrong_share=0.3, config=VotingConfig(), **SIZE)
    config = VotingConfig(kind=VoteKind.NO_RETRIEVAL)
    alone = poison(tmp_path / "alone", wrong_share=0.3, config=config, **SIZE)
    assert alone.clean == alone.poisoned
    assert found.clean.accuracy > alone.clean.accuracy
    # Right experiences are still the majority: what they add is not turned around.
    assert found.poisoned.accuracy >= alone.clean.accuracy


def test_mostly_lies_cost_less_where_neighbours_weigh_less(tmp_path):
    drops = []
    for prior in (0.0, 4.0):
        config = VotingConfig(neighbour_prior=prior)
        found = poison(tmp_path / str(prior), wrong_share=0.8, config=config, **SIZE)
        drops.append(found.clean.accuracy - found.poisoned.accuracy)
    assert drops[0] > drops[1] + 0.1
