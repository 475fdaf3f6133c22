/* SPDX-License-Identifier: MIT
 * Attention and its cache: pages of keys and values, and the steps that fill and read them.
 */
#include <string.h>

#include "worker.h"

/* Of a token's parts, from which on threads share the heads: of fewer the barrier costs what it
 * saves. */
enum { DIVIDED_BYTES = 16 * 1024 };

/* -- Pages ---------------------------------------------------------------------------------- */

/* One KV head of one attention layer, as a thread works on it. */
typedef struct head {
    const worker *w;
    const nyb_attention *a;
    uint8_t *pages; /* in the KV arena */
    uint64_t ring;  /* pages; 0 without a window */
    uint64_t kv_head;
    uint64_t group; /* query heads that share it */
} head;

static uint8_t *pages_of(const nyb_bound *bound, uint64_t attention, uint64_t kv_head) {
    const nyb_attention *a = &bound->program->attentions[attention];
    return bound->kv + bound->layers[attention] +
           kv_head * nyb_layer_pages(a, &bound->limits) * nyb_head_page_bytes(a, bound->limits.kv);
}

static head head_of(const worker *w, const nyb_step *step, uint64_t kv_head) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    return (head){w,
                  a,
                  pages_of(w->bound, step->index, kv_head),
                  nyb_ring_pages(a, &w->bound->limits),
                  kv_head,
                  a->heads / a->kv_heads};
}

/* A page of the token's sequence in the cache: the keys, and what lies behind them. */
typedef struct kv_page {
    uint8_t *k, *v;
    uint16_t *k_scales, *v_scales; /* behind the numbers, where these are int8 */
} kv_page;

static kv_page page_of(const head *h, const nyb_token *token, uint64_t page) {
    const uint32_t kv = h->w->bound->limits.kv;
    const uint64_t at = h->ring ? token->slot * h->ring + page % h->ring : token->pages[page];
    uint8_t *k = h->pages + at * nyb_head_page_bytes(h->a, kv);
    uint8_t *v = k + nyb_keys_bytes(h->a, kv);
    const uint64_t numbers = NYB_PAGE * (uint64_t)h->a->head_dim;
    return (kv_page){k, v, (uint16_t *)(k + numbers), (uint16_t *)(v + numbers)};
}

/* The pages that a token sees, by number within its sequence. */
static range pages_seen(const nyb_attention *a, uint64_t position) {
    return (range){nyb_first_seen(a, position) / NYB_PAGE, position / NYB_PAGE + 1};
}

/* -- Steps ---------------------------------------------------------------------------------- */

/* What is stored as int8 is rotated before, in blocks of the columns that share a scale, or of the
 * largest power of two that divides a head. With the keys the queries are, and what is summed of
 * the values is rotated back. */
static void rotate(const worker *w, const nyb_attention *a, const float *x, float *out) {
    const uint64_t n_block = (NYB_BLOCK | a->head_dim) & (0 - (uint64_t)(NYB_BLOCK | a->head_dim));
    CALL(w, hadamard, NYB_F32, .n = a->head_dim, .n_block = n_block, .x = x, .out = out);
}

static int keys_are_rotated(const worker *w) { return w->bound->limits.kv == NYB_KV_INT8; }
static int values_are_rotated(const worker *w) { return w->bound->limits.kv != NYB_KV_F16; }

static void join(const worker *w, const nyb_attention *a, const float *parts, uint64_t n_parts,
                 uint64_t stride, float *out) {
    CALL(w, combine, NYB_F32, .head_dim = a->head_dim, .n_parts = n_parts, .parts = parts,
         .stride = stride, .out = out);
    if (values_are_rotated(w))
        rotate(w, a, out, out);
}

/* A token's head of a query or key as the scores need it: normed, if this attention does that (with
 * the weights at byte `norm`), rotated and scaled. */
static void prepare(const head *h, uint64_t token, uint64_t norm, float scale, const float *x,
                    float *out) {
    const float *angles = row_among(h->w, h->w->bound->n_tokens, h->a->angles, token);
    if (h->a->eps > 0) {
        CALL(h->w, rmsnorm, NYB_F32, .n = h->a->head_dim, .eps = h->a->eps, .x = x,
             .w = (const float *)(h->w->bound->weights + norm), .out = out);
        x = out;
    }
    CALL(h->w, rope, NYB_F32, .n = h->w->bound->program->ropes[h->a->rope].n,
         .head_dim = h->a->head_dim, .angles = angles, .scale = scale, .x = x, .out = out);
}

/* The key (prepared) and value of a token, which are in its row, go to their place in the cache. */
static void append(const head *h, uint64_t number) {
    const worker *w = h->w;
    const nyb_token *token = &w->bound->tokens[number];
    const uint64_t dim = h->a->head_dim, first = h->kv_head * dim;
    const kv_page page = page_of(h, token, token->position / NYB_PAGE);
    float *key = w->bound->scratch[w->thread].key;
    const float *value = (const float *)row_of(w, h->a->v, number) + first;
    prepare(h, number, h->a->k_norm, 1, (const float *)row_of(w, h->a->k, number) + first, key);
    if (keys_are_rotated(w))
        rotate(w, h->a, key, key);
    if (values_are_rotated(w)) {
        rotate(w, h->a, value, key + dim);
        value = key + dim;
    }
    CALL(w, append, w->bound->limits.kv, .head_dim = dim,
         .position_in_page = token->position % NYB_PAGE, .key = key, .value = value, .k = page.k,
         .v = page.v, .k_scales = page.k_scales, .v_scales = page.v_scales);
}

/* The group's queries of a row's token, prepared, in this thread's scratch. */
static const float *queries(const head *h, uint64_t row, uint64_t token) {
    const uint64_t first = h->kv_head * h->group * h->a->head_dim;
    const float *q = (const float *)row_of(h->w, h->a->q, row) + first;
    float *out = h->w->bound->scratch[h->w->thread].query;
    for (uint64_t i = 0; i < h->group; i++, q += h->a->head_dim) {
        float *one = out + i * h->a->head_dim;
        prepare(h, token, h->a->q_norm, h->a->scale, q, one);
        if (keys_are_rotated(h->w))
            rotate(h->w, h->a, one, one);
    }
    return out;
}

/* The group's attention to one page, before the keys at `next` are read: query i's part goes to
 * parts + i * stride. */
static void attend_page(const head *h, const float *q, const nyb_token *token, uint64_t page,
                        const void *next, float *parts, uint64_t stride) {
    const kv_page kv = page_of(h, token, page);
    const uint64_t begin = page * NYB_PAGE, seen = nyb_first_seen(h->a, token->position);
    const uint64_t behind = token->position - begin + 1;
    CALL(h->w, attend, h->w->bound->limits.kv, .head_dim = h->a->head_dim, .n_queries = h->group,
         .first = seen > begin ? seen - begin : 0, .end = behind < NYB_PAGE ? behind : NYB_PAGE,
         .q = q, .k = kv.k, .v = kv.v, .k_scales = kv.k_scales, .v_scales = kv.v_scales,
         .next = next, .scores = h->w->bound->scratch[h->w->thread].scores, .out = parts,
         .out_stride = stride);
}

/* Several tokens see each other's keys, so these are appended a phase earlier. */
void nyb_run_append(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const range units = share(w, (uint64_t)a->kv_heads * w->rows);
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / w->rows);
        append(&h, u % w->rows);
    }
}

/* A single row: the units are (KV head, page), so that a long context feeds every thread. If it is
 * the batch's only token, the owner of a head's newest page appends to it first. COMBINE joins the
 * parts in the next phase. */
static void attend_single(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t number = token_number(w, step, 0);
    const nyb_token *token = &w->bound->tokens[number];
    const range pages = pages_seen(a, token->position);
    const uint64_t n_pages = pages.end - pages.begin;
    const uint64_t part = nyb_part_stride(a->head_dim);
    const uint64_t stride = w->bound->limits.max_pages * part;
    const range units = share(w, a->kv_heads * n_pages);
    const float *q = NULL;
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / n_pages);
        const uint64_t i = u % n_pages;
        if (!q || i == 0)
            q = queries(&h, 0, number);
        if (w->bound->n_tokens == 1 && i == n_pages - 1)
            append(&h, 0);
        const uint64_t following = u + 1 < units.end ? u + 1 : u;
        const head next = head_of(w, step, following / n_pages);
        attend_page(&h, q, token, pages.begin + i,
                    page_of(&next, token, pages.begin + following % n_pages).k,
                    w->bound->parts + h.kv_head * h.group * stride + i * part, stride);
    }
}

/* Several rows: the units are (KV head, row), all pages at once and joined on the spot. */
static void attend_several(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t part = nyb_part_stride(a->head_dim);
    const uint64_t stride = w->bound->limits.max_pages * part;
    float *parts = w->bound->scratch[w->thread].parts;
    const range units = share(w, (uint64_t)a->kv_heads * w->rows);
    for (uint64_t u = units.begin; u < units.end; u++) {
        const head h = head_of(w, step, u / w->rows);
        const uint64_t row = u % w->rows;
        const uint64_t number = token_number(w, step, row);
        const nyb_token *token = &w->bound->tokens[number];
        const range pages = pages_seen(a, token->position);
        const float *q = queries(&h, row, number);
        for (uint64_t page = pages.begin; page < pages.end; page++) {
            const uint64_t next = page + 1 < pages.end ? page + 1 : pages.begin;
            attend_page(&h, q, token, page, page_of(&h, token, next).k,
                        parts + (page - pages.begin) * part, stride);
        }
        float *out = (float *)row_of(w, a->out, row) + h.kv_head * h.group * a->head_dim;
        for (uint64_t i = 0; i < h.group; i++)
            join(w, a, parts + i * stride, pages.end - pages.begin, part, out + i * a->head_dim);
    }
}

void nyb_run_attend(const worker *w, const nyb_step *step) {
    if (w->rows > 1)
        attend_several(w, step);
    else
        attend_single(w, step);
}

int nyb_combine_is_divided(const worker *w, const nyb_step *step) {
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const range pages = pages_seen(a, token_of(w, step, 0)->position);
    const uint64_t floats = a->heads * (pages.end - pages.begin) * nyb_part_stride(a->head_dim);
    return w->rows == 1 && w->threads > 1 && floats * sizeof(float) >= DIVIDED_BYTES;
}

/* What ATTEND left of a single token: for each query head the parts of its pages. Those of several
 * it has joined itself. Where each thread joins some heads, each finds all in its own row. */
void nyb_run_combine(const worker *w, const nyb_step *step) {
    if (w->rows > 1)
        return;
    const nyb_attention *a = &w->bound->program->attentions[step->index];
    const uint64_t stride = nyb_part_stride(a->head_dim), dim = a->head_dim;
    const range pages = pages_seen(a, token_of(w, step, 0)->position);
    const int is_divided = nyb_combine_is_divided(w, step);
    const range heads = is_divided ? share(w, a->heads) : (range){0, a->heads};
    float *out = row_of(w, a->out, 0);
    for (uint64_t h = heads.begin; h < heads.end; h++)
        join(w, a, w->bound->parts + h * w->bound->limits.max_pages * stride,
             pages.end - pages.begin, stride, out + h * dim);
    for (uint32_t thread = 0; is_divided && thread < w->threads; thread++)
        if (thread != w->thread)
            memcpy((float *)row_of_thread(w, a->out, thread) + heads.begin * dim,
                   out + heads.begin * dim, (heads.end - heads.begin) * dim * sizeof(float));
}

/* -- Rewinding and clearing ----------------------------------------------------------------- */

int nyb_can_rewind(const nyb_bound *bound, uint64_t written, uint64_t kept) {
    if (kept == 0)
        return 1;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t ring = nyb_ring_pages(a, &bound->limits) * NYB_PAGE;
        if (ring && written > nyb_first_seen(a, kept) + ring)
            return 0;
    }
    return 1;
}

void nyb_clear_page(nyb_bound *bound, uint32_t page) {
    if (page >= bound->limits.n_pages)
        return;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t bytes = nyb_head_page_bytes(a, bound->limits.kv);
        for (uint64_t h = 0; !a->window && h < a->kv_heads; h++)
            memset(pages_of(bound, i, h) + page * bytes, 0, bytes);
    }
}

void nyb_clear_slot(nyb_bound *bound, uint32_t slot) {
    if (slot >= bound->limits.sequences)
        return;
    for (uint32_t i = 0; i < bound->program->n_attentions; i++) {
        const nyb_attention *a = &bound->program->attentions[i];
        const uint64_t bytes =
            nyb_ring_pages(a, &bound->limits) * nyb_head_page_bytes(a, bound->limits.kv);
        for (uint64_t h = 0; h < a->kv_heads; h++)
            memset(pages_of(bound, i, h) + slot * bytes, 0, bytes);
    }
}
