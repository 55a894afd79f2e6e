"""Any tokenizer by its path: ids of transformers' own, LLaMA's model, words; and again from a checkpoint."""

import pathlib

import pytest
import tokenizers
import transformers
from tokenizers import models, pre_tokenizers, processors, trainers

from lapa_jax import errors
from lapa_jax.data import official_prompts, prompts, text

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "vlm"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")
TASKS = ("push the red cube left", "öffne die Schublade!", "")


def byte_pairs(begin):
    """A byte-level BPE as Qwen's and LLaMA 3's, with or without a token that begins every text."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    specials = ["<|end|>", "<|begin|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=specials, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(TASKS * 3, trainer)
    if begin:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<|begin|> $A", special_tokens=[("<|begin|>", 1)]
        )
    tokenizer.enable_truncation(5)  # as published files sometimes say; nothing may be cut
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", **({"bos_token": "<|begin|>"} if begin else {})
    )


@pytest.fixture(params=[True, False], ids=["begins", "does not"])
def published(request, tmp_path):
    """(tokenizer of transformers, its folder)."""
    theirs = byte_pairs(request.param)
    theirs.save_pretrained(tmp_path / "tokenizer")
    return theirs, tmp_path / "tokenizer"


def test_ids_are_those_of_transformers(published):
    theirs, folder = published
    ours = text.open_text(folder, TASKS, 40)
    assert ours.vocab_size == len(theirs)
    for task in TASKS:
        assert ours.ids(task) == theirs(task, truncation=False)["input_ids"]
    assert ours.start_id == (1 if theirs.bos_token else 0)


def test_it_comes_back_from_what_a_checkpoint_holds(published):
    ours = text.open_text(published[1], TASKS, 40)
    again = text.from_json(ours.to_json())
    assert [again.ids(task) for task in TASKS] == [ours.ids(task) for task in TASKS]
    assert (again.length, again.start_id) == (ours.length, ours.start_id)


@needs_gold
def test_llamas_model_is_read_as_a_file():
    ours = text.open_text(GOLD / "tokenizer.model", TASKS, 60)
    assert isinstance(ours, official_prompts.Tokenizer)
    again = text.from_json(ours.to_json())
    for task in TASKS:
        assert ours.ids(task) == again.ids(task) == [1, *ours.encode(task)]


def test_without_a_path_it_is_the_words():
    ours = text.open_text(None, TASKS, 8)
    assert isinstance(ours, prompts.Tokenizer)
    assert text.from_json(ours.to_json()).ids(TASKS[0]) == ours.ids(TASKS[0])


def test_instructions_that_are_too_long_are_named_before_training(published):
    with pytest.raises(errors.UserError, match="push the red cube left.*text length is 3"):
        text.open_text(published[1], TASKS[:1], 3)
    if GOLD.is_dir():
        with pytest.raises(errors.UserError, match="push the red cube left.*text length is 3"):
            text.open_text(GOLD / "tokenizer.model", TASKS[:1], 3)


def test_what_is_no_tokenizer_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(errors.UserError, match="no files in .*empty"):
        text.open_text(tmp_path / "empty", TASKS, 40)
    with pytest.raises(errors.UserError, match="cannot read .*nowhere"):
        text.open_text(tmp_path / "nowhere", TASKS, 40)
    (tmp_path / "empty" / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(errors.UserError, match="give .*empty/tokenizer.model"):
        text.open_text(tmp_path / "empty", TASKS, 40)
    (tmp_path / "empty" / "tokenizer.json").write_text("{}")
    with pytest.raises(errors.UserError, match="no tokenizer that transformers can read") as caught:
        text.open_text(tmp_path / "empty", TASKS, 40)
    assert "\n" not in str(caught.value)
    with pytest.raises(errors.UserError, match="no saved tokenizer"):
        text.from_json("[1, 2]")
