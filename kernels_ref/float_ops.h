/* SPDX-License-Identifier: MIT
 * The float operations, written once on eight lanes and compiled once for each ISA level.
 *
 * A level's source file defines NYB_LEVEL, includes its room's lanes.h, then this. What is
 * computed and why each step is the same everywhere: docs/arithmetic.md.
 */
#include <float.h>
#include <string.h>

#include "nyb_kernels.h"

_Static_assert(FLT_EVAL_METHOD == 0 || FLT_EVAL_METHOD == 16, "a float operation rounds to float");

#define NYB_JOIN_(a, b, c) a##b##_##c
#define NYB_JOIN(a, b, c)  NYB_JOIN_(a, b, c)
#define NYB_KERNEL(name)   NYB_JOIN(nyb_, name, NYB_LEVEL)
#define NYB_INLINE         static inline __attribute__((always_inline))

/* exp(x), relative error below 1.2e-7; 0 for x < -54, exp(88) for x > 88, NaN for NaN.
 * x = n ln 2 + r, |r| <= ln(2) / 2, exp(x) = 2^n exp(r); tools/fit_polynomials.py. */
static inline nyb_v8 v8_exp(nyb_v8 x) {
    const nyb_v8 magic = v8_set(0x1.8p23f);
    const nyb_v8 y = v8_select_less(v8_set(88.0f), x, v8_set(88.0f), x);
    const nyb_v8 n_bits = v8_fma(y, v8_set(0x1.715476p+0f), magic);
    const nyb_v8 n = v8_sub(n_bits, magic);
    nyb_v8 r = v8_fma(n, v8_set(-0x1.62e4p-1f), y);
    r = v8_fma(n, v8_set(-0x1.7f7d1cp-20f), r);
    nyb_v8 p = v8_fma(r, v8_set(0x1.6a244cp-10f), v8_set(0x1.1239d4p-7f));
    p = v8_fma(r, p, v8_set(0x1.5558f2p-5f));
    p = v8_fma(r, p, v8_set(0x1.555492p-3f));
    p = v8_fma(r, p, v8_set(0x1.fffffcp-2f));
    p = v8_fma(v8_mul(r, r), p, r);
    p = v8_add(p, v8_set(1));
    return v8_select_less(x, v8_set(-54.0f), v8_set(0), v8_scale(p, n_bits));
}

void NYB_KERNEL(rmsnorm)(const nyb_rmsnorm_args *a) {
    nyb_v8 squares = v8_set(0);
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 x = v8_load(a->x + i);
        squares = v8_fma(x, x, squares);
    }
    const float mean = v8_sum(squares) / (float)a->n;
    /* mean - mean is 0, or NaN where the squares went to infinity and 1 / infinity would hide it */
    const nyb_v8 inverse = v8_set(1.0f / v8_sqrt1(mean + a->eps) + (mean - mean));
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 x = v8_flush(v8_mul(v8_load(a->x + i), inverse));
        v8_store(a->out + i, v8_flush(v8_mul(x, v8_load(a->w + i))));
    }
}

/* The largest magnitude in a block of 32; NaN if one of them is not finite. */
static inline float block_amax(const float *x) {
    nyb_v8 amax = v8_set(0), bad = v8_set(0);
    for (int i = 0; i < NYB_BLOCK; i += NYB_LANES) {
        const nyb_v8 v = v8_abs(v8_load(x + i));
        amax = v8_max(v, amax);
        bad = v8_add(bad, v8_sub(v, v)); /* 0, or NaN for an infinity or a NaN */
    }
    return v8_largest(amax) + v8_sum(bad);
}

void NYB_KERNEL(quantize)(const nyb_quantize_args *a) {
    for (size_t b = 0; b < a->n_blocks; b++) {
        const float *x = a->x + b * NYB_BLOCK;
        nyb_q8 *out = &a->out[b];
        const float amax = block_amax(x);
        const int usable = amax > 0; /* neither 0 nor NaN */
        const nyb_v8 inverse = v8_set(usable ? 127.0f / amax : 0);
        nyb_v8 scaled[4];
        for (int i = 0; i < 4; i++)
            scaled[i] = usable ? v8_mul(v8_load(x + NYB_LANES * i), inverse) : v8_set(0);
        v8_store_bytes(out->q, scaled, out->half_sum);
        out->sum = out->half_sum[0] + out->half_sum[1];
        out->d = amax / 127.0f;
        out->s = out->d * (float)out->sum;
    }
}

/* v = 256 hi + lo with hi and lo in -127..127: an int16 v has such a pair unless v = 128 modulo
 * 256, where lo is -127 and v is taken to be one larger (by 2^-15 of the block's largest). */
void NYB_KERNEL(quantize16)(const nyb_quantize16_args *a) {
    for (size_t b = 0; b < a->n_blocks; b++) {
        const float *x = a->x + b * NYB_BLOCK;
        nyb_q16 *out = &a->out[b];
        const float amax = block_amax(x);
        const int usable = amax > 0;
        const nyb_v8 inverse = v8_set(usable ? 32512.0f / amax : 0);
        int32_t q[NYB_LANES];
        memset(out, 0, sizeof *out);
        for (int i = 0; i < NYB_BLOCK; i += NYB_LANES) {
            int16_t *const half_sum[] = {&out->half_sum[0][i / 16], &out->half_sum[1][i / 16]};
            v8_store_int(q, usable ? v8_mul(v8_load(x + i), inverse) : v8_set(0));
            for (int j = 0; j < NYB_LANES; j++) {
                const int32_t hi = (q[j] + 128 + 65536) / 256 - 256; /* floor division */
                const int32_t lo = q[j] - 256 * hi < -127 ? -127 : q[j] - 256 * hi;
                out->hi[i + j] = (int8_t)hi;
                out->lo[i + j] = (int8_t)lo;
                out->sum += 256 * hi + lo;
                *half_sum[0] = (int16_t)(*half_sum[0] + hi);
                *half_sum[1] = (int16_t)(*half_sum[1] + lo);
            }
        }
        out->d = amax / 32512.0f;
        out->s = out->d * (float)out->sum;
    }
}

void NYB_KERNEL(add)(const nyb_add_args *a) {
    for (size_t i = 0; i < a->n; i += NYB_LANES)
        v8_store(a->x + i, v8_flush(v8_add(v8_load(a->x + i), v8_load(a->y + i))));
}

void NYB_KERNEL(silu_mul)(const nyb_silu_mul_args *a) {
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 gate = v8_load(a->gate + i);
        const nyb_v8 below = v8_add(v8_exp(v8_sub(v8_set(0), gate)), v8_set(1));
        const nyb_v8 silu = v8_flush(v8_div(gate, below));
        v8_store(a->out + i, v8_flush(v8_mul(silu, v8_load(a->up + i))));
    }
}

/* (1 + tanh(u)) / 2 is 1 / (1 + exp(-2u)), so gelu is g / (1 + exp(g * t)) with t = -2u / g: no
 * tanh, and no bits lost where it comes near to -1. */
void NYB_KERNEL(gelu_mul)(const nyb_gelu_mul_args *a) {
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 gate = v8_load(a->gate + i);
        const nyb_v8 square = v8_mul(gate, gate);
        const nyb_v8 t = v8_fma(square, v8_set(-0x1.2444f2p-4f), v8_set(-0x1.988454p+0f));
        const nyb_v8 below = v8_add(v8_exp(v8_mul(gate, t)), v8_set(1));
        const nyb_v8 gelu = v8_flush(v8_div(gate, below));
        v8_store(a->out + i, v8_flush(v8_mul(gelu, v8_load(a->up + i))));
    }
}

/* The angle is a 64-bit fraction of a turn, so wrapping is the range reduction. Its top 32 bits
 * give the nearest quarter turn and a rest of at most an eighth. */
void NYB_KERNEL(rope_angles)(const nyb_rope_angles_args *a) {
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        int32_t rest[NYB_LANES];
        uint32_t quarter[NYB_LANES];
        for (int j = 0; j < NYB_LANES; j++) {
            const uint32_t turn = (uint32_t)(a->turns[i + (size_t)j] * a->position >> 32);
            quarter[j] = (turn + 0x20000000u) >> 30;
            rest[j] = (int32_t)(turn - (quarter[j] << 30));
        }
        const nyb_v8 x = v8_flush(v8_mul(v8_load_int(rest), v8_set(0x1.921fb6p-30f)));
        const nyb_v8 xx = v8_flush(v8_mul(x, x));
        nyb_v8 s = v8_fma(xx, v8_set(-0x1.9943e0p-13f), v8_set(0x1.11073ap-7f));
        s = v8_fma(xx, s, v8_set(-0x1.555546p-3f));
        s = v8_flush(v8_fma(v8_flush(v8_mul(x, xx)), s, x));
        nyb_v8 c = v8_fma(xx, v8_set(0x1.9916a0p-16f), v8_set(-0x1.6c07f2p-10f));
        c = v8_fma(xx, c, v8_set(0x1.55553cp-5f));
        c = v8_fma(xx, c, v8_set(-0.5f));
        c = v8_flush(v8_fma(xx, c, v8_set(1)));
        float sines[NYB_LANES], cosines[NYB_LANES];
        v8_store(sines, s);
        v8_store(cosines, c);
        for (int j = 0; j < NYB_LANES; j++) {
            const float near = quarter[j] & 1 ? sines[j] : cosines[j];
            const float far = quarter[j] & 1 ? cosines[j] : sines[j];
            const uint32_t q = quarter[j] & 3;
            a->out[i + (size_t)j] = q == 1 || q == 2 ? -near : near;
            a->out[a->n + i + (size_t)j] = q >= 2 ? -far : far;
        }
    }
}

void NYB_KERNEL(rope)(const nyb_rope_args *a) {
    const nyb_v8 scale = v8_set(a->scale);
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 c = v8_load(a->angles + i), s = v8_load(a->angles + a->n + i);
        const nyb_v8 x = v8_load(a->x + i), y = v8_load(a->x + a->n + i);
        const nyb_v8 u = v8_sub(v8_mul(x, c), v8_mul(y, s));
        const nyb_v8 v = v8_add(v8_mul(x, s), v8_mul(y, c));
        v8_store(a->out + i, v8_flush(v8_mul(v8_flush(u), scale)));
        v8_store(a->out + a->n + i, v8_flush(v8_mul(v8_flush(v), scale)));
    }
    for (size_t i = 2 * a->n; i < a->head_dim; i += NYB_LANES) /* dimensions that do not rotate */
        v8_store(a->out + i, v8_flush(v8_mul(v8_load(a->x + i), scale)));
}

/* Three stages within eight: sums and differences of neighbours, of every second, of halves. */
NYB_INLINE void hadamard_of_eight(const float *x, float *out) {
    float from[NYB_LANES], to[NYB_LANES];
    memcpy(from, x, sizeof from);
    for (int h = 1; h < NYB_LANES; h *= 2) {
        for (int i = 0; i < NYB_LANES; i++)
            to[i] = i & h ? from[i ^ h] - from[i] : from[i] + from[i ^ h];
        memcpy(from, to, sizeof from);
    }
    memcpy(out, from, sizeof from);
}

void NYB_KERNEL(hadamard)(const nyb_hadamard_args *a) {
    const nyb_v8 scale = v8_set(1.0f / v8_sqrt1((float)a->n_block));
    for (size_t i = 0; i < a->n; i += NYB_LANES)
        hadamard_of_eight(a->x + i, a->out + i);
    for (size_t h = NYB_LANES; h < a->n_block; h *= 2)
        for (size_t i = 0; i < a->n; i += NYB_LANES) {
            if (i & h) /* its pair has seen to it */
                continue;
            const nyb_v8 x = v8_load(a->out + i), y = v8_load(a->out + i + h);
            v8_store(a->out + i, v8_add(x, y));
            v8_store(a->out + i + h, v8_sub(x, y));
        }
    for (size_t i = 0; i < a->n; i += NYB_LANES)
        v8_store(a->out + i, v8_flush(v8_mul(v8_load(a->out + i), scale)));
}

void NYB_KERNEL(softmax)(const nyb_softmax_args *a) {
    const nyb_v8 max = v8_set(a->max);
    nyb_v8 sum = v8_set(0);
    for (size_t i = 0; i < a->n; i += NYB_LANES) {
        const nyb_v8 p = v8_exp(v8_sub(v8_load(a->x + i), max));
        v8_store(a->p + i, p);
        sum = v8_add(sum, p);
    }
    *a->sum = v8_sum(sum);
}

#include "float_attention.h"
#include "float_matrices.h"
