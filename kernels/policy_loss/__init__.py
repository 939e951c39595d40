"""Policy gradient, KL anchor, entropy and imitation in one pass over the vocabulary."""

from pixelis_fast.kernels.policy_loss.op import PolicyLoss, linear_policy_loss

__all__ = ["PolicyLoss", "linear_policy_loss"]
