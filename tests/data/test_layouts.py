"""Layouts: what a sequence says, what is to be predicted, and prompts that are its beginning."""

import json
import pathlib

import numpy as np
import pytest

from lapa_jax import errors, vocab
from lapa_jax.data import layouts, official_prompts, prompts, text
from lapa_jax.data.layouts import Clean, Official

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "vlm"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")
WORDS = prompts.train_tokenizer(["push the red block", "open it"], 6)


def clean(**changes):
    return Clean(WORDS, **(dict(num_image_tokens=4, code_length=2) | changes))


@pytest.fixture
def official():
    tokenizer = official_prompts.Tokenizer.read(GOLD / "tokenizer.model")
    return Official(tokenizer, num_image_tokens=16, code_length=4)


def test_a_clean_sequence():
    made = layouts.with_latents(clean().template("open it"), [7, 3])
    words = WORDS.ids("open it")
    assert made.tokens.tolist() == [*words, 0, 1, 2, 3, WORDS.start_id, 7, 3]
    assert made.kinds.tolist() == [vocab.TEXT] * 3 + [vocab.IMAGE] * 4 + [vocab.TEXT] + [vocab.LATENT] * 2
    assert made.loss.tolist() == [False] * 8 + [True] * 2
    assert clean().targets == {vocab.LATENT: 2}


def test_an_image_by_word_that_is_too_small_is_named():
    with pytest.raises(errors.UserError, match="by word of 6 tokens, for instructions of 6"):
        clean(num_image_tokens=6, by_word=True)


def test_an_image_by_word_has_a_place_for_each_and_one_more():
    layout = clean(num_image_tokens=7, by_word=True)
    made = layout.template("open it")
    assert made.tokens[made.kinds == vocab.IMAGE].tolist() == [0, 1, 2, 6]
    assert layout.text("open it")["text"].tolist() == [*WORDS.ids("open it"), 0, 0, 0]
    assert not clean().text("open it")


@needs_gold
def test_the_official_sequence_is_that_of_the_official_code(official):
    record = json.loads((GOLD / "data" / "delta_small.jsonl").read_text().splitlines()[0])
    task = record["instruction"].split("`")[1]
    assert record["instruction"] == official_prompts.INSTRUCTION.format(task)
    recorded = official_prompts.from_record(official.tokenizer, record)
    made = layouts.with_latents(official.template(task), [int(x) for x in record["delta"]])
    of_image = made.kinds == vocab.IMAGE
    np.testing.assert_array_equal(made.tokens[of_image], np.arange(16))
    seen = np.where(of_image, np.array(record["vision"])[np.where(of_image, made.tokens, 0)], made.tokens)
    np.testing.assert_array_equal(seen, recorded.tokens)
    np.testing.assert_array_equal(np.where(of_image, vocab.VISION, made.kinds), recorded.kinds)
    np.testing.assert_array_equal(made.loss, recorded.loss)
    assert official.targets == {vocab.TEXT: int(recorded.loss.sum()) - 4, vocab.LATENT: 4}


@needs_gold
def test_the_official_prompt_is_that_of_the_official_sampler(official):
    task = "put the pot on the stove"
    codes = np.arange(16)[None]
    whole = [official_prompts.INSTRUCTION.format(task)]
    expected = official_prompts.prompt_batch(official.tokenizer, whole, codes, vocab.LATENT)
    made = official.prompt(task)
    np.testing.assert_array_equal(made["tokens"], expected["tokens"][0])
    np.testing.assert_array_equal(made["segments"], expected["mask"][0])


@pytest.mark.parametrize("name", ["clean", "stem", "official"])
def test_a_prompt_is_the_sequence_up_to_its_latents_padded_on_the_left(name, request):
    if name == "official":
        if not GOLD.is_dir():
            pytest.skip(f"no file of the official code at {GOLD}")
        layout = request.getfixturevalue("official")
    else:
        layout = clean(num_image_tokens=7, by_word=name == "stem")
    for task in ("", "open it", "push the red block"):
        prompt, whole = layout.prompt(task), layout.template(task)
        real = prompt["segments"] > 0
        size = int(np.argmax(whole.kinds == vocab.LATENT))
        assert len(prompt["tokens"]) == layout.prompt_length and real[-size:].all() and real.sum() == size
        np.testing.assert_array_equal(prompt["tokens"][real], whole.tokens[:size])
        np.testing.assert_array_equal(prompt["kinds"][real], whole.kinds[:size])
        assert {value.dtype for value in prompt.values()} == {np.dtype(np.int32)}


@pytest.mark.parametrize("name", ["clean", "official"])
def test_a_layout_comes_back_from_json(name, request):
    if name == "official":
        if not GOLD.is_dir():
            pytest.skip(f"no file of the official code at {GOLD}")
        layout = request.getfixturevalue("official")
    else:
        layout = clean()
    saved = json.loads(json.dumps([layout.to_json(), layout.tokenizer.to_json()]))
    again = layouts.make(tokenizer=text.from_json(saved[1]), **saved[0])
    one, other = (x.template("open it") for x in (layout, again))
    assert type(again) is type(layout)
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_does_not_fit_is_named():
    with pytest.raises(errors.UserError, match="no layout 'messy'.*clean, official"):
        layouts.make("messy", WORDS, num_image_tokens=4, code_length=2)
    with pytest.raises(errors.UserError, match="tokenizer.model"):
        layouts.make("official", WORDS, num_image_tokens=4, code_length=2)
    with pytest.raises(errors.UserError, match="needs 8 tokens and the text length is 6"):
        clean().template("push push push push push push push")
    if GOLD.is_dir():
        tokenizer = official_prompts.Tokenizer.read(GOLD / "tokenizer.model", length=20)
        with pytest.raises(errors.UserError, match="'open it' needs .* and the text length is 20"):
            Official(tokenizer, 16, 4).template("open it")
        with pytest.raises(errors.UserError, match="model.image=tokens"):
            Official(tokenizer, 16, 4, by_word=True)
