"""Errors, rank agreement and regret on cases small enough to work out by hand."""

import pytest

from shardwright.validation.scores.accuracy import (
    Trial,
    constant_efficiency_errors,
    group_agreements,
    rank_agreement,
    summarise_errors,
)


def test_error_summary_by_hand() -> None:
    summary = summarise_errors([0.1, -0.2, 0.3, -0.4, 0.5, -0.6, 0.7, -0.8, 0.9, -1.0])
    assert summary is not None
    assert summary.count == 10
    assert summary.median == pytest.approx(0.55)
    assert summary.mean == pytest.approx(0.55)
    assert summary.p90 == 0.9
    assert summary.worst == 1.0
    assert summary.mean_signed == pytest.approx(-0.05)


def test_no_errors_have_no_summary() -> None:
    assert summarise_errors([]) is None


def test_one_error_is_every_percentile() -> None:
    summary = summarise_errors([-0.25])
    assert summary is not None
    assert (summary.median, summary.p90, summary.worst, summary.mean_signed) == (0.25, 0.25, 0.25, -0.25)


def test_perfect_order_has_tau_one_and_no_regret() -> None:
    ranks = rank_agreement([Trial("job", plan, 1.0 + plan, 10.0 + plan) for plan in range(4)])
    assert ranks is not None
    assert (ranks.groups, ranks.pairs, ranks.kendall_tau, ranks.worst_regret) == (1, 6, 1.0, 0.0)


def test_reversed_order_has_tau_minus_one_and_the_whole_regret() -> None:
    ranks = rank_agreement([Trial("job", 0, 1.0, 20.0), Trial("job", 1, 1.5, 10.0)])
    assert ranks is not None
    assert ranks.kendall_tau == -1.0
    assert ranks.mean_regret == pytest.approx(0.5)


def test_a_predicted_tie_agrees_with_nothing_and_costs_the_even_choice() -> None:
    ranks = rank_agreement([Trial("job", 0, 1.0, 5.0), Trial("job", 1, 2.0, 5.0)])
    assert ranks is not None
    assert (ranks.pairs, ranks.kendall_tau) == (1, 0.0)
    assert ranks.mean_regret == pytest.approx(0.5)


def test_groups_are_ranked_apart() -> None:
    ranks = rank_agreement(
        [Trial("a", 0, 1.0, 1.0), Trial("a", 1, 2.0, 2.0), Trial("b", 0, 30.0, 2.0), Trial("b", 1, 20.0, 1.0)]
    )
    assert ranks is not None
    assert (ranks.groups, ranks.pairs, ranks.kendall_tau) == (2, 2, 1.0)


def test_repeated_runs_of_one_plan_say_nothing_about_order() -> None:
    assert rank_agreement([Trial("job", 0, 1.0, 5.0), Trial("job", 0, 9.0, 5.0)]) is None


def test_repeated_runs_count_as_their_median() -> None:
    trials = [Trial("job", 0, seconds, 1.0) for seconds in (1.0, 2.0, 90.0)]
    ranks = rank_agreement([*trials, Trial("job", 1, 4.0, 2.0)])
    assert ranks is not None
    assert ranks.kendall_tau == 1.0


def test_the_null_model_is_right_where_efficiency_is_constant() -> None:
    assert constant_efficiency_errors([1.0, 2.0, 3.0], [2.0, 4.0, 6.0]) == pytest.approx([0.0, 0.0, 0.0])


def test_the_null_model_misses_what_is_not_constant() -> None:
    # efficiencies 0.5, 0.25 and 0.2: the median is 0.25
    assert constant_efficiency_errors([1.0, 1.0, 1.0], [2.0, 4.0, 5.0]) == pytest.approx([1.0, 0.0, -0.2])


def test_each_group_has_its_own_order_and_regret() -> None:
    groups = group_agreements(
        [
            *(Trial("a", plan, 1.0 + plan, 1.0 + plan) for plan in range(3)),
            Trial("b", 0, 3.0, 1.0),
            Trial("b", 1, 2.0, 2.0),
            Trial("alone", 0, 1.0, 1.0),
            Trial("equal", 0, 1.0, 1.0),
            Trial("equal", 1, 1.0, 2.0),
        ]
    )
    assert [(group.name, group.plans, group.kendall_tau) for group in groups] == [
        ("b", 2, -1.0),
        ("a", 3, 1.0),
        ("equal", 2, None),
    ]
    assert [group.regret for group in groups] == pytest.approx([0.5, 0.0, 0.0])
