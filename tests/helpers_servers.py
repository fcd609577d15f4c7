"""Servers in processes of their own: a folder over http, which may send less than it says, S3 by moto, and a
folder as a bucket of Google's."""

import http.server
import os
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Cut(http.server.SimpleHTTPRequestHandler):
    """Files named in the file `cut` beside them are sent to their half, and then the connection is closed."""

    def log_message(self, *args: object) -> None:
        pass

    def copyfile(self, source, target) -> None:
        cut = Path(self.directory, "cut")
        if cut.exists() and cut.read_text() in self.path:
            target.write(source.read(os.fstat(source.fileno()).st_size // 2))
            self.close_connection = True
        else:
            super().copyfile(source, target)


class Bucket(Cut):
    """The files of the folder are the objects of `/bucket`, one by one and as a list."""

    def end_headers(self) -> None:
        self.send_header("ETag", "x")
        super().end_headers()

    def do_GET(self) -> None:
        address = urllib.parse.urlsplit(self.path)
        if address.path != "/bucket":
            self.path = address.path.removeprefix("/bucket")
            return super().do_GET()
        prefix, folder = urllib.parse.parse_qs(address.query).get("prefix", [""])[0], Path(self.directory)
        files = {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
        rows = "".join(
            f"<Contents><Key>{key}</Key><Size>{size}</Size><ETag>x</ETag>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key, size in files.items()
            if key.startswith(prefix)
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"<ListBucketResult>{rows}</ListBucketResult>".encode())


@contextmanager
def google(folder: Path) -> Iterator[str]:
    """The address of a server of buckets, with one: `bucket`, the folder."""
    with web(folder, "google") as (address, _):
        yield address


@contextmanager
def web(folder: Path, *how: str) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a folder, and the process that serves it."""
    with _process([sys.executable, __file__, str(folder), *how]) as process:
        assert process.stdout is not None
        yield f"http://127.0.0.1:{int(process.stdout.readline())}", process


@contextmanager
def s3() -> Iterator[str]:
    """The address of an empty S3."""
    with _process([sys.executable, __file__]) as process:
        assert process.stdout is not None
        address = f"http://127.0.0.1:{int(process.stdout.readline())}"
        for _ in range(3000):
            try:
                urllib.request.urlopen(f"{address}/moto-api/")
                break
            except OSError:
                time.sleep(0.1)
        yield address


@contextmanager
def _process(words: list[str]) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        kind = Bucket if len(sys.argv) > 2 else Cut
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: kind(*a, directory=sys.argv[1]))
        print(server.server_address[1], flush=True)
        server.serve_forever()
    else:
        import logging

        from moto.server import DomainDispatcherApplication, create_backend_app
        from werkzeug.serving import make_server

        logging.getLogger("werkzeug").setLevel(logging.ERROR)
        made = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
        print(made.server_port, flush=True)
        made.serve_forever()
