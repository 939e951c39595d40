"""A SAM2 small enough to commit: generated scenes, its training, its evaluation, its weights."""
