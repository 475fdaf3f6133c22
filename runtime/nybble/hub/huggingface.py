"""The hub of Hugging Face: which file a name means, how long it is, and its sum.

Two of the hub's addresses are used:

    GET /api/models/OWNER/REPO/tree/main?recursive=true
        every file: its path and size, and for a large one `lfs`, whose `oid` is its sha256
    GET /OWNER/REPO/resolve/main/FILE
        the file, mostly by way of another host

`HF_ENDPOINT` names a mirror; `HF_TOKEN` is shown to the hub, and to no host it redirects to.
"""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import quote, urlsplit

from nybble import hub
from nybble.errors import DownloadError, ModelNotFoundError, UsageError
from nybble.hub import web

_ENDPOINT = "https://huggingface.co"
_MAX_PAGES = 50  # of a repository's list of files
_MAX_LISTED = 12  # files that an error names


def find(name: str) -> tuple[str, web.Source]:
    """The file that an hf: name means: the name that spells it out, and where it is.

    ModelNotFoundError if there is no such repository, file or format (the text names those there
    are), DownloadError if the hub does not answer or wants to know who asks.
    """
    owner, repo, file, tag = hub.split_hf(name)
    files = _files(owner, repo)
    paths = [file] if file in files else []
    if not file:
        models = [path for path in files if "mmproj" not in os.path.basename(path).lower()]
        paths = [path for path in models if hub.has_format(path, tag)]
    whole = [path for path in paths if not _is_piece(path)]
    if len(whole) != 1:
        raise ModelNotFoundError(_no_single(f"{hub.HF}{owner}/{repo}", file or tag, paths, files))
    path = whole[0]
    hub.split_hf(f"{hub.HF}{owner}/{repo}/{path}")  # the list came from outside
    nbytes, sha256 = files[path]
    url = f"{_endpoint()}/{quote(owner)}/{quote(repo)}/resolve/main/{quote(path)}"
    source = web.Source(
        url,
        token=_token(),
        nbytes=nbytes,
        sha256=sha256,
        explain=lambda refused: _why(f"{owner}/{repo}", refused),
    )
    return f"{hub.HF}{owner}/{repo}/{path}", source


def _files(owner: str, repo: str) -> dict[str, tuple[int, str | None]]:
    """The model files of a repository: path -> (bytes, sha256 if the hub knows it)."""
    url: str | None = (
        f"{_endpoint()}/api/models/{quote(owner)}/{quote(repo)}/tree/main?recursive=true"
    )
    found = {}
    for _ in range(_MAX_PAGES):
        try:
            entries, url = web.get_json(url or "", _token())
        except web.Refused as refused:
            raise _why(f"{owner}/{repo}", refused) from None
        for entry in entries if isinstance(entries, list) else [None]:
            if not _is_entry(entry):
                raise DownloadError(f"{_endpoint()}: an answer that makes no sense for {repo}")
            if entry["type"] == "file" and entry["path"].endswith(hub.SUFFIX):
                lfs = entry.get("lfs") or {}
                sha256 = lfs.get("oid") if isinstance(lfs, dict) else None
                is_sum = isinstance(sha256, str) and len(sha256) == 64
                found[entry["path"]] = (entry["size"], sha256 if is_sum else None)
        if url is None:
            break
    return found


def _is_entry(entry: Any) -> bool:
    """Whether this is an entry of a list of files."""
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("path"), str)
        and (entry.get("type") != "file" or isinstance(entry.get("size"), int))
    )


def _is_piece(path: str) -> bool:
    """Whether a file is one of several that make a model: `name-00001-of-00003.gguf`."""
    words = path.removesuffix(hub.SUFFIX).rsplit("-", 3)
    return len(words) == 4 and words[2] == "of" and words[1].isdigit() and words[3].isdigit()


def _no_single(
    repo: str, wanted: str, paths: list[str], files: dict[str, tuple[int, str | None]]
) -> str:
    """Why there is not just one file, and which there are."""
    if not files:
        return f"{repo} has no {hub.SUFFIX} file"
    if paths and all(map(_is_piece, paths)):
        return f"{repo}: {paths[0]} is cut in pieces, and nybble takes a model in one file"
    listed = [f"{path} ({files[path][0] / 1e6:,.0f} MB)" for path in paths or files]
    more = f", and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else ""
    count = f"{len(paths)} files" if paths else "no file"
    what = f" for {wanted!r}" if wanted else ""
    first = ", ".join(listed[:_MAX_LISTED])
    return f"{repo} has {count}{what}; name one as {repo}/FILE: {first}{more}"


def _why(repo: str, refused: web.Refused) -> Exception:
    """What to tell of a status: the hub answers 401 alike for what is gated, private, or not
    there at all."""
    page = f"{_endpoint()}/{repo}"
    if refused.status == 404 or (refused.status == 401 and refused.code == "RepoNotFound"):
        hint = "" if _token() else "; if it is private, set HF_TOKEN to a token that may read it"
        return ModelNotFoundError(f"the hub has no repository {repo}{hint}")
    if refused.status not in (401, 403):
        return DownloadError(str(refused))
    if _token():
        return DownloadError(
            f"the hub refuses {repo} to your HF_TOKEN ({refused.status}): accept its terms at"
            f" {page}, and let the token read it (https://huggingface.co/settings/tokens)"
        )
    return DownloadError(
        f"the hub wants to know who asks for {repo} ({refused.status}): accept its terms at {page},"
        " make a token at https://huggingface.co/settings/tokens and set HF_TOKEN to it"
    )


def _endpoint() -> str:
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or _ENDPOINT
    if urlsplit(endpoint).scheme not in hub.SCHEMES or not urlsplit(endpoint).netloc:
        raise UsageError(f"HF_ENDPOINT={endpoint} is no URL, such as {_ENDPOINT}")
    return endpoint


def _token() -> str | None:
    token = os.environ.get("HF_TOKEN", "").strip()
    if not all("!" <= c <= "~" for c in token):
        raise UsageError("HF_TOKEN has characters that no token has; set it to the token alone")
    return token or None
