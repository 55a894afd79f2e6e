"""docs/import-official.md: its commands and programs run as they stand there, in order, on small official files.

The files hold random numbers in the official formats. `SIZES` is all that is added to a command.
"""

import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from lapa_jax import policy, vocab
from lapa_jax.convert import array_pickle, official_lapa, official_vqgan, torch_zip
from lapa_jax.data import official_prompts
from lapa_jax.models import vlm
from lapa_jax.models.token_stream import Tokens

sys.path.insert(0, str(pathlib.Path(__file__).parent / "convert"))
import pages  # noqa: E402
import test_official_laq  # noqa: E402
import test_official_vqgan  # noqa: E402
import test_pieces  # noqa: E402

pytestmark = pytest.mark.slow
PAGE = pages.read("import-official.md")
TINY = "--config.batch_size=8"
STAGE_2 = (
    TINY, "--config.data.image_size=32", "--config.evaluation.steps=8", "--config.data.text_length=96",
    "--config.data.row_length=160", "--config.model.rope_length=256", "--config.init.num_heads=2",
)  # fmt: skip
SIZES = {  # `pages.name_of` a command -> flags for files that are small; sizes as published are known
    "run_lapa": ("--num_heads=2",),
    "runs/latents": (TINY,),
    "runs/lapa": STAGE_2,
    "runs/lapa_robot": (TINY, "--config.num_steps=2", "--config.data.episodes=2"),
    "runs/lapa_mine": (*STAGE_2, "--config.num_steps=2"),
    "runs/lapa_finetuned": STAGE_2,
    "runs/rollouts": ("--config.videos=2", "--config.steps=2"),
}


def language_model(path, words, **more):
    """Official parameters: two layers of width 16."""
    vocabs = dict(text=words, vision=8448, latent=8, **more)
    trunk = dict(width=16, depth=2, num_heads=2, mlp_dim=24)
    model = vlm.LatentActionVLM(vocabs=vocabs, heads=tuple(vocabs), trunk=trunk)
    tokens = Tokens.of(jnp.zeros((1, 4), jnp.int32), vocab.TEXT)
    official_lapa.write(path, model.init(jax.random.key(0), tokens)["params"])


def tokenizer():
    """A SentencePiece model that has the words of the official instruction."""
    words = [test_pieces.pieces.SPACE + word for word in official_prompts.INSTRUCTION.split()]
    starts = {word[:size] for word in words for size in range(1, len(word) + 1)}
    return test_pieces.model(words=sorted(starts, key=lambda start: (len(start), start)))


def vqgan():
    """The official tree at the least width that its norms allow; 16 px a code, as published."""
    sizes = test_official_vqgan.TOY | dict(multipliers=(1,) * 5, num_codes=64)
    random = np.random.default_rng(0)
    shapes = official_vqgan.expected(sizes)
    return test_official_vqgan.nested(
        {name: random.normal(scale=0.1, size=shape).astype(np.float32) for name, shape in shapes.items()}
    )


@pytest.fixture(scope="module")
def folder(tabletop_dataset, tmp_path_factory):
    """What the page takes for granted."""
    root = tmp_path_factory.mktemp("page")
    (root / "datasets").mkdir()
    for name in ("my_video", "my_robot"):
        (root / "datasets" / name).symlink_to(tabletop_dataset)
    (root / "tokenizer.model").write_bytes(tokenizer())
    words = official_prompts.Tokenizer.read(root / "tokenizer.model").vocab_size
    language_model(root / "params", words)
    language_model(root / "streaming_params", words, action=256)
    array_pickle.write(root / "vqgan", vqgan())
    state = test_official_laq.official_state(4, depth_spatial=1, image_size=256, patch_size=32)
    torch_zip.write(root / "laq_openx.pt", state)
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), np.uint8)
    Image.fromarray(pixels).save(root / "photo.jpg")
    rows = [range(17), *[np.linspace(-1, 1, 17)] * 6, (-0.5, 0.5, 1.5)]
    (root / "simpler.csv").write_text("\n".join(",".join(map(str, row)) for row in rows))
    return root


@pytest.fixture(scope="module")
def printed(folder):
    return pages.run(pages.commands(PAGE), folder, SIZES)


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_the_page_has_commands_and_all_sizes_are_of_one():
    found = pages.commands(PAGE)
    assert SIZES.keys() <= set(map(pages.name_of, found)) and len(found) > 8


def test_an_image_and_an_instruction_give_ids_and_an_action(printed):
    first, second = (json.loads(text.splitlines()[-1]) for text in printed["run_lapa"])
    assert len(first["ids"]) == 4 and max(first["ids"]) < 8
    assert len(second["ids"]) == len(second["action"]) == 7


def test_the_run_is_the_model_of_the_file_and_is_measured(printed, folder):
    import test_starts

    stored = official_lapa.open_params(folder / "params")
    found = test_starts.params(folder / "runs" / "lapa")
    assert found.keys() == stored.keys()
    for name, leaf in stored.items():
        assert found[name].dtype == (np.float32 if "latent" in name else jnp.bfloat16)
        np.testing.assert_array_equal(found[name].astype(np.float32), leaf.read(dtype=np.float32), err_msg=name)
    assert summary(folder / "runs" / "lapa")["held_out_steps"] > 0


def test_later_stages_leave_what_they_promise(printed, folder):
    assert summary(folder / "runs" / "lapa_robot")["updates"] == 2
    assert summary(folder / "runs" / "lapa_mine")["held_out_steps"] > 0
    assert (folder / "runs" / "rollouts" / "strips.png").exists()


def test_programs_of_the_page_run(printed, folder, monkeypatch):
    """The policy acts."""
    monkeypatch.chdir(folder)
    names = {"image": np.zeros((90, 120, 3), np.uint8)}
    for block in pages.programs(PAGE):
        exec(block, names)
    assert names["actions"].shape == (1, 2) and np.isfinite(names["actions"]).all()


def test_an_official_policy_says_what_its_checkpoint_says(printed, folder):
    """The likeliest bins, by two ways: `run_lapa` on the file, and the policy made of it."""
    said = json.loads(printed["run_lapa"][1].splitlines()[-1])
    driver = policy.Policy.from_checkpoint(folder / "runs" / "lapa_policy")
    assert driver.metadata["action_space"]["names"][-1] == "gripper"
    image = np.asarray(Image.open(folder / "photo.jpg"))
    found = driver.infer({"image": image, "instruction": "pick up the blue block"})["actions"]
    np.testing.assert_allclose(found[0], said["action"], atol=1e-6)


def test_the_trained_model_goes_back_to_a_file_as_it_came(printed, folder):
    before, after = (official_lapa.open_params(folder / name) for name in ("params", "streaming_params.mine"))
    assert before.keys() == after.keys() and all(before[name].shape == after[name].shape for name in before)
    moved = {name for name in before if not np.array_equal(before[name].read(), after[name].read())}
    assert "body/layers/attention/wq/kernel" in moved and "head_text/kernel" not in moved


def test_files_come_back_byte_for_byte(printed, folder):
    laq, back = (torch_zip.read(folder / name) for name in ("laq_openx.pt", "laq.pt"))
    assert test_official_laq.same(laq, back)
    trees = (array_pickle.read(folder / name) for name in ("vqgan", "vqgan.back"))
    assert test_official_vqgan.same(*map(test_official_vqgan.flat, trees))
