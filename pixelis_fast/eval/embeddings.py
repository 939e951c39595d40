"""Step embeddings as they are kept: few numbers instead of the policy's width.

Coherence needs lengths and cosines only, and a few vectors have the same ones in the space that
they span: as many numbers each as there are steps, where an 8B policy has 4,096.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pixelis_fast.types import Trajectory


def in_own_span(trajectory: Trajectory) -> Trajectory:
    """The same with its embeddings as coordinates in their span; inner products stay."""
    known = [step.embedding for step in trajectory.steps if step.embedding]
    if not known:
        return trajectory
    vectors_ND = np.array(known, dtype=np.float64)
    # Columns of R are the vectors in the orthonormal basis Q of their span.
    _, triangle_KN = np.linalg.qr(vectors_ND.T)
    kept = iter(triangle_KN.T.tolist())
    steps = [
        replace(step, embedding=tuple(next(kept))) if step.embedding else step
        for step in trajectory.steps
    ]
    return replace(trajectory, steps=steps)
