"""Sequences, batches and prompts of the official language model, id by id."""

import json
import pathlib

import numpy as np
import pytest

from lapa_jax import errors, vocab
from lapa_jax.data import official_batches, official_prompts

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "vlm"
pytestmark = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")


@pytest.fixture(scope="module")
def tokenizer():
    return official_prompts.Tokenizer.read(GOLD / "tokenizer.model")


def sequences(tokenizer, name):
    lines = (GOLD / "data" / f"{name}.jsonl").read_text().splitlines()
    return [official_prompts.from_record(tokenizer, json.loads(line)) for line in lines]


def test_tokenization(tokenizer):
    recorded = json.loads((GOLD / "tokenization.json").read_text())
    assert len(recorded["encode"]) == 17 and tokenizer.vocab_size == recorded["vocab"]
    for case in recorded["encode"]:
        assert tokenizer.encode(case["text"]) == case["ids"], case["text"]


@pytest.mark.parametrize(
    "text, same",
    [("a  </s>\n b", "a</s>b"), ("<unk> <s>", "<unk><s>"), (" a<s>", " a <s> "), ("<s>  ", "<s>")],
)
def test_white_space_beside_special_pieces_is_dropped(tokenizer, text, same):
    assert tokenizer.encode(text) == tokenizer.encode(same)


def check(batch, recorded):
    """Ids, kinds and loss against the masks of the official code."""
    kinds = {"vision": vocab.VISION, "delta": vocab.LATENT, "action": vocab.ACTION}
    for ours, theirs, side in (("tokens", "input_tokens", "input"), ("targets", "target_tokens", "target")):
        np.testing.assert_array_equal(batch[ours], recorded[theirs], strict=True)
        found = batch["kinds" if side == "input" else "target_kinds"]
        assert found.dtype == np.int8
        keys = {kind: f"{side}_{name}_masks" for name, kind in kinds.items()}
        masks = {kind: recorded[key] for kind, key in keys.items() if key in recorded}
        for kind, mask in masks.items():
            np.testing.assert_array_equal(found == kind, mask, strict=True)
        np.testing.assert_array_equal(found == vocab.TEXT, ~np.any(list(masks.values()), axis=0))
    assert batch["loss_mask"].dtype == bool
    np.testing.assert_array_equal(batch["loss_mask"], recorded["loss_masks"])


@pytest.mark.parametrize("name", ["delta_small", "delta_256", "action_small", "action_256"])
def test_padded_batches(tokenizer, name):
    recorded = np.load(GOLD / "data" / f"{name}_pad.npz")
    rows, length = recorded["input_tokens"].shape
    check(official_batches.pad(sequences(tokenizer, name)[:rows], length), recorded)


def test_packed_batches(tokenizer):
    """The first is the recorded one; after it nothing is lost and nothing comes twice."""
    stream = sequences(tokenizer, "delta_small")
    recorded = np.load(GOLD / "data" / "delta_small_nopad.npz")
    batches = list(official_batches.pack(stream, 2, 32))
    check(batches[0], recorded)
    flat = {
        "tokens": np.concatenate([s.tokens for s in stream]),
        "kinds": np.concatenate([s.kinds for s in stream]),
        "loss": np.concatenate([s.loss for s in stream]),
    }
    count = (len(flat["tokens"]) - 1) // 64
    assert len(batches) == count == 5
    for ours, theirs, offset in (
        ("tokens", "tokens", 0), ("targets", "tokens", 1), ("kinds", "kinds", 0), ("target_kinds", "kinds", 1),
        ("loss_mask", "loss", 1),
    ):  # fmt: skip
        joined = np.concatenate([batch[ours].reshape(-1) for batch in batches])
        np.testing.assert_array_equal(joined, flat[theirs][offset : offset + 64 * count])


def test_a_batch_that_just_fills_is_not_held_back(tokenizer):
    (sequence,) = sequences(tokenizer, "delta_small")[:1]
    size = len(sequence.tokens)
    assert len(list(official_batches.pack([sequence], 1, size - 1))) == 1
    assert not list(official_batches.pack([sequence], 1, size))


def test_truncation_is_asked_for(tokenizer):
    """By default no target is ever lost in silence; `legacy` loses it as the official code does."""
    stream = sequences(tokenizer, "delta_small")[:3]
    recorded = np.load(GOLD / "data" / "delta_small_trunc.npz")
    length = recorded["input_tokens"].shape[1]
    check(official_batches.pad(stream, length, legacy=True), recorded)
    longest = max(len(sequence.tokens) for sequence in stream)
    with pytest.raises(errors.UserError, match=f"a sequence has {longest} tokens and a row takes {longest - 1}"):
        official_batches.pad(stream, longest - 2)
    full = official_batches.pad(stream, longest - 1)
    assert full["loss_mask"].sum() == sum(sequence.loss.sum() for sequence in stream)
    assert (full["targets"][full["target_kinds"] == vocab.LATENT].reshape(3, 4) < 8).all()


@pytest.mark.parametrize("kind, end", [(vocab.LATENT, "delta"), (vocab.ACTION, "action")])
def test_prompts_begin_as_sequences_do(tokenizer, kind, end):
    instruction = official_prompts.INSTRUCTION.format("take {it} `out`")
    codes = np.arange(256)
    whole = official_prompts.example(tokenizer, instruction, codes, [3, 1], kind)
    prompt = official_prompts.prompt_batch(tokenizer, [instruction], codes[None], kind)
    assert prompt["tokens"].shape == (1, 391)
    begin = prompt["tokens"][0][prompt["mask"][0]]
    np.testing.assert_array_equal(begin, whole.tokens[: len(begin)])
    np.testing.assert_array_equal(prompt["kinds"][0][prompt["mask"][0]], whole.kinds[: len(begin)])
    assert list(whole.tokens[len(begin) :]) == [3, 1, *tokenizer.encode(f"</{end}>"), 2]
    assert list(np.flatnonzero(whole.loss)) == list(range(len(begin) - 3, len(whole.tokens)))


def test_recorded_prompts(tokenizer):
    recorded = np.load(GOLD / "generate_delta.npz")
    asked = [str(prompt).removeprefix("<s> ").removesuffix(" <vision>") for prompt in recorded["prompts"]]
    codes = recorded["batch_input_ids"][:, 128:384]
    found = official_prompts.prompt_batch(tokenizer, asked, codes, vocab.LATENT)
    np.testing.assert_array_equal(found["tokens"], recorded["batch_input_ids"])
    np.testing.assert_array_equal(found["mask"], recorded["batch_attention_mask"])
    np.testing.assert_array_equal(found["kinds"] == vocab.VISION, recorded["batch_vision_masks"])
    assert not recorded["batch_delta_masks"].any() and set(np.unique(found["kinds"])) == {vocab.TEXT, vocab.VISION}


def test_recorded_prefixes(tokenizer):
    """Left padding, and the loss of the beginning where it is asked for."""
    recorded = json.loads((GOLD / "tokenization.json").read_text())["prefix_tokenizer"]
    longest = 0
    for case in recorded:
        text, length = case["text"].removeprefix("<s> ").removesuffix(" <vision>"), case["max_length"]
        asked = (tokenizer, [text], np.zeros((1, 3), int), vocab.LATENT, length)
        found = official_prompts.prompt_batch(*asked, legacy=True)
        assert found["tokens"][0, :length].tolist() == case["input_ids"]
        assert found["mask"][0, :length].tolist() == [bool(value) for value in case["attention_mask"]]
        longest = max(longest, len(tokenizer.encode(case["text"])))
        if len(tokenizer.encode(case["text"])) > length:
            with pytest.raises(errors.UserError, match=f"tokens and prompts take {length}: shorten it"):
                official_prompts.prompt_batch(*asked)
    assert longest > 128


def test_several_frames(tokenizer):
    codes = np.array([[1, 2], [3, 4], [5, 6]])
    found = official_prompts.example(tokenizer, "go", codes, [0], vocab.LATENT)
    assert found.tokens[found.kinds == vocab.VISION].tolist() == [1, 2, 8192, 3, 4, 8192, 5, 6, 8193]


GOOD = dict(fields="[instruction],[vision],delta", instruction="go", vision=["5", "6"], delta=["1", "2"])


def test_numbers_may_be_texts(tokenizer):
    found = official_prompts.from_record(tokenizer, GOOD)
    assert found.tokens[found.kinds == vocab.LATENT].tolist() == [1, 2] and found.tokens.dtype == np.int32


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(fields="vision,[instruction]"), "fields='vision,"),
        (dict(fields=None), "fields=None"),
        (dict(fields="[instruction],[vision],action"), "no action: it has delta"),
        (dict(delta=[]), r"delta has \[\], which are no ids"),
        (dict(delta=["1.5"]), "delta has"),
        (dict(delta=[1.5]), "delta has"),
        (dict(delta=[None]), "delta has"),
        (dict(delta=[-1]), "delta has"),
        (dict(delta=[2**70]), "delta has"),
        (dict(vision=[[1, 2], [3]]), "vision has"),
        (dict(vision=[8192]), "up to 8192"),
        (dict(vision=[[[1]]]), r"image codes \(1, 1, 1\)"),
    ],
)
def test_wrong_records_are_named(tokenizer, change, message):
    with pytest.raises(errors.UserError, match=message):
        official_prompts.from_record(tokenizer, GOOD | change)


def test_a_tokenizer_with_other_special_pieces(tmp_path):
    data = (GOLD / "tokenizer.model").read_bytes()
    (tmp_path / "tokenizer.model").write_bytes(data.replace(b"</s>", b"<eos", 1))
    with pytest.raises(errors.UserError, match="tokenizer.model begins otherwise than <unk>, <s>, </s>"):
        official_prompts.Tokenizer.read(tmp_path / "tokenizer.model")
