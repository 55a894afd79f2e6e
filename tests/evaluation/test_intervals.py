import pytest

from lapa_jax.errors import UserError
from lapa_jax.evaluation import intervals
from lapa_jax.evaluation.intervals import Rate


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(5, 10, 0.2366, 0.7634), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (62, 100, 0.522, 0.709)],
)
def test_wilson_matches_published_values(successes, trials, low, high):
    assert intervals.wilson(successes, trials) == pytest.approx((low, high), abs=5e-4)


def test_more_trials_narrow_the_interval():
    widths = [high - low for low, high in (intervals.wilson(n // 2, n) for n in (10, 40, 160))]
    assert widths[0] > widths[1] > widths[2]
    assert widths[1] / widths[2] == pytest.approx(2, rel=0.1)


@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 10), (11, 10)])
def test_impossible_counts_are_refused(successes, trials):
    with pytest.raises(UserError):
        intervals.wilson(successes, trials)
    with pytest.raises(UserError):
        Rate(successes, trials)


def test_rate_prints_percent_and_interval():
    assert str(Rate(62, 100)) == "62 % [52, 71]"


def test_overlap():
    assert intervals.intervals_overlap(Rate(10, 20), Rate(13, 20))
    assert not intervals.intervals_overlap(Rate(2, 60), Rate(40, 60))
    assert not intervals.intervals_overlap(Rate(40, 60), Rate(2, 60))


def test_success_table_has_a_row_per_policy_in_a_fixed_order():
    def counts(wins, trials=20):
        return {"successes": wins, "trials": trials}

    results = {
        "policies": {
            "random": {"families": {"reach": counts(1)}, "all": counts(1)},
            "lapa": {"families": {"reach": counts(17), "push": counts(0, 0)}, "all": counts(17)},
        }
    }
    header, _, lapa, random = intervals.success_table(results).splitlines()
    assert header.split() == ["policy", "reach", "push", "all"]
    assert lapa.startswith("lapa") and lapa.count("85 % [64, 95]") == 2
    assert random.split()[0] == "random" and " - " in random and " - " in lapa
    assert header.index("all") == lapa.rindex("85 %") == random.rindex("5 %")
