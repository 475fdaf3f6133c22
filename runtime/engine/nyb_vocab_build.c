/* SPDX-License-Identifier: MIT
 * Building a vocabulary's tables: every string, type and score of the file is checked first.
 */
#include <math.h>
#include <string.h>

#include "nyb_pretokenize.h"
#include "nyb_vocab.h"
#include "nyb_vocab_tables.h"

/* Takes the next string of a region, whose reading stands at *at; -1 if it runs past the end. */
static int take_string(const uint8_t *region, uint64_t bytes, uint64_t *at, nyb_string *s) {
    if (bytes - *at < 8) {
        return -1;
    }
    const uint64_t n = nyb_vocab_number(region + *at, 8);
    if (n > bytes - *at - 8) {
        return -1;
    }
    s->at = region + *at + 8;
    s->n = (size_t)n;
    *at += 8 + n;
    return 0;
}

/* The type of token `id` in effect, or -1 if the file's is none. */
static int type_in_effect(const nyb_vocab_file *file, uint64_t id, nyb_string spelling) {
    const uint64_t type =
        file->n_types ? nyb_vocab_number(file->types + 4 * id, 4) : NYB_TOKEN_NORMAL;
    if (type > NYB_TOKEN_BYTE) {
        return -1;
    }
    return nyb_role_of(spelling, (unsigned)type) != NYB_ROLE_NONE ? NYB_TOKEN_CONTROL : (int)type;
}

/* Whether tokens of this type are looked for in text before it is cut into words. */
static int is_special(int type, nyb_string spelling) {
    return spelling.n > 0 && (type == NYB_TOKEN_CONTROL || type == NYB_TOKEN_USER_DEFINED ||
                              type == NYB_TOKEN_UNKNOWN);
}

static float score_of(const nyb_vocab_file *file, uint64_t id) {
    const uint32_t bits = (uint32_t)nyb_vocab_number(file->scores + 4 * id, 4);
    float score;
    memcpy(&score, &bits, sizeof score);
    return score;
}

/* A number that is the less, the better the score; equal scores have the same. Floats that are not
 * NaN are in the order of their bits taken as integers, once the negative ones are turned over. */
static uint32_t rank_of_score(float score) {
    const float value = score + 0.0f; /* of the two zeros one is left */
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits & 0x80000000u ? bits : ~(bits | 0x80000000u);
}

void nyb_vocab_lay_out(nyb_vocab_tables *t, const nyb_vocab_file *file,
                       const uint64_t n_specials[2]) {
    const uint64_t n_tokens = file->n_tokens, n_merges = file->n_merges;
    uint64_t at = (sizeof *t + 7) & ~(uint64_t)7;
    t->n_tokens = (uint32_t)n_tokens;
    t->n_merges = (uint32_t)n_merges;
    t->n_user_defined = (uint32_t)n_specials[0];
    t->n_specials = (uint32_t)n_specials[1];
    t->text_at_at = at, at += 4 * (n_tokens + 1); /* and where the last one ends */
    t->token_slots_at = at, at += sizeof(nyb_token_slot) * NYB_VOCAB_SLOTS(n_tokens);
    t->pair_slots_at = at, at += 4 * NYB_VOCAB_SLOTS(n_merges);
    t->merges_at = at, at += sizeof(nyb_merge) * n_merges;
    t->ranks_at = at, at += 4 * file->n_scores;
    for (int list = 0; list < 2; list++) {
        t->specials_at[list] = at, at += 4 * NYB_SPECIALS_NUMBERS * n_specials[list];
    }
    t->types_at = at, at += n_tokens;
    t->bytes = (at + 7) & ~(uint64_t)7;
}

static int check_counts(const nyb_vocab_file *file, nyb_error *error) {
    const uint64_t most = (uint64_t)1 << 31;
    if (file->n_tokens == 0 || file->n_tokens >= most) {
        return nyb_fail(error, "the vocabulary has no tokens, or 2^31 or more", 0, file->n_tokens);
    }
    if (file->n_merges >= most) {
        return nyb_fail(error, "the vocabulary has 2^31 merges or more", 0, file->n_merges);
    }
    if (file->tokens_bytes > UINT32_MAX || file->tokens_bytes > SIZE_MAX / 2) {
        return nyb_fail(error, "the vocabulary's tokens take 4 GiB or more", 0, file->tokens_bytes);
    }
    if (file->merges_bytes > UINT32_MAX || file->merges_bytes > SIZE_MAX / 2) {
        return nyb_fail(error, "the vocabulary's merges take 4 GiB or more", 0, file->merges_bytes);
    }
    if (file->n_tokens > file->tokens_bytes / 8) {
        return nyb_fail(error, "more tokens are announced than there are bytes for", 0,
                        file->n_tokens);
    }
    if (file->n_merges > file->merges_bytes / 8) {
        return nyb_fail(error, "more merges are announced than there are bytes for", 0,
                        file->n_merges);
    }
    if (file->n_types != 0 && file->n_types != file->n_tokens) {
        return nyb_fail(error, "the vocabulary has another number of types than of tokens", 0,
                        file->n_types);
    }
    return 0;
}

static int check_kind(const nyb_vocab_file *file, nyb_error *error) {
    if (file->kind >= NYB_VOCAB_KINDS) {
        return nyb_fail(error, "there is no kind of vocabulary of this number", 0, file->kind);
    }
    if (file->pre >= NYB_PRE_COUNT) {
        return nyb_fail(error, "there is no pre-tokenizer of this number", 0, file->pre);
    }
    if (file->n_scores != (file->kind == NYB_VOCAB_PIECES ? file->n_tokens : 0)) {
        return nyb_fail(error, "the vocabulary has another number of scores than of tokens", 0,
                        file->n_scores);
    }
    if (file->kind == NYB_VOCAB_PIECES && file->n_merges != 0) {
        return nyb_fail(error, "a vocabulary of scored pieces has merges", 0, file->n_merges);
    }
    if (file->unknown != NYB_VOCAB_NONE && file->unknown >= file->n_tokens) {
        return nyb_fail(error, "the unknown token is none of the vocabulary", 0, file->unknown);
    }
    return 0;
}

/* Reads every token once: checks it, and counts the special ones, those of each list. */
static int check_tokens(const nyb_vocab_file *file, uint64_t n_specials[2], nyb_error *error) {
    if (check_counts(file, error) != 0 || check_kind(file, error) != 0) {
        return -1;
    }
    uint64_t at = 0;
    n_specials[0] = n_specials[1] = 0;
    for (uint64_t id = 0; id < file->n_tokens; id++) {
        nyb_string s;
        if (take_string(file->tokens, file->tokens_bytes, &at, &s) != 0) {
            return nyb_fail(error, "a token runs past the end of the vocabulary", id, at);
        }
        const int type = type_in_effect(file, id, s);
        if (type < 0) {
            return nyb_fail(error, "a token is of a type that does not exist", id,
                            nyb_vocab_number(file->types + 4 * id, 4));
        }
        if (is_special(type, s)) {
            if (s.n > NYB_VOCAB_SPECIAL_BYTES) {
                return nyb_fail(error, "a special token's spelling is too long", id, s.n);
            }
            n_specials[0] += type == NYB_TOKEN_USER_DEFINED;
            n_specials[1]++;
        }
        if (file->kind == NYB_VOCAB_PIECES && s.n > NYB_VOCAB_PIECE_BYTES) {
            return nyb_fail(error, "a token's spelling is too long", id, s.n);
        }
        if (file->n_scores != 0 && isnan(score_of(file, id))) {
            return nyb_fail(error, "a token's score is not a number", id,
                            nyb_vocab_number(file->scores + 4 * id, 4));
        }
    }
    if (at != file->tokens_bytes) {
        return nyb_fail(error, "bytes are left over after the last token", file->n_tokens,
                        file->tokens_bytes - at);
    }
    return 0;
}

int nyb_vocab_measure(const nyb_vocab_file *file, uint64_t *bytes, nyb_error *error) {
    nyb_vocab_tables t;
    uint64_t n_specials[2];
    if (check_tokens(file, n_specials, error) != 0) {
        return -1;
    }
    nyb_vocab_lay_out(&t, file, n_specials);
    *bytes = t.bytes;
    return 0;
}

/* Sorting of special tokens by heap sort: in place, n log n whatever the file says. */
typedef int (*before)(const nyb_vocab *vocab, const uint32_t *ids, uint32_t a, uint32_t b);

static int spelled_before(const nyb_vocab *vocab, const uint32_t *ids, uint32_t a, uint32_t b) {
    (void)ids; /* `a` and `b` are some themselves */
    return nyb_compare(nyb_vocab_text(vocab, a), nyb_vocab_text(vocab, b)) < 0;
}

/* `a` and `b` number specials in order of spelling; equal lengths go by id. */
static int longer_before(const nyb_vocab *vocab, const uint32_t *ids, uint32_t a, uint32_t b) {
    const size_t n = nyb_vocab_text(vocab, ids[a]).n, m = nyb_vocab_text(vocab, ids[b]).n;
    return n != m ? n > m : ids[a] < ids[b];
}

static void sift(const nyb_vocab *vocab, const uint32_t *ids, uint32_t *items, uint32_t root,
                 uint32_t n, before less) {
    const uint32_t item = items[root];
    for (uint32_t child; (child = 2 * root + 1) < n; root = child) {
        if (child + 1 < n && less(vocab, ids, items[child], items[child + 1])) {
            child++;
        }
        if (!less(vocab, ids, item, items[child])) {
            break;
        }
        items[root] = items[child];
    }
    items[root] = item;
}

static void sort(const nyb_vocab *vocab, const uint32_t *ids, uint32_t *items, uint32_t n,
                 before less) {
    for (uint32_t root = n / 2; root > 0; root--) {
        sift(vocab, ids, items, root - 1, n, less);
    }
    for (uint32_t end = n; end > 1; end--) {
        const uint32_t largest = items[0];
        items[0] = items[end - 1];
        items[end - 1] = largest;
        sift(vocab, ids, items, 0, end - 1, less);
    }
}

/* Finds who begins with whom. In order of spelling, whatever a spelling begins with is the one
 * before it or an ancestor of that one. */
static void link_specials(const nyb_vocab *vocab, const nyb_specials *s) {
    for (uint32_t i = 0; i < s->n; i++) {
        const nyb_string whole = nyb_vocab_text(vocab, s->id[i]);
        uint32_t up = i == 0 ? NYB_VOCAB_NONE : i - 1;
        for (; up != NYB_VOCAB_NONE; up = s->parent[up]) {
            const nyb_string start = nyb_vocab_text(vocab, s->id[up]);
            if (start.n < whole.n && memcmp(start.at, whole.at, start.n) == 0) {
                break;
            }
        }
        s->parent[i] = up;
        s->jump[i] = nyb_specials_jump(s, up, &s->depth[i]);
    }
}

static void sort_specials(nyb_vocab_tables *t, const nyb_vocab *vocab, int list) {
    const nyb_specials s = nyb_vocab_specials(t, list);
    uint32_t *order = s.depth; /* until that is found */
    sort(vocab, s.id, s.id, s.n, spelled_before);
    for (uint32_t i = 0; i < s.n; i++) {
        order[i] = i;
        t->special_from[list][nyb_vocab_text(vocab, s.id[i]).at[0] + 1] = i + 1;
    }
    for (unsigned byte = 1; byte <= 256; byte++) { /* bytes that begin none */
        if (t->special_from[list][byte] == 0) {
            t->special_from[list][byte] = t->special_from[list][byte - 1];
        }
    }
    sort(vocab, s.id, order, s.n, longer_before);
    for (uint32_t i = 0; i < s.n; i++) {
        s.place[order[i]] = i;
    }
    link_specials(vocab, &s);
}

/* Notes which bytes stand before a space inside a token: words are not cut there. */
static void note_spaces(nyb_vocab_tables *t, nyb_string s) {
    for (size_t at = 1; at < s.n; at++) {
        if (s.at[at] == 0xE2 && nyb_is_space_mark(s.at, at, s.n) &&
            !(at >= NYB_SPACE_MARK_BYTES &&
              nyb_is_space_mark(s.at, at - NYB_SPACE_MARK_BYTES, s.n))) {
            t->joins_space[s.at[at - 1]] = 1;
        }
    }
}

static int build_tokens(const nyb_vocab_file *file, nyb_vocab_tables *t, const nyb_vocab *vocab,
                        nyb_error *error) {
    uint32_t *text_at = nyb_vocab_section(t, text_at_at);
    uint32_t *ranks = nyb_vocab_section(t, ranks_at);
    const nyb_specials lists[2] = {nyb_vocab_specials(t, 0), nyb_vocab_specials(t, 1)};
    nyb_token_slot *slots = nyb_vocab_slots(t);
    uint8_t *types = nyb_vocab_types(t);
    uint32_t n_user_defined = 0, n_specials = 0;
    uint64_t at = 0;
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        nyb_string s;
        int type;
        text_at[id] = (uint32_t)at;
        if (take_string(file->tokens, file->tokens_bytes, &at, &s) != 0 ||
            (type = type_in_effect(file, id, s)) < 0 ||
            (is_special(type, s) &&
             (n_specials == t->n_specials ||
              (type == NYB_TOKEN_USER_DEFINED && n_user_defined == t->n_user_defined)))) {
            return nyb_fail(error, "the file was changed while it was read", id, at);
        }
        text_at[id + 1] = (uint32_t)at;
        types[id] = (uint8_t)type;
        t->longest = s.n > t->longest ? (uint32_t)s.n : t->longest;
        if (file->n_scores != 0) {
            ranks[id] = rank_of_score(score_of(file, id));
        }
        if (is_special(type, s)) {
            lists[1].id[n_specials++] = id;
            if (type == NYB_TOKEN_USER_DEFINED) {
                lists[0].id[n_user_defined++] = id;
            }
        }
        if (s.n == 0) {
            continue; /* some files pad their vocabulary with empty tokens; no text is one */
        }
        if (file->kind != NYB_VOCAB_BYTES) {
            note_spaces(t, s);
        }
        const nyb_string nothing = {s.at, 0};
        const uint32_t hash = nyb_hash(NYB_HASH_START, s);
        uint32_t slot;
        const uint32_t other = nyb_vocab_search(vocab, hash, s, nothing, &slot);
        if (other != NYB_VOCAB_NONE) {
            return nyb_fail(error, "two tokens have the same spelling", id, other);
        }
        if (slot == NYB_VOCAB_NONE) {
            return nyb_fail(error, "the tokens' spellings were made to collide", id, 0);
        }
        slots[slot].hash = hash;
        slots[slot].id = id + 1;
    }
    if (n_user_defined != t->n_user_defined || n_specials != t->n_specials) {
        return nyb_fail(error, "the file was changed while it was read", t->n_tokens, at);
    }
    sort_specials(t, vocab, 0);
    sort_specials(t, vocab, 1);
    return 0;
}

/* The token of a byte: <0x0A>, or else the byte as it is. */
static uint32_t byte_token(const nyb_vocab *vocab, uint8_t byte) {
    static const char DIGITS[] = "0123456789ABCDEF";
    const uint8_t named[6] = {'<', '0', 'x', (uint8_t)DIGITS[byte >> 4], (uint8_t)DIGITS[byte & 15],
                              '>'};
    const uint32_t id = nyb_vocab_find(vocab, named, sizeof named);
    return id != NYB_VOCAB_NONE ? id : nyb_vocab_find(vocab, &byte, 1);
}

static void build_bytes(nyb_vocab_tables *t, const nyb_vocab *vocab) {
    for (unsigned byte = 0; byte < 256; byte++) {
        uint8_t spelling[4];
        t->byte_ids[byte] =
            t->kind == NYB_VOCAB_BYTES
                ? nyb_vocab_find(vocab, spelling, nyb_byte_alphabet((uint8_t)byte, spelling))
                : byte_token(vocab, (uint8_t)byte);
    }
}

/* Cuts "A B" at its first space that is not the first byte, and names its three tokens. */
static int parse_merge(const nyb_vocab *vocab, nyb_string line, uint64_t rank, nyb_merge *merge,
                       nyb_error *error) {
    const uint8_t *space = line.n > 1 ? memchr(line.at + 1, ' ', line.n - 1) : NULL;
    if (space == NULL) {
        return nyb_fail(error, "a merge has no space between its parts", rank, line.n);
    }
    const nyb_string left = {line.at, (size_t)(space - line.at)};
    const nyb_string right = {space + 1, line.n - left.n - 1}, nothing = {line.at, 0};
    const uint32_t start = NYB_HASH_START;
    const uint32_t hash = nyb_hash(start, left);
    uint32_t slot;
    merge->left = nyb_vocab_search(vocab, hash, left, nothing, &slot);
    merge->right = nyb_vocab_search(vocab, nyb_hash(start, right), right, nothing, &slot);
    merge->result = nyb_vocab_search(vocab, nyb_hash(hash, right), left, right, &slot);
    if (merge->left == NYB_VOCAB_NONE || merge->right == NYB_VOCAB_NONE) {
        return nyb_fail(error, "a merge names a part that is no token", rank,
                        merge->left == NYB_VOCAB_NONE ? 0 : 1);
    }
    if (merge->result == NYB_VOCAB_NONE) {
        return nyb_fail(error, "a merge makes something that is no token", rank, 0);
    }
    return 0;
}

static int build_merges(const nyb_vocab_file *file, nyb_vocab_tables *t, const nyb_vocab *vocab,
                        nyb_error *error) {
    enum { USED = 0x80 }; /* in a token's type, while building: some merge has it as a part */
    uint32_t *slots = nyb_vocab_section(t, pair_slots_at);
    const uint32_t n_slots = (uint32_t)NYB_VOCAB_SLOTS(t->n_merges);
    nyb_merge *merges = nyb_vocab_merges(t);
    uint8_t *types = nyb_vocab_types(t);
    uint64_t at = 0;
    t->in_order = t->n_merges > 0;
    for (uint32_t rank = 0; rank < t->n_merges; rank++) {
        nyb_merge *m = &merges[rank];
        nyb_string line;
        if (take_string(file->merges, file->merges_bytes, &at, &line) != 0) {
            return nyb_fail(error, "a merge runs past the end of the merges", rank, at);
        }
        if (parse_merge(vocab, line, rank, m, error) != 0) {
            return -1;
        }
        types[m->left] |= USED;
        types[m->right] |= USED;
        if (types[m->result] & USED) {
            t->in_order = 0;
        }
        uint32_t slot = nyb_slot_of(nyb_pair_hash(m->left, m->right), n_slots);
        int probe = 0;
        while (slots[slot] != 0) {
            const nyb_merge *other = &merges[slots[slot] - 1];
            if (other->left == m->left && other->right == m->right) {
                break; /* said twice: the better rank counts */
            }
            if (++probe == NYB_VOCAB_PROBES) {
                return nyb_fail(error, "the merges were made to collide", rank, 0);
            }
            slot = slot + 1 == n_slots ? 0 : slot + 1;
        }
        if (slots[slot] == 0) {
            slots[slot] = rank + 1;
        }
    }
    if (at != file->merges_bytes) {
        return nyb_fail(error, "bytes are left over after the last merge", t->n_merges,
                        file->merges_bytes - at);
    }
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        types[id] &= (uint8_t)~USED;
    }
    return 0;
}

int nyb_vocab_build(const nyb_vocab_file *file, void *memory, nyb_vocab *vocab, nyb_error *error) {
    nyb_vocab_tables *t = memory;
    nyb_vocab_tables layout = {0};
    uint64_t n_specials[2];
    if (check_tokens(file, n_specials, error) != 0) {
        return -1;
    }
    nyb_vocab_lay_out(&layout, file, n_specials);
    memset(memory, 0, (size_t)layout.bytes);
    *t = layout;
    t->kind = file->kind;
    t->pre = file->pre;
    t->unknown = file->unknown;
    t->whole_words = file->whole_words != 0;
    t->space_prefix = file->space_prefix != 0;
    vocab->tokens = file->tokens;
    vocab->tokens_bytes = file->tokens_bytes;
    vocab->tables = t;
    if (build_tokens(file, t, vocab, error) != 0) {
        return -1;
    }
    build_bytes(t, vocab);
    return build_merges(file, t, vocab, error);
}
