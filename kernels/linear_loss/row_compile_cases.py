"""The op's kernels over rows and elements, for the compile-only gate: every dtype and switch."""

from collections.abc import Iterator
from itertools import product

from pixelis_fast.kernels.linear_loss.combine_kernel import combine_kernel
from pixelis_fast.kernels.linear_loss.compile_cases import COUNT, FLOATS, INDICES, title
from pixelis_fast.kernels.linear_loss.finish_kernel import finish_kernel
from pixelis_fast.kernels.linear_loss.launch import (
    COMBINE_ROWS,
    COMBINE_TILES,
    FINISH_COLUMNS,
    FINISH_ROWS,
    FINISH_WARPS,
)
from pixelis_fast.kernels.linear_loss.launch_rows import ROW_BLOCK
from pixelis_fast.kernels.linear_loss.row_kernels import copy_rows_kernel, target_logit_kernel
from pixelis_fast.kernels.linear_loss.triton_config import AMPERE, FLOAT32
from pixelis_fast.kernels.offline import CompileCase

PADDINGS = {"bf16": AMPERE.weight_product.depth, "fp32": FLOAT32.weight_product.depth}
"""By dtype; a test holds that every table of bfloat16 has the same."""
COPIES = (("bf16", "bf16"), ("fp32", "bf16"), ("fp32", "fp32"))
"""Hidden states into slots, and the float32 gradient of them back into their own dtype."""
FLAGS = (False, True)


def cases() -> list[CompileCase]:
    return [*_copies(), *_target_logits(), *_combines(), *_finishes()]


def _copies() -> Iterator[CompileCase]:
    for (source, out), factor in product(COPIES, FLAGS):
        switches = {"HAS_FACTOR": factor}
        yield CompileCase(
            title(f"copy rows {source} to {out}", switches),
            copy_rows_kernel,
            {
                "source_ptr": f"*{source}:16",
                "index_ptr": INDICES,
                "factor_ptr": FLOATS if factor else INDICES,
                "kept_ptr": "*i8:16",
                "out_ptr": f"*{out}:16",
                "width": "i32:16",
            },
            {"BLOCK": ROW_BLOCK, **switches},
            num_warps=4,
            num_stages=3,
        )


def _target_logits() -> Iterator[CompileCase]:
    for dtype, softcap in product(PADDINGS, FLAGS):
        switches = {"HAS_SOFTCAP": softcap}
        yield CompileCase(
            title(f"target logit {dtype}", switches),
            target_logit_kernel,
            {
                "hidden_ptr": f"*{dtype}:16",
                "weight_ptr": f"*{dtype}:16",
                "targets_ptr": INDICES,
                "out_ptr": FLOATS,
                "width": "i32:16",
                "scale": "fp32",
                "softcap": "fp32",
            },
            {"BLOCK": ROW_BLOCK, **switches},
            num_warps=4,
            num_stages=3,
        )


COMBINE = {
    "partials_ptr": FLOATS,
    "target_logit_ptr": FLOATS,
    "target_delta_ptr": FLOATS,
    "anchor_ptr": FLOATS,
    "shift_ptr": FLOATS,
    "flagged_ptr": "*i8:16",
    "statistics_ptr": FLOATS,
    "count_ptr": COUNT,
    "num_rows": "i32",
    "column_tiles": "i32",
    "vocabulary": "i32",
}


def _combines() -> Iterator[CompileCase]:
    for reference, mean, flagged in product(FLAGS, repeat=3):
        switches = {"HAS_REFERENCE": reference, "WANTS_MEAN": mean, "ONLY_FLAGGED": flagged}
        yield CompileCase(
            title("combine", switches),
            combine_kernel,
            COMBINE,
            {"ROWS": COMBINE_ROWS, "TILES": COMBINE_TILES, **switches},
            num_warps=4,
            num_stages=3,
        )


def _finishes() -> Iterator[CompileCase]:
    for dtype, delta, softcap in product(PADDINGS, FLAGS, FLAGS):
        switches = {"HAS_DELTA": delta, "HAS_SOFTCAP": softcap}
        sizes = {"PADDING": PADDINGS[dtype], "ROWS": FINISH_ROWS, "COLUMNS": FINISH_COLUMNS}
        yield CompileCase(
            title(f"finish {dtype}", switches),
            finish_kernel,
            _finish_signature(dtype),
            sizes | switches,
            num_warps=FINISH_WARPS,
            num_stages=3,
        )


def _finish_signature(dtype: str) -> dict[str, str]:
    return {
        "exponentials_ptr": f"*{dtype}:16",
        "deltas_ptr": f"*{dtype}:16",
        "gradient_ptr": f"*{dtype}:16",
        "rows_ptr": FLOATS,
        "targets_ptr": INDICES,
        "count_ptr": COUNT,
        "num_rows": "i32",
        "first_column": "i32",
        "columns": "i32",
        "stride": "i32:16",
        "delta_stride": "i32:16",
        "gradient_stride": "i32:16",
        "scale": "fp32",
        "softcap": "fp32",
    }
