"""Instructions to tokens and back to the file that keeps them."""

import numpy as np
import pytest

from lapa_jax import errors
from lapa_jax.data import prompts

INSTRUCTIONS = ["push the red block left", "Point at the BLUE star"]


@pytest.fixture
def tokenizer():
    return prompts.train_tokenizer(INSTRUCTIONS, length=8)


def test_each_word_has_its_token_and_the_rest_is_padding(tokenizer):
    tokens = tokenizer.encode("push the red block left")
    assert tokens.dtype == np.int32 and tokens.shape == (8,)
    assert (tokens[6:] == tokenizer.pad_id).all() and (tokens[:6] != tokenizer.pad_id).all()
    assert len(set(tokens[:6])) == 6


def test_case_does_not_matter(tokenizer):
    np.testing.assert_array_equal(tokenizer.encode("point AT the blue"),
                                  tokenizer.encode("Point at the Blue"))


def test_unknown_words_share_one_token_that_no_known_word_has(tokenizer):
    known = tokenizer.encode("push the red block left")
    odd = tokenizer.encode("zap the wobbly block left")
    assert odd[1] == odd[3] and odd[1] not in known
    np.testing.assert_array_equal(odd[[2, 4, 5]], known[[2, 4, 5]])


def test_blank_differs_from_every_instruction(tokenizer):
    blank = tokenizer.encode_blank()
    assert (blank[1:] == tokenizer.pad_id).all() and blank[0] != tokenizer.pad_id
    assert blank[0] == tokenizer.encode("push")[0]


def test_order_and_repetition_of_instructions_do_not_matter(tokenizer):
    other = prompts.train_tokenizer([*reversed(INSTRUCTIONS), *INSTRUCTIONS], length=8)
    assert other.to_json() == tokenizer.to_json()


def test_json_round_trip(tokenizer):
    read = prompts.Tokenizer.from_json(tokenizer.to_json())
    assert read.vocab_size == tokenizer.vocab_size == 3 + 9 and read.length == 8
    for text in (*INSTRUCTIONS, "unknown words", ""):
        np.testing.assert_array_equal(read.encode(text), tokenizer.encode(text))
    assert read.to_json() == tokenizer.to_json()


def test_too_long_an_instruction_is_named(tokenizer):
    with pytest.raises(errors.UserError, match="'a b c d e f g h' needs 9.*8"):
        tokenizer.encode("a b c d e f g h")
    with pytest.raises(errors.UserError, match="needs 6"):
        prompts.train_tokenizer(INSTRUCTIONS, length=5)


@pytest.mark.parametrize("instructions", [[], ["", " "]])
def test_no_words_is_an_error(instructions):
    with pytest.raises(errors.UserError, match="no words"):
        prompts.train_tokenizer(instructions, length=8)


@pytest.mark.parametrize("text", ["", "{}", '{"length": 3, "tokenizer": {}}'])
def test_a_broken_file_is_an_error(text):
    with pytest.raises(errors.UserError, match="not a saved tokenizer"):
        prompts.Tokenizer.from_json(text)
