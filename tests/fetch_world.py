"""Made-up data sets, a server of their own that can fail in every way, and the command that fetches from it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from sim.files.yamltext import write
from tests.commands import Said, chameleon

COMMIT = "0123456789abcdef0123456789abcdef01234567"
ONE, TWO = b"a,b\n1,2\n", b"x" * 200_000
OTHER = b"a,b\n3,4\n"
PATHS = {"one.csv": f"/someone/things/{COMMIT}/tables/one%20table.csv", "two.bin": f"/someone/things/{COMMIT}/two.bin"}


class Server(ThreadingHTTPServer):
    """Answers with what `pages` holds, a body or a status, or while `is_silent` with nothing; notes every request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages: dict[str, bytes | int] = {PATHS["one.csv"]: ONE, PATHS["two.bin"]: TWO}
        self.moved: dict[str, str] = {}
        self.cut_after: int | None = None
        self.is_silent = False
        self.is_over = threading.Event()
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        if self.server.is_silent:
            self.server.is_over.wait(timeout=10)
            return
        if self.path in self.server.moved:
            self.send_response(302)
            self.send_header("Location", self.server.moved[self.path])
            self.end_headers()
            return
        page = self.server.pages.get(self.path, 404)
        if isinstance(page, int):
            self.send_error(page)
            return
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page[: self.server.cut_after])

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the end of a context."""
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.is_over.set()
        server.shutdown()
        thread.join()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def file_entry(name: str, content: bytes, **where: Any) -> dict[str, Any]:
    return {"name": name, "what": f"what {name} is", "bytes": len(content), "sha256": sha256(content), **where}


def set_entry(*files: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "what": "some things",
        "repository": "someone/things",
        "commit": COMMIT,
        "licence": "CC-BY-4.0",
        "citation": "Someone, Things, 2024",
        "files": list(files),
        **more,
    }


FETCHED = (file_entry("one.csv", ONE, path="tables/one table.csv"), file_entry("two.bin", TWO, path="two.bin"))
LOST = file_entry("lost.csv", ONE, whereabouts="in tables/ or below it")
MADE = file_entry("made.csv", ONE, made_from="results/*.json", columns=["a", "b"])
SETS = {
    "things": set_entry(*FETCHED),
    "study-things": set_entry(*FETCHED, terms="For study only."),
    "mixed-things": set_entry(FETCHED[0], LOST),
    "made-things": set_entry(MADE, folder="tables", commit="abc1234"),
    "lost-things": set_entry(LOST),
}


class World:
    """The command with the test's catalogue, folder and server."""

    def __init__(self, folder: Path, server: Server) -> None:
        self.server = server
        self.root = folder / "to" / "data"
        self.catalogue = folder / "datasets.yaml"
        self.catalogue.write_text(write(SETS))

    def fetch(self, name: str = "things", *more: str) -> Said:
        return self.say("fetch", name, "--from", self.server.url, "--to", self.root, *more)

    def check(self, name: str = "things") -> Said:
        return self.say("check", name, "--to", self.root)

    def say(self, *arguments: str | Path) -> Said:
        return chameleon("data", *arguments, "--catalogue", self.catalogue)

    def put(self, name: str, content: bytes, folder: str = "things") -> Path:
        path = self.root / folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def left(self) -> list[str]:
        """Return all files, also hidden ones, and empty folders below where `--to` leads."""
        found = (self.root.parent,) if self.root.parent.exists() else ()
        return sorted(
            path.name for top in found for path in top.rglob("*") if path.is_file() or not any(path.iterdir())
        )
