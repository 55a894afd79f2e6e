"""Films of episodes: whole, captioned, and playable."""

import numpy as np
import pytest
from PIL import Image

from lapa_jax import errors
from lapa_jax.evaluation import films

FRAMES = np.stack([np.full((33, 47, 3), 20 * t, np.uint8) for t in range(9)])


def test_gifs_need_nothing(tmp_path):
    films.write(tmp_path / "new" / "a.gif", FRAMES, "push it", fps=5)
    with Image.open(tmp_path / "new" / "a.gif") as gif:
        assert gif.n_frames == 9 and gif.info["duration"] == 200
        assert gif.width >= 235 and gif.height > gif.width * 0.7
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.gif"]


def test_mp4s_are_played_back(tmp_path):
    av = pytest.importorskip("av", reason="PyAV is not installed (extra [video])")
    films.write(tmp_path / "a.mp4", FRAMES, "push it", fps=20)
    with av.open(str(tmp_path / "a.mp4")) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == 20 and stream.codec_context.name == "h264" and stream.pix_fmt == "yuv420p"
        shown = [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]
    assert len(shown) == 9 and not shown[0].shape[0] % 2 and not shown[0].shape[1] % 2
    for frame, image in zip(FRAMES, shown, strict=True):
        assert abs(float(image[:100, :200].mean()) - frame.mean()) < 4


def test_the_suffix_says_what_can_be_written(monkeypatch):
    assert films.suffix() in (".mp4", ".gif")
    monkeypatch.setattr(films.importlib.util, "find_spec", lambda name: None)
    assert films.suffix() == ".gif"


@pytest.mark.parametrize("name, frames", [("a.avi", FRAMES), ("a.gif", FRAMES[:0]), ("a.mp4", FRAMES / 255)])
def test_what_cannot_be_written_is_named(tmp_path, name, frames):
    with pytest.raises(errors.UserError, match="a.avi is no name|needs uint8"):
        films.write(tmp_path / name, frames, "x")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
