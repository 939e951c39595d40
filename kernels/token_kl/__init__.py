"""KL of a policy's head to a frozen one, per token: exact or estimated, and its corridor."""

from pixelis_fast.kernels.token_kl.corridor import CorridorReport, corridor
from pixelis_fast.kernels.token_kl.op import token_kl

__all__ = ["CorridorReport", "corridor", "token_kl"]
