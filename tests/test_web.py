"""Pulls over HTTP: by URL and from the hub, resumed, verified, and safe against being killed.

The server is one of ours on the loopback interface; it speaks the addresses of Hugging Face's hub.
"""

import errno
import hashlib
import os
import re
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.hub import huggingface, pulling, web
from nybble.hub.known import KNOWN, KnownModel
from tests.hub_server import Hub, Server

CONTENT = b"GGUF" + bytes(range(256)) * 8_000  # 2 MB
OTHER = b"GGUF" + bytes(reversed(range(256))) * 7_000
SUM = hashlib.sha256(CONTENT).hexdigest()
FILE = "hf:someone/tiny-GGUF/tiny-Q4_0.gguf"

CHILD = """
import os, signal, sys
from nybble import hub
from nybble.hub import web
web.RETRY_S = 0.01
def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)
on_progress = None
{hook}
print(hub.pull({name!r}, on_progress, lambda: print("waited", flush=True)).path)
"""


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("NYBBLE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(web, "RETRY_S", 0.01)
    for name in ("HF_TOKEN", "HF_ENDPOINT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path / "home"


@pytest.fixture
def server():
    server = Server({"/models/tiny.gguf": CONTENT})
    yield server
    server.close()


@pytest.fixture
def the_hub(monkeypatch):
    files = {
        "README.md": b"# tiny",
        "tiny-Q4_0.gguf": CONTENT,
        "tiny-Q8_0.gguf": OTHER,
        "more/tiny-IQ4_NL.gguf": OTHER,
        "mmproj-tiny-Q8_0.gguf": b"GGUFsees",
        "big-Q6_K-00001-of-00002.gguf": b"GGUF1",
        "big-Q6_K-00002-of-00002.gguf": b"GGUF2",
    }
    server = Hub({"someone/tiny-GGUF": files, "someone/no-models": {"README.md": b""}})
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    yield server
    server.close()


def url_of(server, path="/models/tiny.gguf"):
    return server.url + path


def child(name, hook=""):
    code = CHILD.format(hook=hook, name=name)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def leftovers(home):
    return sorted(path.name for path in (home / "models").glob(".pull-*"))


# -- by URL


def test_a_url_is_pulled_and_is_its_own_name(home, server):
    seen = []
    pulled = hub.pull(url_of(server), lambda done, total: seen.append((done, total)))
    place = f"127.0.0.1:{server.server_port}/models/tiny.gguf"
    assert pulled.path == str(home / "models" / "http" / place)
    assert Path(pulled.path).read_bytes() == CONTENT
    assert (pulled.is_new, pulled.is_verified, pulled.sha256) == (True, False, SUM)
    assert seen == sorted(seen)
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert hub.resolve(url_of(server)) == pulled.path
    assert [name for name, _, _ in hub.installed()] == [url_of(server)]
    assert leftovers(home) == []
    record = Path(f"{pulled.path}.sha256")
    assert record.read_text() == f"{SUM}  tiny.gguf\n"
    check = ["sha256sum", "--check", "--quiet", record.name]
    subprocess.run(check, cwd=record.parent, check=True)


def test_what_is_there_is_checked_and_not_asked_for(server):
    hub.pull(url_of(server))
    again = hub.pull(url_of(server))
    assert (again.is_new, again.is_verified, again.was_damaged) == (False, True, False)
    assert len(server.requests) == 1
    path = Path(again.path)
    path.write_bytes(CONTENT[:-1] + b"!")
    again = hub.pull(url_of(server))
    assert (again.is_new, again.was_damaged) == (True, True)
    assert path.read_bytes() == CONTENT


def test_what_a_pull_left_that_was_killed_at_its_end_is_removed(server):
    """The file has its name, and the folder that it was made in is still there."""
    name = hub.pull(url_of(server)).name
    folder = Path(pulling._folder_of(name))
    folder.mkdir()
    (folder / "state.json").write_text("{}")
    assert list(hub.unfinished())
    assert not hub.pull(url_of(server)).is_new
    assert list(hub.unfinished()) == []


def test_a_broken_connection_is_gone_on_with(server):
    server.cuts = [700_000, 700_000, 1_500_000]  # the second breaks before a byte came
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT
    assert server.asked("Range") == [
        None,
        "bytes=700000-",
        "bytes=700000-",
        "bytes=1500000-",
    ]
    assert set(server.asked("If-Range")[1:]) == {f'"{SUM[:16]}"'}


def test_a_connection_that_breaks_for_good_is_told_and_kept(home, server):
    server.cuts = [700_000] * 10
    with pytest.raises(DownloadError, match="ended 1,348,004 bytes too early; check the") as told:
        hub.pull(url_of(server))
    kept = "; the 0.7 MB of 2 MB that came are kept: pull again to go on behind them"
    assert str(told.value).endswith(kept)
    assert len(server.requests) == 1 + web.TRIES
    assert [(n, size >= 700_000) for n, _, size in hub.unfinished()] == [(url_of(server), True)]
    server.cuts = []
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT
    assert server.asked("Range")[-1] == "bytes=700000-"
    assert leftovers(home) == []


def test_another_version_is_never_appended(server):
    server.cuts = [700_000] * 6
    with pytest.raises(DownloadError):
        hub.pull(url_of(server))
    server.files["/models/tiny.gguf"] = OTHER
    server.cuts = []
    assert Path(hub.pull(url_of(server)).path).read_bytes() == OTHER


def test_a_server_without_ranges_sends_it_all_again(server):
    server.ranges = False
    server.cuts = [700_000, 900_000]
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT


def test_without_a_name_of_the_version_nothing_is_kept(home, server):
    server.etags = False
    server.cuts = [700_000] * 6
    with pytest.raises(
        DownloadError, match=r"too early; .*; the 0\.7 MB of 2 MB that came are not"
    ):
        hub.pull(url_of(server))
    assert leftovers(home) == []


def test_a_file_that_became_shorter_is_begun_anew(server):
    server.cuts = [1_900_000] * 6
    with pytest.raises(DownloadError):
        hub.pull(url_of(server))
    server.cuts = []
    server.answers = [(416, {}, b"")]
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT


def test_a_busy_server_is_asked_again(server):
    server.answers = [(503, {"Retry-After": "0"}, b""), (429, {}, b"")]
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT
    server.answers = [(503, {}, b"")] * web.TRIES
    with pytest.raises(DownloadError, match="the server answers 503 .*; try again later$"):
        hub.pull(url_of(server, "/models/other.gguf"))


PAGE = b"<!DOCTYPE html><html>log in</html>"


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ((404, {}, b""), "the server answers 404"),
        ((200, {}, PAGE), "is no GGUF file: it begins with '<!DOCTYPE html><html'; is it a page"),
        ((200, {}, b""), "is no GGUF file: it has 0 bytes"),
        ((200, {"Content-Encoding": "gzip"}, b"GGUF"), "sends it encoded"),
        ((206, {"Content-Range": "bytes 7-9/10"}, b"GGU"), "sends another part than asked"),
        ((206, {"Content-Range": f"bytes {'9' * 5000}-"}, b"GGU"), "sends another part than asked"),
        ((302, {"Location": "file:///etc/hostname"}, b""), "answers 302"),
        ((302, {"Location": "ftp://127.0.0.1/x.gguf"}, b""), "which is on no web server"),
        ((302, {"Location": "http://127.0.0.1:9/x.gguf"}, b""), "no connection: Connection ref"),
    ],
)
def test_what_is_no_model_is_refused(home, server, answer, text):
    server.answers = [answer]
    with pytest.raises(DownloadError, match=re.escape(text)):
        hub.pull(url_of(server))
    assert leftovers(home) == []
    assert list(hub.installed()) == []
    assert not (home / "models" / "http").exists()


def test_of_a_page_nothing_is_kept(home, server):
    server.files["/login.gguf"] = b"<html>Who are you?</html>"
    with pytest.raises(DownloadError, match="one that wants a login[?]$"):
        hub.pull(url_of(server, "/login.gguf"))
    assert leftovers(home) == []


@pytest.mark.parametrize("path", ["/tiny é.gguf", "/tiny%20é.gguf", "/tiny%20%C3%A9.gguf"])
def test_an_address_may_be_written_as_browsers_show_it(server, path):
    server.files["/tiny%20%C3%A9.gguf"] = CONTENT
    assert hub.pull(url_of(server, path)).name == url_of(server, "/tiny%20%C3%A9.gguf")


def test_no_server_is_told_at_once(home):
    with pytest.raises(
        DownloadError,
        match="127.0.0.1:9/x.gguf: no connection: Connection refused; check the .*https_proxy",
    ):
        hub.pull("http://127.0.0.1:9/x.gguf")


def test_a_redirect_loop_ends(server):
    server.answers = [(302, {"Location": url_of(server)}, b"")] * 20
    with pytest.raises(DownloadError, match=r"gguf: the server leads in a circle.*runs it$"):
        hub.pull(url_of(server))


def test_a_password_is_shown_to_its_host_alone(home, server, the_hub):
    with_password = url_of(server).replace("//", "//me:s%40cret@") + "?download=true#top"
    server.answers = [(302, {"Location": url_of(the_hub.store, "/elsewhere")}, b"")]
    the_hub.store.files["/elsewhere"] = CONTENT
    pulled = hub.pull(with_password)
    assert pulled.name == url_of(server)
    path, headers = server.requests[0]
    assert path == "/models/tiny.gguf?download=true"
    assert headers["Authorization"] == "Basic bWU6c0BjcmV0"
    assert the_hub.store.asked("Authorization") == [None]
    everything = [p.read_bytes() for p in home.rglob("*") if p.is_file()] + [bytes(home)]
    assert not any(b"cret" in content for content in everything)


def test_a_password_survives_a_redirect_on_its_host(server):
    server.files["/moved.gguf"] = CONTENT
    server.answers = [(307, {"Location": "/moved.gguf"}, b"")]
    hub.pull(url_of(server).replace("//", "//me:secret@"))
    assert server.asked("Authorization") == ["Basic bWU6c2VjcmV0"] * 2


def test_https_never_becomes_http():
    request = urllib.request.Request("https://models.example.org/x.gguf")
    with pytest.raises(
        DownloadError, match="leads to http://evil.example/x.gguf, which is not enc"
    ):
        web._Redirects().redirect_request(
            request, None, 302, "Found", {}, "http://evil.example/x.gguf"
        )


def test_a_proxy_is_used(server, monkeypatch):
    monkeypatch.delenv("NO_PROXY")
    monkeypatch.delenv("no_proxy")
    monkeypatch.setenv("http_proxy", server.url)
    name = "http://models.example.org/models/tiny.gguf"
    assert Path(hub.pull(name).path).read_bytes() == CONTENT
    assert server.requests[0][0] == name


def test_a_certificate_that_is_not_trusted_is_told(tmp_path, monkeypatch):
    if not Path("/usr/bin/openssl").exists():
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)("needs openssl")
    pem = tmp_path / "own.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
    command += f" -keyout {pem} -out {pem}.crt -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=DNS:localhost"
    subprocess.run(command.split(), check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(f"{pem}.crt", pem)
    monkeypatch.setenv("NO_PROXY", "localhost")
    monkeypatch.setenv("no_proxy", "localhost")
    server = Server({"/tiny.gguf": CONTENT})
    server.socket = context.wrap_socket(server.socket, server_side=True)
    url = f"https://localhost:{server.server_port}/tiny.gguf"
    try:
        with pytest.raises(DownloadError, match="certificate is not trusted .*SSL_CERT_FILE"):
            hub.pull(url)
        monkeypatch.setenv("SSL_CERT_FILE", f"{pem}.crt")
        assert Path(hub.pull(url).path).read_bytes() == CONTENT
    finally:
        server.close()


# -- killed, interrupted, at once, without room


@pytest.mark.parametrize("of", ["url", "hub"])
def test_a_killed_pull_is_gone_on_with(home, server, the_hub, of):
    name, files = (url_of(server), server) if of == "url" else (FILE, the_hub.store)
    hook = "def on_progress(done, total):\n    done > 900_000 and die()"
    killed = child(name, hook)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(hub.installed()) == []
    assert [left for left, _, _ in hub.unfinished()] == [name]
    assert Path(hub.pull(name).path).read_bytes() == CONTENT
    begin = int(files.asked("Range")[-1].removeprefix("bytes=").removesuffix("-"))
    assert begin > 0
    assert leftovers(home) == []


@pytest.mark.parametrize("of", ["url", "hub"])
@pytest.mark.parametrize("moment", ["os.fsync", "os.replace"])
def test_a_pull_killed_at_its_end_has_nothing_more_to_ask_for(home, server, the_hub, moment, of):
    name, files = (url_of(server), server) if of == "url" else (FILE, the_hub.store)
    # the third replace: the others write down which version is coming, and its sum
    hook = f"real, calls = {moment}, []\n"
    hook += "def dies(*args):\n    calls.append(1)\n"
    hook += f"    {'len(calls) > 2' if moment == 'os.replace' else 'True'} and die()\n"
    hook += f"    return real(*args)\n{moment} = dies"
    killed = child(name, hook)
    killed.communicate(timeout=60)
    assert killed.returncode == -signal.SIGKILL
    assert list(hub.installed()) == []
    before = len(files.requests)
    assert Path(hub.pull(name).path).read_bytes() == CONTENT
    assert len(files.requests) == before
    assert leftovers(home) == []


def test_an_interrupted_pull_is_gone_on_with(server):
    def interrupt(done, total):
        if done > 900_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hub.pull(url_of(server), interrupt)
    seen = []
    hub.pull(url_of(server), lambda done, total: seen.append(done))
    assert min(seen) > 900_000


def test_two_pulls_at_once_download_once(home, server):
    first_sends, second_waits = [], []

    def before(sent):
        first_sends.append(sent)
        while sent > 900_000 and not second_waits:
            pass

    server.before = before
    first = child(url_of(server))
    while not first_sends:
        assert first.poll() is None
    second = child(url_of(server))
    assert second.stdout.readline() == "waited\n"
    second_waits.append(True)
    path = f"{home}/models/http/127.0.0.1:{server.server_port}/models/tiny.gguf\n"
    assert first.communicate(timeout=60)[0] == path
    assert second.communicate(timeout=60)[0] == path
    assert len(server.requests) == 1


def test_room_is_asked_for_first(server, the_hub, monkeypatch):
    real = os.statvfs(os.curdir)
    full = os.statvfs_result((*real[:4], 1, *real[5:]))  # one free block
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    with pytest.raises(DownloadError, match=r"needs 6 MB .* 2 MB to stay, .* 0 MB free; free some"):
        hub.pull(FILE)
    assert the_hub.store.requests == []


@pytest.mark.parametrize("have", [0, 700_000])
def test_room_is_asked_for_where_the_answer_tells_the_size(home, server, monkeypatch, have):
    server.cuts = [have] * (web.TRIES + 1) if have else []
    if have:
        with pytest.raises(DownloadError, match="are kept"):
            hub.pull(url_of(server))
    server.cuts = []
    real = os.statvfs(os.curdir)
    free = 5_000_000 // real.f_frsize  # enough to begin with, for nobody knows the size
    full = os.statvfs_result((*real[:4], free, *real[5:]))
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    appended = []
    monkeypatch.setattr(pulling.Growing, "append", lambda file, chunk: appended.append(chunk))
    numbers = "needs 6 MB .* 1 MB to stay" if have else "needs 6 MB .* 2 MB to stay"
    with pytest.raises(DownloadError, match=f"{numbers}, .* has 5 MB free; free some space"):
        hub.pull(url_of(server))
    assert appended == []
    assert len(leftovers(home)) == (have > 0)


def test_little_that_came_is_counted_in_bytes(server):
    server.cuts = [9_000] * 6
    with pytest.raises(DownloadError, match="the 9,000 bytes of 2 MB that came are kept"):
        hub.pull(url_of(server))


def test_a_disk_that_fills_up_is_told_and_kept(server, monkeypatch):
    def full(file, chunk):
        if file.size > 900_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(file, chunk)

    real = pulling.Growing.append
    with monkeypatch.context() as patches:
        patches.setattr(pulling.Growing, "append", full)
        with pytest.raises(DownloadError, match="filled up; free some space or set NYBBLE_HOME"):
            hub.pull(url_of(server))
    assert list(hub.installed()) == []
    assert Path(hub.pull(url_of(server)).path).read_bytes() == CONTENT
    assert server.asked("Range")[-1] is not None


@pytest.mark.parametrize("place", ["/dev/null", "/proc/none"])
def test_a_home_that_cannot_be_used_is_told(server, monkeypatch, place):
    monkeypatch.setenv("NYBBLE_HOME", place)
    with pytest.raises(UsageError, match=f"cannot be kept in {place}/models: .*; set NYBBLE_HOME"):
        hub.pull(url_of(server))


# -- from the hub


def test_a_link_to_what_is_no_more_is_no_model(the_hub):
    link = Path(hub.pull(FILE).path).with_name("gone.gguf")
    link.symlink_to("nowhere.gguf")
    assert [name for name, _, _ in hub.installed()] == [FILE]


def test_a_file_of_the_hub_is_pulled_and_verified(home, the_hub):
    pulled = hub.pull(FILE)
    assert pulled.path == str(home / "models/hf/someone/tiny-GGUF/tiny-Q4_0.gguf")
    assert Path(pulled.path).read_bytes() == CONTENT
    assert (pulled.is_verified, pulled.name) == (True, FILE)
    assert [name for name, _, _ in hub.installed()] == [FILE]
    assert [path for path, _ in the_hub.requests] == [
        "/api/models/someone/tiny-GGUF/tree/main?recursive=true",
        "/someone/tiny-GGUF/resolve/main/tiny-Q4_0.gguf",
    ]


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("hf:someone/tiny-GGUF:Q4_0", "tiny-Q4_0.gguf"),
        ("hf:someone/tiny-GGUF:q8_0", "tiny-Q8_0.gguf"),
        ("hf:someone/tiny-GGUF:IQ4_NL", "more/tiny-IQ4_NL.gguf"),
    ],
)
def test_a_format_finds_its_file(the_hub, name, file):
    the_hub.page = 2  # lists come in pages
    pulled = hub.pull(name)
    assert pulled.name == f"hf:someone/tiny-GGUF/{file}"
    assert hub.resolve(name) == pulled.path
    before = len(the_hub.requests)
    assert not hub.pull(name).is_new
    assert len(the_hub.requests) == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("hf:someone/tiny-GGUF:Q5_K", "has no file for 'Q5_K'; name one as hf:someone/tiny-GGUF/F"),
        ("hf:someone/tiny-GGUF", r"has 3 files; name one .*tiny-Q4_0.gguf \("),
        ("hf:someone/tiny-GGUF/tiny.gguf", r"no file for 'tiny.gguf'; .*: tiny-Q4_0.gguf \(2 MB\)"),
        ("hf:someone/tiny-GGUF/big-Q6_K-00001-of-00002.gguf", "is cut in pieces"),
        ("hf:someone/no-models:Q4_0", "hf:someone/no-models has no .gguf file"),
        (
            "hf:someone/nothing:Q4_0",
            "no repository someone/nothing; if it is private, set HF_TOKEN",
        ),
    ],
)
def test_what_the_hub_does_not_have_is_told(the_hub, name, text):
    if name.endswith("/tiny-GGUF"):
        for file in [file for file in the_hub.repos["someone/tiny-GGUF"] if "big" in file]:
            del the_hub.repos["someone/tiny-GGUF"][file]
    with pytest.raises(ModelNotFoundError, match=text):
        hub.pull(name)


def test_an_address_of_the_hubs_pages_is_the_hubs_name():
    page = "https://huggingface.co/someone/tiny-GGUF/blob/main/tiny-Q4_0.gguf?x=1"
    assert hub.canonical(page) == FILE
    assert hub.canonical(page.replace("blob", "resolve")) == FILE
    assert hub.canonical(page.replace("main", "v2")).startswith("https://")


def test_the_token_is_for_the_hub_alone(home, the_hub, monkeypatch):
    the_hub.gated["someone/tiny-GGUF"] = "hf_right"
    with pytest.raises(DownloadError, match=r"wants to know who asks .*401.*set HF_TOKEN to it$"):
        hub.pull(FILE)
    assert leftovers(home) == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(DownloadError, match=r"refuses someone/tiny-GGUF to your HF_TOKEN \(403\)"):
        hub.pull(FILE)
    monkeypatch.setenv("HF_TOKEN", "hf_right\n")
    assert Path(hub.pull(FILE).path).read_bytes() == CONTENT
    assert the_hub.requests[-1][1]["Authorization"] == "Bearer hf_right"
    assert the_hub.store.asked("Authorization") == [None]


@pytest.mark.parametrize("sums", [True, False])
def test_a_file_that_is_not_the_hubs_is_thrown_away(home, the_hub, sums):
    the_hub.sums = sums  # without, the sum of the redirect counts
    the_hub.store.files = _Lying(OTHER[: len(CONTENT)] + bytes(len(CONTENT) - len(OTHER)))
    with pytest.raises(DownloadError, match=rf"instead of {SUM}; it was thrown away"):
        hub.pull(FILE)
    assert leftovers(home) == []
    assert list(hub.installed()) == []


class _Lying(dict):
    """Files that all have the same content."""

    def __init__(self, content):
        super().__init__()
        self.content = content

    def __contains__(self, path):
        return True

    def __getitem__(self, path):
        return self.content


def test_a_hub_without_sums_gives_none(the_hub, monkeypatch):
    the_hub.sums = False
    monkeypatch.setattr(web, "_linked_sum", lambda headers: None)
    pulled = hub.pull(FILE)
    assert not pulled.is_verified
    assert hub.pull(FILE).is_verified  # by what was written down


def test_a_file_of_another_length_is_refused(the_hub):
    the_hub.store.files = _Lying(OTHER)
    with pytest.raises(DownloadError, match="has 1,792,004 bytes and should have 2,048,004"):
        hub.pull(FILE)


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b"[7]",
        b'[{"type": "file", "path": 7}]',
        b'[{"type": "file", "path": "x.gguf"}]',
        b"[" * 100_000,
    ],
)
def test_an_answer_that_makes_no_sense_is_told(the_hub, body):
    the_hub.answers = [(200, {}, body)]
    with pytest.raises(DownloadError, match="makes no sense"):
        hub.pull(FILE)


def test_a_path_of_the_hubs_cannot_leave_its_folder(home, the_hub):
    the_hub.repos["someone/evil"] = {"../../../x-Q4_0.gguf": CONTENT}
    with pytest.raises(UsageError, match="names no model"):
        hub.pull("hf:someone/evil:Q4_0")
    assert [path.name for path in home.rglob("*") if path.is_file()] == [".lock"]


def test_lists_of_another_server_are_not_followed(the_hub, server, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    the_hub.answers = [(200, {"Link": f'<{server.url}/more>; rel="next"'}, b"[]")]
    with pytest.raises(ModelNotFoundError):
        hub.pull(FILE)
    assert server.requests == []


def test_a_known_model_of_the_hub_has_its_own_name(home, the_hub, monkeypatch):
    row = KnownModel(name="tiny", origin=FILE, nbytes=2_000_000, about="tests", licence="MIT")
    monkeypatch.setitem(KNOWN, "tiny", row)
    assert not hub.is_pulled("tiny")
    pulled = hub.pull("tiny")
    assert pulled.path == str(home / "models" / "tiny.gguf")
    assert pulled.is_verified
    assert hub.is_pulled("tiny")
    assert hub.pull("tiny").is_verified
    Path(pulled.path).write_bytes(b"GGUF")
    assert hub.pull("tiny").was_damaged


def test_a_known_sum_counts_more_than_the_hubs(the_hub, monkeypatch):
    row = KnownModel(
        name="tiny", origin=FILE, nbytes=len(CONTENT), sha256="0" * 64, about="t", licence="MIT"
    )
    monkeypatch.setitem(KNOWN, "tiny", row)
    with pytest.raises(DownloadError, match=f"sha256 {SUM} instead of {'0' * 64}"):
        hub.pull("tiny")


# -- names, and what the environment says


@pytest.mark.parametrize(
    "name",
    [
        "hf:",
        "hf:owner",
        "hf:owner/",
        "hf:owner/repo/",
        "hf:owner/repo/file.bin",
        "hf:owner/repo/../file.gguf",
        "hf:owner/../file.gguf",
        "hf:../repo/file.gguf",
        "hf:owner/repo:Q4_0/file.gguf",
        "hf:owner/repo:Q4 0",
        "hf:ow ner/repo:Q4_0",
        "hf:owner/repo/.hidden.gguf",
        "hf:owner/repo/x\ny.gguf",
        "https://",
        "https://host",
        "https://host/",
        "https://host/file.bin",
        "https://host/../x.gguf",
        "https://../x.gguf",
        "https://host:port/x.gguf",
        "https://[::1/x.gguf",
        "http://host/" + "x" * 300 + ".gguf",
        "http://ho st/x.gguf",
        "http://host/\udcff.gguf",  # a byte of the command line that is no UTF-8
        "http://\udcff/x.gguf",
    ],
)
def test_a_malformed_name_is_refused(home, name):
    with pytest.raises(UsageError):
        hub.pull(name)
    with pytest.raises(UsageError):
        hub.resolve(name)
    assert not home.exists()


def test_names_and_paths_are_one_to_one(home):
    for name in (
        "plain",
        FILE,
        "hf:o/r/a/b/c.gguf",
        "https://host/x.gguf",
        "http://host:8080/a/b.gguf",
        "https://[::1]:8443/x%20y.gguf",
    ):
        path = Path(hub.path_of(name))
        assert path.is_relative_to(home / "models")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert hub.canonical(name) == name
        assert name in [found for found, _, _ in hub.installed()]
        path.unlink()


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HF_ENDPOINT", "hub.example.org"), ("HF_ENDPOINT", "ftp://x"), ("HF_TOKEN", "a b\nc")],
)
def test_a_bad_environment_is_told(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        huggingface.find(FILE)
