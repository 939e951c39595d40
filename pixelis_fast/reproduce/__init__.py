"""The method's comparisons in miniature: every arm trained, measured and set in one table."""
