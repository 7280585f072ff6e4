"""A mirror of the archive on this machine, for all systems alike: what is asked for is fetched once, and kept.

The upstream is the mirror that this machine's own apt sources name; http_proxy is honoured on the way there. It
counts what it serves and what it had to fetch, so that a timed run that waited for the network can be told.
"""
import contextlib
import http.server
import os
import pathlib
import re
import shutil
import subprocess
import threading
import urllib.error
import urllib.request

# What is published under the same name again and again. Everything else in an archive keeps its contents.
MOVES = re.compile(r"dists/(?!.*/by-hash/)")
BLOCK = 1 << 18


def upstream(suite):
    """The archive that apt's sources name for a suite."""
    command = ["apt-get", "indextargets", "--format", "$(CODENAME) $(REPO_URI)", "Created-By: Packages"]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
    for line in lines:
        codename, uri = line.split(" ", 1)
        if codename == suite and uri.startswith(("http:", "https:")):
            return uri.rstrip("/")
    raise LookupError(f"apt's sources name no archive of {suite} that is reached by HTTP")


class Mirror:
    """The server, its folder and its counters."""

    def __init__(self, folder, uri):
        self.folder, self.uri = pathlib.Path(folder), uri
        self.folder.mkdir(parents=True, exist_ok=True)
        self.served = self.fetched = 0
        self.guard = threading.Lock()
        self.coming = {}
        # One state of the archive for the whole of a run: indexes are fetched anew at its start only.
        for path in list(self.folder.rglob("*")):
            if path.is_file() and (MOVES.match(self.name(path)) or path.suffix == ".part"):
                path.unlink()
        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.mirror = self
        self.address = f"http://127.0.0.1:{self.server.server_port}/debian"

    def name(self, path):
        return path.relative_to(self.folder).as_posix()

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @contextlib.contextmanager
    def counting(self, record):
        """Notes in `record` how many bytes were served, and fetched from the upstream, meanwhile."""
        served, fetched = self.served, self.fetched
        try:
            yield
        finally:
            record["served"] = record.get("served", 0) + self.served - served
            record["fetched"] = record.get("fetched", 0) + self.fetched - fetched

    def file(self, name):
        """The file of this name, fetched if need be; None where the archive has none."""
        path = self.folder / name
        absent = path.with_name(path.name + ".absent")
        with self.guard:
            lock = self.coming.setdefault(name, threading.Lock())
        with lock:
            if path.is_file():
                return path
            if absent.is_file():
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            part = path.with_name(path.name + ".part")
            try:
                with urllib.request.urlopen(f"{self.uri}/{name}", timeout=60) as answer, open(part, "wb") as out:
                    shutil.copyfileobj(answer, out, BLOCK)
            except urllib.error.HTTPError as error:
                if error.code not in (403, 404, 410):
                    raise
                absent.touch()
                return None
            with self.guard:
                self.fetched += part.stat().st_size
            part.rename(path)
            return path


class Server(http.server.ThreadingHTTPServer):
    """A thread a connection; a client that goes away is no error."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers GET and HEAD below /debian/; apt keeps its connections and sends several requests at once."""

    protocol_version = "HTTP/1.1"
    # Head and body go out in one segment, or the second waits for the first to be acknowledged.
    wbufsize = -1
    disable_nagle_algorithm = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        name = urllib.request.unquote(self.path.split("?")[0]).removeprefix("/debian/")
        if self.path[:8] != "/debian/" or name.endswith((".part", ".absent")) or ".." in name.split("/"):
            return self.nothing(404)
        try:
            path = self.server.mirror.file(name)
        except OSError:
            return self.nothing(502)
        if path is None:
            return self.nothing(404)
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            first, last = self.range(size)
            self.send_response(206 if (first, last) != (0, size) else 200)
            self.send_header("Content-Length", str(last - first))
            self.send_header("Last-Modified", self.date_time_string(int(path.stat().st_mtime)))
            self.send_header("Accept-Ranges", "bytes")
            if (first, last) != (0, size):
                self.send_header("Content-Range", f"bytes {first}-{last - 1}/{size}")
            self.end_headers()
            self.wfile.flush()
            if self.command == "GET":
                self.connection.sendfile(file, first, last - first) if last > first else None
                with self.server.mirror.guard:
                    self.server.mirror.served += last - first
        return None

    def range(self, size):
        match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not match or int(match[1]) >= size:
            return 0, size
        return int(match[1]), min(int(match[2]) + 1 if match[2] else size, size)

    def nothing(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass
