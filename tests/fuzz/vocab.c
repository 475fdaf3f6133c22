/* SPDX-License-Identifier: MIT
 * Any metadata as a vocabulary: refused, or loaded so that it encodes as its definition says and
 * every token can be decoded.
 *
 * An input is five bytes, `enum head`, and fields with 0xFF between them: tokens, merges, texts and
 * patches, by their first byte. From these the arrays of a GGUF file are made, and one of them
 * damaged. The tables of what loads are then opened again, as those of a packed file are, with the
 * patches if there are any: what opens then is safe to use, though it may be nonsense.
 */
#include <math.h>

#include "../engine/checks.h"
#include "maker.h"
#include "oracle.h"

enum head { KIND, PRE, UNKNOWN, DAMAGE, AMOUNT, HEAD };
enum flags {                /* of KIND, beside the kind itself */
             HAS_BYTES = 4, /* tokens for ASCII come first */
             WHOLE_WORDS = 8,
             SPACE_PREFIX = 16,
             NO_TYPES = 32,
};
enum { PATCHES = 0x80 }; /* among first bytes of texts */
enum { FIELD_END = 0xFF, MOST_TEXT = 200, MOST_BREAKS = 16, MOST_PATCHES = 16 };

static const float SCORES[8] = {0, -1, -2, 1, -0.0f, -1e30f, 1e30f, -1.5f};

typedef struct text {
    uint8_t bytes[MOST_TEXT];
    size_t n;
    uint32_t breaks[MOST_BREAKS]; /* where its fields end */
    size_t n_breaks;
} text;

/* A 32-bit number that is put in the place of another in the tables. */
typedef struct patch {
    uint32_t at; /* counted in numbers, modulo how many there are */
    uint32_t value;
    int adds; /* to what was there */
} patch;

typedef struct patches {
    patch of[MOST_PATCHES];
    size_t n;
} patches;

static void add_patch(patches *p, const uint8_t *bytes, size_t n) {
    static const uint32_t VALUES[4] = {0, UINT32_MAX, 1, 1u << 31};
    if (n < 4 || p->n == MOST_PATCHES) {
        return;
    }
    const unsigned how = bytes[3];
    const uint32_t value = how % 2 ? VALUES[how / 2 % 4] : how / 2;
    p->of[p->n++] =
        (patch){(uint32_t)(bytes[0] | bytes[1] << 8 | bytes[2] << 16), value, how >= 0x80};
}

static void add_text(text *t, const uint8_t *bytes, size_t n) {
    n = n < MOST_TEXT - t->n ? n : MOST_TEXT - t->n;
    memcpy(t->bytes + t->n, bytes, n);
    t->n += n;
    if (t->n_breaks < MOST_BREAKS) {
        t->breaks[t->n_breaks++] = (uint32_t)t->n;
    }
}

static void add_field(maker *m, text *t, patches *p, const uint8_t *field, size_t n) {
    const unsigned what = field[0];
    switch (what % 4) {
    case 0:
    case 1:
        maker_token(m, field + 1, n - 1, what / 4 % 8, what >= 0xFC ? NAN : SCORES[what / 32]);
        break;
    case 2:
        maker_merge(m, field + 1, n - 1);
        break;
    default:
        if (what >= PATCHES) {
            add_patch(p, field + 1, n - 1);
        } else {
            add_text(t, field + 1, n - 1);
        }
    }
}

static void read_fields(maker *m, text *t, patches *p, const uint8_t *data, size_t size) {
    for (size_t at = 0, end; at < size; at = end + 1) {
        for (end = at; end < size && data[end] != FIELD_END; end++) {
        }
        if (end > at) {
            add_field(m, t, p, data + at, end - at);
        }
    }
}

/* Breaks one thing about the arrays; most numbers break nothing. */
static void damage(maker *m, unsigned how, uint8_t amount) {
    nyb_vocab_file *f = &m->file;
    const uint64_t less = amount;
    uint64_t at;
    switch (how) {
    case 1:
        f->tokens_bytes -= less < f->tokens_bytes ? less : f->tokens_bytes;
        break;
    case 2:
        f->merges_bytes -= less < f->merges_bytes ? less : f->merges_bytes;
        break;
    case 3:
        f->n_tokens += less - 128;
        break;
    case 4:
        f->n_merges += less - 128;
        break;
    case 5:
        f->n_scores = less;
        break;
    case 6:
        f->n_types = less;
        break;
    case 7: /* a length with high bits */
        at = maker_string_at(m->tokens, f->tokens_bytes, amount % 16);
        m->tokens[at + 7 - amount / 32] ^= 0x80;
        break;
    case 8:
        at = maker_string_at(m->merges, f->merges_bytes, amount % 16);
        m->merges[at + 7 - amount / 32] ^= 0x80;
        break;
    default:
        break;
    }
}

static void check_tokens(const nyb_vocab *vocab, int is_sound) {
    for (uint32_t id = 0; id < vocab->tables->n_tokens; id++) {
        const uint8_t *spelling;
        const size_t n = nyb_vocab_spelling(vocab, id, &spelling);
        uint8_t *bytes = allocate(n);
        must(nyb_vocab_type(vocab, id) <= NYB_TOKEN_BYTE, "a token of a type that is none");
        must(nyb_vocab_bytes(vocab, id, bytes) <= n, "more bytes than a token's spelling has");
        const uint32_t found = nyb_vocab_find(vocab, spelling, n);
        const int is_end = nyb_vocab_is_end(vocab, id);
        if (is_sound) {
            must(n == 0 || found == id, "a token that is not found");
            must(!is_end || nyb_vocab_type(vocab, id) == NYB_TOKEN_CONTROL,
                 "an end that is ordinary text");
        }
        free(bytes);
    }
}

static void use(const nyb_vocab *vocab, const text *t, int is_sound) {
    check_tokens(vocab, is_sound);
    uint8_t *bytes = copy_of(t->bytes, t->n);
    for (int how = 0; how < 3; how++) {
        size_t n_ids;
        const size_t n_breaks = how == 2 ? t->n_breaks : 0;
        uint32_t *breaks = copy_of(t->breaks, n_breaks * sizeof *breaks);
        free(encode_checked(vocab, bytes, t->n, how > 0, breaks, n_breaks, is_sound, &n_ids));
        free(breaks);
    }
    free(bytes);
}

/* Opens the tables of `v` again, with the patches; whether they were taken. */
static int open_again(const made *v, const text *t, const patches *p) {
    const uint64_t nbytes = v->vocab.tables->bytes;
    uint8_t *memory = copy_of(v->vocab.tables, nbytes);
    nyb_error error = {0};
    nyb_vocab vocab;
    for (size_t i = 0; i < p->n; i++) {
        uint8_t *at = memory + p->of[i].at % (nbytes / 4) * 4;
        uint32_t number;
        memcpy(&number, at, sizeof number);
        number = p->of[i].value + (p->of[i].adds ? number : 0);
        memcpy(at, &number, sizeof number);
    }
    const int taken = nyb_vocab_open(&v->file, memory, nbytes, &vocab, &error) == 0;
    if (taken) {
        use(&vocab, t, 0);
    } else {
        must(error.what != NULL, "tables refused without a word");
    }
    free(memory);
    return taken;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static maker m;
    text t = {.n = 0};
    patches p = {.n = 0};
    nyb_error error = {0};
    made v;
    if (size < HEAD) {
        return 0;
    }
    maker_start(&m, data[KIND] % 4);
    if (data[KIND] & HAS_BYTES) {
        maker_byte_tokens(&m, 128);
    }
    read_fields(&m, &t, &p, data + HEAD, size - HEAD);
    m.file.pre = data[PRE];
    m.file.unknown = data[UNKNOWN] == 0xFF ? NYB_VOCAB_NONE : data[UNKNOWN];
    m.file.whole_words = (data[KIND] & WHOLE_WORDS) != 0;
    m.file.space_prefix = (data[KIND] & SPACE_PREFIX) != 0;
    if (data[KIND] & NO_TYPES) {
        m.file.n_types = 0;
    }
    damage(&m, data[DAMAGE], data[AMOUNT]);
    if (made_load(&v, &m.file, &error) == 0) {
        use(&v.vocab, &t, 1);
        must(open_again(&v, &t, &p) || p.n > 0, "tables that do not open again");
    } else {
        must(error.what != NULL, "a vocabulary refused without a word");
    }
    made_free(&v);
    return 0;
}
