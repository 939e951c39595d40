"""SAM2: one click to a mask, one mask to a track, over engines and a bank of memories."""
