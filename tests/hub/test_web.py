"""Pulls by URL, from a web server of ours on the loopback interface."""

import os
import re
import ssl
import subprocess
import urllib.request
from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError
from nybble.hub import web
from tests.hub.servers import Server
from tests.hub.small import CONTENT, OTHER, SUM, leftovers, url_of


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


def test_little_that_came_is_counted_in_bytes(server):
    server.cuts = [9_000] * 6
    with pytest.raises(DownloadError, match="the 9,000 bytes of 2 MB that came are kept"):
        hub.pull(url_of(server))


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
