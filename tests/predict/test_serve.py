"""The endpoint before a guard that is made up: what it answers to faults, floods and long texts."""

import asyncio
import threading
import types

import httpx2
import numpy as np
import pytest

from safetypin.artifacts import UserError
from safetypin.predict import Guard
from safetypin.predict._serve import Limits, make_app


class MadeUp(Guard):
    """Judges by the length of a text; one is beyond it, and one breaks it."""

    threshold = 0.5
    rule = types.SimpleNamespace(model_id="m#0123456789ab")

    def __init__(self):  # it has no model
        self.asked = []

    def predict_proba(self, prompts):
        texts = [prompt.text for prompt in prompts]
        self.asked.append(texts)
        if "broken" in texts:
            raise RuntimeError("CUDA error on card 3")
        if "unread" in texts:
            raise UserError(f"{prompts[texts.index('unread')].named(9)} does not fit")
        return np.array([min(len(text), 10) / 10 for text in texts])


def replies(guard, bodies, **limits):
    """Return what clients are answered who ask at the same time, and then the health."""

    async def ask():
        app = make_app(guard, Limits(**limits))
        transport = httpx2.ASGITransport(app=app)
        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(transport=transport, base_url="http://guard") as client,
        ):
            found = await asyncio.gather(*(client.post("/score", json=body) for body in bodies))
            return list(found), await client.get("/health")

    return asyncio.run(ask())


def test_a_fault_of_the_server_is_500_and_nobody_else_notices(caplog):
    bodies = [{"text": text} for text in ("short", "broken", "long enough", "unread")]
    found, health = replies(MadeUp(), bodies, wait=0.05)
    assert [reply.status_code for reply in found] == [200, 500, 200, 422]
    assert found[1].json()["error"] == (
        "internal error (RuntimeError): the prompt was not judged; see the log"
    )
    assert found[0].json()["results"] == [{"probability": 0.5, "unsafe": True}]
    assert found[3].json()["error"] == "prompt 0 does not fit"
    assert health.json() == {"status": "ok", "model": "m#0123456789ab"}
    assert "CUDA error on card 3" in caplog.text


def test_the_server_goes_on_after_a_fault():
    guard = MadeUp()
    for text, status in (("broken", 500), ("short", 200)):
        (reply,), _ = replies(guard, [{"text": text}])
        assert reply.status_code == status


def test_those_who_ask_at_the_same_time_are_judged_together():
    guard = MadeUp()
    found, _ = replies(guard, [{"text": "x" * (i % 9 + 1)} for i in range(40)], wait=0.1)
    assert {reply.status_code for reply in found} == {200}
    for i, reply in enumerate(found):
        assert reply.json()["results"][0]["probability"] == (i % 9 + 1) / 10
    assert len(guard.asked) < 10
    assert max(map(len, guard.asked)) <= 32


def test_a_full_queue_is_503_and_says_when_to_come_again():
    found, _ = replies(MadeUp(), [{"texts": ["a", "b", "c"]}, {"texts": ["a", "b"]}], queue_size=2)
    assert [reply.status_code for reply in found] == [503, 200]
    assert "too many prompts are waiting" in found[0].json()["error"]
    assert found[0].headers["Retry-After"] == "1"


@pytest.mark.parametrize(("length", "status"), [(20_000, 200), (100_000, 400)])
def test_a_text_has_a_limit_of_its_own_beside_that_of_the_request(length, status):
    (reply,), _ = replies(MadeUp(), [{"text": "a" * length}])
    assert reply.status_code == status
    if status == 400:
        said = "prompt 0 has 100,000 characters, the limit is 20,000: 'aaaa"
        assert said in reply.json()["error"]


def test_a_prompt_that_cannot_be_judged_is_named_by_its_place_in_its_own_request():
    bodies = [{"text": "short"}, {"texts": ["short", "unread"]}, {"texts": ["short", " "]}]
    found, _ = replies(MadeUp(), bodies, wait=0.05)
    assert [reply.status_code for reply in found] == [200, 422, 400]
    assert found[1].json()["error"] == "prompt 1 does not fit"
    assert found[2].json()["error"] == "prompt 1 is empty; there is nothing to judge"


class Held(MadeUp):
    """Judges only once it is let: what is asked of it is under way as long as the test wants."""

    def __init__(self):
        super().__init__()
        self.begun, self.let = threading.Event(), threading.Event()

    def predict_proba(self, prompts):
        self.begun.set()
        assert self.let.wait(30)
        return super().predict_proba(prompts)


def test_a_server_that_stops_answers_what_is_under_way_and_refuses_what_comes_later():
    guard = Held()

    async def stop_in_the_middle():
        app = make_app(guard, Limits(batch_size=1))
        transport = httpx2.ASGITransport(app=app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://guard") as client:

            def ask(*texts):
                return asyncio.create_task(client.post("/score", json={"texts": texts}))

            running = app.router.lifespan_context(app)
            await running.__aenter__()
            # of three prompts one is judged by now, and two wait
            under_way = ask("a", "bb", "ccc")
            assert await asyncio.to_thread(guard.begun.wait, 30)
            closing = asyncio.create_task(running.__aexit__(None, None, None))
            late = await asyncio.wait_for(ask("late"), 30)
            still_open = not closing.done()
            guard.let.set()
            early = await asyncio.wait_for(under_way, 30)
            await asyncio.wait_for(closing, 30)
            return early, late, still_open

    early, late, still_open = asyncio.run(stop_in_the_middle())
    assert early.status_code == 200
    assert [row["probability"] for row in early.json()["results"]] == [0.1, 0.2, 0.3]
    assert still_open
    assert late.status_code == 503
    assert late.headers["Retry-After"] == "1"
    assert guard.asked == [["a"], ["bb"], ["ccc"]]
