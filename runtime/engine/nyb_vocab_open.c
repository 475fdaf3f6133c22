/* SPDX-License-Identifier: MIT
 * Opening a vocabulary's tables where they were built before, in a file: whatever reading or
 * encoding relies on is checked first, so that no bytes in that file can lead astray. What is
 * merely wrong (a hash that finds nothing, a merge that should not be) gives other tokens and is
 * the file's sum to find out.
 */
#include <string.h>

#include "nyb_pretokenize.h"
#include "nyb_vocab.h"
#include "nyb_vocab_tables.h"

#define CHECK(holds, what, at, value)                                                              \
    do {                                                                                           \
        if (!(holds))                                                                              \
            return nyb_fail(error, what, (at), (value));                                           \
    } while (0)

/* The head: that of a vocabulary with the file's counts and settings. */
static int check_head(const nyb_vocab_file *file, const nyb_vocab_tables *t, uint64_t nbytes,
                      nyb_error *error) {
    const uint64_t most = (uint64_t)1 << 31;
    nyb_vocab_tables layout;
    CHECK(file->n_tokens > 0 && file->n_tokens < most && t->n_tokens == file->n_tokens,
          "the tables are of another number of tokens", 0, t->n_tokens);
    CHECK(file->tokens_bytes <= UINT32_MAX, "the vocabulary's tokens take 4 GiB or more", 0,
          file->tokens_bytes);
    CHECK(file->n_merges < most / 2 && t->n_merges == file->n_merges,
          "the tables are of another number of merges", 0, t->n_merges);
    CHECK(file->n_scores == (file->kind == NYB_VOCAB_PIECES ? file->n_tokens : 0),
          "the vocabulary has another number of scores than of tokens", 0, file->n_scores);
    CHECK(file->kind < NYB_VOCAB_KINDS && t->kind == file->kind,
          "the tables are of another kind of vocabulary", 0, t->kind);
    CHECK(file->kind != NYB_VOCAB_PIECES || file->n_merges == 0,
          "a vocabulary of scored pieces has merges", 0, file->n_merges);
    CHECK(file->pre < NYB_PRE_COUNT && t->pre == file->pre,
          "the tables are for another pre-tokenizer", 0, t->pre);
    CHECK(t->unknown == file->unknown &&
              (file->unknown == NYB_VOCAB_NONE || file->unknown < file->n_tokens),
          "the tables have another unknown token", 0, t->unknown);
    CHECK(t->whole_words == (file->whole_words != 0) &&
              t->space_prefix == (file->space_prefix != 0),
          "the tables have other settings", t->whole_words, t->space_prefix);
    CHECK(t->in_order <= (t->n_merges > 0), "the tables say that there are merges", 0, t->in_order);
    CHECK(t->n_specials <= t->n_tokens && t->n_user_defined <= t->n_specials,
          "the tables have more special tokens than tokens", t->n_user_defined, t->n_specials);
    const uint64_t n_specials[2] = {t->n_user_defined, t->n_specials};
    nyb_vocab_lay_out(&layout, file, n_specials);
    CHECK(layout.bytes == nbytes && t->bytes == nbytes, "the tables have another length", nbytes,
          layout.bytes);
    CHECK(memcmp(&layout.bytes, &t->bytes, offsetof(nyb_vocab_tables, n_tokens)) == 0,
          "the tables' sections lie elsewhere", 0, 0);
    for (unsigned byte = 0; byte < 256; byte++)
        CHECK(t->byte_ids[byte] == NYB_VOCAB_NONE || t->byte_ids[byte] < t->n_tokens,
              "the token of a byte is none of the vocabulary", byte, t->byte_ids[byte]);
    return 0;
}

/* Where the spellings are, their types, and the places in the hash tables. */
static int check_tokens(const nyb_vocab *vocab, nyb_error *error) {
    const nyb_vocab_tables *t = vocab->tables;
    const uint32_t *text_at = nyb_vocab_section(t, text_at_at);
    const uint8_t *types = nyb_vocab_types(t);
    uint32_t longest = 0;
    CHECK(text_at[0] == 0 && text_at[t->n_tokens] == vocab->tokens_bytes,
          "the tables are of other tokens", text_at[0], text_at[t->n_tokens]);
    for (uint32_t id = 0; id < t->n_tokens; id++) {
        const uint32_t from = text_at[id], to = text_at[id + 1];
        CHECK(to >= from && to - from >= 8 && to <= vocab->tokens_bytes,
              "a token's spelling lies outside", id, from);
        CHECK(nyb_vocab_number(vocab->tokens + from, 8) == to - from - 8,
              "a token has another length in the tables", id, to - from);
        CHECK(types[id] <= NYB_TOKEN_BYTE, "a token is of a type that does not exist", id,
              types[id]);
        CHECK(t->kind != NYB_VOCAB_PIECES || to - from - 8 <= NYB_VOCAB_PIECE_BYTES,
              "a token's spelling is too long", id, to - from);
        longest = to - from - 8 > longest ? to - from - 8 : longest;
    }
    CHECK(t->longest == longest, "the tables have another longest token", longest, t->longest);
    const nyb_token_slot *slots = nyb_vocab_slots(t);
    for (uint64_t at = 0; at < NYB_VOCAB_SLOTS(t->n_tokens); at++)
        CHECK(slots[at].id <= t->n_tokens, "a place in the tables names no token", at,
              slots[at].id);
    return 0;
}

static int check_merges(const nyb_vocab_tables *t, nyb_error *error) {
    const uint32_t *slots = nyb_vocab_section(t, pair_slots_at);
    const nyb_merge *merges = nyb_vocab_merges(t);
    for (uint64_t at = 0; at < NYB_VOCAB_SLOTS(t->n_merges); at++)
        CHECK(slots[at] <= t->n_merges, "a place in the tables names no merge", at, slots[at]);
    for (uint32_t rank = 0; rank < t->n_merges; rank++) {
        const nyb_merge *m = &merges[rank];
        CHECK(m->left < t->n_tokens && m->right < t->n_tokens && m->result < t->n_tokens,
              "a merge names what is no token", rank, m->result);
    }
    return 0;
}

/* A list of special tokens: in order of spelling, each linked to one that it begins with. */
static int check_specials(const nyb_vocab *vocab, int list, nyb_error *error) {
    const nyb_vocab_tables *t = vocab->tables;
    const nyb_specials s = nyb_vocab_specials(t, list);
    nyb_string before = {NULL, 0};
    for (uint32_t i = 0; i < s.n; i++) {
        CHECK(s.id[i] < t->n_tokens && s.place[i] < s.n, "a special token is none", i, s.id[i]);
        const nyb_string text = nyb_vocab_text(vocab, s.id[i]);
        CHECK(text.n > 0 && text.n <= NYB_VOCAB_SPECIAL_BYTES,
              "a special token's spelling is empty or too long", i, text.n);
        CHECK(i == 0 || nyb_compare(before, text) < 0, "special tokens are not in order", i,
              s.id[i]);
        CHECK(t->special_from[list][text.at[0]] <= i && i < t->special_from[list][text.at[0] + 1],
              "a special token is not where its first byte says", i, text.at[0]);
        before = text;

        const uint32_t up = s.parent[i];
        CHECK(up == NYB_VOCAB_NONE || up < i, "a special token's parent comes behind it", i, up);
        if (up != NYB_VOCAB_NONE) {
            const nyb_string start = nyb_vocab_text(vocab, s.id[up]);
            CHECK(start.n < text.n && memcmp(start.at, text.at, start.n) == 0,
                  "a special token does not begin with its parent", i, up);
        }
        uint32_t depth;
        CHECK(s.jump[i] == nyb_specials_jump(&s, up, &depth) && s.depth[i] == depth,
              "a special token's jump is not its own", i, s.jump[i]);
    }
    for (unsigned byte = 0; byte < 256; byte++)
        CHECK(t->special_from[list][byte] <= t->special_from[list][byte + 1],
              "special tokens' first bytes are not in order", byte, t->special_from[list][byte]);
    CHECK(t->special_from[list][0] == 0 && t->special_from[list][256] == s.n,
          "special tokens are left over", s.n, t->special_from[list][256]);
    return 0;
}

int nyb_vocab_open(const nyb_vocab_file *file, const void *memory, uint64_t nbytes,
                   nyb_vocab *vocab, nyb_error *error) {
    const nyb_vocab_tables *t = memory;
    CHECK((uintptr_t)memory % 8 == 0 && nbytes >= sizeof *t, "the tables are cut off", 0, nbytes);
    if (check_head(file, t, nbytes, error) != 0)
        return -1;
    vocab->tokens = file->tokens;
    vocab->tokens_bytes = file->tokens_bytes;
    vocab->tables = t;
    if (check_tokens(vocab, error) != 0 || check_merges(t, error) != 0)
        return -1;
    return check_specials(vocab, 0, error) != 0 ? -1 : check_specials(vocab, 1, error);
}
