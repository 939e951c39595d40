"""Weighted cross-entropy of a linear head from hidden states."""

from pixelis_fast.kernels.masked_imitation.op import ImitationLoss, masked_imitation_loss

__all__ = ["ImitationLoss", "masked_imitation_loss"]
