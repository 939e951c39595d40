"""pixelis_fast: a fast engine for pixel-acting vision-language agents."""

__version__ = "0.1.0"
