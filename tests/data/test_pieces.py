"""SentencePiece models: the official ids, SentencePiece's own where it is installed, other kinds refused."""

import json
import pathlib
import random
import struct

import hypothesis
import pytest
from hypothesis import strategies as st

from lapa_jax import errors
from lapa_jax.data import pieces

GOLD = pathlib.Path(__file__).parents[3] / "shared" / "gold" / "vlm"
needs_gold = pytest.mark.skipif(not GOLD.is_dir(), reason=f"no file of the official code at {GOLD}")


def varint(value):
    return bytes([value]) if value < 0x80 else bytes([value & 0x7F | 0x80]) + varint(value >> 7)


def message(number, data):
    return varint(number << 3 | 2) + varint(len(data)) + data


def flag(number, value):
    return varint(number << 3) + varint(value)


def piece(text, score=0.0, kind=pieces.NORMAL):
    fields = message(1, text.encode()) + varint(2 << 3 | 5) + struct.pack("<f", score)
    return message(1, fields + (flag(3, kind) if kind != pieces.NORMAL else b""))


SPECIALS = piece("<unk>", kind=2) + piece("<s>", kind=3) + piece("</s>", kind=3)
BYTES = b"".join(piece(f"<0x{value:02X}>", kind=6) for value in range(256))
WORDS = ["▁", "a", "b", "▁a", "ab", "aa", "aab", "▁▁", "▁▁▁▁"]
TRAINED = flag(3, 2)


def model(words=WORDS, trained=TRAINED, normal=b"", specials=SPECIALS, others=BYTES):
    """A model in which earlier words are joined first."""
    texts = b"".join(piece(word, -float(i)) for i, word in enumerate(words))
    return specials + others + texts + message(2, trained) + message(3, normal)


@pytest.fixture
def encode(tmp_path):
    """(text, **parts of a model) -> its pieces."""

    def run(text, **parts):
        (tmp_path / "tokenizer.model").write_bytes(model(**parts))
        found = opened(tmp_path / "tokenizer.model")
        return [found.texts[i] for i in found.encode(text)]

    return run


def opened(path):
    return pieces.Pieces(pieces.read(path), path)


KEPT = dict(normal=flag(4, 0))  # white space stays


@pytest.mark.parametrize(
    "text, parts, wanted",
    [
        ("ab", {}, ["▁a", "b"]),  # ▁a is of better score than ab
        ("b ab", {}, ["▁", "b", "▁a", "b"]),
        ("baab", {}, ["▁", "b", "aab"]),  # ab first, and then a to it
        ("baaa", {}, ["▁", "b", "aa", "a"]),  # leftmost first
        ("", {}, []),
        ("  a   a  ", {}, ["▁a", "▁a"]),
        ("  a", KEPT, ["▁▁", "▁a"]),
        ("    ", KEPT, ["▁▁▁▁", "▁"]),
        ("a", dict(normal=flag(3, 0)), ["a"]),  # no space in front
        ("é<s>", {}, ["▁", "<0xC3>", "<0xA9>", "<0x3C>", "<0x73>", "<0x3E>"]),
        ("\n\0", {}, ["▁", "<0x0A>", "<0x00>"]),
        ("ab", dict(words=["▁", "b", "ab"]), ["▁", "ab"]),  # a piece of characters that are none themselves
    ],
)
def test_pieces_of_a_text(encode, text, parts, wanted):
    assert encode(text, **parts) == wanted


@needs_gold
def test_official_ids():
    recorded = json.loads((GOLD / "tokenization.json").read_text())
    found = opened(GOLD / "tokenizer.model")
    assert len(found) == recorded["vocab"]
    plain = [case for case in recorded["encode"] if "<s>" not in case["text"]]
    assert len(plain) > 10
    for case in plain:
        assert found.encode(case["text"]) == case["ids"], case["text"]
        assert [found.texts[i] for i in case["ids"]] == case["pieces"]


OTHERS = {
    "unigram": (dict(trained=flag(3, 1)), "is not BPE"),
    "unigram by default": (dict(trained=b""), "is not BPE"),
    "suffix": (dict(trained=TRAINED + flag(24, 1)), "spaces after words"),
    "spaces as they are": (dict(normal=flag(5, 0)), "spaces after words"),
    "rules": (dict(normal=message(2, b"map")), "normalises characters"),
    "user": (dict(others=BYTES + piece("<x>", kind=4)), "pieces of its user's"),
    "unused": (dict(others=BYTES + piece("x", kind=5)), "pieces of its user's"),
    "bytes": (dict(others=b""), "no piece for some byte"),
    "twice": (dict(words=["a", "a"]), "a piece twice"),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_kinds_are_refused(encode, case):
    parts, text = OTHERS[case]
    with pytest.raises(errors.UserError, match=f"tokenizer.model .*{text}"):
        encode("a", **parts)


def test_half_characters_are_named(encode):
    with pytest.raises(errors.UserError, match="half a character"):
        encode("a \ud800")


def test_files_that_are_none(tmp_path):
    path = tmp_path / "tokenizer.model"
    with pytest.raises(errors.UserError, match="cannot read"):
        opened(path)
    for data in (b"", b"hello", b"{}", model()[:-1], piece("a")[:5]):
        path.write_bytes(data)
        with pytest.raises(errors.UserError, match="no SentencePiece model|is not BPE"):
            opened(path)


SMALL = model(others=BYTES[-40:])


@hypothesis.given(st.integers(0, len(SMALL) - 1), st.integers(0, 255), st.booleans())
def test_damage_raises_nothing_else(tmp_path_factory, position, value, cut):
    path = tmp_path_factory.mktemp("damaged") / "tokenizer.model"
    data = SMALL[:position] + bytes([value]) + (b"" if cut else SMALL[position + 1 :])
    path.write_bytes(data)
    with pytest.raises(errors.UserError, match=str(path)):  # for want of bytes at the least
        opened(path)


KINDS = {
    "like LLaMA": dict(remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True),
    "trimmed": dict(),
    "no prefix": dict(add_dummy_prefix=False, remove_extra_whitespaces=False),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_ids_are_those_of_sentencepiece(kind, tmp_path):
    """On models trained here, with runs of spaces and letters, which have several ways to be joined."""
    spm = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed: it is only needed here")
    rng = random.Random(0)
    words = "take the red block out of pot and put it 12 345 aaaa naïve ☃".split()
    corpus = [" ".join(rng.choices(words, k=6)) + " " * rng.randint(0, 9) for _ in range(500)]
    corpus += ["    " * rng.randint(1, 8) + "x" + "aaaa" * rng.randint(1, 6) for _ in range(100)]
    (tmp_path / "corpus").write_text("\n".join(corpus))
    spm.SentencePieceTrainer.train(
        input=str(tmp_path / "corpus"), model_prefix=str(tmp_path / kind), vocab_size=500, hard_vocab_limit=False,
        model_type="bpe", byte_fallback=True, normalization_rule_name="identity", minloglevel=2, **KINDS[kind],
    )  # fmt: skip
    theirs = spm.SentencePieceProcessor(model_file=str(tmp_path / f"{kind}.model"))
    ours = opened(tmp_path / f"{kind}.model")
    letters = "aaaatheok     \n▁é☃<>s0129日"
    texts = [" ".join(rng.choices(words, k=rng.randint(0, 9))) for _ in range(300)]
    texts += ["".join(rng.choices(letters, k=rng.randint(0, 25))) for _ in range(1000)]
    for text in texts:
        assert ours.encode(text) == theirs.encode(text), text
