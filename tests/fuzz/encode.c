/* SPDX-License-Identifier: MIT
 * Any bytes as a text, encoded with sound vocabularies of each kind: the ids are those of the
 * definition, and decoding them gives the text back.
 *
 * An input is a byte that chooses the vocabulary, one of flags, one that says how far apart breaks
 * are, and the text.
 */
#include "../engine/checks.h"
#include "maker.h"
#include "nyb_pretokenize.h"
#include "nyb_vocab_tables.h"
#include "oracle.h"

enum { CHOICE, FLAGS, APART, HEAD };
enum { SPECIAL = 1 };
enum { MOST_BY_ORACLE = 600 }; /* bytes: it takes n^2 steps */

static const char *const SPECIALS[] = {"<|end|>",  "<|x|>", "<|",           "<|e",
                                       "|>",       "th",    "the",          "aaa",
                                       "aaaaaaaa", "    ",  "<|im_start|>", "<|im_end|>"};

/* In the order of their ranks. */
static const char *const MERGES[] = {
    "t h",    "th e", "a a",  "aa aa",        "aaaa aaaa",  "e r", "l o",  "lo w",
    "low er", "i n",  "in g", "\xC4\xA0 the", "\xC4\xA0 t", "0 0", "00 0", "\xC3\xA6 \xC2\xBC",
};
/* The merges of a vocabulary that uses what later ones make. */
static const char *const OUT_OF_ORDER[] = {"th e", "aa aa", "t h", "low er", "lo w",
                                           "a a",  "e r",   "l o", "a aa"};
static const char *const CHAR_MERGES[] = {
    "t h",
    "th e",
    NYB_SPACE_MARK " the",
    "a a",
    "aa aa",
    "\n \n",
    "> " NYB_SPACE_MARK,
    ">" NYB_SPACE_MARK " a",
    NYB_SPACE_MARK " " NYB_SPACE_MARK,
    "\n\n \n\n",
};
static const struct {
    const char *spelling;
    float score;
} PIECES[] = {
    {NYB_SPACE_MARK, -20},
    {"t", -21},
    {"h", -22},
    {"e", -23},
    {"a", -24},
    {"l", -25},
    {"o", -26},
    {"w", -27},
    {"r", -28},
    {">", -29},
    {"\n", -30},
    {"\xE6\xBC\xA2", -31},
    {"th", -2},
    {NYB_SPACE_MARK "t", -3.5f},
    {"the", -3},
    {NYB_SPACE_MARK "the", -4},
    {"er", -5},
    {"lo", -6},
    {"low", -7},
    {"lower", -8},
    {"aa", -9},
    {"aaaa", -9},
    {">" NYB_SPACE_MARK "a", -9.5f},
    {">" NYB_SPACE_MARK, -9.5f},
    {NYB_SPACE_MARK NYB_SPACE_MARK, -10},
    {"\n\n", -9},
    {NYB_SPACE_MARK NYB_SPACE_MARK NYB_SPACE_MARK NYB_SPACE_MARK, -8},
    {"oa", -9},
    {"ao", -9},
};

enum {
    N_BYTES = 2 * NYB_PRE_COUNT, /* each pre-tokenizer, with merges in order and out of order */
    N_CHARS = 1,
    N_PIECES = 3, /* with a space in front, without, and lacking most bytes */
    N_VOCABULARIES = N_BYTES + N_CHARS + N_PIECES
};
static made vocabularies[N_VOCABULARIES];
static int lacks_bytes[N_VOCABULARIES];

/* What a merge makes. */
static void add_product(maker *m, const char *line) {
    char product[64];
    size_t n = 0;
    for (const char *c = line; *c; c++) {
        if (*c != ' ') {
            product[n++] = *c;
        }
    }
    const uint64_t before = m->file.n_tokens;
    for (uint64_t i = 0; i < before; i++) { /* one that is there already */
        const uint8_t *at = m->tokens + maker_string_at(m->tokens, m->file.tokens_bytes, i);
        if (nyb_vocab_number(at, 8) == n && memcmp(at + 8, product, n) == 0) {
            return;
        }
    }
    maker_token(m, product, n, NYB_TOKEN_NORMAL, 0);
}

static void add_merges(maker *m, const char *const *lines, size_t n) {
    for (size_t i = 0; i < n; i++) {
        add_product(m, lines[i]);
        maker_merge(m, lines[i], strlen(lines[i]));
    }
}
#define ADD_MERGES(m, lines) add_merges(m, lines, sizeof(lines) / sizeof(lines)[0])

/* Half of them control tokens. A spelling that is there already is left out. */
static void add_specials(maker *m) {
    for (size_t i = 0; i < sizeof SPECIALS / sizeof SPECIALS[0]; i++) {
        const size_t n = strlen(SPECIALS[i]);
        int is_there = 0;
        for (uint64_t id = 0; id < m->file.n_tokens; id++) {
            const uint8_t *at = m->tokens + maker_string_at(m->tokens, m->file.tokens_bytes, id);
            is_there |= nyb_vocab_number(at, 8) == n && memcmp(at + 8, SPECIALS[i], n) == 0;
        }
        if (!is_there) {
            maker_token(m, SPECIALS[i], n, i % 2 ? NYB_TOKEN_USER_DEFINED : NYB_TOKEN_CONTROL, 0);
        }
    }
}

static void finish(maker *m, int number) {
    nyb_error error = {0};
    add_specials(m);
    if (made_load(&vocabularies[number], &m->file, &error)) {
        fprintf(stderr, "vocabulary %d: %s\n", number, error.what);
        abort();
    }
}

static void make_bytes(maker *m, int number) {
    maker_start(m, NYB_VOCAB_BYTES);
    m->file.pre = (uint32_t)number / 2;
    m->file.whole_words = number % 4 == 1;
    maker_byte_tokens(m, 256);
    if (number % 2) {
        ADD_MERGES(m, OUT_OF_ORDER);
    } else {
        ADD_MERGES(m, MERGES);
    }
    finish(m, number);
    must(vocabularies[number].vocab.tables->in_order == !(number % 2), "an order that is not seen");
}

static void make_chars(maker *m, int number) {
    static const char *const single[] = {NYB_SPACE_MARK, "a", "e",           "h", "t", ">",
                                         "\n",           "o", "\xE6\xBC\xA2"};
    maker_start(m, NYB_VOCAB_CHARS);
    maker_byte_tokens(m, 256);
    for (size_t i = 0; i < sizeof single / sizeof single[0]; i++) {
        maker_token(m, single[i], strlen(single[i]), NYB_TOKEN_NORMAL, 0);
    }
    ADD_MERGES(m, CHAR_MERGES);
    maker_token(m, "\n\n\n", 3, NYB_TOKEN_NORMAL, 0);
    finish(m, number);
}

static void make_pieces(maker *m, int number, int space_prefix, int has_bytes) {
    maker_start(m, NYB_VOCAB_PIECES);
    m->file.space_prefix = (uint8_t)space_prefix;
    m->file.unknown = 0;
    maker_token(m, "<unk>", 5, NYB_TOKEN_UNKNOWN, 0);
    if (has_bytes) {
        maker_byte_tokens(m, 256);
    }
    for (size_t i = 0; i < sizeof PIECES / sizeof PIECES[0]; i++) {
        maker_token(m, PIECES[i].spelling, strlen(PIECES[i].spelling), NYB_TOKEN_NORMAL,
                    PIECES[i].score);
    }
    lacks_bytes[number] = !has_bytes;
    finish(m, number);
}

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    static maker m;
    int number = 0;
    (void)argc, (void)argv;
    while (number < N_BYTES) {
        make_bytes(&m, number++);
    }
    make_chars(&m, number++);
    make_pieces(&m, number++, 1, 1);
    make_pieces(&m, number++, 0, 1);
    make_pieces(&m, number, 1, 0);
    return 0;
}

static int is_special(const nyb_vocab *vocab, uint32_t id) {
    const unsigned type = nyb_vocab_type(vocab, id);
    return type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_UNKNOWN || type == NYB_TOKEN_USER_DEFINED;
}

/* Writes U+2581 as the space that it stands for; returns the length. */
static size_t with_spaces(uint8_t *text, size_t n) {
    size_t to = 0;
    for (size_t at = 0; at < n;) {
        const int is_space = nyb_is_space_mark(text, at, n);
        text[to++] = is_space ? ' ' : text[at];
        at += is_space ? NYB_SPACE_MARK_BYTES : 1;
    }
    return to;
}

/* The bytes of ids as `nybble.tokenizer.TextStream` joins them: a space that was put in front is
 * taken away again. */
static size_t decode(const nyb_vocab *vocab, const uint32_t *ids, size_t n_ids, uint8_t *out) {
    size_t n = 0;
    int is_start = 1;
    for (size_t i = 0; i < n_ids; i++) {
        const size_t length = nyb_vocab_bytes(vocab, ids[i], out + n);
        const int special = is_special(vocab, ids[i]);
        if (!special && is_start && vocab->tables->space_prefix && length > 0 && out[n] == ' ') {
            memmove(out + n, out + n + 1, length - 1);
            n--;
        }
        n += length;
        is_start = special;
    }
    return n;
}

static void check_round_trip(const nyb_vocab *vocab, const uint8_t *text, size_t n,
                             const uint32_t *ids, size_t n_ids) {
    uint8_t *decoded = allocate(NYB_SPACE_MARK_BYTES * (2 * n + 1) + vocab->tables->longest);
    uint8_t *expected = copy_of(text, n);
    size_t n_decoded = decode(vocab, ids, n_ids, decoded);
    if (vocab->tables->kind != NYB_VOCAB_BYTES) { /* these do not tell U+2581 from a space */
        n = with_spaces(expected, n);
        n_decoded = with_spaces(decoded, n_decoded);
    }
    must(n_decoded == n && (n == 0 || memcmp(decoded, expected, n) == 0),
         "a text that does not come back");
    free(expected);
    free(decoded);
}

/* Without `special` no control token comes out: no merge of these vocabularies makes one. */
static void check_types(const nyb_vocab *vocab, const uint32_t *ids, size_t n_ids) {
    for (size_t i = 0; i < n_ids; i++) {
        must(nyb_vocab_type(vocab, ids[i]) != NYB_TOKEN_CONTROL, "a control token out of a text");
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < HEAD) {
        return 0;
    }
    const int number = data[CHOICE] % N_VOCABULARIES;
    const nyb_vocab *vocab = &vocabularies[number].vocab;
    const int special = data[FLAGS] & SPECIAL;
    const size_t n = size - HEAD, n_breaks = data[APART] ? n / data[APART] : 0;
    uint8_t *text = copy_of(data + HEAD, n);
    uint32_t *breaks = allocate(n_breaks * sizeof *breaks);
    size_t n_ids;
    for (size_t i = 0; i < n_breaks; i++) {
        breaks[i] = (uint32_t)(i + 1) * data[APART];
    }
    uint32_t *ids =
        encode_checked(vocab, text, n, special, breaks, n_breaks, n <= MOST_BY_ORACLE, &n_ids);
    if (!special) {
        check_types(vocab, ids, n_ids);
    }
    if (!lacks_bytes[number]) {
        check_round_trip(vocab, text, n, ids, n_ids);
    }
    free(ids);
    free(breaks);
    free(text);
    return 0;
}
