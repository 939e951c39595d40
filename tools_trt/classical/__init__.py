"""Segmenting and tracking without a network: the degraded mode, and the one to beat."""
