"""Banks: the base while B is zero, the merged matrices afterwards, PEFT's files, routes, states."""

from copy import deepcopy

import pytest
import torch

from pixelis_fast.policy.adapter_files import CONFIG, WEIGHTS
from pixelis_fast.policy.adapter_route import apply_by_row, routed_apply
from pixelis_fast.policy.adapters import AdapterBank
from pixelis_fast.policy.batch import pack
from pixelis_fast.policy.checkpoint import CheckpointError
from pixelis_fast.policy.invariant import rows_apply
from pixelis_fast.policy.packed import PackedLinears
from pixelis_fast.policy.weights import to_hf_state_dict
from tests.tiny_policy import hf_inputs, hf_twin, make_sample, our_batch, tiny_config, tiny_policy

CLOSE = 2e-4
"""Hidden states are around 1; merging rounds each matrix once more."""


@pytest.fixture(scope="module")
def policy():
    return tiny_policy(tiny_config(tied=True)).requires_grad_(False)


@pytest.fixture(scope="module")
def batch(policy):
    return our_batch(policy, make_sample(policy.config, [5, ("image", 4, 6), 7], seed=3))


def trained(policy, *, seed: int = 0, rank: int = 4) -> AdapterBank:
    """A bank whose B is far from zero."""
    bank = AdapterBank(policy.config, rank=rank, alpha=2.0 * rank, seed=seed)
    generator = torch.Generator().manual_seed(seed + 50)
    with torch.no_grad():
        for pair in bank.pairs.values():
            for b_OR in pair.b_OR:
                b_OR.normal_(0.0, 0.05, generator=generator)
    return bank


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_a_new_bank_is_the_base_bit_for_bit(policy, batch, dtype):
    twin = deepcopy(policy).to(dtype)
    bank = AdapterBank(policy.config, seed=1)
    for base in (PackedLinears(), rows_apply):
        expected_ND = twin.hidden(batch, apply=base)
        assert torch.equal(twin.hidden(batch, apply=bank.apply(base)), expected_ND)
    assert torch.equal(twin.hidden(batch, apply=bank.apply()), twin.hidden(batch))
    assert all(p.dtype == torch.float32 for p in bank.parameters())


def test_a_bank_is_its_merged_matrices(policy, batch):
    bank, merged = trained(policy), deepcopy(policy)
    bank.merge_into(merged)
    got_ND, expected_ND = policy.hidden(batch, apply=bank.apply()), merged.hidden(batch)
    assert (got_ND - expected_ND).abs().max() < CLOSE
    assert (got_ND - policy.hidden(batch)).abs().max() > 100 * CLOSE
    assert torch.equal(merged.embed_tokens.weight, policy.embed_tokens.weight)


def test_files_hold_hugging_faces_modules(policy, batch, tmp_path):
    """B·A of each named module, added to transformers' own weights, is the adapted policy."""
    from safetensors.torch import load_file

    bank = trained(policy)
    bank.save(tmp_path)
    found = load_file(tmp_path / WEIGHTS)
    state = {name: tensor.clone() for name, tensor in to_hf_state_dict(policy).items()}
    prefix = "base_model.model."
    names = {name.removesuffix(".lora_A.weight") for name in found if "lora_A" in name}
    assert f"{prefix}model.language_model.layers.0.self_attn.q_proj" in names
    assert len(names) == 7 * policy.config.text.num_layers
    for name in names:
        delta = found[f"{name}.lora_B.weight"] @ found[f"{name}.lora_A.weight"]
        state[name.removeprefix(prefix) + ".weight"] += 2.0 * delta
    twin = hf_twin(policy)
    twin.load_state_dict(state)
    sample = make_sample(policy.config, [5, ("image", 4, 6), 7], seed=3)
    with torch.no_grad():
        expected_NV = twin(**hf_inputs([sample])).logits[0]
        got_NV = policy.logits(policy.hidden(batch, apply=bank.apply()))
    assert (got_NV - expected_NV).abs().max() < 10 * CLOSE


def test_peft_reads_what_we_write_and_says_the_same(policy, batch, tmp_path):
    peft = pytest.importorskip("peft", reason="needs peft, whose format it is: pip install peft")
    bank = trained(policy)
    bank.save(tmp_path)
    model = peft.PeftModel.from_pretrained(hf_twin(policy), tmp_path).eval()
    sample = make_sample(policy.config, [5, ("image", 4, 6), 7], seed=3)
    with torch.no_grad():
        expected_NV = model(**hf_inputs([sample])).logits[0]
        got_NV = policy.logits(policy.hidden(batch, apply=bank.apply()))
    assert (got_NV - expected_NV).abs().max() < 10 * CLOSE
    model.save_pretrained(tmp_path / "theirs")
    assert AdapterBank.load(policy.config, tmp_path / "theirs").equals(bank)


def test_a_saved_bank_comes_back_bitwise(policy, tmp_path):
    bank = trained(policy)
    bank.save(tmp_path)
    again = AdapterBank.load(policy.config, tmp_path)
    assert again.equals(bank)
    assert again.fingerprint() == bank.fingerprint()
    assert not list(tmp_path.glob("*.tmp"))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        (CONFIG, lambda text: text.replace('"LORA"', '"IA3"'), "expected plain LoRA"),
        (CONFIG, lambda text: text.replace('"r": 4', '"r": 8'), "expected the shape"),
        (WEIGHTS, lambda text: "", "expected a safetensors file"),
    ],
)
def test_a_folder_of_something_else_is_refused(policy, tmp_path, file, change, message):
    trained(policy).save(tmp_path)
    path = tmp_path / file
    path.write_text(change(path.read_text(errors="ignore")))
    with pytest.raises(CheckpointError, match=message):
        AdapterBank.load(policy.config, tmp_path)


def test_two_banks_and_the_base_in_one_forward(policy, batch):
    banks = [trained(policy, seed=1), None, trained(policy, seed=2)]
    together = pack([batch] * 3)
    size = batch.num_tokens
    rows = [torch.arange(i * size, (i + 1) * size) for i in range(3)]
    routed = routed_apply([(banks[0], rows[0]), (banks[2], rows[2])])
    by_row = apply_by_row(banks, together.lengths)
    alone = [policy.hidden(batch, apply=b.apply()) if b else policy.hidden(batch) for b in banks]
    assert (alone[0] - alone[2]).abs().max() > 0.01
    for apply in (routed, by_row):
        parts = policy.hidden(together, apply=apply).split(size)
        for got_ND, expected_ND in zip(parts, alone, strict=True):
            assert (got_ND - expected_ND).abs().max() < CLOSE


def test_gradients_reach_every_pair_and_nothing_else(policy, batch):
    bank, base = trained(policy), trained(policy, seed=9).freeze()
    rows = torch.arange(batch.num_tokens)
    routed = routed_apply([(bank, rows[::2]), (base, rows[1::2])])
    for apply in (bank.apply(), routed):
        for parameter in bank.parameters():
            parameter.grad = None
        policy.hidden(batch, apply=apply).square().sum().backward()
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in bank.parameters())
    assert all(p.grad is None for p in [*policy.parameters(), *base.parameters()])


def test_ema_line_copy_and_equality(policy):
    start, end = trained(policy, seed=1), trained(policy, seed=2)
    ema = start.copy()
    ema.ema_update(end, 0.75)
    for got, first, second in zip(
        ema.parameters(), start.parameters(), end.parameters(), strict=True
    ):
        torch.testing.assert_close(got.detach(), 0.75 * first.detach() + 0.25 * second.detach())
    assert start.lerp_toward(end, 0).equals(start)
    assert start.lerp_toward(end, 1).equals(end)
    middle = start.lerp_toward(end, 0.25)
    assert all(
        torch.allclose(a, b) for a, b in zip(middle.parameters(), ema.parameters(), strict=True)
    )
    prints = {bank.fingerprint() for bank in (start, end, middle)}
    assert len(prints) == 3
    twin = start.copy()
    assert twin.equals(start)
    with torch.no_grad():
        next(twin.parameters()).view(-1)[0] += 1e-7
    assert not twin.equals(start)
    assert twin.fingerprint() != start.fingerprint()


def test_one_seed_is_one_bank(policy):
    assert AdapterBank(policy.config, seed=3).equals(AdapterBank(policy.config, seed=3))
    assert not AdapterBank(policy.config, seed=3).equals(AdapterBank(policy.config, seed=4))


@pytest.mark.parametrize(("options", "name"), [({"rank": 0}, "rank"), ({"alpha": 0.0}, "alpha")])
def test_settings_are_checked(policy, options, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        AdapterBank(policy.config, **options)


def test_banks_of_different_shape_do_not_mix(policy):
    with pytest.raises(ValueError, match="bank: expected rank 4"):
        trained(policy).copy_(trained(policy, rank=2))
