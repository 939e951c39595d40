"""What backends and engines both stand on: a graph's spec, its gates, its precision, its device."""
