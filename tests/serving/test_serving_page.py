"""docs/serving.md: its examples run, and its table of errors is the one of the code."""

import re
import shutil
import subprocess

import numpy as np
import pages
import pytest
from fake_policy import FakePolicy
from PIL import Image

WHY = "the server is not installed (extra [serve])"
failures = pytest.importorskip("lapa_jax.serving.failures", reason=WHY)
fields = pytest.importorskip("lapa_jax.serving.fields", reason=WHY)
PAGE = pages.read("serving.md")


def program_with(text, port):
    (found,) = [one for one in pages.programs(PAGE) if text in one]
    return found.replace("8000", str(port))


def test_the_clients_example_runs(shared_server, serve, capsys):
    exec(program_with("from lapa_client import Client", serve().port), {})
    assert "[[" in capsys.readouterr().out
    exec(program_with("from lapa_client import Client", shared_server.port), {})
    assert "bad_observation 'wrist_image' is missing" in capsys.readouterr().out


@pytest.mark.parametrize("package", ["openpi_client", "json_numpy"])
def test_examples_of_other_clients_run(package, serve):
    pytest.importorskip(package, reason=f"{package} is not installed: its clients are others' code")
    found = {"image": np.zeros((8, 8, 3), np.uint8)}
    exec(program_with(package, serve().port), found)
    assert np.isfinite(found["actions" if "actions" in found else "action"]).all()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_command_runs(serve, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.jpg", quality=95)  # larger than an argument may be
    (command,) = re.findall(r"(?m)^    (printf .*\n +curl .*)$", PAGE)
    command = command.replace("8000", str(serve().port))
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.startswith('{"actions": [[')


def test_all_errors_are_there():
    section = PAGE.partition("## Errors")[2].partition("## ")[0]
    stated = {}
    for row in re.findall(r"(?m)^\| `.*", section):
        codes, status, close = row.split("|")[1:4]
        for i, code in enumerate(re.findall("`([^`]+)`", codes)):
            every = [int(number) for number in status.replace(" ", "").split(",") if number]
            stated[code] = (every[min(i, len(every) - 1)] if every else None, close.strip())
    assert stated.keys() == failures.KINDS.keys()
    for code, (status, close) in stated.items():
        kind = failures.KINDS[code]
        assert status in (None, kind.status) and close in ("", str(kind.status), str(kind.close)), code


def test_names_and_numbers_are_there(serve):
    named = re.search(r"(?s)Names of other people's clients are known: (.*?) and more", PAGE).group(1)
    assert {*re.findall("`([^`]+)`", named)} <= {*fields.ALIASES}
    text = serve(FakePolicy()).request("GET", "/metrics")[2].decode()
    for name in re.findall(r"`(lapa_\w+)`", PAGE):
        assert name in text, name
