"""ClickHouse's HTTP protocol over :class:`analytics.engine.Engine`: what clickhouse-connect, clickhouse-go (Grafana) and curl use.

A subset: no sessions, no multipart bodies with external tables, no native block compression (``compress=1``); each of these is a clear
error and never a wrong answer.  What a client may send is bounded; an insert goes to the engine as it arrives.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from analytics.accounts import Account, Accounts
from analytics.compression import compressor, decompressor, negotiated
from analytics.engine import Engine, Question, Rows
from analytics.statements import ClickHouseError, Insert, split_insert

__all__ = ["ProtocolSettings", "create_app"]

_TRANSPORT = frozenset(
    {
        *("query", "database", "default_format", "query_id", "user", "password", "quota_key", "role", "stacktrace"),
        *("session_id", "session_timeout", "session_check", "client_protocol_version", "wait_end_of_query", "buffer_size"),
        *("compress", "decompress", "enable_http_compression", "http_zlib_compression_level"),
        *("send_progress_in_http_headers", "http_headers_progress_interval_ms"),
    }
)
_PARAMETER = "param_"
_APPEND_BYTES = 1 << 20  # one hop to a thread for this much
_CONTENT_TYPES = {
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "CSVWithNames": "text/csv; charset=UTF-8; header=present",
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "TabSeparatedWithNames": "text/tab-separated-values; charset=UTF-8",
}
# As ClickHouse maps its codes; whatever is not here is 500.
_STATUSES = {
    **dict.fromkeys((27, 36, 38, 41, 42, 43, 44, 46, 47, 53, 62, 70, 72, 115, 117, 130, 158, 396, 456, 457), 400),
    **dict.fromkeys((516,), 403),
    **dict.fromkeys((60, 81), 404),
    **dict.fromkeys((159,), 408),
    **dict.fromkeys((223, 307), 413),
    **dict.fromkeys((202,), 429),
    **dict.fromkeys((48,), 501),
}


@dataclass(frozen=True, slots=True)
class ProtocolSettings:
    """How much at once: statements of each kind of account, how long one waits for its turn, and how large bodies may be."""

    concurrent_readers: int = 4
    concurrent_writers: int = 4  # apart from the readers', so that analysts cannot keep the sink waiting
    wait_s: float = 10.0
    max_statement_bytes: int = 4 << 20
    max_insert_bytes: int = 1 << 30


def create_app(engine: Engine, accounts: Accounts, settings: ProtocolSettings | None = None) -> Starlette:
    """The application; closing the engine is for whoever made it."""
    protocol = _Protocol(engine, accounts, settings or ProtocolSettings())
    return Starlette(routes=[Route("/ping", _ping, methods=["GET", "HEAD"]), Route("/", protocol)])


async def _ping(_request: Request) -> Response:
    return PlainTextResponse("Ok.\n")


class _Protocol:
    """An ASGI application, so that a statement keeps its turn until the last byte of its answer is sent."""

    def __init__(self, engine: Engine, accounts: Accounts, settings: ProtocolSettings) -> None:
        self._engine = engine
        self._accounts = accounts
        self._settings = settings
        self._turns = {True: asyncio.Semaphore(settings.concurrent_readers), False: asyncio.Semaphore(settings.concurrent_writers)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        options = dict(parse_qsl(request.url.query, keep_blank_values=True))
        common = {
            "X-ClickHouse-Server-Display-Name": "fraudguard",
            "X-ClickHouse-Timezone": self._engine.timezone,
            "X-ClickHouse-Query-Id": _header_text(options.get("query_id", "")),
        }
        try:
            account = self._authenticate(request, options)
            async with self._turn(account):
                response = await self._respond(request, options, account, common)
                await response(scope, receive, send)
        except ClickHouseError as error:
            await self._refusal(error, common)(scope, receive, send)
        except ClientDisconnect:
            return  # nobody reads an answer

    def _refusal(self, error: ClickHouseError, common: Mapping[str, str]) -> Response:
        headers = {**common, "X-ClickHouse-Exception-Code": str(error.code)}
        return PlainTextResponse(f"{error} (version {self._engine.version})\n", _STATUSES.get(error.code, 500), headers)

    async def _respond(self, request: Request, options: Mapping[str, str], account: Account, common: Mapping[str, str]) -> Response:
        if request.method not in ("GET", "POST"):
            return PlainTextResponse("", 405)
        asked = options.get("query", "")
        if request.method == "GET" and not asked:
            return PlainTextResponse("Ok.\n", headers=common)
        _refuse_what_is_not_spoken(request, options, account)
        body = _Body(request, self._settings)
        insert = split_insert(asked) if asked else split_insert((await body.beginning()).decode(errors="replace"))
        if insert is not None:
            try:
                counts = await self._insert(insert, _question(asked or insert.head, options, account, request), body, asked)
            except ClickHouseError as error:
                await body.drain()  # a client that still sends would not see the answer
                return self._refusal(error, common)
            return PlainTextResponse("", headers={**common, **_summary(counts)})
        text = await body.text()
        question = _question(f"{asked}\n{text}" if asked and text else asked or text, options, account, request)
        rows = await asyncio.to_thread(self._engine.run, question)
        encoding = negotiated(request.headers.get("Accept-Encoding", "")) if options.get("enable_http_compression") == "1" else ""
        headers = {**common, "X-ClickHouse-Format": rows.format, **_summary(rows.counts)}
        return _Answer(rows, encoding, headers)

    def _authenticate(self, request: Request, options: Mapping[str, str]) -> Account:
        name, password = request.headers.get("X-ClickHouse-User"), request.headers.get("X-ClickHouse-Key", "")
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if name is None and kind.lower() == "basic":
            try:
                name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
            except (binascii.Error, UnicodeDecodeError):
                raise ClickHouseError(516, "AUTHENTICATION_FAILED", "Invalid HTTP header: Authorization") from None
        if name is None:
            name, password = options.get("user", "default"), options.get("password", "")
        return self._accounts.authenticate(name, password)

    async def _insert(self, insert: Insert, question: Question, body: _Body, asked: str) -> dict[str, int]:
        stream = await asyncio.to_thread(self._engine.insert, insert, question)
        try:
            if asked:
                await asyncio.to_thread(stream.append, asked[insert.data_at :].encode())
            else:
                await body.skip(insert.data_at)
            async for piece in body.rest():
                await asyncio.to_thread(stream.append, piece)
            return await asyncio.to_thread(stream.finish)
        except BaseException:
            await asyncio.to_thread(stream.cancel)
            raise

    @asynccontextmanager
    async def _turn(self, account: Account) -> AsyncIterator[None]:
        turns = self._turns[account.reads_only]
        try:
            await asyncio.wait_for(turns.acquire(), self._settings.wait_s)
        except TimeoutError:
            raise ClickHouseError(202, "TOO_MANY_SIMULTANEOUS_QUERIES", "Too many simultaneous queries") from None
        try:
            yield
        finally:
            turns.release()


class _Body:
    """A request's body, decompressed and bounded, read once: its beginning first, to see what it is."""

    def __init__(self, request: Request, settings: ProtocolSettings) -> None:
        self._pieces = request.stream()
        self._decode = decompressor(request.headers.get("Content-Encoding", ""))
        self._settings = settings
        self._read = 0
        self._held = bytearray()
        self._ended = False

    async def beginning(self) -> bytes:
        """Enough to tell a statement: everything, or the first 64 KiB."""
        while len(self._held) < 1 << 16 and await self._more():
            pass
        return bytes(self._held)

    async def skip(self, characters: int) -> None:
        """Drop the statement, so many characters of what :meth:`beginning` has shown."""
        statement = (await self.beginning()).decode(errors="replace")[:characters]
        del self._held[: len(statement.encode())]

    async def drain(self) -> None:
        """Read the rest and forget it."""
        while not self._ended and await anext(self._pieces, None) is not None:
            pass

    async def text(self) -> str:
        """All of it, a statement."""
        while await self._more():
            if len(self._held) > self._settings.max_statement_bytes:
                raise ClickHouseError(223, "QUERY_IS_TOO_LARGE", f"A statement may have {self._settings.max_statement_bytes} bytes")
        try:
            return self._held.decode()
        except UnicodeDecodeError:
            raise ClickHouseError(62, "SYNTAX_ERROR", "The statement is not UTF-8") from None

    async def rest(self) -> AsyncIterator[bytes]:
        """Everything that is left, in pieces of a size that is worth a thread's while."""
        going = True
        while going:
            going = await self._more()
            if self._held and (len(self._held) >= _APPEND_BYTES or not going):
                yield bytes(self._held)
                self._held.clear()

    async def _more(self) -> bool:
        """Hold one piece more; False at the end."""
        if self._ended:
            return False
        try:
            piece = await anext(self._pieces)
        except StopAsyncIteration:
            self._ended = True
            return False
        try:
            plain = self._decode.decompress(piece) if piece else b""
        except Exception as error:  # each library has errors of its own
            raise ClickHouseError(117, "INCORRECT_DATA", f"The body cannot be decompressed: {error}") from error
        self._read += len(plain)
        if self._read > self._settings.max_insert_bytes:
            raise ClickHouseError(307, "TOO_MANY_BYTES", f"A body may have {self._settings.max_insert_bytes} bytes")
        self._held += plain
        return True


def _refuse_what_is_not_spoken(request: Request, options: Mapping[str, str], account: Account) -> None:
    if account.reads_only and request.headers.get("Content-Encoding"):
        raise ClickHouseError(48, "NOT_IMPLEMENTED", "A read-only account sends statements, which need no compression")
    if options.get("compress") == "1" or options.get("decompress") == "1":
        raise ClickHouseError(48, "NOT_IMPLEMENTED", "compress=1 is not spoken here: use enable_http_compression=1 and Accept-Encoding")
    if request.headers.get("Content-Type", "").startswith("multipart/"):
        raise ClickHouseError(48, "NOT_IMPLEMENTED", "Multipart bodies (external tables) are not spoken here")


def _question(sql: str, options: Mapping[str, str], account: Account, request: Request) -> Question:
    headers = request.headers
    settings = {name: value for name, value in options.items() if name not in _TRANSPORT and not name.startswith(_PARAMETER)}
    return Question(
        sql=sql,
        account=account,
        format=options.get("default_format") or headers.get("X-ClickHouse-Format") or "TabSeparated",
        database=options.get("database") or headers.get("X-ClickHouse-Database") or "default",
        settings=settings,
        parameters={name.removeprefix(_PARAMETER): value for name, value in options.items() if name.startswith(_PARAMETER)},
        read_only=request.method == "GET",
    )


class _Answer(StreamingResponse):
    """Rows as they come.  An error in the middle is the last thing sent, and the body does not end: no client takes it for whole."""

    def __init__(self, rows: Rows, encoding: str, headers: Mapping[str, str]) -> None:
        shown = {**headers, **({"Content-Encoding": encoding} if encoding else {})}
        media_type = _CONTENT_TYPES.get(rows.format, "application/octet-stream")
        self._chunks = _plain(rows)
        super().__init__(self._chunks, headers=shown, media_type=media_type)
        self._encoder = compressor(encoding)

    async def stream_response(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        try:
            async for chunk in self._chunks:
                await _send_piece(send, self._encoder.compress(chunk))
        except ClickHouseError as error:
            await _send_piece(send, self._encoder.compress(f"\n{error}\n".encode()) + self._encoder.finish())
            return
        await send({"type": "http.response.body", "body": self._encoder.finish(), "more_body": False})


async def _send_piece(send: Send, piece: bytes) -> None:
    if piece:
        await send({"type": "http.response.body", "body": piece, "more_body": True})


async def _plain(rows: Rows) -> AsyncIterator[bytes]:
    while (chunk := await asyncio.to_thread(_next, rows.chunks)) is not None:
        yield chunk


def _next(chunks: Iterator[bytes]) -> bytes | None:
    return next(chunks, None)


def _summary(counts: Mapping[str, int]) -> dict[str, str]:
    return {"X-ClickHouse-Summary": json.dumps({name: str(value) for name, value in counts.items()})}


def _header_text(text: str) -> str:
    """What may stand in a header: nobody's line breaks."""
    return "".join(character for character in text[:200] if character.isascii() and character.isprintable())
