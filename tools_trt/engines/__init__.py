"""A graph, built by every backend that can, gated, timed, and chosen."""
