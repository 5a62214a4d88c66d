"""One file over HTTP: https alone (http from this machine), never more than its size, its digest taken on the way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException, HTTPMessage, HTTPResponse
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, ProxyHandler, Request, build_opener

from sim.files.output import drafted

TIMEOUT_S = 30.0  # for connecting and for each read
CHUNK_BYTES = 1 << 16
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class UnreachableError(Exception):
    """There was no answer, or it broke off: the network's fault."""


class RefusedError(Exception):
    """The server answered with an error."""


class WrongContentError(Exception):
    """A whole file came, and it is another one."""


def check_url(url: str) -> str:
    """Return the URL if it may be opened.

    Raises:
        ValueError: unless it is https, or http on this machine.
    """
    parts = urlsplit(url)
    is_local = parts.scheme == "http" and parts.hostname in _LOCAL
    if not parts.hostname or not (parts.scheme == "https" or is_local):
        msg = f"{url!r} is not allowed; give an https:// URL, or an http:// one of this machine (localhost)"
        raise ValueError(msg)
    return url


def download(url: str, target: Path, size_bytes: int, sha256: str, advance: Callable[[int], None]) -> None:
    """Write what lies at a URL to a file, whole and only if it is what was expected.

    Args:
        url: see `check_url`.
        target: the file; what is there is replaced.
        size_bytes: its size, beyond which nothing is read.
        sha256: its digest, in hexadecimal digits.
        advance: told of bytes that arrived.

    Raises:
        UnreachableError: if there is no answer or it breaks off.
        RefusedError: if the answer is an error, with its status.
        WrongContentError: if it is something else.
        OSError: if the file cannot be written.
    """
    with drafted(target) as draft:
        with draft.open("wb") as file:
            digest = _copied(url, file, size_bytes, advance)
        if digest != sha256:
            msg = f"expected sha256 {sha256}, got {digest}"
            raise WrongContentError(msg)


def _copied(url: str, file: IO[bytes], size_bytes: int, advance: Callable[[int], None]) -> str:
    """Copy the answer into a file and return its digest."""
    digest, arrived = hashlib.sha256(), 0
    for chunk in _chunks(url):
        arrived += len(chunk)
        if arrived > size_bytes:
            msg = f"it is longer than the {size_bytes} bytes that were expected"
            raise WrongContentError(msg)
        file.write(chunk)
        digest.update(chunk)
        advance(len(chunk))
    return digest.hexdigest()


def _chunks(url: str) -> Iterator[bytes]:
    with _answer(url) as response:
        left = response.length  # None: the server did not say
        while chunk := _read(response):
            left = None if left is None else left - len(chunk)
            yield chunk
    if left:
        msg = f"the connection broke off {left} bytes before the end"
        raise UnreachableError(msg)


def _read(response: HTTPResponse) -> bytes:
    try:
        return response.read(CHUNK_BYTES)
    except (OSError, HTTPException) as error:
        raise UnreachableError(_reason(error)) from None


@contextmanager
def _answer(url: str) -> Iterator[HTTPResponse]:
    opener = _opener(check_url(url))
    try:
        response = opener.open(url, timeout=TIMEOUT_S)
    except HTTPError as error:
        error.close()
        msg = f"the server answered {error.code} {error.reason}"
        raise RefusedError(msg) from None
    except (OSError, HTTPException) as error:
        raise UnreachableError(_reason(error)) from None
    with response:
        yield response


def _opener(url: str) -> OpenerDirector:
    """Return what opens a URL; this machine is never asked through a proxy."""
    proxies = [ProxyHandler({})] if urlsplit(url).hostname in _LOCAL else []
    return build_opener(_Redirects, *proxies)


class _Redirects(HTTPRedirectHandler):
    """Follows only to where it could have been sent in the first place."""

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        try:
            check_url(newurl)
        except ValueError as error:
            fp.close()
            told = f"the server redirects, and {error}"
            raise RefusedError(told) from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _reason(error: Exception) -> str:
    cause = error.reason if isinstance(error, URLError) else error
    return f"no connection ({cause})" if str(cause) else f"no connection ({type(cause).__name__})"
