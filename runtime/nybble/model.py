"""A model that has been loaded: what a user holds."""

from __future__ import annotations

import os
from _operator import index
from collections.abc import Callable, Iterable
from math import sqrt

from nybble import hub, machine
from nybble._core.sequence import Engine, Sequence
from nybble.chat import Chat
from nybble.errors import BudgetError, ContextError, TemplateError, UsageError
from nybble.hub.known import DEFAULT
from nybble.options import (
    NO_NUMBER,
    ON_EXCEED,
    OVERFLOW,
    Options,
    checked,
    flag,
    recommended,
    shown,
    whole,
)
from nybble.reply import Reply
from nybble.sequences import Sequences
from nybble.shift import Shift, prefix_of
from nybble.thinking import Splitter, Switch, is_open
from nybble.tokenizer import lone_surrogate

TYPE_CHECKING = False  # typing's own costs its import
if TYPE_CHECKING:
    from typing import NoReturn, Unpack

    from nybble.chat import Message
    from nybble.options import AskOptions
    from nybble.tokenizer.template import ChatTemplate

DEFAULT_CONTEXT = 2048
MAX_SEQUENCES = 1024
MAX_IDS = 1 << 22  # in one call: what never ends would take all memory


def load(
    name_or_path: str | os.PathLike[str],
    *,
    threads: int | None = None,
    context: int | None = None,
    overflow: str = "error",
    kv: str | None = None,
    sequences: int = 1,
    memory: int | str | None = None,
    on_exceed: str = "refuse",
    on_progress: Callable[[int, int], None] | None = None,
) -> Model:
    """Loads a model: a known name that has been pulled, or the path of a .gguf or .nyb file.

    The first load of a GGUF file packs it into the cache (`nybble pack` says more); from then on
    its weights are mapped.

    threads     : threads of the engine; by default the CPUs of the strongest cluster, within the
                  process's affinity and quota. The tokens do not depend on it
    context     : positions in a sequence, prompt and reply together; the lesser of the model's and
                  2,048 by default
    overflow    : what is done when the context is full. "error": a prompt that does not fit is a
                  ContextError, and a reply that has filled it ends. "shift": the oldest half of
                  what comes behind the system message (of a text: behind BOS) is let go of, what is
                  kept is run again, and the reply goes on; so nothing but the model's own end,
                  `max_tokens`, `stop` or `timeout_s` ends it. `Reply.stats` counts what was dropped
    kv          : how keys and values are stored. "f16": in 16 bits. "v8": values in 8, a quarter
                  less memory for a KL divergence that cannot be told from none. "int8": both in 8,
                  half the memory, which costs some models little and ruins others
                  (docs/fidelity.md). "auto": f16 if it fits, else v8. By default f16, unless
                  `on_exceed` makes it v8
    sequences   : how many replies may be under way at once, each with memory for a context of its
                  own. With all taken, another thread or asyncio task waits for one, and the one
                  that has it gets BusyError
    memory      : the most that the process may hold, pages of files included: bytes, or "300MiB".
                  By default $NYBBLE_MEMORY, else what the machine can give (what is available, less
                  64 MiB; its control group's limit; ulimit -v). `nybble plan` shows what is needed
    on_exceed   : what is done if that is too little: "refuse", or "adapt", which takes v8, unless
                  `kv` is given, and, where that is not enough, a smaller context, and says so in
                  `Model.plan` and `Reply.stats`. Nothing else changes tokens
    on_progress : called with (bytes of weights packed, bytes in all)

    ModelNotFoundError says how to get the model, FormatError what is wrong with its file,
    BudgetError how much memory there is not.

        >>> model = nybble.load("smollm2-135m")
        >>> for text in model.ask("Why do geese fly in a V?", max_tokens=200):
        ...     print(text, end="", flush=True)
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise UsageError(f"load() takes a name or a path, not {type(name_or_path).__name__}")
    name = os.fspath(name_or_path)
    if not isinstance(name, str):  # of bytes
        raise UsageError(f"load() takes a name or a path, not one of {type(name).__name__}")
    return Model(
        hub.resolve(name),
        threads=threads,
        context=context,
        overflow=overflow,
        kv=kv,
        sequences=sequences,
        memory=memory,
        on_exceed=on_exceed,
        on_progress=on_progress,
        name=name,
    )


class Model:
    """A loaded model; made by `nybble.load`.

    context      : positions in a sequence, prompt and reply together
    overflow     : what is done when that is full: "error" or "shift"
    threads      : threads of the engine
    vocab, dim   : number of logits of a token, and of elements of a hidden state
    plan         : what it takes in memory, nybble.planning.Plan
    tune         : what was found to be quick on this machine, nybble.tuning.Tune; None if nothing
                   was, and all threads are used
    notice       : what a user should know of how the model was loaded; "" for nothing
    weights      : the packed weights and their program, for tools
    engine       : the program bound to this machine, for tools
    """

    def __init__(
        self,
        path: str,
        *,
        threads: int | None = None,
        context: int | None = None,
        overflow: str = "error",
        kv: str | None = None,
        sequences: int = 1,
        memory: int | str | None = None,
        on_exceed: str = "refuse",
        on_progress: Callable[[int, int], None] | None = None,
        name: str = "",
    ) -> None:
        from nybble import packing, planning

        self.path = path
        self.threads = threads_of(threads)
        n_sequences = whole("sequences", sequences, 1, MAX_SEQUENCES)
        if not isinstance(overflow, str) or overflow not in OVERFLOW:
            raise UsageError(f"overflow must be 'error' or 'shift', not {shown(overflow)}")
        self.overflow = overflow
        if not isinstance(on_exceed, str) or on_exceed not in ON_EXCEED:
            raise UsageError(f"on_exceed must be 'refuse' or 'adapt', not {shown(on_exceed)}")
        if on_progress is not None and not callable(on_progress):
            raise UsageError(f"on_progress must be a function, not {shown(on_progress)}")

        def planned(reading: packing.Reading, held: int) -> tuple[planning.Plan, planning.Promise]:
            plan = planning.plan(
                reading,
                context=context_of(context, reading.tree.context),
                sequences=n_sequences,
                threads=self.threads,
                budget=planning.budget_of(memory, held),
                held=held,
                on_exceed=on_exceed,
                kv=kv,
                name=name,
            )
            return plan, planning.Promise(plan, held)

        with planning.lock:
            held = planning.held_bytes()
            reading = packing.read(path)
            plan, promise = planned(reading, held)
        if not reading.take_copy(on_progress):  # the weights take memory, where a file was planned
            with planning.lock:
                del promise
                try:
                    plan, promise = planned(reading, max(held, planning.promised_bytes()))
                except BudgetError as error:
                    raise BudgetError(f"{error}; {reading.notice}") from None
        self.plan, tree = plan, reading.tree
        # not a method: the template is not to keep the model
        self._before_jinja2 = lambda: planning.add_jinja2(plan, promise)
        self.context = self.plan.context
        self.weights = reading.weights(on_progress)
        self.notice = " ".join(filter(None, (self.plan.notice, reading.notice)))
        metadata = reading.file.metadata
        self._tokenizer = reading.tokenizer
        self._compiled: tuple[ChatTemplate, Switch] | None = None
        self._template_source = reading.template
        self._recommended = recommended(metadata)
        reading.close()
        self.engine = Engine(
            self.weights,
            context=self.context,
            threads=self.threads,
            sequences=n_sequences,
            chunk=self.plan.chunk,
            kv=self.plan.kv,
        )
        self.tune = None
        if threads is None and self.weights.is_mapped:
            from nybble import tuning

            self.tune = tuning.tuned(path, self.engine)
        self._sequences = Sequences(
            [Sequence(self.engine, slot) for slot in range(n_sequences)], promise
        )
        self.vocab = tree.vocab
        self.dim = tree.dim

    # -- replies

    @property
    def has_template(self) -> bool:
        """Whether the model can chat (`ask`, `chat`) or only `complete`."""
        return self._template_source is not None

    def ask(self, prompt: str | list[Message], **options: Unpack[AskOptions]) -> Reply:
        """The reply to a question, or to a list of messages {"role": ..., "content": ...},
        through the model's chat template. **Nothing runs until the reply is read.**

        max_tokens     : end after so many tokens; None (the default) is up to the context
        temperature    : 0 (the default) is greedy: always the likeliest token
        top_k          : draw from the k likeliest tokens; 0 (the default) from all
        top_p          : draw from the fewest tokens whose probabilities reach this; 1 from all
        min_p          : draw from tokens at least this share as likely as the likeliest; 0 from all
        repeat_penalty : divide the logits of the last 64 tokens by this; 1 changes nothing
        seed           : of the random numbers, 0 unless given: the same question has the same
                         answer, at a temperature too; the same seed draws the same everywhere
        stop           : a string or strings that end the reply's text and are not part of it
        timeout_s      : end at the next token, or chunk of the prompt, after so many seconds
        ignore_eos     : go on when the model would end
        think          : of models that reason before they answer: True or False turns it on or
                         off, None is as their template has it; what they think is no part of the
                         text (`Reply.thinking`, `Reply.parts`), and stop strings do not end it

        What is not given is as the model's file recommends (general.sampling.*).

        ContextError if the prompt does not fit, TemplateError if the model has no template,
        UsageError for options that make no sense, or if the model cannot do as `think` says.
        """
        if isinstance(prompt, str):
            prompt = [{"role": "user", "content": prompt}]
        return self._ask(prompt, None, options)

    def chat(self, system: str | None = None) -> Chat:
        """A conversation, with `system` as its first message if given."""
        if not self.has_template:
            raise self._no_template()
        return Chat(self._ask, None if system is None else _text("chat", system))

    def complete(self, text: str, **options: Unpack[AskOptions]) -> Reply:
        """The reply that continues raw text; no template. Options as for `ask`, but for `think`,
        which is the template's. BOS comes first if the file says so. **Nothing runs until the reply
        is read.**"""
        ids = self._tokenizer.encode(_text("complete", text), add_bos=self._tokenizer.add_bos)
        if not ids and self._tokenizer.bos is not None:
            ids = [self._tokenizer.bos]  # something must come before the first token
        how = checked(self._recommended, options)
        if how.think is not None:
            raise UsageError("complete() uses no template, so think means nothing to it; use ask()")
        return self._reply(ids, how)

    # -- tokens

    def tokenize(
        self, text: str | bytes, *, special: bool = False, add_bos: bool = False
    ) -> list[int]:
        """Ids of a text; of bytes too, which need not be UTF-8: `detokenize_bytes` gives them back.
        special: spellings of control tokens become those tokens."""
        if not isinstance(text, bytes):
            text = _text("tokenize", text)
        return self._tokenizer.encode(
            text, special=flag("special", special), add_bos=flag("add_bos", add_bos)
        )

    def detokenize(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens spelled out; bytes that are not UTF-8 become U+FFFD."""
        return self.detokenize_bytes(ids).decode("utf-8", "replace")

    def detokenize_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of the text of ids, control tokens spelled out."""
        return self._tokenizer.decode(_ids(ids, self.vocab), special=True)

    # -- numbers

    def logits(self, ids: Iterable[int], *, all: bool = False) -> memoryview[float]:
        """Logits after these ids: a memoryview of float32, shape (vocab,); with all=True one row
        for each id, shape (len(ids), vocab), which is 4 * vocab bytes a token (200 KB for
        SmolLM2, 1 MB for Gemma). NumPy views it without a copy: `numpy.asarray(model.logits(ids))`.
        NumericError if one is NaN."""
        ids = _ids(ids, self.vocab)
        self._check_prompt(ids)
        out = _floats((len(ids), self.vocab) if flag("all", all) else (self.vocab,))
        loan = self._sequences.wait(ids)
        try:
            sequence = loan.sequence
            if all:
                sequence.rewind(0)
                sequence.logits_of(ids, out)
                return out
            done = sequence.reuse(ids)
            while done < len(ids):
                end = done + sequence.next_chunk(len(ids) - done)
                sequence.feed(ids[done:end], out if end == len(ids) else None)
                done = end
        finally:
            loan.end()
        return out

    def embed(self, text: str) -> memoryview[float]:
        """A vector for a text, by which texts are compared: a memoryview of float32, shape (dim,),
        which NumPy views without a copy.

        It is the mean over the text's tokens of the last hidden state (after the final norm: what
        the head is given), L2-normalised: its length is 1, so the dot product of two is the cosine
        of their angle. BOS and EOS are among the tokens if the file says so. A model that was not
        trained to embed is a weak judge of what texts have in common.

        ContextError if the text does not fit, NumericError if an element is NaN.
        """
        tokenizer = self._tokenizer
        ids = tokenizer.encode(
            _text("embed", text), add_bos=tokenizer.add_bos, add_eos=tokenizer.add_eos
        )
        if not ids:
            raise UsageError("embed() takes a text that is not empty")
        if len(ids) > self.context:
            raise self._too_long("text", len(ids), "")
        sums = memoryview(bytearray(8 * self.dim)).cast("d")
        loan = self._sequences.wait([])
        try:
            loan.sequence.rewind(0)
            loan.sequence.hidden_sums(ids, sums)
        finally:
            loan.end()
        square = 0.0
        for x in sums:  # in this order; sum() has its own, by Python's version
            square += x * x
        length = sqrt(square)
        out = _floats((self.dim,))
        for i, x in enumerate(sums):
            out[i] = x / length if length else 0.0
        return out

    def forget(self) -> None:
        """Empties the cache of what has been read: the next prompt runs whole."""
        self._sequences.clear()

    # -- a model may be used in `with`; it never has to be

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def __repr__(self) -> str:
        n = self.engine.sequences
        times = f", {n} sequences" if n > 1 else ""
        return f"<nybble.Model {self.path!r}, context {self.context:,}{times}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Model cannot be pickled: load it in the process that is to use it")

    # -- within

    def _ask(
        self,
        messages: list[Message],
        on_end: Callable[[str], None] | None,
        options: AskOptions,
    ) -> Reply:
        template, switch = self._template()
        how = checked(self._recommended, options)
        _check_messages(messages)

        def encode(messages: list[Message]) -> list[int]:
            return template.encode(messages, **switch.turned(how.think, messages))

        ids, said = encode(messages), list(messages)
        splitter = None
        if switch.marks:
            splitter = Splitter(is_open=is_open(ids, self._tokenizer))
        return self._reply(ids, how, splitter, on_end, lambda: prefix_of(encode, said, ids))

    def _reply(
        self,
        ids: list[int],
        options: Options,
        splitter: Splitter | None = None,
        on_end: Callable[[str], None] | None = None,
        prefix: Callable[[], int] | None = None,
    ) -> Reply:
        """prefix: how many tokens a shift keeps; without it BOS, if it is there."""
        shift = None
        if self.overflow == "shift" and self.context > 1:
            bos = self._tokenizer.bos
            shift = Shift(self.context, prefix or (lambda: int(ids[0] == bos)))
        self._check_prompt(ids if shift is None else ids[:1])
        reply = Reply(self._sequences, self._tokenizer, ids, options, splitter, on_end, shift)
        reply.stats.context = self.context
        reply.stats.kv = self.plan.kv
        return reply

    def _check_prompt(self, ids: list[int]) -> None:
        if not ids:
            raise UsageError("the prompt is empty: there is nothing to continue")
        if len(ids) >= self.context:
            raise self._too_long("prompt", len(ids), ", reply included")

    def _too_long(self, what: str, n: int, included: str) -> ContextError:
        return ContextError(
            f"the {what} has {n:,} tokens and the context holds {self.context:,}{included}; "
            f"shorten it or ask for a larger context (context=, --context)"
        )

    def _template(self) -> tuple[ChatTemplate, Switch]:
        """The chat template, compiled when it is first used (its engine is slow to import), and
        what it does about thinking."""
        if self._compiled is None:
            from nybble.tokenizer.template import ChatTemplate

            if self._template_source is None:
                raise self._no_template()
            template = ChatTemplate(self._template_source, self._tokenizer, self._before_jinja2)
            self._compiled = template, Switch(template, self._tokenizer)
        return self._compiled

    def _no_template(self) -> TemplateError:
        return TemplateError(
            f"{os.path.basename(self.path)} has no chat template: it continues text and does not "
            f"chat; use complete(), or a model that chats, such as {DEFAULT}"
        )


def _ids(ids: Iterable[int], vocab: int) -> list[int]:
    """Token ids as ints, of whatever type of whole numbers they are."""
    if isinstance(ids, str | bytes | bytearray):
        raise UsageError("this takes token ids; tokenize() makes them from text")
    if not isinstance(ids, Iterable):
        raise UsageError(f"this takes token ids, several of them, not {shown(ids)}")
    checked: list[int] = []
    for id in ids:
        try:
            number = index(id)
        except NO_NUMBER:
            number = -1
        if isinstance(id, bool) or not 0 <= number < vocab:
            raise UsageError(f"{shown(id)} is not a token: ids are 0 to {vocab - 1:,}")
        if len(checked) == MAX_IDS:
            raise UsageError(f"this takes at most {MAX_IDS:,} token ids")
        checked.append(number)
    return checked


def _text(of: str, text: object) -> str:
    """A str that can be encoded as UTF-8; UsageError for anything else."""
    if not isinstance(text, str):
        raise UsageError(f"{of}() takes a str, not {type(text).__name__}")
    _check_characters(of, text)
    return text


def _check_characters(of: str, text: str) -> None:
    if (at := lone_surrogate(text)) is not None:
        raise UsageError(
            f"{of}(): character {at} is the lone surrogate U+{ord(text[at]):04X}, which is no text;"
            " decode bytes with errors='replace', or give tokenize() the bytes"
        )


def _check_messages(messages: object) -> None:
    """Refuses what no template can be trusted to: the rest is the template's to check."""
    if not isinstance(messages, list | tuple):
        raise UsageError(f"ask() takes a str or a list of messages, not {type(messages).__name__}")
    if not messages:
        raise UsageError("ask() takes a str or a list of messages, and this list is empty")


def _floats(shape: tuple[int, ...]) -> memoryview[float]:
    n = 4
    for dim in shape:
        n *= dim
    return memoryview(bytearray(n)).cast("f", shape)


def threads_of(threads: int | None) -> int:
    if threads is None:
        return machine.default_threads()
    return whole("threads", threads, 1, machine.MAX_THREADS)


def context_of(context: int | None, trained: int) -> int:
    if context is None:
        return min(trained, DEFAULT_CONTEXT)
    context = whole("context", context, 1, 2**31)
    if context > trained:
        raise ContextError(f"context {context:,} is beyond the model's {trained:,}")
    return context
