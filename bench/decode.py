"""Decoding: attention's variants, one step of the policy beside its matrix products, the grammar.

Attention runs ours (policy/attention.py) beside SDPA called in other ways on the same tensors; all
compute the same. A decode step is bound by reading the weights: its matrix products alone are the
floor, not an arm. The grammar's part is counted over the turns of the benchmark's chains.

    python bench/decode.py --quick

Shapes: N = new tokens, T = cached + new, H = query heads, K = key/value heads, F = head_dim,
D = hidden, V = vocabulary.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

if __name__ == "__main__":
    import rooted  # noqa: F401

import torch
from torch import Tensor
from torch.nn.functional import linear, scaled_dot_product_attention

from bench.cases import CASES
from bench.harness import (
    Check,
    Options,
    Report,
    finish,
    interleave,
    parse_options,
    rich_table,
    timed,
)
from pixelis_fast.agent import AgentConfig, open_policy
from pixelis_fast.grammar import ToolGrammar
from pixelis_fast.policy.attention import Packing, cache_masks, cached_attention, causal_attention
from pixelis_fast.policy.cache import KVCache
from pixelis_fast.policy.config import PRESETS, TextConfig
from pixelis_fast.policy.engine import Chunk, Engine
from pixelis_fast.policy.model import Policy
from pixelis_fast.policy.tokenizer import Tokenizer
from pixelis_fast.schemas import TOOL_SCHEMAS

ARMS = ("ours", "grouped", "folded", "boolean mask", "repeated keys")
"""Of attention; repeated keys is the baseline, as transformers' SDPA path did it for years."""
POLICY = "bench-36m"
SITUATIONS = ((1, 2000), (213, 1700), (1000, 0))
"""New and cached tokens: a decode step, an observation with a picture, a prompt."""
STEPS = (1, 4, 16)
"""New tokens: one sampled, and one with what the grammar forces behind it."""
CACHED = 1900
PACKED = (150,) * 16
"""Tokens of a training step's sequences."""
RUNS, QUICK_RUNS = 41, 11
MAX_DIFFERENCE = 1e-4
SAMPLE_MS = 3.0


def attention_arms(
    config: TextConfig, num_new: int, num_cached: int
) -> dict[str, Callable[[], Tensor]]:
    """Every way to attend, N new tokens behind a cache, on the same numbers; each gives NHF."""
    noise = torch.Generator().manual_seed(0)
    heads, kv_heads, size = config.num_heads, config.num_kv_heads, config.head_dim
    queries_NHF = torch.randn(num_new, heads, size, generator=noise)
    keys_TKF, values_TKF = torch.randn(2, num_cached + num_new, kv_heads, size, generator=noise)
    group = heads // kv_heads
    queries_1HNF = queries_NHF.transpose(0, 1)[None]
    folded_1KMF = queries_NHF.view(num_new, kv_heads, group, size).permute(1, 2, 0, 3)
    folded_1KMF = folded_1KMF.reshape(1, kv_heads, group * num_new, size)
    keys_1KTF, values_1KTF = (t.transpose(0, 1)[None] for t in (keys_TKF, values_TKF))
    mask = causal_mask(num_new, num_cached)

    def sdpa(keys_1KTF: Tensor, values_1KTF: Tensor, mask: Tensor | None, **how: Any) -> Tensor:
        is_causal = num_cached == 0 and mask is None
        out_1HNF = scaled_dot_product_attention(
            queries_1HNF, keys_1KTF, values_1KTF, attn_mask=mask, is_causal=is_causal, **how
        )
        return out_1HNF[0].transpose(0, 1)

    def folded() -> Tensor:
        repeated = None if mask is None else mask.repeat(group, 1)
        out_1KMF = scaled_dot_product_attention(
            folded_1KMF, keys_1KTF, values_1KTF, attn_mask=repeated
        )
        return out_1KMF.view(heads, num_new, size).transpose(0, 1)

    plain = None if num_cached == 0 else mask
    arms = {
        "ours": our_attention(config, queries_NHF, keys_TKF, values_TKF),
        "grouped": lambda: sdpa(keys_1KTF, values_1KTF, plain, enable_gqa=True),
        "folded": folded,
        "repeated keys": lambda: sdpa(
            keys_1KTF.repeat_interleave(group, 1), values_1KTF.repeat_interleave(group, 1), plain
        ),
    }
    if plain is not None:
        seen = plain == 0
        arms["boolean mask"] = lambda: sdpa(keys_1KTF, values_1KTF, seen, enable_gqa=True)
    return arms


def causal_mask(num_new: int, num_cached: int) -> Tensor | None:
    """(N, T) of 0 and -inf; one token sees everything."""
    if num_new == 1:
        return None
    return torch.full((num_new, num_cached + num_new), -torch.inf).triu_(num_cached + 1)


def our_attention(
    config: TextConfig, queries_NHF: Tensor, keys_TKF: Tensor, values_TKF: Tensor
) -> Callable[[], Tensor]:
    """As a layer calls it: the new keys and values join the cache first."""
    num_new = queries_NHF.shape[0]
    num_cached = keys_TKF.shape[0] - num_new
    if num_cached == 0:
        packing = Packing.of([num_new], queries_NHF)
        return lambda: causal_attention(queries_NHF, keys_TKF, values_TKF, packing=packing)
    cache = KVCache(config, capacity=keys_TKF.shape[0])
    for window in cache.open_window(num_cached):
        window.write(keys_TKF[:num_cached], values_TKF[:num_cached])
    cache.advance(num_cached)
    [window, *_] = cache.open_window(num_new)
    masks = cache_masks([num_new], [cache], device=queries_NHF.device, dtype=queries_NHF.dtype)
    new = keys_TKF[num_cached:], values_TKF[num_cached:]
    return lambda: cached_attention(
        queries_NHF, *new, lengths=[num_new], windows=[window], masks=masks
    )


def measure_attention(options: Options, report: Report) -> None:
    config = PRESETS[POLICY].text
    for num_new, num_cached in SITUATIONS:
        case = f"attention, {num_new} new behind {num_cached}"
        arms = attention_arms(config, num_new, num_cached)
        chosen = {name: call for name, call in arms.items() if name in options.arms}
        with torch.inference_mode():
            samples = interleave(chosen, warmup=2, runs=runs_of(options), min_sample_ms=SAMPLE_MS)
        report.baseline[case] = "repeated keys"
        report.timings += [timed(case, arm, sample) for arm, sample in samples.items()]
        expected = samples["ours"].results[-1]
        for arm, sample in samples.items():
            apart = float((sample.results[-1] - expected).abs().max())
            if arm != "ours":
                check = f"largest difference of {arm}"
                report.checks.append(Check.at_most(case, check, apart, MAX_DIFFERENCE))


def measure_training(options: Options, report: Report) -> None:
    """Packed causal attention in bf16 with its backward, as a training step has it."""
    config, noise = PRESETS[POLICY].text, torch.Generator().manual_seed(0)
    heads, kv_heads = config.num_heads, config.num_kv_heads
    leaves = [
        torch.randn(sum(PACKED), count, config.head_dim, generator=noise)
        .to(torch.bfloat16)
        .requires_grad_()
        for count in (heads, kv_heads, kv_heads)
    ]

    def in_bf16(*qkv: Tensor) -> Tensor:
        parts = zip(*(tensor.split(list(PACKED)) for tensor in qkv), strict=True)
        return torch.cat([causal_sdpa(*part) for part in parts])

    def ours(*qkv: Tensor) -> Tensor:
        return causal_attention(*qkv, packing=Packing.of(list(PACKED), qkv[0]))

    def backward(attend: Callable[..., Tensor]) -> Tensor:
        gradients = torch.autograd.grad(attend(*leaves).float().square().sum(), leaves)
        return torch.cat([gradient.flatten().float() for gradient in gradients])

    arms = {"ours": lambda: backward(ours), "grouped": lambda: backward(in_bf16)}
    chosen = {name: call for name, call in arms.items() if name in options.arms}
    case = f"attention and its backward, bf16, {len(PACKED)} sequences of {PACKED[0]}"
    samples = interleave(chosen, warmup=2, runs=runs_of(options), min_sample_ms=SAMPLE_MS)
    report.baseline[case] = "grouped"
    report.timings += [timed(case, arm, sample) for arm, sample in samples.items()]
    if "grouped" in samples:
        one, other = (samples[arm].results[-1] for arm in ("ours", "grouped"))
        apart = float((one - other).norm() / other.norm())
        report.checks.append(Check.at_most(case, "relative difference of gradients", apart, 0.02))


def causal_sdpa(queries_NHF: Tensor, keys_NKF: Tensor, values_NKF: Tensor) -> Tensor:
    qkv = (tensor.transpose(0, 1)[None] for tensor in (queries_NHF, keys_NKF, values_NKF))
    return scaled_dot_product_attention(*qkv, is_causal=True, enable_gqa=True)[0].transpose(0, 1)


def runs_of(options: Options) -> int:
    return options.runs or (QUICK_RUNS if options.quick else RUNS)


@torch.inference_mode()
def measure_steps(options: Options, report: Report) -> None:
    """Steps of 1, 4 and 16 tokens, and the products alone; a step must equal a whole forward."""
    policy = open_policy(AgentConfig(policy=POLICY)).policy
    engine = Engine(policy, lambda media_id: None)  # type: ignore[arg-type, return-value]
    ids = list(range(100, 100 + CACHED))
    session = engine.open()
    engine.extend([session], [Chunk(ids, opens_turn=True)], spans=engine.spans())

    def step(count: int) -> Callable[[], Tensor]:
        def run() -> Tensor:
            logits_BV = engine.extend([session], [Chunk(ids[:count])], spans=engine.spans())
            session.cache.truncate(CACHED)
            session.next_position = CACHED
            return logits_BV

        return run

    products = matrix_products(policy)
    for count in STEPS:
        case = f"decode, {count} token{'s' * (count > 1)} behind {CACHED}"
        rows_ND = torch.randn(count, policy.config.text.hidden_size)
        inner_NI = torch.randn(count, policy.config.text.intermediate_size)
        floor = lambda rows_ND=rows_ND, inner_NI=inner_NI: products(rows_ND, inner_NI)  # noqa: E731
        arms = {"ours": step(count), "matrix products": floor}
        samples = interleave(arms, warmup=3, runs=runs_of(options))
        report.timings += [timed(case, arm, sample) for arm, sample in samples.items()]
        whole = engine.open()
        chunk = Chunk(ids + ids[:count], opens_turn=True)
        expected = engine.extend([whole], [chunk], spans=engine.spans())
        apart = float((samples["ours"].results[-1] - expected).abs().max())
        check = "largest difference from one forward over all"
        report.checks.append(Check.at_most(case, check, apart, MAX_DIFFERENCE))
    read = sum(weight.nbytes for weight in decode_weights(policy))
    report.notes.append(f"a step reads {read / 2**20:.0f} MiB of weights")


def decode_weights(policy: Policy) -> list[Tensor]:
    """Every matrix that one token is multiplied with."""
    found = []
    for layer in policy.layers:
        parts: Any = layer
        attention = parts.attention
        found += [
            attention.qkv.weight,
            attention.out.weight,
            parts.gate_up.weight,
            parts.down.weight,
        ]
    return [*found, policy.head_weight]


def matrix_products(policy: Policy) -> Callable[[Tensor, Tensor], None]:
    """A step's products with rows of the right width; the head sees the last row only."""
    hidden = policy.config.text.hidden_size
    *layers, head = decode_weights(policy)

    def run(rows_ND: Tensor, inner_NI: Tensor) -> None:
        for weight in layers:
            linear(rows_ND if weight.shape[1] == hidden else inner_NI, weight)
        linear(rows_ND[-1:], head)

    return run


def grammar_table() -> dict[str, Any]:
    """Over every turn of every chain: what is forced, and the time of a mask."""
    tokenizer = Tokenizer.embedded()
    grammar = ToolGrammar(tokenizer, TOOL_SCHEMAS, vocab_size=tokenizer.vocab_size)
    counts = {"calls": [0, 0], "turns with a call": [0, 0]}
    mask_us: list[float] = []
    for turn in (turn for case in CASES for turn in case.turns if turn.call is not None):
        ids = [*tokenizer.encode_structure(turn.as_text()), tokenizer.special.im_end]
        start = ids.index(tokenizer.special.tool_call_open)
        forced = walk(grammar, ids, mask_us)
        counts["calls"][0] += sum(position >= start for position in forced)
        counts["calls"][1] += len(ids) - start
        counts["turns with a call"][0] += len(forced)
        counts["turns with a call"][1] += len(ids)
    rows = [
        [f"forced tokens of {n}", f"{100 * f / t:.0f} % of {t}"] for n, (f, t) in counts.items()
    ]
    rows.append(["a mask, processor mean", f"{statistics.mean(mask_us):.0f} us"])
    rows.append(["a mask, processor median", f"{statistics.median(mask_us):.0f} us"])
    title = f"Grammar over {tokenizer.vocab_size} tokens, on the chains' turns"
    return {"title": title, "columns": ["what", "measured"], "rows": rows}


def walk(grammar: ToolGrammar, ids: Sequence[int], mask_us: list[float]) -> list[int]:
    """Positions of the tokens that the grammar forces when the others are chosen."""
    state, forced, position = grammar.start(), [], 0
    while position < len(ids):
        start = time.process_time()
        state.allowed()
        mask_us.append(1e6 * (time.process_time() - start))
        state.accept(ids[position : position + 1])
        follow = state.forced()
        state.accept(follow)
        forced += range(position + 1, position + 1 + len(follow))
        position += 1 + len(follow)
    return forced


def step_table(report: Report) -> dict[str, Any]:
    """Processor time: what a step is above the reading of its weights."""
    rows = [
        [timing.name, timing.arm, f"{timing.extra['cpu_p50_ms']:.3f}"] for timing in report.timings
    ]
    return {"title": "Processor p50", "columns": ["case", "arm", "ms"], "rows": rows}


def main(argv: Sequence[str] | None = None) -> int:
    options = parse_options(__doc__, arms=ARMS, argv=argv)
    if options.device != "cpu":
        raise SystemExit(f"--device: expected cpu, got {options.device}")
    if "ours" not in options.arms:
        raise SystemExit("--arms: expected ours among them, every check is against it")
    report = Report("decode", options, ours="ours", baseline={})
    measure_attention(options, report)
    measure_training(options, report)
    measure_steps(options, report)
    report.notes.append(f"policy: {POLICY} has random weights; its text and choices mean nothing")
    tables = [step_table(report), grammar_table()]
    report.tables += [rich_table(table) for table in tables]
    report.extra["tables"] = tables
    return finish(report, options)


if __name__ == "__main__":
    sys.exit(main())
