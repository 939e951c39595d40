"""Media to pixels: pictures, videos, and the sizes that tools see them at."""
