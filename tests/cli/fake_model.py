"""A model that answers with what it was asked, for tests of the command line alone."""

import nybble


class Stats:
    prompt_tokens = 5
    cached_tokens = 0
    tokens = 3
    context = 2048
    dropped_tokens = 0
    dropped_system_tokens = 0
    prefill_tok_s = 50.0
    decode_tok_s = 25.0
    first_token_s = 0.1
    total_s = 0.25
    peak_bytes = 182_000_000
    seed = 0
    stop_reason = "end"

    def asdict(self):
        return {"tokens": self.tokens, "stop_reason": self.stop_reason}


class Reply:
    def __init__(self, pieces):
        self.pieces = pieces
        self.stats = Stats()

    def parts(self):
        for piece in self.pieces:
            if isinstance(piece, BaseException):
                raise piece
            yield piece if isinstance(piece, tuple) else ("text", piece)

    def close(self):
        calls.append(("close",))


class Chat:
    def __init__(self, system):
        self.messages = [] if system is None else [{"role": "system", "content": system}]

    def ask(self, text, **options):
        calls.append(("chat.ask", text, options))
        self.messages.append({"role": "user", "content": text})
        return Reply([*speak(text), f" in message {len(self.messages)}"])


class Model:
    has_template = True
    notice = ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        calls.append(("exit",))

    def ask(self, messages, **options):
        calls.append(("ask", messages, options))
        return Reply(speak(messages if isinstance(messages, str) else messages[-1]["content"]))

    def complete(self, text, **options):
        calls.append(("complete", text, options))
        return Reply(speak(text))

    def chat(self, system=None):
        calls.append(("chat", system))
        return Chat(system)


calls = []  # what the command line asked of the model, in order


def speak(text):
    """The pieces of the answer, or pairs of ("thinking", piece); a test replaces this to let the
    model say something else."""
    return ["You said ", f"<{text}>"]


def load(name, on_progress, **options):
    on_progress(1, 1)
    calls.append(("load", name, options))
    return Model()


def install():
    """Put the fake in the place of `nybble.load`, for a child process."""
    nybble.load = load
