"""Named mixtures, what a user may write, and sampling probabilities."""

import math
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data.tables import mixtures, standard

PAGE = Path(__file__).resolve().parents[2] / "docs" / "datasets.md"
weights = st.floats(1e-3, 1e3)
folders = st.from_regex(r"(/[a-z0-9_.]{1,6}){1,3}", fullmatch=True)


@pytest.mark.parametrize("name", mixtures.MIXTURES)
def test_members_are_in_the_table_or_human_and_weights_are_positive(name):
    mixture = mixtures.parse(name)
    assert mixture and len({member for member, _ in mixture}) == len(mixture)
    for member, weight in mixture:
        entry = standard.lookup(member)
        assert member in mixtures.HUMAN_SOURCES or entry.name == member, member
        assert math.isfinite(weight) and weight > 0


def test_the_mixtures_of_octo_and_openvla_differ_as_theirs_do():
    soup, plus = (dict(mixtures.MIXTURES[name]) for name in ("oxe_magic_soup", "oxe_magic_soup_plus"))
    assert len(soup) == 25 and len(plus) == 27
    assert set(soup) - set(plus) == {"nyu_door_opening_surprising_effectiveness"}
    assert {name: plus[name] for name in set(plus) - set(soup)} == {"fmb": 1.0, "dobbe": 0.2, "droid": 0.06}
    assert mixtures.MIXTURES["lapa_openx"] == mixtures.MIXTURES["oxe_magic_soup_plus"]
    assert {name for name, _ in mixtures.MIXTURES["human+robot"]} == {*plus, "ssv2"}


@pytest.mark.parametrize(
    "text, expected",
    [
        (" bridge ", (("bridge_dataset", 1.0),)),
        ("bridge_dataset", (("bridge_dataset", 1.0),)),
        ("ssv2", (("ssv2", 1.0),)),
        ("bridge=2", (("bridge", 2.0),)),  # a member is a dataset: the Open-X copy, not the mixture
        ("./mine", (("./mine", 1.0),)),
        ("mine=0.5", (("mine", 0.5),)),
        ("a/b = 2 , /c/d", (("a/b", 2.0), ("/c/d", 1.0))),
        ("/a/lr=3/b", (("/a/lr=3/b", 1.0),)),
        ("/a/lr=3/b=1e-1", (("/a/lr=3/b", 0.1),)),
        ("gs://bucket/x/=3", (("gs://bucket/x", 3.0),)),
        ("/=2", (("/", 2.0),)),
    ],
)
def test_what_a_user_may_write(text, expected):
    assert mixtures.parse(text) == expected


@pytest.mark.parametrize(
    "text, word",
    [
        ("", "no folder"),
        (" , ", "no folder"),
        ("a=1,", "no folder"),
        ("=1", "no folder"),
        ("oxe_magic_soop", "known are bridge, oxe_magic_soup,"),
        ("a=0", "'0' of 'a'"),
        ("a=-1", "'-1' of 'a'"),
        ("a=nan", "'nan' of 'a'"),
        ("a=inf", "'inf' of 'a'"),
        ("a=two", "'two' of 'a'"),
        ("a=", "'' of 'a'"),
        ("a=1,b=2,a/=3", "names 'a' twice"),
        ("human=1,a=2", "cannot be part"),
    ],
)
def test_what_is_refused_in_one_line(text, word):
    with pytest.raises(errors.UserError) as caught:
        mixtures.parse(text)
    assert word in str(caught.value) and "\n" not in str(caught.value)


@hypothesis.given(st.dictionaries(folders, st.none() | weights, min_size=1, max_size=5))
def test_what_is_written_out_is_read_back(members):
    text = ",".join(folder if weight is None else f"{folder}={weight!r}" for folder, weight in members.items())
    assert mixtures.parse(text) == tuple((folder, weight or 1.0) for folder, weight in members.items())


@hypothesis.given(st.text(max_size=30))
def test_any_text_is_a_mixture_or_a_user_error(text):
    try:
        mixture = mixtures.parse(text)
    except errors.UserError as error:
        assert len(str(error).splitlines()) == 1
    else:
        assert mixture and all(name and math.isfinite(weight) and weight > 0 for name, weight in mixture)


@hypothesis.given(st.lists(st.tuples(weights, st.integers(1, 10**9)), min_size=1, max_size=8))
def test_probabilities_sum_to_one_and_are_in_proportion(pairs):
    w, n = zip(*pairs, strict=True)
    for balance, expected in ((True, np.multiply(w, n)), (False, np.array(w))):
        shares = mixtures.probabilities(w, n, balance)
        assert shares.dtype == np.float64 and abs(shares.sum() - 1) < 1e-12 and (shares > 0).all()
        np.testing.assert_allclose(shares, expected / expected.sum(), rtol=1e-9)


@hypothesis.given(st.lists(st.integers(1, 10**6), min_size=1, max_size=8), st.floats(1e-6, 1e6))
def test_equal_weights_make_every_example_equally_likely(sizes, weight):
    shares = mixtures.probabilities([weight] * len(sizes), sizes)
    np.testing.assert_allclose(shares / sizes, 1 / sum(sizes), rtol=1e-9)


def test_large_weights_do_not_overflow():
    np.testing.assert_allclose(mixtures.probabilities([1e308, 1e308], [10**18, 10**18]), [0.5, 0.5])


@pytest.mark.parametrize(
    "w, n, word",
    [
        ([], [], "0 weights"),
        ([1.0], [1, 2], "1 weights for 2"),
        ([1.0, 0.0], [1, 2], "b is no positive"),
        ([1.0, math.nan], [1, 2], "b is no positive"),
        ([1.0, math.inf], [1, 2], "b is no positive"),
        ([1.0, 1.0], [3, 0], "b has no examples"),
    ],
)
def test_bad_probabilities_are_refused(w, n, word):
    with pytest.raises(errors.UserError, match=word):
        mixtures.probabilities(w, n, names=("a", "b"))


def test_the_page_shows_the_mixtures():
    remedy = "write `python -m lapa_jax.data.tables.mixtures` into docs/datasets.md"
    assert mixtures.render() in PAGE.read_text(), remedy


def test_a_dataset_that_is_never_drawn_is_refused():
    with pytest.raises(errors.UserError, match="tiny would be drawn once in .* examples; leave it out"):
        mixtures.probabilities([1e-320, 1.0], [10, 10], names=["tiny", "large"])
