"""Makes tests/golden/smollm2_tokens.json: llama.cpp's token ids of tricky strings.

    python tools/make_token_goldens.py SmolLM2-135M-Instruct.Q4_1.gguf

Asks llama.cpp's server, as the PyPI package xllamacpp 2026.10.11549 has it, for the ids of every
string below on SmolLM2's vocabulary, once as text and once with special tokens found.
"""

from __future__ import annotations

import json
import socket
import sys
import unicodedata
import urllib.request
from pathlib import Path

OUTPUT = Path(__file__).resolve().parent.parent / "tests" / "golden" / "smollm2_tokens.json"

SCRIPTS = [  # "All human beings are born free", or a proverb, in a script each
    "Все люди рождаются свободными",
    "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι",
    "جميع الناس يولدون أحرارًا",
    "כל בני אדם נולדו בני חורין",
    "सभी मनुष्य जन्म से स्वतन्त्र हैं",
    "সমস্ত মানুষ স্বাধীনভাবে",
    "அனைத்து மனிதர்களும்",
    "มนุษย์ทั้งหลายเกิดมามีอิสระ",
    "人人生而自由,在尊严和权利上一律平等。",
    "すべての人間は、生まれながらにして",
    "모든 인간은 태어날 때부터",
    "ყველა ადამიანი იბადება თავისუფალი",
    "Բոլոր մարդիկ ծնվում են ազատ",
    "ሰው ሁሉ ነጻ ሆኖ ተወልዷል",
    "មនុស្សទាំងអស់ កើតមកមានសេរីភាព",
    "Tất cả mọi người sinh ra đều được tự do",
    "ᎠᏂᎩᏂᏆᏗ",
    "ⴰⵎⴷⴰⵏ",
    "𐤀𐤁𐤂 𒀀𒀁 𓀀𓀁",
    "Ünïcödé Straße ŉ ǅ ﬁ ﬀ ß ẞ",
    "e\u0301 a\u0308 n\u0303o\u0302",
]

EMOJI = [
    "😀😃 👍🏽 👩‍👩‍👧‍👦 🇩🇪🇯🇵 🏴󠁧󠁢󠁳󠁣󠁴󠁿 ❤️ ☎ ♻︎",
    "🚀 (normal) 😶‍🌫️ (compound)",
    "a👍b 1👍2 👍",
]

CODE = [
    "def f(x):\n    return x ** 2  # square\n\n\nif __name__ == '__main__':\n\tprint(f(3))\n",
    "for (int i = 0; i < n; i++) {\n\t\tsum += a[i]*b[i];\n}\r\n",
    '<div class="a b">&nbsp;</div>\n<!-- don\'t -->',
    "SELECT * FROM t WHERE x >= 10 AND y != 'it''s';",
    "$ grep -rn 'foo|bar' ./src | sort -u > ../out.txt 2>&1",
    '{"key": [1, 2.5e-3, null], "k2": "\\u00e9"}',
]

WORDS = [
    "",
    "a",
    " a",
    "Hello",
    " Hello world",
    "Hello, world! How are you?",
    "it's we'll I'D you'Re don't",
    "'s 't 're 've 'm 'll 'd 'x '",
    "''s'''re ' ll",
    "can\u2019t \u2018s",
    "CamelCaseIdentifierName snake_case_name",
    "ThisIsAVeryLongWordWithoutAnyBreaksThatGoesOnForMoreThanThirtyTwoBytes",
    "=" * 80,
    "-" * 33,
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "...!!!???",
    "a.b,c;d:e",
    "\u00a0nbsp\u00a0",
    "x\u200by\u200cz\u200dw\ufeff",
    "\ufffd\ufffd",
    "\u2028line\u2029paragraph\u0085next",
    "\u3000\u3000ideographic space",
    "\u1680ogham",
]

DIGITS = [
    "0123456789",
    "3.14159",
    "1,000,000",
    "½ ² ③ Ⅷ ٣ ४ 五 ߉",
    "a1b2c3",
    "  42  ",
    "v1.2.3-rc4",
    "2024-01-31T12:00:00Z",
    "   1   22   333",
    "\n7\n8",
    "x²+y³=z⁴",
    "１２３",
    "𝟘𝟙𝟚",
    "9\u0301",
]

SPACES = (
    [" " * n for n in (1, 2, 3, 4, 5, 7, 8, 16, 31, 32, 33, 64, 100)]
    + [" " * n + "x" for n in (2, 3, 8, 33)]
    + ["\n" * n for n in (1, 2, 3, 4, 5, 33)]
    + [
        "\n\nx",
        " \n x",
        "x \n\n y",
        "\t\tx",
        "\t \t",
        "x\r\n\r\ny",
        "\n \n  \n   ",
        "x   ",
        "x \t\n",
        "\x0b\x0c",
    ]
)

SPECIAL = [
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "a<|im_end|>b",
    "<|im_end",
    "im_end|>",
    "<|im_<|im_end|>end|>",
    "<|im_start|><|im_start|>",
    " <|im_end|> ",
    "<repo_name>x<file_sep>y<reponame>z",
    "<filename>a.py<gh_stars>100",
    "<|IM_END|>",
    "<|im_end |>",
    "<jupyter_code>1+1<jupyter_output>2<empty_output>",
]


def every_kind_of_character() -> list[str]:
    """Characters of every general category, eight at a time between letters, and all controls."""
    kinds: dict[str, list[str]] = {}
    for code in (*range(0x20, 0x3000), *range(0x1F300, 0x1F700, 7), *range(0xE0100, 0xE0110)):
        kinds.setdefault(unicodedata.category(chr(code)), []).append(chr(code))
    kinds.pop("Cs", None)
    strings = []
    for characters in kinds.values():
        step = max(1, len(characters) // 24)
        picked = characters[::step][:24]
        strings += ["a" + "b".join(picked[i : i + 8]) + "".join(picked) for i in (0, 8, 16)]
    return strings + ["".join(map(chr, range(1, 0x20))), "x\x7fy\x00z", "\x01a\x02 b\x04\x06c"]


def strings() -> list[str]:
    found = [
        *WORDS,
        *DIGITS,
        *SPACES,
        *SCRIPTS,
        *EMOJI,
        *CODE,
        *SPECIAL,
        *every_kind_of_character(),
    ]
    return list(dict.fromkeys(found))


def main() -> None:
    import xllamacpp

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    params = xllamacpp.CommonParams()
    params.model.path = sys.argv[1]
    params.port = port
    params.n_ctx = 64
    params.warmup = False
    server = xllamacpp.Server(params)

    def ids(text: str, special: bool) -> list[int]:
        body = {"content": text, "add_special": False, "parse_special": special}
        request = urllib.request.Request(
            server.listening_address + "/tokenize",
            json.dumps(body).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as answer:
            tokens: list[int] = json.load(answer)["tokens"]
        return tokens

    goldens = [[text, ids(text, False), ids(text, True)] for text in strings()]
    lines = ",\n".join(json.dumps(golden, separators=(",", ":")) for golden in goldens)
    OUTPUT.write_text(f"[\n{lines}\n]\n", encoding="ascii")
    print(f"{len(goldens)} strings: {OUTPUT}")


if __name__ == "__main__":
    main()
