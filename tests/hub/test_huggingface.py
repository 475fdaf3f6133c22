"""Pulls from the hub of Hugging Face, whose addresses a server of ours speaks."""

from pathlib import Path

import pytest

from nybble import hub
from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.hub import huggingface, web
from nybble.hub.known import KNOWN, KnownModel
from tests.hub.small import CONTENT, FILE, OTHER, SUM, leftovers


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


@pytest.mark.parametrize(
    ("variable", "value"),
    [("HF_ENDPOINT", "hub.example.org"), ("HF_ENDPOINT", "ftp://x"), ("HF_TOKEN", "a b\nc")],
)
def test_a_bad_environment_is_told(monkeypatch, variable, value):
    monkeypatch.setenv(variable, value)
    with pytest.raises(UsageError, match=variable):
        huggingface.find(FILE)
