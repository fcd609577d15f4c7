"""Servers in processes of their own: a folder over http, which may send less than it says, and S3 by moto."""

import http.server
import os
import subprocess
import sys
import time
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


@contextmanager
def web(folder: Path) -> Iterator[tuple[str, subprocess.Popen]]:
    """The address of a folder, and the process that serves it."""
    with _process([sys.executable, __file__, str(folder)]) as process:
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
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: Cut(*a, directory=sys.argv[1]))
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
