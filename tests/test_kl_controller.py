"""The corridor's controller and decision, its measurement, and the canary gate."""

import math
from dataclasses import replace

import pytest
import torch

from pixelis_fast.corridor import (
    CanaryGate,
    CanaryScore,
    CorridorConfig,
    Drift,
    KlController,
    Verdict,
    decide,
    measure_drift,
)

CONFIG = CorridorConfig(smoothing=0.0, factor=1.5)


def drift(kl: float) -> Drift:
    return Drift(exact=kl, sampled=kl, median=kl, p90=kl, maximum=kl, num_tokens=10)


def test_beta_rises_above_falls_below_and_holds_inside():
    controller = KlController(CONFIG)
    assert controller.observe(0.15) == CONFIG.beta
    assert controller.observe(0.30) == pytest.approx(CONFIG.beta * 1.5)
    assert controller.observe(0.15) == pytest.approx(CONFIG.beta * 1.5)
    assert controller.observe(0.01) == pytest.approx(CONFIG.beta)
    assert controller.direction == -1


def test_beta_moves_until_the_mean_is_well_inside():
    """Just under the edge it still rises, the same value from the other side does not."""
    controller = KlController(CONFIG)
    assert controller.observe(0.19) == CONFIG.beta
    controller.observe(0.21)
    assert controller.observe(0.19) == pytest.approx(CONFIG.beta * 1.5**2)
    assert controller.observe(0.17) == pytest.approx(CONFIG.beta * 1.5**2)
    controller.observe(0.09)
    assert controller.observe(0.11) == pytest.approx(CONFIG.beta)
    assert controller.observe(0.13) == pytest.approx(CONFIG.beta)


def test_one_outlier_does_not_move_a_smooth_controller():
    controller = KlController(replace(CONFIG, smoothing=0.9))
    for _ in range(20):
        controller.observe(0.15)
    assert controller.observe(0.40) == CONFIG.beta
    for _ in range(20):
        controller.observe(0.40)
    assert controller.beta > 10 * CONFIG.beta


def test_beta_stays_within_its_bounds():
    controller = KlController(CONFIG)
    assert [controller.observe(5.0) for _ in range(40)][-1] == CONFIG.beta_max
    assert [controller.observe(0.0) for _ in range(80)][-1] == CONFIG.beta_min
    for wrong in (math.nan, math.inf):
        again = KlController(CONFIG)
        assert again.observe(wrong) > CONFIG.beta
        assert math.isfinite(again.mean)


def test_a_controller_goes_on_where_it_was():
    one, other = KlController(CorridorConfig()), KlController(CorridorConfig())
    for kl in (0.3, 0.25, 0.19):
        one.observe(kl)
    other.restore(one.state())
    assert [one.observe(kl) for kl in (0.19, 0.1, 0.01)] == [
        other.observe(kl) for kl in (0.19, 0.1, 0.01)
    ]


@pytest.mark.parametrize("inertia", [0.0, 0.5, 0.8, 0.9])
def test_the_loop_settles_in_the_corridor(inertia):
    """A force against beta, followed at once or slowly: KL ends inside and stays there."""
    controller, kl, found = KlController(CorridorConfig()), 0.0, []
    for _ in range(400):
        kl = inertia * kl + (1 - inertia) * 0.05 / controller.beta
        found.append(kl)
        controller.observe(kl)
    assert all(0.10 <= kl <= 0.20 for kl in found[-100:])


@pytest.mark.parametrize(("kl", "reason"), [(0.05, "below"), (0.15, "inside"), (0.20, "inside")])
def test_what_does_not_leave_at_the_top_is_published(kl, reason):
    found = decide(lambda share: drift(kl * share), CONFIG)
    assert (found.verdict, found.step, found.num_measured) == (Verdict.PUBLISH, 1.0, 1)
    assert found.reason.startswith(reason)


def test_a_step_too_far_is_scaled_back_to_what_was_measured():
    asked = []

    def measure(share):
        asked.append(share)
        return drift(0.8 * share**2)

    found = decide(measure, CONFIG)
    assert found.verdict is Verdict.SCALE_BACK
    assert found.step == asked[-1]
    assert pytest.approx(found.drift.exact) == 0.9 * 0.20
    assert found.full.exact == pytest.approx(0.8)
    assert found.num_measured == len(asked) == 2


@pytest.mark.parametrize(
    "kl_of",
    [
        lambda share: 0.9 * share,
        lambda share: 0.1 + 0.5 * share**3,
        lambda share: 40.0 * share**2,
        lambda share: 0.15 + 0.25 * share if share > 0.3 else 0.01,
        lambda share: math.nan if share > 0.5 else 0.6 * share,
        lambda share: 0.5 if share == 1 else math.inf if share > 0.4 else 0.1 * share,
    ],
)
def test_a_curve_that_is_no_parabola_is_searched_too(kl_of):
    """Whatever it is like, what is published was measured and fits."""
    asked = {}

    def measure(share):
        asked[share] = kl_of(share)
        return drift(asked[share])

    found = decide(measure, CONFIG)
    if math.isnan(kl_of(1.0)):
        assert (found.verdict, len(asked)) == (Verdict.DROP, 1)
        return
    assert found.verdict is Verdict.SCALE_BACK
    fitting = [share for share, kl in asked.items() if math.isfinite(kl) and kl <= CONFIG.high]
    assert found.step == max(fitting)
    assert found.drift.exact == asked[found.step]
    assert found.num_measured == len(asked) <= 1 + CONFIG.searches


@pytest.mark.parametrize("kl", [math.nan, math.inf])
def test_a_kl_that_is_no_number_drops_the_update(kl):
    found = decide(lambda share: drift(kl), CONFIG)
    assert (found.verdict, found.step) == (Verdict.DROP, 0.0)


def test_an_update_of_which_nothing_fits_is_dropped():
    assert decide(lambda share: drift(0.9), CONFIG).verdict is Verdict.DROP
    at_once = replace(CONFIG, searches=0)
    found = decide(lambda share: drift(0.3 * share), at_once)
    assert (found.verdict, found.num_measured) == (Verdict.DROP, 1)


def test_drift_is_the_mean_kl_of_the_sampled_tokens():
    generator = torch.Generator().manual_seed(0)
    p_ND, q_ND = (torch.randn(12, 8, generator=generator) for _ in range(2))
    weight_VD = torch.randn(32, 8, generator=generator)
    targets_N = torch.randint(0, 32, (12,), generator=generator)
    targets_N[-1] = -100
    valid_N = torch.arange(12) % 3 != 0
    valid_N[-1] = False
    found = measure_drift(p_ND, q_ND, weight_VD, targets_N, valid_N, CONFIG)
    log_p, log_q = (torch.log_softmax(h.double() @ weight_VD.double().T, -1) for h in (p_ND, q_ND))
    kl_N = (log_p.exp() * (log_p - log_q)).sum(-1)[valid_N]
    assert found.exact == pytest.approx(float(kl_N.mean()), rel=1e-5)
    rows = valid_N.nonzero().squeeze(1)
    ratio_N = (log_p - log_q)[rows, targets_N[rows]]
    assert found.sampled == pytest.approx(
        float((ratio_N.neg().exp() - 1 + ratio_N).mean()), rel=1e-5
    )
    assert found.maximum == pytest.approx(float(kl_N.max()), rel=1e-5)
    assert found.num_tokens == int(valid_N.sum())


def test_the_canary_refuses_what_became_worse():
    gate, before = CanaryGate(0.05, 0.05), CanaryScore(0.8, 0.1, 20)
    assert gate.refusal(before, CanaryScore(0.76, 0.14, 20)) is None
    assert gate.refusal(before, CanaryScore(0.9, 0.0, 20)) is None
    assert "accuracy fell by 0.100" in gate.refusal(before, CanaryScore(0.7, 0.1, 20))
    assert "invalid calls rose by 0.100" in gate.refusal(before, CanaryScore(0.8, 0.2, 20))
    assert gate.refusal(before, CanaryScore(math.nan, 0.1, 20)) is not None
    spoilt = CanaryScore(0.9, 0.0, 20, broken="1 of 20 cancelled")
    assert (
        gate.refusal(before, spoilt)
        == gate.refusal(spoilt, before)
        == ("canary: 1 of 20 cancelled")
    )


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"low": 0.3}, "low"),
        ({"beta": 0.0}, "beta"),
        ({"factor": 1.0}, "factor"),
        ({"smoothing": 1.0}, "smoothing"),
        ({"hysteresis": 0.5}, "hysteresis"),
        ({"searches": -1}, "searches"),
        ({"nearly": 1.0}, "nearly"),
    ],
)
def test_settings_are_checked(change, name):
    with pytest.raises(ValueError, match=f"{name}: expected"):
        CorridorConfig(**change)
