"""Qwen3-VL in plain PyTorch: one forward for rollout and training."""
