"""Device memory that training stage 2's 7B takes, as a compiler plans it; no accelerator is needed.

    pip install -e . libtpu                    # the compiler for TPUs, which is of this benchmark only
    python benchmarks/vlm_memory.py --platform=tpu --json=runs/vlm_memory.json
    python benchmarks/vlm_memory.py --platform=tpu --only=^LoRA
    python benchmarks/vlm_memory.py --platform=gpu            # on a machine with one

The train step is that of experiments/pretrain_vlm.py, on shapes alone. XLA for CPUs computes in
float32 where others do in bfloat16: --platform=cpu says how large the state is, and its temporaries are no measure
for an accelerator.
"""

import dataclasses
import datetime
import platform
import re
from pathlib import Path
from typing import Any

from absl import app, flags

from lapa_jax import errors
from lapa_jax.data.stored import storage
from lapa_jax.models import llama
from step_memory import analysis, cases

_PLATFORM = flags.DEFINE_enum("platform", "tpu", list(analysis.PLATFORMS), "Whose compiler; for tpu libtpu does.")
_SIZE = flags.DEFINE_enum("size", "7b", list(llama.SIZES), "Of the trunk.")
_ONLY = flags.DEFINE_string("only", "", "Regular expression: only cases in whose names it is found.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers, written after each case.")

_COLUMNS = ("parameters, 10^9", "state", "arguments", "temporaries", "new outputs", "peak")


def _line(name: str, found: analysis.Found) -> str:
    """A row of the table, in GB of 10^9 bytes."""
    memory = found.memory
    sizes = (memory.state, memory.arguments, memory.temporaries, memory.outputs, memory.peak)
    numbers = [f"{value / cases.GB:.2f}" for value in (found.parameters, *sizes)]
    numbers[-1] += " (refused)" * memory.refused
    fitting = ["yes" if cases.fits(memory.peak, card) else "no" for card in cases.CARDS]
    return f"| {' | '.join([name, *numbers, *fitting])} |"


def _chosen() -> list[str]:
    """
    Raises:
        UserError: no case has such a name.
    """
    names = [name for name in cases.CASES if re.search(_ONLY.value, name)]
    if not names:
        raise errors.UserError(f"--only={_ONLY.value!r} is found in none of: {'; '.join(cases.CASES)}")
    return names


def _about(mesh: Any) -> dict[str, str]:
    import jax

    device = mesh.devices.flat[0]
    version = getattr(device.client, "platform_version", "")
    return {
        "device": device.device_kind, "compiler": " ".join(version.split()), "jax": jax.__version__,
        "size": _SIZE.value, "date": datetime.date.today().isoformat(), "machine": platform.platform(),
    }  # fmt: skip


def _run() -> None:
    names, mesh = _chosen(), analysis.mesh_of(_PLATFORM.value)
    about, found = _about(mesh), {}
    print(", ".join(f"{key} {value}" for key, value in about.items()))
    head = ["case", *_COLUMNS, *(f"fits {card} GB" for card in cases.CARDS)]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}", flush=True)
    for name in names:
        one = analysis.analyse(cases.CASES[name], _SIZE.value, mesh)
        print(_line(name, one), flush=True)
        sums = {key: getattr(one.memory, key) for key in ("state", "arguments", "peak")}
        found[name] = dataclasses.asdict(one.memory) | sums | {
            "parameters": one.parameters, "seconds": one.seconds, "card": cases.CASES[name].card,
        }  # fmt: skip
        if _JSON.value:
            storage.write_json(Path(_JSON.value), about | {"cases": found})


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
