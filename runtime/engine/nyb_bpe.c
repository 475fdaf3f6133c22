/* SPDX-License-Identifier: MIT
 * The vocabulary's tables: checking, building, looking up. Encoding is in nyb_bpe_encode.c.
 */
#include "nyb_bpe.h"

#include <string.h>

#include "nyb_bpe_tables.h"
#include "nyb_pretokenize.h"
#include "nyb_unicode.h"

/* GPT-2's byte alphabet: printable bytes of Latin-1 stand for themselves, the others for U+0100
 * and on, in order. */
static uint32_t char_of_byte(uint8_t byte) {
    if (byte <= 0x20) {
        return 0x100u + byte;
    }
    if (byte >= 0x7F && byte <= 0xA0) {
        return 0x121u + (byte - 0x7Fu);
    }
    return byte == 0xAD ? 0x143u : byte;
}

/* The byte that a character of the alphabet stands for, or -1. */
static int byte_of_char(uint32_t c) {
    if (c >= 0x100 && c <= 0x120) {
        return (int)(c - 0x100);
    }
    if (c >= 0x121 && c <= 0x142) {
        return (int)(c - 0x121 + 0x7F);
    }
    if (c == 0x143) {
        return 0xAD;
    }
    return c < 0x100 && char_of_byte((uint8_t)c) == c ? (int)c : -1;
}

size_t nyb_bpe_alphabet(uint8_t byte, uint8_t out[4]) {
    return nyb_utf8_encode(char_of_byte(byte), out);
}

/* Spellings that mean something whatever type the file gives them; llama.cpp's lists. */
enum { ROLE_NONE, ROLE_END, ROLE_FILL };
static const struct {
    const char *spelling;
    int role;
} ROLES[] = {
    {"<|eot_id|>", ROLE_END},
    {"<|im_end|>", ROLE_END},
    {"<|end|>", ROLE_END},
    {"<|return|>", ROLE_END},
    {"<|call|>", ROLE_END},
    {"<|flush|>", ROLE_END},
    {"<|calls|>", ROLE_END},
    {"<end_of_turn>", ROLE_END},
    {"<|endoftext|>", ROLE_END},
    {"</s>", ROLE_END},
    {"<|eom_id|>", ROLE_END},
    {"<EOT>", ROLE_END},
    {"_<EOT>", ROLE_END},
    {"[EOT]", ROLE_END},
    {"[EOS]", ROLE_END},
    {"<|end_of_text|>", ROLE_END},
    {"<end_of_utterance>", ROLE_END},
    {"<eos>", ROLE_END},
    {"<turn|>", ROLE_END},
    {"<|tool_response>", ROLE_END},
    {"<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     ROLE_END},
    {"[e~[", ROLE_END},
    /* Padding and separators of fill-in-the-middle: a reply that runs into one is over. */
    {"<|fim_pad|>", ROLE_END},
    {"<fim-pad>", ROLE_END},
    {"<fim_pad>", ROLE_END},
    {"<PAD>", ROLE_END},
    {"[PAD]", ROLE_END},
    {"<|fim_repo|>", ROLE_END},
    {"<|repo_name|>", ROLE_END},
    {"<fim-repo>", ROLE_END},
    {"<REPO>", ROLE_END},
    {"<reponame>", ROLE_END},
    {"<|file_sep|>", ROLE_END},
    {"<|fim_prefix|>", ROLE_FILL},
    {"<fim-prefix>", ROLE_FILL},
    {"<fim_prefix>", ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81"
     "begin\xEF\xBD\x9C>",
     ROLE_FILL},
    {"<PRE>", ROLE_FILL},
    {"<|code_prefix|>", ROLE_FILL},
    {"<|prefix|>", ROLE_FILL},
    {"<|fim_suffix|>", ROLE_FILL},
    {"<fim-suffix>", ROLE_FILL},
    {"<fim_suffix>", ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
     ROLE_FILL},
    {"<SUF>", ROLE_FILL},
    {"<|code_suffix|>", ROLE_FILL},
    {"<|suffix|>", ROLE_FILL},
    {"<|fim_middle|>", ROLE_FILL},
    {"<fim-middle>", ROLE_FILL},
    {"<fim_middle>", ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81"
     "end\xEF\xBD\x9C>",
     ROLE_FILL},
    {"<MID>", ROLE_FILL},
    {"<|code_middle|>", ROLE_FILL},
    {"<|middle|>", ROLE_FILL},
};

typedef struct {
    const uint8_t *at;
    size_t n;
} string;

static int role_of(string s) {
    if (s.n < 4 || s.n > 32 || (s.at[0] != '<' && s.at[0] != '[' && s.at[0] != '_')) {
        return ROLE_NONE;
    }
    for (size_t i = 0; i < sizeof ROLES / sizeof ROLES[0]; i++) {
        if (strlen(ROLES[i].spelling) == s.n && memcmp(ROLES[i].spelling, s.at, s.n) == 0) {
            return ROLES[i].role;
        }
    }
    return ROLE_NONE;
}

static uint64_t read_le(const uint8_t *at, size_t n) {
    uint64_t value = 0;
    for (size_t i = n; i > 0; i--) {
        value = value << 8 | at[i - 1];
    }
    return value;
}

/* Takes the next string of a region, whose reading stands at *at; -1 if it runs past the end. */
static int take_string(const uint8_t *region, uint64_t bytes, uint64_t *at, string *s) {
    if (bytes - *at < 8) {
        return -1;
    }
    const uint64_t n = read_le(region + *at, 8);
    if (n > bytes - *at - 8) {
        return -1;
    }
    s->at = region + *at + 8;
    s->n = (size_t)n;
    *at += 8 + n;
    return 0;
}

/* The type of token `id` in effect, or -1 if the file's is none. */
static int type_in_effect(const nyb_bpe_vocab *vocab, uint64_t id, string spelling) {
    const uint64_t type = vocab->n_types ? read_le(vocab->types + 4 * id, 4) : NYB_TOKEN_NORMAL;
    if (type > NYB_TOKEN_BYTE) {
        return -1;
    }
    return role_of(spelling) != ROLE_NONE ? NYB_TOKEN_CONTROL : (int)type;
}

/* Whether tokens of this type are looked for in text before it is cut into words. */
static int is_special(int type, string spelling) {
    return spelling.n > 0 && (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_USER_DEFINED ||
                              type == NYB_TOKEN_UNKNOWN);
}

/* Lays the sections out for these counts. */
static void lay_out(nyb_bpe_tables *t, uint64_t n_tokens, uint64_t n_merges, uint64_t n_specials) {
    uint64_t at = (sizeof *t + 7) & ~(uint64_t)7;
    t->n_tokens = (uint32_t)n_tokens;
    t->n_merges = (uint32_t)n_merges;
    t->n_specials = (uint32_t)n_specials;
    t->text_at_at = at, at += 4 * n_tokens;
    t->token_slots_at = at, at += 4 * NYB_BPE_SLOTS(n_tokens);
    t->pair_slots_at = at, at += 4 * NYB_BPE_SLOTS(n_merges);
    t->merges_at = at, at += sizeof(nyb_bpe_merge) * n_merges;
    t->specials_at = at, at += 4 * n_specials;
    t->special_order_at = at, at += 4 * n_specials;
    t->types_at = at, at += n_tokens;
    t->bytes = (at + 7) & ~(uint64_t)7;
}

/* Reads every token once: checks it, and counts the special ones. */
static int check_tokens(const nyb_bpe_vocab *vocab, uint64_t *n_specials, nyb_error *error) {
    const uint64_t most = (uint64_t)1 << 31;
    if (vocab->n_tokens == 0 || vocab->n_tokens >= most) {
        return nyb_fail(error, "the vocabulary has no tokens, or 2^31 or more", 0, vocab->n_tokens);
    }
    if (vocab->n_merges >= most) {
        return nyb_fail(error, "the vocabulary has 2^31 merges or more", 0, vocab->n_merges);
    }
    if (vocab->tokens_bytes > UINT32_MAX || vocab->tokens_bytes > SIZE_MAX / 2) {
        return nyb_fail(error, "the vocabulary's tokens take 4 GiB or more", 0,
                        vocab->tokens_bytes);
    }
    if (vocab->merges_bytes > UINT32_MAX || vocab->merges_bytes > SIZE_MAX / 2) {
        return nyb_fail(error, "the vocabulary's merges take 4 GiB or more", 0,
                        vocab->merges_bytes);
    }
    if (vocab->n_tokens > vocab->tokens_bytes / 8) {
        return nyb_fail(error, "more tokens are announced than there are bytes for", 0,
                        vocab->n_tokens);
    }
    if (vocab->n_merges > vocab->merges_bytes / 8) {
        return nyb_fail(error, "more merges are announced than there are bytes for", 0,
                        vocab->n_merges);
    }
    if (vocab->n_types != 0 && vocab->n_types != vocab->n_tokens) {
        return nyb_fail(error, "the vocabulary has another number of types than of tokens", 0,
                        vocab->n_types);
    }
    if (vocab->pre >= NYB_PRE_COUNT) {
        return nyb_fail(error, "there is no pre-tokenizer of this number", 0, vocab->pre);
    }
    uint64_t at = 0;
    *n_specials = 0;
    for (uint64_t id = 0; id < vocab->n_tokens; id++) {
        string s;
        if (take_string(vocab->tokens, vocab->tokens_bytes, &at, &s) != 0) {
            return nyb_fail(error, "a token runs past the end of the vocabulary", id, at);
        }
        const int type = type_in_effect(vocab, id, s);
        if (type < 0) {
            return nyb_fail(error, "a token is of a type that does not exist", id,
                            read_le(vocab->types + 4 * id, 4));
        }
        if (is_special(type, s)) {
            if (s.n > NYB_BPE_SPECIAL_BYTES) {
                return nyb_fail(error, "a special token's spelling is too long", id, s.n);
            }
            ++*n_specials;
        }
    }
    if (at != vocab->tokens_bytes) {
        return nyb_fail(error, "bytes are left over after the last token", vocab->n_tokens,
                        vocab->tokens_bytes - at);
    }
    return 0;
}

int nyb_bpe_measure(const nyb_bpe_vocab *vocab, uint64_t *bytes, nyb_error *error) {
    nyb_bpe_tables t;
    uint64_t n_specials;
    if (check_tokens(vocab, &n_specials, error) != 0) {
        return -1;
    }
    lay_out(&t, vocab->n_tokens, vocab->n_merges, n_specials);
    *bytes = t.bytes;
    return 0;
}

/* FNV-1a, which can go on where it stopped: the hash of A and B written together is that of B
 * started from A's. */
static uint32_t hash_more(uint32_t hash, const uint8_t *bytes, size_t n) {
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ bytes[i]) * 16777619u;
    }
    return hash;
}

#define HASH_START 2166136261u

/* A slot for a hash, evenly over `slots` of them: the low bits of FNV are mixed up first. */
static uint32_t slot_of(uint32_t hash, uint32_t slots) {
    hash = (hash ^ hash >> 15) * 0x2C1B3C6Du;
    hash = hash ^ hash >> 13;
    return (uint32_t)((uint64_t)hash * slots >> 32);
}

static string text_of(const nyb_bpe *bpe, uint32_t id) {
    const uint32_t at = nyb_bpe_section(bpe->tables, text_at_at)[id];
    const string s = {bpe->tokens + at + 8, (size_t)read_le(bpe->tokens + at, 8)};
    return s;
}

/* Looks for the token spelled a then b, hash being theirs. Sets *slot to the free slot where the
 * search ended, if it did without finding (NYB_BPE_NONE after too many probes). */
static uint32_t find_token(const nyb_bpe *bpe, uint32_t hash, string a, string b, uint32_t *slot) {
    const uint32_t *slots = nyb_bpe_section(bpe->tables, token_slots_at);
    const uint32_t n_slots = (uint32_t)NYB_BPE_SLOTS(bpe->tables->n_tokens);
    uint32_t at = slot_of(hash, n_slots);
    for (int probe = 0; probe < NYB_BPE_PROBES; probe++, at = at + 1 == n_slots ? 0 : at + 1) {
        if (slots[at] == 0) {
            *slot = at;
            return NYB_BPE_NONE;
        }
        const string s = text_of(bpe, slots[at] - 1);
        if (s.n == a.n + b.n && memcmp(s.at, a.at, a.n) == 0 &&
            memcmp(s.at + a.n, b.at, b.n) == 0) {
            return slots[at] - 1;
        }
    }
    *slot = NYB_BPE_NONE;
    return NYB_BPE_NONE;
}

uint32_t nyb_bpe_find(const nyb_bpe *bpe, const uint8_t *spelling, size_t n) {
    const string whole = {spelling, n}, nothing = {spelling, 0};
    uint32_t slot;
    return find_token(bpe, hash_more(HASH_START, spelling, n), whole, nothing, &slot);
}

static uint32_t pair_hash(uint32_t left, uint32_t right) {
    return (uint32_t)(((uint64_t)left << 32 | right) * 0x9E3779B97F4A7C15u >> 32);
}

uint32_t nyb_bpe_rank(const nyb_bpe_tables *t, uint32_t left, uint32_t right) {
    const uint32_t *slots = nyb_bpe_section(t, pair_slots_at);
    const nyb_bpe_merge *merges = nyb_bpe_merges(t);
    const uint32_t n_slots = (uint32_t)NYB_BPE_SLOTS(t->n_merges);
    uint32_t at = slot_of(pair_hash(left, right), n_slots);
    for (;; at = at + 1 == n_slots ? 0 : at + 1) { /* half of the slots are free */
        if (slots[at] == 0) {
            return NYB_BPE_NONE;
        }
        const nyb_bpe_merge *m = &merges[slots[at] - 1];
        if (m->left == left && m->right == right) {
            return slots[at] - 1;
        }
    }
}

/* Sorting of special tokens by heap sort: in place, n log n whatever the file says. */
typedef int (*before)(const nyb_bpe *bpe, uint32_t a, uint32_t b);

static int spelled_before(const nyb_bpe *bpe, uint32_t a, uint32_t b) {
    const string s = text_of(bpe, a), t = text_of(bpe, b);
    const int order = memcmp(s.at, t.at, s.n < t.n ? s.n : t.n);
    return order != 0 ? order < 0 : s.n < t.n;
}

/* `a` and `b` number specials in order of spelling; equal lengths go by id. */
static int longer_before(const nyb_bpe *bpe, uint32_t a, uint32_t b) {
    const uint32_t *ids = nyb_bpe_section(bpe->tables, specials_at);
    const size_t n = text_of(bpe, ids[a]).n, m = text_of(bpe, ids[b]).n;
    return n != m ? n > m : ids[a] < ids[b];
}

static void sift(const nyb_bpe *bpe, uint32_t *items, uint32_t root, uint32_t n, before less) {
    const uint32_t item = items[root];
    for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && less(bpe, items[child], items[child + 1])) {
            child++;
        }
        if (!less(bpe, item, items[child])) {
            break;
        }
        items[root] = items[child];
    }
    items[root] = item;
}

static void sort(const nyb_bpe *bpe, uint32_t *items, uint32_t n, before less) {
    for (uint32_t root = n / 2; root > 0; root--) {
        sift(bpe, items, root - 1, n, less);
    }
    for (uint32_t end = n; end > 1; end--) {
        const uint32_t largest = items[0];
        items[0] = items[end - 1];
        items[end - 1] = largest;
        sift(bpe, items, 0, end - 1, less);
    }
}

static int build_tokens(const nyb_bpe_vocab *vocab, nyb_bpe_tables *t, const nyb_bpe *bpe,
                        nyb_error *error) {
    uint32_t *text_at = nyb_bpe_section(t, text_at_at);
    uint32_t *slots = nyb_bpe_section(t, token_slots_at);
    uint32_t *specials = nyb_bpe_section(t, specials_at);
    uint8_t *types = nyb_bpe_types(t);
    uint32_t n_specials = 0;
    uint64_t at = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        string s;
        text_at[id] = (uint32_t)at;
        (void)take_string(vocab->tokens, vocab->tokens_bytes, &at, &s); /* checked before */
        types[id] = (uint8_t)type_in_effect(vocab, id, s);
        if (is_special(types[id], s)) {
            specials[n_specials++] = id;
            t->special_first[s.at[0]] = 1;
        }
        if (s.n == 0) {
            continue; /* some files pad their vocabulary with empty tokens; no text is one */
        }
        const string nothing = {s.at, 0};
        uint32_t slot;
        const uint32_t other = find_token(bpe, hash_more(HASH_START, s.at, s.n), s, nothing, &slot);
        if (other != NYB_BPE_NONE) {
            return nyb_fail(error, "two tokens have the same spelling", id, other);
        }
        if (slot == NYB_BPE_NONE) {
            return nyb_fail(error, "the tokens' spellings were made to collide", id, 0);
        }
        slots[slot] = id + 1;
    }
    uint32_t *order = nyb_bpe_section(t, special_order_at);
    sort(bpe, specials, n_specials, spelled_before);
    for (uint32_t i = 0; i < n_specials; i++) {
        order[i] = i;
    }
    sort(bpe, order, n_specials, longer_before);
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t spelling[4];
        const size_t n = nyb_bpe_alphabet((uint8_t)byte, spelling);
        t->byte_ids[byte] = nyb_bpe_find(bpe, spelling, n);
    }
    return 0;
}

/* Cuts "A B" at its first space that is not the first byte, and names its three tokens. */
static int parse_merge(const nyb_bpe *bpe, string line, uint64_t rank, nyb_bpe_merge *merge,
                       nyb_error *error) {
    const uint8_t *space = line.n > 1 ? memchr(line.at + 1, ' ', line.n - 1) : NULL;
    if (space == NULL) {
        return nyb_fail(error, "a merge has no space between its parts", rank, line.n);
    }
    const string left = {line.at, (size_t)(space - line.at)};
    const string right = {space + 1, line.n - left.n - 1}, nothing = {line.at, 0};
    const uint32_t start = HASH_START;
    const uint32_t hash = hash_more(start, left.at, left.n);
    uint32_t slot;
    merge->left = find_token(bpe, hash, left, nothing, &slot);
    merge->right = find_token(bpe, hash_more(start, right.at, right.n), right, nothing, &slot);
    merge->result = find_token(bpe, hash_more(hash, right.at, right.n), left, right, &slot);
    if (merge->left == NYB_BPE_NONE || merge->right == NYB_BPE_NONE) {
        return nyb_fail(error, "a merge names a part that is no token", rank,
                        merge->left == NYB_BPE_NONE ? 0 : 1);
    }
    if (merge->result == NYB_BPE_NONE) {
        return nyb_fail(error, "a merge makes something that is no token", rank, 0);
    }
    return 0;
}

static int build_merges(const nyb_bpe_vocab *vocab, nyb_bpe_tables *t, const nyb_bpe *bpe,
                        nyb_error *error) {
    enum { USED = 0x80 }; /* in a token's type, while building: some merge has it as a part */
    uint32_t *slots = nyb_bpe_section(t, pair_slots_at);
    const uint32_t n_slots = (uint32_t)NYB_BPE_SLOTS(t->n_merges);
    nyb_bpe_merge *merges = nyb_bpe_merges(t);
    uint8_t *types = nyb_bpe_types(t);
    uint64_t at = 0;
    t->in_order = 1;
    for (uint32_t rank = 0; rank < t->n_merges; rank++) {
        nyb_bpe_merge *m = &merges[rank];
        string line;
        if (take_string(vocab->merges, vocab->merges_bytes, &at, &line) != 0) {
            return nyb_fail(error, "a merge runs past the end of the merges", rank, at);
        }
        if (parse_merge(bpe, line, rank, m, error) != 0) {
            return -1;
        }
        types[m->left] |= USED;
        types[m->right] |= USED;
        if (types[m->result] & USED) {
            t->in_order = 0;
        }
        uint32_t slot = slot_of(pair_hash(m->left, m->right), n_slots);
        int probe = 0;
        while (slots[slot] != 0) {
            const nyb_bpe_merge *other = &merges[slots[slot] - 1];
            if (other->left == m->left && other->right == m->right) {
                break; /* said twice: the better rank counts */
            }
            if (++probe == NYB_BPE_PROBES) {
                return nyb_fail(error, "the merges were made to collide", rank, 0);
            }
            slot = slot + 1 == n_slots ? 0 : slot + 1;
        }
        if (slots[slot] == 0) {
            slots[slot] = rank + 1;
        }
    }
    if (at != vocab->merges_bytes) {
        return nyb_fail(error, "bytes are left over after the last merge", t->n_merges,
                        vocab->merges_bytes - at);
    }
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        types[id] &= (uint8_t)~USED;
    }
    return 0;
}

int nyb_bpe_build(const nyb_bpe_vocab *vocab, void *memory, nyb_bpe *bpe, nyb_error *error) {
    nyb_bpe_tables *t = memory;
    nyb_bpe_tables layout = {0};
    uint64_t n_specials;
    if (check_tokens(vocab, &n_specials, error) != 0) {
        return -1;
    }
    lay_out(&layout, vocab->n_tokens, vocab->n_merges, n_specials);
    memset(memory, 0, (size_t)layout.bytes);
    *t = layout;
    t->pre = vocab->pre;
    t->whole_words = vocab->whole_words != 0;
    bpe->tokens = vocab->tokens;
    bpe->tokens_bytes = vocab->tokens_bytes;
    bpe->tables = t;
    return build_tokens(vocab, t, bpe, error) != 0 || build_merges(vocab, t, bpe, error) != 0 ? -1
                                                                                              : 0;
}

size_t nyb_bpe_spelling(const nyb_bpe *bpe, uint32_t id, const uint8_t **spelling) {
    const string s = text_of(bpe, id);
    *spelling = s.at;
    return s.n;
}

unsigned nyb_bpe_type(const nyb_bpe *bpe, uint32_t id) { return nyb_bpe_types(bpe->tables)[id]; }

int nyb_bpe_is_end(const nyb_bpe *bpe, uint32_t id) {
    return role_of(text_of(bpe, id)) == ROLE_END;
}

size_t nyb_bpe_bytes(const nyb_bpe *bpe, uint32_t id, uint8_t *out) {
    const string s = text_of(bpe, id);
    const unsigned type = nyb_bpe_type(bpe, id);
    if (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_USER_DEFINED || type == NYB_TOKEN_UNKNOWN) {
        memcpy(out, s.at, s.n);
        return s.n;
    }
    size_t n = 0;
    for (size_t at = 0; at < s.n;) {
        uint32_t c;
        const size_t length = nyb_utf8_decode(s.at + at, s.n - at, &c);
        const int byte = byte_of_char(c);
        if (byte >= 0) {
            out[n++] = (uint8_t)byte;
        } else {
            memcpy(out + n, s.at + at, length);
            n += length;
        }
        at += length;
    }
    return n;
}
