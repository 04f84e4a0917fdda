"""A guard behind a small HTTP endpoint: requests are judged in batches, none is dropped.

`POST /score` with `{"text": "..."}` or `{"texts": ["...", ...]}` answers
`{"results": [{"probability": 0.97, "unsafe": true}, ...], "threshold": 0.5}`; `GET /health` says
that it is there. What is wrong is said as `{"error": "..."}`: 400 no JSON or no prompt, 413 too
large, 422 a prompt that cannot be judged, 500 a fault of the server, 503 the queue is full.
"""

import asyncio
import dataclasses
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any

from safetypin.artifacts import Prompt, UserError
from safetypin.predict._data import check_prompt
from safetypin.predict._guard import Guard

try:
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ImportError as error:  # pragma: no cover - in an environment without the extra
    raise UserError("serving needs the extra `serve`: pip install 'safetypin[serve]'") from error


log = logging.getLogger(__name__)
GRACE = 30  # seconds for requests that are under way when the server stops


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """What the endpoint takes.

    Attributes:
        batch_size: Prompts that are judged together.
        wait: Seconds that a batch waits for more prompts.
        queue_size: Prompts that may wait; more are refused with 503.
        max_bytes: Of a request.
        max_texts: Prompts in one request.
    """

    batch_size: int = 32
    wait: float = 0.005
    queue_size: int = 1024
    max_bytes: int = 1 << 20
    max_texts: int = 256


class Refused(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


Waiting = tuple[Prompt, asyncio.Future[float]]


class Batcher:
    """Collects prompts of many clients and judges them together, in one thread."""

    def __init__(self, guard: Guard, limits: Limits) -> None:
        self._guard, self._limits = guard, limits
        self._queue: asyncio.Queue[Waiting] = asyncio.Queue(limits.queue_size)
        self._thread = ThreadPoolExecutor(max_workers=1)
        self._closing = False

    async def score(self, texts: list[str]) -> list[float]:
        """Return the probability of each text.

        Raises:
            Refused: The queue has no room, or the server is about to stop.
        """
        if self._closing or self._queue.qsize() + len(texts) > self._limits.queue_size:
            raise Refused(503, "too many prompts are waiting; try again in a moment")
        loop = asyncio.get_running_loop()
        # named by its place in its own request, whatever it is judged with
        waiting = [(_prompt(text, place), loop.create_future()) for place, text in enumerate(texts)]
        for one in waiting:
            self._queue.put_nowait(one)
        return list(await asyncio.gather(*(future for _, future in waiting)))

    async def run(self) -> None:
        """Judge batches until cancelled; a prompt that cannot be judged fails alone."""
        while True:
            batch = [await self._queue.get()]
            await asyncio.sleep(self._limits.wait)
            while len(batch) < self._limits.batch_size and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            await self._judge(batch)
            for _ in batch:
                self._queue.task_done()

    async def _judge(self, batch: list[Waiting]) -> None:
        prompts = [prompt for prompt, _ in batch]
        loop = asyncio.get_running_loop()
        try:
            found = await loop.run_in_executor(self._thread, self._guard.predict_proba, prompts)
        except Exception as error:  # whatever it is, those who wait must hear of it
            if len(batch) > 1:  # prompts of other clients: halve until the culprit is alone
                await self._judge(batch[: len(batch) // 2])
                await self._judge(batch[len(batch) // 2 :])
            elif not batch[0][1].done():
                batch[0][1].set_exception(_refusal(error))
            return
        for (_, future), chance in zip(batch, found, strict=True):
            if not future.done():  # its client may have gone
                future.set_result(float(chance))

    async def close(self) -> None:
        """Take no more prompts, and judge those that wait."""
        self._closing = True
        await self._queue.join()
        self._thread.shutdown()


def _prompt(text: str, place: int) -> Prompt:
    return Prompt(text=text, where=f"prompt {place}")


def _refusal(error: Exception) -> Refused:
    """Return what a client is told of a prompt that could not be judged."""
    if isinstance(error, UserError):
        return Refused(422, str(error))
    log.error("a prompt was not judged", exc_info=error)
    return Refused(
        500, f"internal error ({type(error).__name__}): the prompt was not judged; see the log"
    )


async def _texts(request: Request, limits: Limits) -> list[str]:
    """Return the prompts of a request.

    Raises:
        Refused: It is too large, or holds something else.
    """
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > limits.max_bytes:
            raise Refused(413, f"the request is larger than {limits.max_bytes:,} bytes")
    try:
        given = json.loads(body)
    except (ValueError, RecursionError) as error:  # also numbers and nests beyond all measure
        raise Refused(400, f'the request is no JSON ({error}); send {{"text": "..."}}') from error
    fields = given if isinstance(given, dict) else {}
    texts = fields.get("texts", [fields["text"]] if "text" in fields else None)
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise Refused(400, 'the request needs "text", a text, or "texts", a list of texts')
    if not 0 < len(texts) <= limits.max_texts:
        raise Refused(
            413 if texts else 400, f"send 1 to {limits.max_texts} texts, got {len(texts)}"
        )
    for place, text in enumerate(texts):
        try:
            check_prompt(_prompt(text, place), place)
            text.encode()
        except (UserError, UnicodeEncodeError) as error:
            raise Refused(400, str(error)) from error
    return texts


def make_app(guard: Guard, limits: Limits | None = None) -> Starlette:
    """Return the application that serves a guard.

    Args:
        guard: The guard and its model.
        limits: What it takes.
    """
    chosen = limits or Limits()
    held: dict[str, Any] = {}

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        held["batcher"] = batcher = Batcher(guard, chosen)
        worker = asyncio.create_task(batcher.run())
        yield
        await batcher.close()
        worker.cancel()

    async def score(request: Request) -> JSONResponse:
        try:
            texts = await _texts(request, chosen)
            chances = await held["batcher"].score(texts)
        except Refused as refused:
            headers = {"Retry-After": "1"} if refused.status == 503 else None
            return JSONResponse({"error": str(refused)}, refused.status, headers)
        rows = [{"probability": c, "unsafe": c >= guard.threshold} for c in chances]
        return JSONResponse({"results": rows, "threshold": guard.threshold})

    async def health(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "model": guard.rule.model_id})

    routes = [Route("/score", score, methods=["POST"]), Route("/health", health)]
    return Starlette(routes=routes, lifespan=lifespan)


def serve_app(
    guard: Guard, limits: Limits, *, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve until SIGINT or SIGTERM; requests that are under way are answered first.

    Args:
        guard: The guard and its model.
        limits: What the endpoint takes.
        host: Address to listen on.
        port: Port; 0 takes a free one.
        say: Told where it listens.

    Raises:
        UserError: The address cannot be listened on.
    """
    try:
        listener = socket.create_server((host, port), backlog=256)
    except OSError as error:
        raise UserError(
            f"cannot listen on {host}:{port} ({error}); choose another --port or --host"
        ) from error
    say(f"listening on {host}:{listener.getsockname()[1]}; POST /score, Ctrl-C to stop")
    config = uvicorn.Config(
        make_app(guard, limits),
        log_level="warning",
        timeout_graceful_shutdown=GRACE,
        lifespan="on",
    )
    uvicorn.Server(config).run(sockets=[listener])
