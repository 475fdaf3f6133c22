"""Makes llama.cpp's token ids of tricky strings and of conversations: tests/golden/*.json.

    python -m tools.make_token_goldens strings smollm2 SmolLM2-135M-Instruct.Q4_1.gguf
    python -m tools.make_token_goldens strings gemma3 gemma3-270m.gguf
    python -m tools.make_token_goldens chats smollm2 SmolLM2-135M-Instruct.Q4_1.gguf
    python -m tools.make_token_goldens chats qwen-coder qwen2.5-coder-0.5b.gguf
    python -m tools.make_token_goldens chats gemma3 gemma3-270m.gguf

Asks llama.cpp, as the PyPI package llama-cpp-python 0.3.36 has it, on the file's vocabulary.

NAME_tokens.json: of every string below, [string, ids as text, ids with special tokens found (null
if equal)].

NAME_chats.json: of the conversations of tools/conversations.py, rendered by the file's template, a
line each {"chat", "tools" (whether they are given), "ids"}; null for one that the template refuses.
Where a message spells a control token, llama.cpp takes it for one: there is {"text"} instead, which
the ids stand for. {"raw", "ids"} is a message's text as it is, with BOS if the file wants it.
"""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.conversations import CHATS, SPELLED, TOOL_CHATS, TOOLS

GOLDEN = Path(__file__).resolve().parent.parent / "tests" / "golden"

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
    "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n",
    "<eos> a<eos>b<unused7>",
    "<end_of_turn",
    "<s><h1>a> </h1>\n<b> > </b>",
    "<0x41><0x0A>",
    "a\u2581b \u2581 \u2581\u2581c",
    "[multimodal]",
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


def every_script() -> list[str]:
    """Six letters out of every 256 code points that have some, but for the long runs of CJK."""
    ranges = [*range(0x100, 0x3400, 0x100), *range(0xA000, 0xAC00, 0x100)]
    ranges += [0xD700, *range(0xF900, 0x13500, 0x100), *range(0x16800, 0x1F000, 0x100)]
    strings = []
    for start in ranges:
        letters = [chr(c) for c in range(start, start + 256) if chr(c).isalpha()]
        step = max(1, len(letters) // 6)
        strings.append("".join(letters[::step][:3]) + " " + "".join(letters[::step][3:6]))
    return [text for text in strings if text != " "]


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
        *every_script(),
    ]
    return list(dict.fromkeys(found))


def token_goldens(model: Any) -> Iterator[Any]:
    for text in strings():
        plain, special = (
            model.tokenize(text.encode(), add_bos=False, special=special)
            for special in (False, True)
        )
        yield [text, plain, special if special != plain else None]


def chat_goldens(model: Any) -> Iterator[Any]:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    def rendered(messages: Any, tools: Any = None) -> Any:
        """What llama-cpp-python makes of a conversation; None if the template refuses it."""
        try:
            return formatter(messages=messages, tools=tools)
        except Exception:
            return None

    source = model.metadata.get("tokenizer.chat_template")
    if source is not None:
        spell = model._model.token_get_text
        bos, eos = (spell(i) if i >= 0 else "" for i in (model.token_bos(), model.token_eos()))
        formatter = Jinja2ChatFormatter(source, eos_token=eos, bos_token=bos)
        chats = [(name, False, rendered(chat)) for name, chat in CHATS.items()]
        chats += [(name, True, rendered(chat, TOOLS)) for name, chat in TOOL_CHATS.items()]
        for name, tools, made in chats:
            ids = made and model.tokenize(
                made.prompt.encode(), add_bos=not made.added_special, special=True
            )
            yield {"chat": name, "tools": tools, "ids": ids}
        for name, chat in SPELLED.items():
            yield {"chat": name, "text": rendered(chat).prompt}
    for chat in (*CHATS.values(), *SPELLED.values()):
        for message in chat:
            text = message["content"]
            yield {"raw": text, "ids": model.tokenize(text.encode(), add_bos=True, special=False)}


KINDS = {"strings": (token_goldens, "tokens"), "chats": (chat_goldens, "chats")}


def main() -> None:
    import llama_cpp

    kind, name, path = sys.argv[1:]
    make, ending = KINDS[kind]
    goldens = list(make(llama_cpp.Llama(path, vocab_only=True, verbose=False)))
    lines = ",\n".join(json.dumps(golden, separators=(",", ":")) for golden in goldens)
    output = GOLDEN / f"{name}_{ending}.json"
    output.write_text(f"[\n{lines}\n]\n", encoding="ascii")
    print(f"{len(goldens)} {kind}: {output}")


if __name__ == "__main__":
    main()
