"""A client of servers that speak OpenAI's chat protocol: a reply, or an abstention with its reason.

Standard library only. Redirects and proxies are not followed. A request costs at most its deadline, retries and waits
included, whatever the server does: a watchdog closes the connection, so that one that drips bytes holds nobody up.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import json
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import SplitResult, urlsplit

from truegain.core.errors import SettingError, nearest
from truegain.core.types import Abstain

MAX_BYTES = 256 * 2**10
KEYS = ("TRUEGAIN_JUDGE_KEY", "OPENAI_API_KEY")
"""Environment variables that may hold the key; the first that is set counts."""
FIRST_WAIT = 0.5
LONGEST = 86400.0
"""Seconds: a day, the longest deadline; sockets and timers overflow far beyond it."""
_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504})
_SPEC = re.compile(r"openai:(?P<model>[^\s@]+(?:@[^\s@]+)*?)@(?P<url>https?://[^\s,]+)(?P<rest>(?:,[^,]*)*)")
_KNOBS: Mapping[str, type] = {"deadline": float, "retries": int, "tokens": int, "workers": int}


@dataclass(frozen=True)
class ChatServer:
    """A model behind ``url`` (up to and with ``/v1``).

    ``deadline`` bounds a reply in seconds, all tries together; ``retries`` the tries after the first, made when the
    server is busy, broken or out of reach, after waits that double. ``tokens`` bounds the reply, ``workers`` the
    requests under way at once. The key comes from the environment (`KEYS`) and goes to https and to this machine only.

    Raises SettingError for a value out of bounds, or a URL with a user, a query or another scheme.
    """

    model: str
    url: str
    deadline: float = 60.0
    retries: int = 3
    tokens: int = 512
    workers: int = 8

    def __post_init__(self) -> None:  # noqa: D105
        if not self._is_plain():
            raise SettingError(f"judge URL {self.url!r}: write http(s)://HOST[:PORT]/v1, without a user or a query")
        if not 0 < self.deadline <= LONGEST or self.retries < 0 or self.tokens < 1 or self.workers < 1:
            raise SettingError(
                f"judge {self.model}: deadline={self.deadline:g} must be above 0 and at most {LONGEST:g}, "
                f"retries={self.retries} 0 or more, tokens={self.tokens} and workers={self.workers} 1 or more"
            )

    def _is_plain(self) -> bool:
        """Whether the URL can be asked; a port out of range and half an IPv6 address raise where they are read."""
        with contextlib.suppress(ValueError):
            place = self._place
            known = place.scheme in ("http", "https") and bool(place.hostname) and "@" not in place.netloc
            return known and not place.query and place.port != 0
        return False

    @property
    def _place(self) -> SplitResult:
        return urlsplit(self.url)

    def ask_all(self, talks: Sequence[Sequence[Mapping[str, str]]]) -> list[str | Abstain]:
        """The reply to each list of messages, in order, several at once."""
        if not talks:
            return []
        with ThreadPoolExecutor(min(self.workers, len(talks))) as pool:
            return list(pool.map(self.ask, talks))

    def ask(self, messages: Sequence[Mapping[str, str]]) -> str | Abstain:
        """The model's reply at temperature 0, or why there is none. Never raises for what a server does."""
        body = json.dumps(
            {"model": self.model, "messages": list(messages), "temperature": 0, "max_tokens": self.tokens, "seed": 0}
        ).encode()
        until, why, attempt = time.monotonic() + self.deadline, "no try was made", 0
        for attempt in range(self.retries + 1):
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                status, data, asked = self._once(body, left)
            except (OSError, http.client.HTTPException, ValueError) as error:
                late = time.monotonic() >= until - 0.001
                why, asked = ("too late" if late else f"{type(error).__name__}"), 0.0
            else:
                if status == 200:
                    return _content(data)
                why = f"HTTP status {status}"
                if status not in _AGAIN:
                    return Abstain(f"judge {self.model}: {why}")
            wait = max(FIRST_WAIT * 2**attempt, asked)
            if attempt < self.retries and time.monotonic() + wait < until:
                time.sleep(wait)
            elif attempt < self.retries:
                break
        late = time.monotonic() >= until - 0.001
        within = f"no answer within {self.deadline:g} s" if late else f"no answer in {attempt + 1} tries"
        return Abstain(f"judge {self.model}: {within} (last: {why})")

    def _once(self, body: bytes, left: float) -> tuple[int, bytes, float]:
        """Status, body and the wait that the server asks for. Raises what goes wrong; OSError when time is up."""
        place = self._place
        secure = place.scheme == "https"
        context = {"context": ssl.create_default_context()} if secure else {}
        kind: Any = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        connection = kind(place.hostname, place.port, timeout=left, **context)
        headers = {"Content-Type": "application/json", "Accept": "application/json"} | self._authorization()
        begun = time.monotonic()
        try:
            connection.connect()
            # After the reply's headers the connection may let go of its socket: the watchdog keeps its own hold.
            watchdog = threading.Timer(max(left - (time.monotonic() - begun), 0.001), _shut, (connection.sock,))
            watchdog.daemon = True
            watchdog.start()
            try:
                connection.request("POST", f"{place.path.rstrip('/')}/chat/completions", body, headers)
                response = connection.getresponse()
                data = response.read(MAX_BYTES + 1)
            finally:
                watchdog.cancel()
            if time.monotonic() - begun >= left:  # what the watchdog cut off may read like a whole reply
                raise TimeoutError
            if len(data) > MAX_BYTES:
                return 200, b"", 0.0
            asked = str(response.headers.get("Retry-After", ""))
            return response.status, data, float(asked) if asked.isdecimal() and len(asked) < 6 else 0.0
        finally:
            connection.close()

    def _authorization(self) -> dict[str, str]:
        key = next((os.environ[name] for name in KEYS if os.environ.get(name)), None)
        if key is None or (self._place.scheme == "http" and not _is_local(str(self._place.hostname))):
            return {}
        return {"Authorization": f"Bearer {key}"}


def chat_server(spec: str) -> ChatServer:
    """Read ``openai:MODEL@URL[,deadline=S][,retries=N][,tokens=N][,workers=N]``. Raises SettingError.

    >>> chat_server("openai:org/judge-8b@http://127.0.0.1:8000/v1,deadline=20").model
    'org/judge-8b'
    """
    found = _SPEC.fullmatch(spec)
    if found is None:
        raise SettingError(f"judge {spec!r}: write openai:MODEL@URL, such as openai:qwen3-8b@http://127.0.0.1:8000/v1")
    knobs: dict[str, Any] = {}
    for setting in filter(None, found["rest"].split(",")):
        key, _, value = setting.partition("=")
        if key not in _KNOBS:
            raise SettingError(f"judge {spec!r}: unknown setting {key!r}{nearest(key, set(_KNOBS))}")
        try:
            knobs[key] = _KNOBS[key](value)
        except ValueError:
            raise SettingError(f"judge {spec!r}: {key} cannot be {value!r}") from None
    return ChatServer(found["model"], found["url"], **knobs)


def _content(data: bytes) -> str | Abstain:
    """The message in a reply's body; every other shape is an abstention."""
    if not data:
        return Abstain(f"judge: the reply is empty or above {MAX_BYTES // 1024} KiB")
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        text = cast(Any, json.loads(data))["choices"][0]["message"]["content"]
        if isinstance(text, str):
            return text
    return Abstain("judge: the reply is no chat completion")


def _is_local(host: str) -> bool:
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


def _shut(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_RDWR)
