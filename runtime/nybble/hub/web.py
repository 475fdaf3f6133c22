"""Files over HTTP, resumed where they broke off; with nothing but the standard library.

Proxies are the environment's (`https_proxy`, `no_proxy`), certificates OpenSSL's (`SSL_CERT_FILE`).
What a request carries for one host, a token or a password, is never sent to another.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from email.message import Message
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urljoin, urlsplit, urlunsplit

from nybble import __version__
from nybble.errors import DownloadError

if TYPE_CHECKING:
    from nybble.hub.pulling import Growing

TRIES = 5  # in a row, without a byte coming
RETRY_S = 1.0  # before the second of them; doubles with each
_LONGEST_S = 60.0  # that a server may ask to wait
_TIMEOUT_S = 30.0  # for a connection, and for the next bytes
_CHUNK = 1 << 18
_MAX_ANSWER = 32 << 20  # bytes of an answer that is not a file
_MAY_PASS = (408, 429, 500, 502, 503, 504)  # statuses of a server that may answer the next time
_MAGIC = b"GGUF"
_STATE = "state.json"
_OWN_CERTIFICATE = "if your network has a certificate of its own, name its file in SSL_CERT_FILE"
_CHECK = "check the connection (a proxy is taken from https_proxy or http_proxy)"


class Source:
    """A file on a server: where, for whom, and what is known of it.

    url           : what to ask for, without the password that may have been in it
    authorization : a header, for the url's host only; None if there is nothing to show
    nbytes        : of the file; None if it is not known
    sha256        : of the file; None if it is not known
    explain       : turns a status that means no into the error for it
    """

    def __init__(
        self,
        url: str,
        *,
        token: str | None = None,
        nbytes: int | None = None,
        sha256: str | None = None,
        explain: Callable[[Refused], Exception] | None = None,
    ) -> None:
        self.url, self.authorization = _without_password(url)
        if token is not None:
            self.authorization = f"Bearer {token}"
        self.nbytes = nbytes
        self.sha256 = sha256
        self.explain = explain or (lambda refused: DownloadError(str(refused)))

    def gave_up(self, broken: _BrokenOff) -> DownloadError:
        """The error for a connection that is not tried again."""
        return DownloadError(f"{self.url}: {broken}; {broken.way_out}")


class Refused(Exception):
    """A server answered with a status that will not change by asking again.

    code : what Hugging Face's hub calls the reason ("GatedRepo"), or ""
    """

    def __init__(self, url: str, status: int, reason: str, code: str = "") -> None:
        super().__init__(f"{url}: the server answers {status} {reason}".rstrip())
        self.status = status
        self.code = code


class _BrokenOff(Exception):
    """Bytes stopped coming, or none came, for a reason that may pass; `way_out` is what to do."""

    def __init__(
        self,
        text: str,
        *,
        may_pass: bool = True,
        retry_after_s: float = 0.0,
        way_out: str = _CHECK,
    ) -> None:
        super().__init__(text)
        self.way_out = way_out
        self.may_pass = may_pass
        self.retry_after_s = retry_after_s


class Download:
    """A file that is fetched from a server (a nybble.hub.pulling.Delivery).

    The folder of the pull holds the file so far and `state.json`: what the server called this
    version of the file, so that another version is never appended to it.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._validator: str | None = None  # an ETag or a date, for If-Range

    @property
    def nbytes(self) -> int | None:
        return self.source.nbytes

    @property
    def sha256(self) -> str | None:
        return self.source.sha256

    def resume(self, target: IO[bytes], folder: str) -> int:
        """Keep what can be gone on with: the beginning of the same version, by its sum or by the
        server's name for it."""
        state = _read_state(folder)
        validator, sha256 = state.get("validator"), state.get("sha256")
        size = target.seek(0, os.SEEK_END)
        is_same = validator is not None if self.sha256 is None else sha256 == self.sha256
        if is_same and (self.nbytes is None or size <= self.nbytes):
            self._validator = validator
            if size == state.get("nbytes"):  # it was killed when all had come
                self.source.nbytes, self.source.sha256 = size, self.sha256 or sha256
            return size
        target.truncate(0)
        return 0

    def needs(self, have: int) -> int:
        """The rest of the file."""
        return max((self.nbytes or 0) - have, 0)

    def is_resumable(self) -> bool:
        """Whether the next pull can tell if the server still has the same file."""
        return self.sha256 is not None or self._validator is not None

    def deliver(
        self, file: Growing, folder: str, lock: int, progress: Callable[[int, int], None]
    ) -> None:
        """Append the rest, over as many requests as it takes, while bytes come."""
        started, most, tries = file.size, file.size, 0
        while self.nbytes is None or file.size != self.nbytes:
            try:
                self._ask_for_rest(file, folder, progress)
                return
            except Refused as refused:
                raise self.source.explain(refused) from None
            except _BrokenOff as broken:
                tries = 0 if file.size > most else tries + 1
                most = max(most, file.size)
                if tries == TRIES or (most == started and not broken.may_pass):
                    raise self.source.gave_up(broken) from None
                time.sleep(max(broken.retry_after_s, RETRY_S * 2**tries))

    def _ask_for_rest(
        self, file: Growing, folder: str, progress: Callable[[int, int], None]
    ) -> None:
        headers = {}
        if file.size:
            headers["Range"] = f"bytes={file.size}-"
            if self._validator is not None:
                headers["If-Range"] = self._validator
        try:
            answer, sha256 = _open(self.source, headers)
        except Refused as refused:
            if refused.status != 416 or not file.size:
                raise
            file.restart()  # nothing lies behind what is there: it was no beginning of this file
            raise _BrokenOff(
                "the file on the server has become shorter", way_out="try again later"
            ) from None
        with answer:
            if answer.headers.get("Content-Encoding", "identity") != "identity":
                raise DownloadError(f"{self.source.url}: the server sends it encoded")
            begin = _begin_of(answer.headers) if answer.status == 206 else 0
            if begin == 0:
                file.restart()  # another version, or a server that sends whole files only
            elif begin != file.size:
                raise DownloadError(f"{self.source.url}: the server sends another part than asked")
            self._learn(answer.headers, sha256, begin, folder)
            file.make_room(file.size)
            self._append_all(answer, file, progress)

    def _learn(self, headers: Message, sha256: str | None, begin: int, folder: str) -> None:
        """Take from an answer how long the file is, its sum if a hub gives it, and what this
        version is called."""
        length = _number(headers.get("Content-Length", ""))
        whole = None if length is None else begin + length
        if self.nbytes is None:
            self.source.nbytes = whole
        elif whole not in (None, self.nbytes):
            raise DownloadError(
                f"{self.source.url} has {whole:,} bytes and should have {self.nbytes:,}"
            )
        self.source.sha256 = self.sha256 or sha256
        etag = headers.get("ETag", "")
        strong = etag if etag.startswith('"') else None  # a weak one says nothing of the bytes
        self._validator = strong or headers.get("Last-Modified")
        state = {"validator": self._validator, "sha256": self.sha256, "nbytes": self.nbytes}
        _write_state(folder, state)

    def _append_all(
        self,
        answer: http.client.HTTPResponse,
        file: Growing,
        progress: Callable[[int, int], None],
    ) -> None:
        while True:
            try:
                chunk = answer.read1(_CHUNK)
            except (OSError, http.client.HTTPException) as error:
                raise _BrokenOff(f"the connection broke: {_reason(error)}") from None
            if not chunk:
                break
            if file.size == 0 and not _MAGIC.startswith(chunk[: len(_MAGIC)]):
                begin = chunk[:20].decode("ascii", "replace")
                raise DownloadError(
                    f"{self.source.url} is no GGUF file: it begins with {begin!r}; is it a page"
                    " about the file, or one that wants a login?"
                )
            if self.nbytes is not None and file.size + len(chunk) > self.nbytes:
                raise DownloadError(f"{self.source.url}: more than {self.nbytes:,} bytes came")
            file.append(chunk)
            progress(file.size, self.nbytes or 0)
        if file.size < len(_MAGIC):
            raise DownloadError(f"{self.source.url} is no GGUF file: it has {file.size} bytes")
        if self.nbytes is not None and file.size < self.nbytes:
            raise _BrokenOff(f"the connection ended {self.nbytes - file.size:,} bytes too early")


def get_json(url: str, token: str | None = None) -> tuple[Any, str | None]:
    """What the answer to a GET says, and the url of its next page if there is one. Refused for a
    status that means no, DownloadError for all else that is no answer."""
    source = Source(url, token=token)
    tries = 0
    while True:
        try:
            answer, _ = _open(source, {"Accept": "application/json"})
            with answer:
                text = answer.read(_MAX_ANSWER)
                return json.loads(text), _next_page(source.url, answer.headers)
        except _BrokenOff as broken:
            tries += 1
            if tries == TRIES or not broken.may_pass:
                raise source.gave_up(broken) from None
            time.sleep(max(broken.retry_after_s, RETRY_S * 2**tries))
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise DownloadError(f"{source.url}: an answer that makes no sense ({error})") from None


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects: authorization stays with its host, https never becomes http, and the sum
    that a hub gives before it sends one elsewhere is kept."""

    sha256: str | None = None

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: Message,
        newurl: str,
    ) -> urllib.request.Request | None:
        new = super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]
        if new is None:
            return None
        old_place, new_place = urlsplit(req.full_url), urlsplit(newurl)
        if new_place.scheme not in ("http", "https"):
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is on no web server")
        if old_place.scheme == "https" and new_place.scheme != "https":
            raise DownloadError(f"{req.full_url} leads to {newurl}, which is not encrypted")
        authorization = req.unredirected_hdrs.get("Authorization")
        if authorization and old_place[:2] == new_place[:2]:  # scheme, host and port
            new.add_unredirected_header("Authorization", authorization)
        self.sha256 = self.sha256 or _linked_sum(headers)
        return new


def _open(source: Source, headers: dict[str, str]) -> tuple[http.client.HTTPResponse, str | None]:
    """The answer to a GET, its redirects followed, and the file's sum if a hub gave it. Refused,
    _BrokenOff, or DownloadError."""
    redirects = _Redirects()
    opener = urllib.request.OpenerDirector()
    for handler in (  # http and https alone: a redirect must not lead to a file of this machine
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(context=ssl.create_default_context()),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        redirects,
    ):
        opener.add_handler(handler)
    common = {"User-Agent": f"nybble/{__version__}", "Accept-Encoding": "identity"}
    try:
        request = urllib.request.Request(_encoded(source.url), headers={**common, **headers})
        if source.authorization is not None:
            request.add_unredirected_header("Authorization", source.authorization)
        answer: http.client.HTTPResponse = opener.open(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in _MAY_PASS:
            after = _number(error.headers.get("Retry-After", "")) or 0
            raise _BrokenOff(
                f"the server answers {error.code} {error.reason}".rstrip(),
                retry_after_s=min(after, _LONGEST_S),
                way_out="try again later",
            ) from None
        if str(error.reason).startswith(redirects.inf_msg):
            raise DownloadError(
                f"{source.url}: the server leads in a circle, from one address to the next; ask"
                " whoever runs it"
            ) from None
        code = error.headers.get("X-Error-Code", "")
        raise Refused(source.url, error.code, str(error.reason), code) from None
    except (OSError, http.client.HTTPException, ValueError) as error:  # URLError is an OSError
        way_out = _OWN_CERTIFICATE if _is_distrust(error) else _CHECK
        raise _BrokenOff(_reason(error), may_pass=False, way_out=way_out) from None
    return answer, redirects.sha256 or _linked_sum(answer.headers)


def _linked_sum(headers: Message) -> str | None:
    """The sha256 that Hugging Face's hub gives of a large file; smaller ones have other ETags."""
    etag = headers.get("X-Linked-ETag", "").strip('"')
    return etag if len(etag) == 64 else None


def _number(text: str) -> int | None:
    """A number out of a header; None for anything else."""
    return int(text) if text.isdecimal() and len(text) < 19 else None


def _begin_of(headers: Message) -> int:
    """Where the part in a 206 begins: `Content-Range: bytes 100-199/200`; -1 if it is not said."""
    part = headers.get("Content-Range", "").removeprefix("bytes").strip()
    begin = _number(part.partition("-")[0])
    return -1 if begin is None else begin


def _next_page(url: str, headers: Message) -> str | None:
    """The url that `Link: <...>; rel="next"` names, if it is of the same server."""
    for link in headers.get("Link", "").split(","):
        place, _, relation = link.partition(";")
        if 'rel="next"' in relation:
            following = urljoin(url, place.strip(" <>"))
            return following if urlsplit(following)[:2] == urlsplit(url)[:2] else None
    return None


def _without_password(url: str) -> tuple[str, str | None]:
    """A URL that may be shown, and the header for the user and password that were in it."""
    parts = urlsplit(url)
    user, at, place = parts.netloc.rpartition("@")
    if not at:
        return url, None
    name, _, password = user.partition(":")
    word = base64.b64encode(f"{unquote(name)}:{unquote(password)}".encode()).decode()
    return urlunsplit(parts._replace(netloc=place)), f"Basic {word}"


def _encoded(url: str) -> str:
    """A URL as it may be asked for: browsers show it with spaces and letters that a request cannot
    hold."""
    parts = urlsplit(url)
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query))


def _read_state(folder: str) -> dict[str, Any]:
    """What is known of the version of which a beginning is there: validator, sha256, nbytes."""
    try:
        with open(os.path.join(folder, _STATE), encoding="utf-8") as file:
            state = json.load(file)
    except (OSError, ValueError):
        return {}
    return state if isinstance(state, dict) else {}


def _write_state(folder: str, state: dict[str, Any]) -> None:
    path = os.path.join(folder, _STATE)
    with open(f"{path}.new", "w", encoding="utf-8") as file:
        json.dump(state, file)
    os.replace(f"{path}.new", path)


def _is_distrust(error: Exception) -> bool:
    return isinstance(getattr(error, "reason", error), ssl.SSLCertVerificationError)


def _reason(error: Exception) -> str:
    """Why there is no connection, in words."""
    inner = getattr(error, "reason", error)
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted ({inner.verify_message})"
    if isinstance(inner, TimeoutError):
        return f"no answer for {_TIMEOUT_S:.0f} seconds"
    if isinstance(inner, OSError) and inner.strerror:
        return f"no connection: {inner.strerror}"
    return str(inner) or type(inner).__name__
