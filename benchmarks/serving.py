"""A policy server beside the policy itself: latency, actions a second, and what sharing calls gains.

    pip install -e '.[serve]'
    python benchmarks/serving.py --policy=runs/demo/finetune --minutes=3 --json=runs/serving.json
    python benchmarks/serving.py --minutes=1                  # a random policy of the smallest network

The baseline is `policy.infer` in this process, one observation a call. Beside it clients, threads of this process,
ask a server in a process of its own on the same machine: over a websocket with the image as an array, and by
`POST /act` with a JPEG in JSON. All take turns. At the largest number of clients a second server, which never
shares a call, says what sharing gains. Server and clients compete for the same cores here, and not with a robot.
"""

import contextlib
import functools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import app, flags

from lapa_jax import errors
from lapa_jax import policy as policies
from pipeline import memory
from race import told
from serving_speed import asking, fresh, servers

_POLICY = flags.DEFINE_string("policy", None, "Folder of a finetune run; none: a random policy is made.")
_CLIENTS = flags.DEFINE_list("clients", ["1", "4", "16"], "How many ask at once, one measurement each.")
_PIXELS = flags.DEFINE_integer("pixels", 224, "Side of the image that clients send.", lower_bound=1)
_ROUNDS = flags.DEFINE_integer("rounds", 5, "Turns of each.", lower_bound=1)
_MINUTES = flags.DEFINE_float("minutes", 3.0, "For all turns; starting and compiling come on top.")
_JSON = flags.DEFINE_string("json", None, "File for all numbers.")
ALONE = {"max_batch": 1, "max_wait_ms": 0}
"""Limits of a server that never shares a call."""

Lanes = dict[str, Callable[[float], asking.Waits]]


def observation_of(metadata: dict[str, Any], pixels: int) -> dict[str, Any]:
    """Smooth images, as cameras give, that the policy takes."""
    waves = np.sin(np.linspace(0, 9, pixels))
    image = np.uint8(127 + 60 * (waves[:, None, None] + np.roll(waves, 40)[:, None] * [1, 0.5, -1]))
    extra = {} if metadata["proprio_dim"] is None else {"proprio": np.zeros(metadata["proprio_dim"], np.float32)}
    return {**dict.fromkeys(metadata["cameras"], image), **extra, "instruction": fresh.INSTRUCTION}


def by_itself(policy: policies.Policy, observation: dict[str, Any], seconds: float) -> asking.Waits:
    return asking.turn(lambda: (lambda: policy.infer(observation), lambda: None), 1, seconds)


@contextlib.contextmanager
def lanes(folder: str, clients: list[int]) -> Iterator[Lanes]:
    """Name -> (seconds) -> what its clients waited."""
    policy = policies.Policy.from_checkpoint(folder)
    observation = observation_of(policy.metadata, _PIXELS.value)
    most = max(clients)
    sharing = {"max_batch": min(most, 16)}
    with servers.running(folder, sharing) as port, servers.running(folder, ALONE) as alone:
        found: Lanes = {"direct": functools.partial(by_itself, policy, observation)}
        for count in clients:
            for name, way in (("websocket", asking.by_websocket), ("rest", asking.by_rest)):
                make = functools.partial(way, port, observation)
                found[f"{name} {count}"] = functools.partial(asking.turn, make, count)
        if most > 1:
            make = functools.partial(asking.by_websocket, alone, observation)
            found[f"unshared {most}"] = functools.partial(asking.turn, make, most)
        yield found


def race(competing: Lanes) -> dict[str, list[asking.Waits]]:
    """All in turn; who was last begins the next round."""
    slot = _MINUTES.value * 60 / _ROUNDS.value / len(competing)
    found: dict[str, list[asking.Waits]] = {name: [] for name in competing}
    for one in competing.values():
        one(min(slot, 1.0))  # warms up, too
    for i in range(_ROUNDS.value):
        for name in list(competing)[:: -1 if i % 2 else 1]:
            found[name].append(competing[name](slot))
    return found


def table(found: dict[str, list[asking.Waits]], horizon: int) -> dict[str, dict[str, float]]:
    """Medians over the rounds of percentiles, of actions a second, and of the ratio to direct calls."""
    direct = found["direct"]
    rows = {}
    for name, turns in found.items():
        ratios = [one.per_s / base.per_s for one, base in zip(turns, direct, strict=True)]
        halves = [[one.percentiles()["p50"] for one in both] for both in zip(turns, direct, strict=True)]
        rows[name] = {
            **{p: statistics.median(one.percentiles()[p] for one in turns) for p in ("p50", "p95", "p99")},
            "actions_per_s": horizon * statistics.median(one.per_s for one in turns),
            "times_direct": statistics.median(ratios),
            "over_direct_ms": statistics.median(one - base for one, base in halves),
        }
    return rows


def lines(rows: dict[str, dict[str, float]]) -> str:
    names = ("p50", "p95", "p99", "actions_per_s", "times_direct", "over_direct_ms")
    head = " ".join(f"{name:>14}" for name in ("", *names))
    body = [f"{who:>14} " + " ".join(f"{row[name]:14.2f}" for name in names) for who, row in rows.items()]
    return "\n".join([head, *body])


def gain(found: dict[str, list[asking.Waits]]) -> dict[str, Any]:
    """Requests a second with shared calls, over those without, round by round."""
    name = next((name for name in found if name.startswith("unshared")), None)
    if name is None:
        return {}
    shared = found[name.replace("unshared", "websocket")]
    ratios = [one.per_s / other.per_s for one, other in zip(shared, found[name], strict=True)]
    return {"sharing": {"clients": int(name.split()[1]), "gain": statistics.median(ratios), "rounds": ratios}}


def measure(folder: str) -> dict[str, Any]:
    clients, elsewhere = sorted(set(told.batches(_CLIENTS.value))), memory.Elsewhere()
    if clients[:1] < [1]:
        raise errors.UserError(f"--clients={','.join(_CLIENTS.value)}: numbers of 1 or more")
    with lanes(folder, clients) as competing:
        found = race(competing)
    assets = policies.checkpoints.load_json(folder, "assets")
    rows, extra = table(found, assets["head"]["horizon"]), gain(found)
    print(lines(rows), flush=True)
    if extra:
        print(f"sharing calls, {extra['sharing']['clients']} clients: {extra['sharing']['gain']:.2f} x", flush=True)
    about = {"pixels": _PIXELS.value, "cores": len(os.sched_getaffinity(0)), "rows": rows, **extra}
    about["cores_busy_elsewhere"] = elsewhere.cores()
    print(f"cores busy with other work meanwhile: {about['cores_busy_elsewhere']:.2f}", flush=True)
    return about


def _run() -> None:
    with tempfile.TemporaryDirectory() as made:
        folder = _POLICY.value
        if folder is None:
            folder = str(pathlib.Path(made) / "fresh")
            fresh.write(pathlib.Path(folder))
        told.write(_JSON.value, "fresh" if _POLICY.value is None else _POLICY.value, measure(folder))


def main(_: list[str]) -> None:
    with errors.in_one_line():
        _run()


if __name__ == "__main__":
    app.run(main)
