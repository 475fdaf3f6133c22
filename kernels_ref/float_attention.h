/* SPDX-License-Identifier: MIT
 * Attention and its cache, written once on eight lanes (included by float_ops.h, behind exp,
 * softmax and block_amax): a token's key and value are appended to a page, queries attend to one,
 * and what they got of several is combined.
 *
 * Pages hold their numbers in the order in which attention reads them (nyb_attend_args;
 * docs/formats.md). The order of sums: docs/arithmetic.md.
 */

NYB_INLINE size_t columns_from(size_t d, size_t head_dim) {
    return head_dim - d < NYB_BLOCK ? head_dim - d : NYB_BLOCK;
}

/* Chains of multiply-adds that a score is summed by: dimension d is in chain d modulo 4. */
#define NYB_CHAINS 4

/* Where in a page a number lies (nyb_attend_args). */
NYB_INLINE size_t nyb_key_at(size_t head_dim, size_t position, size_t d) {
    const size_t chain = position / NYB_GROUP * NYB_CHAINS + d % NYB_CHAINS;
    const size_t row = chain * (head_dim / NYB_CHAINS) + d / NYB_CHAINS;
    return row * NYB_GROUP + position % NYB_GROUP;
}

NYB_INLINE size_t nyb_value_at(size_t head_dim, size_t position, size_t d) {
    const size_t block = d / NYB_BLOCK * NYB_BLOCK;
    return (position / NYB_GROUP * head_dim + block) * NYB_GROUP +
           position % NYB_GROUP * columns_from(block, head_dim) + d % NYB_BLOCK;
}

NYB_INLINE void append_key_halves(const nyb_append_args *a) {
    const size_t chain = nyb_key_at(a->head_dim, 0, 1); /* the length of one */
    uint16_t *k = (uint16_t *)a->k + nyb_key_at(a->head_dim, a->position_in_page, 0);
    for (size_t i = 0; i < a->head_dim; i += NYB_LANES, k += NYB_LANES / NYB_CHAINS * NYB_GROUP) {
        uint16_t halves[NYB_LANES];
        v8_store_half(halves, v8_load(a->key + i));
        for (size_t j = 0; j < NYB_LANES; j++)
            k[j % NYB_CHAINS * chain + j / NYB_CHAINS * NYB_GROUP] = halves[j];
    }
}

NYB_INLINE void append_value_halves(const nyb_append_args *a) {
    uint16_t *v = a->v;
    for (size_t i = 0; i < a->head_dim; i += NYB_LANES)
        v8_store_half(v + nyb_value_at(a->head_dim, a->position_in_page, i), v8_load(a->value + i));
}

/* n columns, 32 or what is left of a head, as int8; returns their scale, a half. It is rounded
 * before it divides, and below 2^-17 so coarsely that what it gives may have to be cut off. */
NYB_INLINE uint16_t stored_bytes(const float *x, size_t n, int8_t q[NYB_BLOCK]) {
    float block[NYB_BLOCK] = {0}, d[NYB_LANES];
    uint16_t halves[NYB_LANES];
    int16_t sums[2];
    memcpy(block, x, n * sizeof *x);
    v8_store_half(halves, v8_set(block_amax(block) / 127.0f));
    v8_store(d, v8_load_half(halves));
    const int usable = d[0] > 0; /* neither 0 nor NaN */
    const nyb_v8 inverse = v8_set(usable ? 1.0f / d[0] : 0), most = v8_set(127);
    nyb_v8 scaled[4];
    for (int i = 0; i < 4; i++) {
        const nyb_v8 y = v8_max(v8_mul(v8_load(block + NYB_LANES * i), inverse), v8_set(-127));
        scaled[i] = usable ? v8_select_less(most, y, most, y) : v8_set(0);
    }
    v8_store_bytes(q, scaled, sums);
    return d[0] == d[0] ? halves[0] : 0x7e00; /* which NaN it is would depend on the CPU */
}

NYB_INLINE void append_key_bytes(const nyb_append_args *a) {
    const size_t chain = nyb_key_at(a->head_dim, 0, 1); /* the length of one */
    int8_t *k = (int8_t *)a->k + nyb_key_at(a->head_dim, a->position_in_page, 0);
    for (size_t d = 0; d < a->head_dim; d += NYB_BLOCK, k += NYB_BLOCK / NYB_CHAINS * NYB_GROUP) {
        int8_t q[NYB_BLOCK];
        const size_t n = columns_from(d, a->head_dim);
        a->k_scales[d / NYB_BLOCK * NYB_PAGE + a->position_in_page] =
            stored_bytes(a->key + d, n, q);
        for (size_t j = 0; j < n; j++)
            k[j % NYB_CHAINS * chain + j / NYB_CHAINS * NYB_GROUP] = q[j];
    }
}

NYB_INLINE void append_value_bytes(const nyb_append_args *a) {
    for (size_t d = 0; d < a->head_dim; d += NYB_BLOCK) {
        int8_t q[NYB_BLOCK];
        const size_t n = columns_from(d, a->head_dim);
        a->v_scales[d / NYB_BLOCK * NYB_PAGE + a->position_in_page] =
            stored_bytes(a->value + d, n, q);
        memcpy((int8_t *)a->v + nyb_value_at(a->head_dim, a->position_in_page, d), q, n);
    }
}

void NYB_KERNEL(append_f16)(const nyb_append_args *a) {
    append_key_halves(a);
    append_value_halves(a);
}

void NYB_KERNEL(append_v8)(const nyb_append_args *a) {
    append_key_halves(a);
    append_value_bytes(a);
}

void NYB_KERNEL(append_int8)(const nyb_append_args *a) {
    append_key_bytes(a);
    append_value_bytes(a);
}

/* The attention of up to four query heads at once, so that a key or value is read and converted
 * once for all of them. `n` is a constant wherever this is inlined: the loops over it unroll. */
#define NYB_QUERIES 4
#define NYB_TILES   (NYB_GROUP / NYB_LANES) /* of a group */

/* Sums that stay in registers beside what they add up; a level with more registers says so. */
#ifndef NYB_SUMS
#define NYB_SUMS 8
#endif

/* While one group of positions is worked on, a later one is fetched: the loops over a group's keys,
 * or values, take D turns, and each fetches a cache line. Halves have as many lines, int8 half of
 * them, which are fetched twice. All at once would stand in the way of the reads at hand; and into
 * L2, because it has more room for reads under way than L1. */
#define NYB_AHEAD      2 /* groups */
#define NYB_CACHE_LINE 64

NYB_INLINE void nyb_fetch_line(const char *group, size_t turn) {
    __builtin_prefetch(group + turn * NYB_CACHE_LINE, 0, 2);
}

/* Bytes of a number in the cache. */
NYB_INLINE size_t nyb_key_bytes(nyb_kv kv) { return kv == NYB_KV_INT8 ? 1 : 2; }
NYB_INLINE size_t nyb_value_bytes(nyb_kv kv) { return kv == NYB_KV_F16 ? 2 : 1; }

/* Eight numbers of the cache, halves or int8, from number i on. */
NYB_INLINE nyb_v8 v8_load_stored(const void *p, size_t i, size_t bytes) {
    return bytes == 2 ? v8_load_half((const uint16_t *)p + i)
                      : v8_load_bytes((const int8_t *)p + i);
}

/* Groups of positions that are read. */
NYB_INLINE size_t nyb_groups_read(const nyb_attend_args *a) {
    return (a->end + NYB_GROUP - 1) / NYB_GROUP - a->first / NYB_GROUP;
}

/* Where the group lies that is read `n` after the first: keys, then values, then those keys that
 * will be read next. */
NYB_INLINE const char *nyb_read_after(const nyb_attend_args *a, nyb_kv kv, size_t n) {
    const size_t groups = nyb_groups_read(a), numbers = NYB_GROUP * a->head_dim;
    const size_t first = a->first / NYB_GROUP;
    if (n < groups)
        return (const char *)a->k + (first + n) * numbers * nyb_key_bytes(kv);
    if (n < 2 * groups)
        return (const char *)a->v + (first + n - groups) * numbers * nyb_value_bytes(kv);
    return (const char *)a->next + (n - 2 * groups) * numbers * nyb_key_bytes(kv);
}

/* The dimensions begin + m, begin + m + 4, ... before `end` of the scores of `n` queries with
 * `tiles` tiles of 8 keys from tile `t` on, all in one group, whose numbers have `bytes`; while the
 * group at `ahead` is fetched, a share of it by each of the calls that this group takes. */
NYB_INLINE void attend_partial(int n, int tiles, size_t bytes, size_t m, size_t begin, size_t end,
                               const nyb_attend_args *a, const float *q, size_t t,
                               const char *ahead, nyb_v8 sum[NYB_QUERIES][NYB_TILES]) {
    for (int j = 0; j < n; j++)
        for (int i = 0; i < tiles; i++)
            sum[j][i] = v8_set(0);
    const size_t calls = NYB_TILES / (size_t)tiles, step = NYB_GROUP * bytes;
    const int fetches = m * calls / NYB_CHAINS == t % NYB_TILES / (size_t)tiles;
    const char *keys =
        (const char *)a->k + nyb_key_at(a->head_dim, t * NYB_LANES, begin + m) * bytes;
    size_t turn = (m * a->head_dim + begin) / NYB_CHAINS;
    for (size_t d = begin + m; d < end; d += NYB_CHAINS, keys += step, turn++) {
        if (fetches)
            nyb_fetch_line(ahead, turn);
        for (int i = 0; i < tiles; i++) {
            const nyb_v8 key = v8_load_stored(keys, (size_t)i * NYB_LANES, bytes);
            for (int j = 0; j < n; j++)
                sum[j][i] = v8_fma(v8_set(q[(size_t)j * a->head_dim + d]), key, sum[j][i]);
        }
    }
}

/* (s0 + s1) + (s2 + s3), where s_m sums over the dimensions that are m modulo 4. So no chain of
 * multiply-adds is longer than D / 4; and one m after another leaves room for the sums of several
 * tiles in registers, enough of them to hide each other's latency. */
NYB_INLINE void attend_sums(int n, int tiles, size_t bytes, size_t begin, size_t end,
                            const nyb_attend_args *a, const float *q, size_t t, const char *ahead,
                            nyb_v8 sums[NYB_QUERIES][NYB_TILES]) {
    nyb_v8 s0[NYB_QUERIES][NYB_TILES], s1[NYB_QUERIES][NYB_TILES];
    attend_partial(n, tiles, bytes, 0, begin, end, a, q, t, ahead, s0);
    attend_partial(n, tiles, bytes, 1, begin, end, a, q, t, ahead, s1);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < tiles; i++)
            sums[j][i] = v8_add(s0[j][i], s1[j][i]);
    attend_partial(n, tiles, bytes, 2, begin, end, a, q, t, ahead, s0);
    attend_partial(n, tiles, bytes, 3, begin, end, a, q, t, ahead, s1);
    for (int j = 0; j < n; j++)
        for (int i = 0; i < tiles; i++)
            sums[j][i] = v8_add(sums[j][i], v8_add(s0[j][i], s1[j][i]));
}

/* The scores of `n` queries with `tiles` tiles from tile `t` on. Int8 keys are summed up by blocks
 * that share a scale. */
NYB_INLINE void attend_scores(int n, int tiles, size_t bytes, const nyb_attend_args *a,
                              const float *q, size_t t, const char *ahead,
                              nyb_v8 scores[NYB_QUERIES][NYB_TILES]) {
    if (bytes == 2) {
        attend_sums(n, tiles, bytes, 0, a->head_dim, a, q, t, ahead, scores);
        return;
    }
    for (int j = 0; j < n; j++)
        for (int i = 0; i < tiles; i++)
            scores[j][i] = v8_set(0);
    for (size_t d = 0; d < a->head_dim; d += NYB_BLOCK) {
        const uint16_t *scales = a->k_scales + d / NYB_BLOCK * NYB_PAGE + t * NYB_LANES;
        const size_t end = d + columns_from(d, a->head_dim);
        nyb_v8 sums[NYB_QUERIES][NYB_TILES];
        attend_sums(n, tiles, bytes, d, end, a, q, t, ahead, sums);
        for (int i = 0; i < tiles; i++) {
            const nyb_v8 scale = v8_load_half(scales + NYB_LANES * i);
            for (int j = 0; j < n; j++)
                scores[j][i] = v8_fma(sums[j][i], scale, scores[j][i]);
        }
    }
}

/* Scores of `tiles` tiles from tile `t` on, kept in scratch, and their maxima. */
NYB_INLINE void attend_tiles(int n, int tiles, size_t bytes, const nyb_attend_args *a,
                             const float *q, size_t t, const char *ahead, float *scores,
                             nyb_v8 max[NYB_QUERIES]) {
    nyb_v8 found[NYB_QUERIES][NYB_TILES];
    attend_scores(n, tiles, bytes, a, q, t, ahead, found);
    for (int i = 0; i < tiles; i++) {
        const int at = (int)((t + (size_t)i) * NYB_LANES);
        for (int j = 0; j < n; j++) {
            const nyb_v8 s = v8_keep(found[j][i], (int)a->first - at, (int)a->end - at, -INFINITY);
            v8_store(scores + (size_t)j * NYB_PAGE + at, s);
            max[j] = v8_max(s, max[j]);
        }
    }
}

/* What multiplies the numbers of the values begin..end in the block of dimension d: p, or where
 * they are int8 p times their scale, which is written to `room`. */
NYB_INLINE const float *attend_weights(int n, size_t bytes, const nyb_attend_args *a, size_t begin,
                                       size_t end, size_t d, const float *p,
                                       float room[NYB_QUERIES * NYB_PAGE]) {
    if (bytes == 2)
        return p;
    const uint16_t *scales = a->v_scales + d / NYB_BLOCK * NYB_PAGE;
    for (size_t i = begin / NYB_LANES * NYB_LANES; i < end; i += NYB_LANES) {
        const nyb_v8 scale = v8_load_half(scales + i);
        for (int j = 0; j < n; j++) {
            const size_t at = (size_t)j * NYB_PAGE + i;
            v8_store(room + at, v8_mul(v8_load(p + at), scale));
        }
    }
    return room;
}

/* 8 * `width` dimensions, from d on, of what `n` queries sum of the values begin..end of one group,
 * whose numbers have `bytes`, times w: one chain of multiply-adds for each query and 8 dimensions,
 * several of which hide each other's latency. The chains go on where the values before `begin` left
 * them in `out`. */
NYB_INLINE void attend_values(int n, int width, size_t bytes, const nyb_attend_args *a,
                              size_t begin, size_t end, size_t d, const char *ahead, const float *w,
                              float *out) {
    nyb_v8 sum[NYB_QUERIES][4];
    for (int j = 0; j < n; j++)
        for (int b = 0; b < width; b++)
            sum[j][b] = v8_load(out + (size_t)j * a->out_stride + d + (size_t)(NYB_LANES * b));
    const size_t dim = a->head_dim, step = columns_from(d / NYB_BLOCK * NYB_BLOCK, dim) * bytes;
    const char *values = (const char *)a->v + nyb_value_at(dim, begin, d) * bytes;
    for (size_t i = begin; i < end; i++, values += step) {
        if (width == 4 || d % NYB_BLOCK == 0)
            nyb_fetch_line(ahead, d + i % NYB_GROUP);
        for (int b = 0; b < width; b++) {
            const nyb_v8 value = v8_load_stored(values, (size_t)(NYB_LANES * b), bytes);
            for (int j = 0; j < n; j++)
                sum[j][b] = v8_fma(v8_set(w[(size_t)j * NYB_PAGE + i]), value, sum[j][b]);
        }
    }
    for (int j = 0; j < n; j++)
        for (int b = 0; b < width; b++)
            v8_store(out + (size_t)j * a->out_stride + d + (size_t)(NYB_LANES * b), sum[j][b]);
}

/* All dimensions of the values begin..end. */
NYB_INLINE void attend_rows(int n, size_t bytes, const nyb_attend_args *a, size_t begin, size_t end,
                            const char *ahead, const float *p, float *out) {
    float room[NYB_QUERIES * NYB_PAGE];
    size_t d = 0;
    for (; d + NYB_BLOCK <= a->head_dim; d += NYB_BLOCK) {
        const float *w = attend_weights(n, bytes, a, begin, end, d, p, room);
        attend_values(n, 4, bytes, a, begin, end, d, ahead, w, out);
    }
    if (d == a->head_dim)
        return;
    const float *w = attend_weights(n, bytes, a, begin, end, d, p, room);
    for (; d < a->head_dim; d += NYB_LANES)
        attend_values(n, 1, bytes, a, begin, end, d, ahead, w, out);
}

/* Fetches what is read `lead` groups later. */
NYB_INLINE void attend_queries(int n, nyb_kv kv, const nyb_attend_args *a, size_t query,
                               size_t lead) {
    const float *q = a->q + query * a->head_dim;
    float *scores = a->scores + query * NYB_PAGE;
    float *out = a->out + query * a->out_stride;
    const size_t first_tile = a->first / NYB_LANES, end_tile = (a->end + NYB_LANES - 1) / NYB_LANES;

    nyb_v8 max[NYB_QUERIES];
    for (int j = 0; j < n; j++)
        max[j] = v8_set(-INFINITY);
    size_t t = first_tile;
    const int tiles = NYB_SUMS / n < NYB_TILES ? 2 : NYB_TILES;
    const size_t bytes = nyb_key_bytes(kv);
    while (t < end_tile) {
        const char *ahead = nyb_read_after(a, kv, lead + t / NYB_TILES - first_tile / NYB_TILES);
        if (t % (size_t)tiles == 0 && t + (size_t)tiles <= end_tile) {
            attend_tiles(n, tiles, bytes, a, q, t, ahead, scores, max);
            t += (size_t)tiles;
        } else {
            attend_tiles(n, 1, bytes, a, q, t, ahead, scores, max);
            t++;
        }
    }
    lead += nyb_groups_read(a);
    for (int j = 0; j < n; j++) {
        float *mine = scores + (size_t)j * NYB_PAGE + first_tile * NYB_LANES;
        float *stats = out + (size_t)j * a->out_stride + a->head_dim;
        stats[0] = v8_largest(max[j]);
        const nyb_softmax_args softmax = {(end_tile - first_tile) * NYB_LANES, mine, stats[0], mine,
                                          &stats[1]};
        NYB_KERNEL(softmax)(&softmax);
    }
    for (int j = 0; j < n; j++)
        for (size_t d = 0; d < a->head_dim; d += NYB_LANES)
            v8_store(out + (size_t)j * a->out_stride + d, v8_set(0));
    for (size_t i = a->first, end; i < a->end; i = end, lead++) {
        end = (i / NYB_GROUP + 1) * NYB_GROUP;
        end = end < a->end ? end : a->end;
        attend_rows(n, nyb_value_bytes(kv), a, i, end, nyb_read_after(a, kv, lead), scores, out);
    }
    for (int j = 0; j < n; j++)
        for (size_t d = 0; d < a->head_dim; d += NYB_LANES) {
            float *at = out + (size_t)j * a->out_stride + d;
            v8_store(at, v8_flush(v8_load(at)));
        }
}

/* The first queries bring in what this page still lacks; the last of several, for which it is
 * there, the page to come. */
NYB_INLINE void attend(nyb_kv kv, const nyb_attend_args *a) {
    const size_t n = a->n_queries;
    size_t query = 0, lead = NYB_AHEAD;
    for (; query < n; query += NYB_QUERIES) {
        if (query && query + NYB_QUERIES >= n)
            lead = 2 * nyb_groups_read(a);
        switch (n - query) {
        case 1:
            attend_queries(1, kv, a, query, lead);
            break;
        case 2:
            attend_queries(2, kv, a, query, lead);
            break;
        case 3:
            attend_queries(3, kv, a, query, lead);
            break;
        default:
            attend_queries(4, kv, a, query, lead);
        }
    }
}

void NYB_KERNEL(attend_f16)(const nyb_attend_args *a) { attend(NYB_KV_F16, a); }
void NYB_KERNEL(attend_v8)(const nyb_attend_args *a) { attend(NYB_KV_V8, a); }
void NYB_KERNEL(attend_int8)(const nyb_attend_args *a) { attend(NYB_KV_INT8, a); }

void NYB_KERNEL(combine)(const nyb_combine_args *a) {
    const float *stats = a->parts + a->head_dim;
    float max = stats[0];
    for (size_t p = 1; p < a->n_parts; p++)
        max = stats[p * a->stride] > max ? stats[p * a->stride] : max;
    for (size_t d = 0; d < a->head_dim; d += NYB_LANES)
        v8_store(a->out + d, v8_set(0));
    float sum = 0;
    for (size_t p = 0; p < a->n_parts; p++) {
        float factor[NYB_LANES];
        v8_store(factor, v8_flush(v8_exp(v8_set(stats[p * a->stride] - max))));
        sum = v8_fma1(factor[0], stats[p * a->stride + 1], sum);
        for (size_t d = 0; d < a->head_dim; d += NYB_LANES) {
            const nyb_v8 part = v8_load(a->parts + p * a->stride + d);
            v8_store(a->out + d, v8_fma(v8_set(factor[0]), part, v8_load(a->out + d)));
        }
    }
    for (size_t d = 0; d < a->head_dim; d += NYB_LANES)
        v8_store(a->out + d, v8_flush(v8_div(v8_load(a->out + d), v8_set(sum))));
}
