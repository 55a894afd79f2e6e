"""Concurrent clients share calls, get their own answers, and do not suffer for each other."""

import asyncio
import threading
import time

import numpy as np
import pytest
import waiting
from fake_policy import WARM, FakePolicy, expected, image

WHY = "the server is not installed (extra [serve])"
lapa_client = pytest.importorskip("lapa_client", reason=WHY)
batching = pytest.importorskip("lapa_jax.serving.batching", reason=WHY)
calls = pytest.importorskip("lapa_jax.serving.calls", reason=WHY)
failures = pytest.importorskip("lapa_jax.serving.failures", reason=WHY)
metrics = pytest.importorskip("lapa_jax.serving.metrics", reason=WHY)
options = pytest.importorskip("lapa_jax.serving.options", reason=WHY)


def observation(value=0, words="push", **more):
    return {"image": image(value), "instruction": words, **more}


def together(policy, asked, clients=None, **changes):
    """What a batcher answers to requests that arrive at once: a row or a `Failure` each."""
    limits = options.Options(**changes)
    counts = metrics.Metrics(limits.sizes)

    async def run():
        many = len(asked) if clients is None else clients
        batcher = batching.Batcher(calls.Calls(policy, limits.sizes), limits, counts, lambda: many)
        running = asyncio.create_task(batcher.run())
        found = await asyncio.gather(*map(batcher.submit, asked), return_exceptions=True)
        running.cancel()
        return [one[0] if isinstance(one, tuple) else one for one in found]

    return asyncio.run(run())


def test_requests_that_arrive_together_share_calls_of_compiled_sizes():
    policy = FakePolicy()
    asked = [observation(i, "x" * i) for i in range(7)]
    found = together(policy, asked, max_batch=4, max_wait_ms=1000)
    for one, answer in zip(asked, found, strict=True):
        np.testing.assert_array_equal(answer["actions"], expected(one))
        np.testing.assert_array_equal(answer["latents"], [5, 6])
    assert policy.batches == [4, 4]  # the second call holds 3 and is filled up


def test_a_call_is_as_small_as_it_can_be():
    policy = FakePolicy()
    together(policy, [observation()] * 3, max_batch=8, max_wait_ms=1000)
    together(policy, [observation()], max_batch=8, max_wait_ms=1000)
    assert policy.batches == [4, 1]


@pytest.mark.parametrize(
    "cost, waiting, shared",
    [
        (lambda size: 1, 9, 9),  # all cost alike: all at once, in 16
        (lambda size: size, 9, 8),  # as many times the work: 8 of them, and no 7 for nothing
        (lambda size: size, 7, 4),
        (lambda size: 4 + size, 7, 7),
        (lambda size: size**2, 9, 1),  # sharing does not pay
        (lambda size: 1, 1, 1),
        (lambda size: 1, 40, 16),
    ],
)
def test_a_call_answers_as_many_as_is_quickest_for_each(cost, waiting, shared):
    made = calls.Calls(FakePolicy(), (1, 2, 4, 8, 16))
    made.seconds = {size: cost(size) for size in made.sizes}
    assert made.share(waiting) == shared


def test_warming_up_measures_each_size():
    policy = FakePolicy(seconds=0.02)
    made = calls.Calls(policy, (1, 2))
    made.warm_up(lambda size: {"image": np.zeros((size, 8, 8, 3), np.uint8), "instruction": [""] * size})
    assert all(0.02 <= seconds < 1 for seconds in made.seconds.values())
    assert {1, 2} == set(policy.batches) and policy.seeds == [0]


@pytest.mark.parametrize("clients, wait_ms, least", [(1, 60_000, 0.0), (2, 300, 0.3)])
def test_one_client_waits_for_nobody_and_two_not_longer_than_said(clients, wait_ms, least):
    begun = time.perf_counter()
    together(FakePolicy(), [observation()], clients=clients, max_wait_ms=wait_ms)
    assert least <= time.perf_counter() - begun < 30


def test_images_of_other_sizes_are_another_call():
    policy = FakePolicy()
    asked = [observation(1), {"image": image(2, size=20), "instruction": ""}, observation(3)]
    found = together(policy, asked, max_wait_ms=100)
    for one, answer in zip(asked, found, strict=True):
        np.testing.assert_array_equal(answer["actions"], expected(one))
    assert sorted(policy.batches) == [1, 2]


def test_a_seed_is_a_call_of_its_own():
    """Its answer may not depend on who else asks."""
    policy = FakePolicy()
    asked = [observation(1, seed=4), observation(2), observation(3, seed=4), observation(4)]
    found = together(policy, asked, max_wait_ms=100)
    np.testing.assert_array_equal(found[0]["actions"], expected(observation(1), seed=4))
    np.testing.assert_array_equal(found[2]["actions"], expected(observation(3), seed=4))
    assert sorted(policy.batches) == [1, 1, 2]


@pytest.mark.parametrize(
    "words, code", [("refuse", "bad_observation"), ("crash", "policy_failed"), ("nan", "policy_failed")]
)
def test_a_broken_request_harms_no_other_of_its_batch(words, code):
    asked = [observation(i) for i in range(4)]
    asked[2]["instruction"] = words
    found = together(FakePolicy(), asked, max_wait_ms=1000)
    assert isinstance(found[2], failures.Failure) and found[2].code == code
    for i in (0, 1, 3):
        np.testing.assert_array_equal(found[i]["actions"], expected(asked[i]))


def test_more_than_the_queue_holds_are_told_so():
    found = together(FakePolicy(seconds=0.05), [observation()] * 12, max_batch=2, max_queue=4)
    busy = [one for one in found if isinstance(one, failures.Failure)]
    assert {one.code for one in busy} == {"busy"} and len(busy) == 8


def test_who_waits_too_long_is_told_so_and_not_computed():
    policy = FakePolicy(seconds=1.0)
    found = together(policy, [observation(i) for i in range(3)], max_batch=1, request_s=1.6)
    assert [getattr(one, "code", "") for one in found] == ["", "too_late", "too_late"]
    assert policy.batches == [1, 1]


def test_many_clients_get_their_own_answers(serve):
    """And share calls: a policy that takes 20 ms would need 4.8 s for these one by one."""
    server = serve(FakePolicy(seconds=0.02), max_batch=16)
    wrong, warm = [], len(server.policy.batches)

    def drive(number):
        with lapa_client.Client(server.uri) as client:
            for i in range(15):
                asked = observation(number, "x" * i)
                if not np.array_equal(client.infer(asked)["actions"], expected(asked)):
                    wrong.append((number, i))

    threads = [threading.Thread(target=drive, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(waiting.PATIENCE)
    made = server.policy.batches[warm:]
    assert not wrong and max(made) > 4 and sum(made) >= 240 > 2 * len(made)


def test_a_client_that_leaves_while_it_waits_is_not_computed(serve):
    from lapa_client import messages

    server = serve(FakePolicy(seconds=1.0, quick=WARM), max_batch=1)
    before = len(server.policy.batches)
    with server.connect() as first, server.connect() as second:
        for one in (first, second):
            one.recv()
        first.send(messages.pack(observation(1)))
        time.sleep(0.2)
        second.send(messages.pack(observation(2)))
        time.sleep(0.2)
        second.close()
        first.recv()
        time.sleep(0.2)
    assert len(server.policy.batches) == before + 1  # for the first
