"""fp32 masters: small steps add up, a bad gradient changes nothing, state comes back bitwise."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from pixelis_fast.optimizer import MasterAdamW, OptimizerConfig
from pixelis_fast.snapshots import STATE, latest_snapshot, save_snapshot, snapshots


def module(dtype: torch.dtype = torch.bfloat16) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 1)).to(dtype)


def step(net: nn.Module, optimizer: MasterAdamW, seed: int) -> float:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
    loss = (net(x.to(net[0].weight.dtype)).float() - x.sum(1, keepdim=True)).square().mean()
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def test_steps_below_bf16s_resolution_add_up():
    net = nn.Linear(1, 1, bias=False).to(torch.bfloat16)
    nn.init.ones_(net.weight)
    config = OptimizerConfig(learning_rate=1e-4, warmup_steps=0, weight_decay=0.0, final_share=1.0)
    optimizer = MasterAdamW(net.parameters(), config)
    for _ in range(80):
        net.weight.grad = torch.ones_like(net.weight)
        optimizer.step()
    # 80 steps of 1e-4 are 0.008; one of them alone would round back to 1.
    assert float(net.weight) == pytest.approx(0.992, abs=0.004)
    assert float(net.weight) < 1


def test_it_matches_torchs_adamw_in_fp32():
    ours, theirs = module(torch.float32), module(torch.float32)
    config = OptimizerConfig(
        learning_rate=1e-2, warmup_steps=0, total_steps=10**6, weight_decay=0.0, max_norm=1e9
    )
    optimizer = MasterAdamW(ours.parameters(), config)
    reference = torch.optim.AdamW(theirs.parameters(), lr=1e-2, betas=(0.9, 0.95), weight_decay=0)
    for seed in range(5):
        step(ours, optimizer, seed)
        x = torch.randn(32, 8, generator=torch.Generator().manual_seed(seed))
        (theirs(x) - x.sum(1, keepdim=True)).square().mean().backward()
        reference.step()
        reference.zero_grad()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_a_gradient_that_is_not_finite_changes_nothing():
    net = module()
    optimizer = MasterAdamW(net.parameters(), OptimizerConfig())
    step(net, optimizer, 0)
    before = [p.detach().clone() for p in net.parameters()]
    net[0].weight.grad = torch.full_like(net[0].weight, torch.nan)
    report = optimizer.step()
    assert report.skipped
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def optimizer_of(net: nn.Module, slow_share: float) -> MasterAdamW:
    """Its first layer moves at this share of the rate."""
    slow = net[0].parameters()
    return MasterAdamW(net.parameters(), OptimizerConfig(), slow=slow, slow_share=slow_share)


@pytest.mark.parametrize("slow_share", [1.0, 0.25], ids=["all alike", "a slow layer"])
def test_a_run_goes_on_bitwise_from_its_state(tmp_path, slow_share):
    one = module()
    whole = optimizer_of(one, slow_share)
    for seed in range(6):
        step(one, whole, seed)
    two = module()
    first = optimizer_of(two, slow_share)
    for seed in range(3):
        step(two, first, seed)
    save_snapshot(tmp_path, 3, {"optimizer": first.state()})
    three = module()
    second = optimizer_of(three, slow_share)
    second.load(latest_snapshot(tmp_path)["optimizer"])
    for seed in range(3, 6):
        step(three, second, seed)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), three.parameters(), strict=True))


def test_the_newest_whole_snapshot_is_found(tmp_path):
    for number in (1, 2, 3):
        save_snapshot(tmp_path, number, {"number": number})
    (tmp_path / "draft-00000004").mkdir()
    (tmp_path / "draft-00000004" / "state.pt").write_bytes(b"torn")
    assert latest_snapshot(tmp_path) == {"number": 3}
    assert [path.name for path in snapshots(tmp_path)] == ["step-00000002", "step-00000003"]


def test_a_kill_while_an_old_snapshot_is_removed_leaves_only_whole_ones(tmp_path, monkeypatch):
    """Its file is gone and its folder is not yet: one kill of a hundred came there."""

    def killed(path):
        (path / STATE).unlink()
        raise KeyboardInterrupt

    save_snapshot(tmp_path, 1, {"number": 1}, keep=1)
    with monkeypatch.context() as patched:
        patched.setattr("pixelis_fast.snapshots.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            save_snapshot(tmp_path, 2, {"number": 2}, keep=1)
    assert [path.name for path in snapshots(tmp_path)] == ["step-00000002"]
    (tmp_path / "step-00000000").mkdir()  # As removal left it before it renamed first.
    assert [path.name for path in snapshots(tmp_path)] == ["step-00000002"]
    (tmp_path / "notes").mkdir()
    save_snapshot(tmp_path, 3, {"number": 3}, keep=1)
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000003", "notes"}


def test_the_rate_warms_up_and_falls():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=10, total_steps=110, final_share=0.1)
    rates = [config.rate(step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.1)
    assert all(a >= b for a, b in pairwise(rates[10:]))


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"warmup_steps: expected 0\.\.5, got 6"):
        OptimizerConfig(warmup_steps=6, total_steps=5)


def test_the_slow_ones_move_at_their_share():
    fast, slow = (torch.nn.Parameter(torch.ones(3, 3)) for _ in range(2))
    config = OptimizerConfig(learning_rate=0.1, warmup_steps=0, total_steps=10, weight_decay=0.0)
    optimizer = MasterAdamW([fast, slow], config, slow=[slow], slow_share=0.25)
    for parameter in (fast, slow):
        parameter.grad = torch.full((3, 3), 0.01)
    optimizer.step()
    torch.testing.assert_close(1 - slow, 0.25 * (1 - fast))
    assert (fast < 1).all()
