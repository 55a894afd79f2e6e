"""Limits that make no sense are named; batches have few sizes."""

import inspect

import pytest

from lapa_jax import errors

WHY = "the server is not installed (extra [serve])"
options = pytest.importorskip("lapa_jax.serving.options", reason=WHY)
failures = pytest.importorskip("lapa_jax.serving.failures", reason=WHY)


@pytest.mark.parametrize("most, sizes", [(1, (1,)), (2, (1, 2)), (6, (1, 2, 4, 6)), (8, (1, 2, 4, 8))])
def test_sizes_of_batches(most, sizes):
    assert options.Options(max_batch=most).sizes == sizes


@pytest.mark.parametrize("name", ["max_batch", "max_queue", "max_connections", "body_s", "max_message_mb"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_limits_are_positive(name, value):
    with pytest.raises(errors.UserError, match=f"{name}="):
        options.Options(**{name: value})
    options.Options(max_wait_ms=0)


def test_an_empty_token_is_none_that_anyone_would_guess():
    with pytest.raises(errors.UserError, match="token is empty"):
        options.Options(token=" ")


def test_names_are_read():
    assert options.parse_names("a/b=image, depth=") == {"a/b": "image", "depth": ""}
    assert options.parse_names("") == {}
    for wrong in ("image", "=image"):
        with pytest.raises(errors.UserError, match="give NAME=OURS"):
            options.parse_names(wrong)


def test_the_config_has_the_same_limits(load_config):
    limits = load_config("serve", "base").limits
    fields = inspect.signature(options.Options).parameters.items()
    assert limits.to_dict() == {name: f.default for name, f in fields if name not in ("token", "names", "hosts")}


def test_every_failure_says_code_and_sentence_in_a_line():
    for code, kind in failures.KINDS.items():
        failure = failures.Failure(code, "é" * 300)
        assert 400 <= kind.status < 600 and "\n" not in failure.body()
        assert len(failure.reason().encode()) <= 123 and failure.reason().startswith(code)
