"""Servers on the loopback interface: of plain files, with the addresses of Hugging Face's hub, and
a package index."""

import hashlib
import io
import json
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

from tests.hub.small import MEMBER


class Loopback(ThreadingHTTPServer):
    """Serves, in a thread of its own, until it is closed."""

    daemon_threads = True

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def close(self):
        self.shutdown()
        self.thread.join()
        self.server_close()


class Server(Loopback):
    """Serves `files` (path -> bytes), and what tests set on it:

    ranges    : whether a Range is honoured
    etags     : whether answers have an ETag (the file's own) or nothing that names the version
    cuts      : for the next answers with a file, after how many of its bytes the connection breaks
    answers   : for the next requests, a (status, headers, body) instead of any file
    before    : called before each piece of a file is sent, with the number of bytes sent so far
    requests  : (path, headers) of what was asked
    """

    def __init__(self, files=()):
        self.files = dict(files)
        self.ranges = self.etags = True
        self.cuts, self.answers, self.requests = [], [], []
        self.before = lambda sent: None
        super().__init__(Handler)

    def asked(self, name):
        """The values of a header in all requests for files, None where it was not sent."""
        return [headers.get(name) for path, headers in self.requests if "/api/" not in path]

    def answer(self, path, headers):
        """What else there is: (status, headers, body), or None."""
        return None


class Hub(Server):
    """The hub: repositories `OWNER/REPO` -> {file: bytes}, whose files come from another host.

    gated     : repositories that want this token
    page      : entries of a list of files that come in one answer
    sums      : whether lists tell sums
    """

    def __init__(self, repos):
        self.store = Server()
        self.repos = repos
        self.gated = {}
        self.page = 1000
        self.sums = True
        super().__init__()

    def close(self):
        super().close()
        self.store.close()

    def answer(self, path, headers):
        url = urlsplit(path)
        words = unquote(url.path).strip("/").split("/")
        is_list = words[:2] == ["api", "models"]
        owner, repo, *rest = words[2:] if is_list else words
        name = f"{owner}/{repo}"
        if name not in self.repos:
            return 401, {"X-Error-Code": "RepoNotFound"}, b""
        if is_list:
            return self.list(name, int(url.query.partition("&cursor=")[2] or 0))
        token = self.gated.get(name)
        if token and headers.get("Authorization") != f"Bearer {token}":
            status = 403 if "Authorization" in headers else 401
            return status, {"X-Error-Code": "GatedRepo"}, b"restricted"
        content = self.repos[name].get("/".join(rest[2:]))
        if rest[:2] != ["resolve", "main"] or content is None:
            return 404, {"X-Error-Code": "EntryNotFound"}, b""
        sha256 = hashlib.sha256(content).hexdigest()
        self.store.files[f"/{sha256}"] = content
        linked = {"X-Linked-ETag": f'"{sha256}"', "X-Linked-Size": str(len(content))}
        return 302, {"Location": f"{self.store.url}/{sha256}", **linked}, b""

    def list(self, name, start):
        entries = [{"type": "directory", "oid": "0" * 40, "size": 0, "path": "docs"}]
        for path, content in self.repos[name].items():
            entry = {"type": "file", "oid": "0" * 40, "size": len(content), "path": path}
            if self.sums:
                sha256 = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": sha256, "size": len(content), "pointerSize": 134}
            entries.append(entry)
        headers = {"Content-Type": "application/json"}
        end = start + self.page
        if end < len(entries):
            place = f"{self.url}/api/models/{name}/tree/main?recursive=true&cursor={end}"
            headers["Link"] = f'<{place}>; rel="next"'
        return 200, headers, json.dumps(entries[start:end]).encode()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        server = self.server
        server.requests.append((self.path, dict(self.headers)))
        path = urlsplit(self.path).path
        if server.answers:
            self.send(*server.answers.pop(0))
        elif path in server.files:
            self.send_file(server.files[path])
        else:
            self.send(*(server.answer(self.path, self.headers) or (404, {}, b"not here")))

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def send_file(self, content):
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        begin = 0
        wanted = self.headers.get("Range", "")
        if self.server.ranges and wanted and self.headers.get("If-Range", etag) == etag:
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if begin >= len(content) > 0:
            self.send(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(content) - 1}/{len(content)}")
        if self.server.etags:
            self.send_header("ETag", etag)
        self.send_header("Content-Length", str(len(content) - begin))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(content)
        try:
            for at in range(begin, min(cut, len(content)), 100_000):
                self.server.before(at)
                self.wfile.write(content[at : min(at + 100_000, cut)])
                self.wfile.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the pull was stopped, which is what some tests do
        self.close_connection = cut < len(content)

    def log_message(self, *_):
        pass


class Index(Loopback):
    """A package index of some wheels, by project, served in pieces; counts its downloads."""

    def __init__(self, wheels):
        self.wheels = wheels
        self.downloads = []  # projects
        self.before_end = lambda: None  # called before the last byte of a wheel is sent
        super().__init__(IndexHandler)


class IndexHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        kind, project = self.path.strip("/").split("/")[:2]
        if project not in self.server.wheels:
            self.send_error(404)
        elif kind == "simple":
            name = f"{project.replace('-', '_')}-1.0-py3-none-any.whl"
            self.answer("text/html", f'<a href="/files/{project}/{name}">{name}</a>'.encode())
        else:
            self.server.downloads.append(project)
            wheel = self.server.wheels[project]
            self.answer("application/octet-stream", wheel, self.server.before_end)

    def answer(self, kind, body, before_end=lambda: None):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(body[:-1])
            self.wfile.flush()
            before_end()
            self.wfile.write(body[-1:])
        except (BrokenPipeError, ConnectionResetError):
            pass  # the pull was killed, which is what some tests do

    def log_message(self, *_):
        pass


def wheel_of(project, content):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as wheel:
        info = f"{project.replace('-', '_')}-1.0.dist-info"
        wheel.writestr(MEMBER, content)
        wheel.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {project}\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return file.getvalue()
