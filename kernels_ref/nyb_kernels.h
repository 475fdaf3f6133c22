/* SPDX-License-Identifier: MIT
 * The contract between the engine and every kernel, on every ISA.
 *
 * A kernel computes one operation of docs/arithmetic.md. The plain C in this room is the
 * specification: every other kernel returns the same bits. Kernels know no Python, threads,
 * allocation, files or environment; they check nothing that the engine has checked at binding.
 *
 * Letters: N rows of a matrix, K its columns, T tokens, D the dimension of an attention head.
 */
#ifndef NYB_KERNELS_H
#define NYB_KERNELS_H

#include <stddef.h>
#include <stdint.h>

/* The version of the arithmetic: docs/arithmetic.md says when it is raised. */
enum { NYB_ARITHMETIC = 1 };

enum {
    NYB_BLOCK = 32,    /* columns that share one scale in activations, and in most weights */
    NYB_TILE_ROWS = 8, /* rows of a matrix that are packed together, one to a lane */
    NYB_LANES = 8,     /* floats in a nyb_v8 */
    NYB_PAGE = 128,    /* positions in a page of the KV cache, and in a chunk of attention */
    NYB_GROUP = 32,    /* positions of a page whose keys, or values, lie together */
};

/* Whatever enters a product is 0 or at least this in magnitude (docs/arithmetic.md, "Flush"). */
#define NYB_TINY 0x1p-40f

/* Formats carry GGUF's own type numbers. */
typedef enum nyb_format {
    NYB_F32 = 0,
    NYB_F16 = 1,
    NYB_Q4_0 = 2,
    NYB_Q4_1 = 3,
    NYB_Q5_0 = 6,
    NYB_Q5_1 = 7,
    NYB_Q8_0 = 8,
    NYB_Q4_K = 12,
    NYB_Q5_K = 13,
    NYB_Q6_K = 14,
    NYB_IQ4_NL = 20,
    NYB_BF16 = 30,
    NYB_MXFP4 = 39,
    NYB_FORMATS = 48, /* one more than the largest number that may come to be used */
} nyb_format;

/* How keys and values are stored. A row of `append` or `attend` has this where others have their
 * weights' format. */
typedef enum nyb_kv {
    NYB_KV_F16,  /* both as halves */
    NYB_KV_V8,   /* keys as halves, values as int8 */
    NYB_KV_INT8, /* both as int8; what is int8 the engine rotates before (`hadamard`) */
    NYB_KVS,
} nyb_kv;

/* What a CPU can do, as far as kernels care (targets/cpu.c finds out). */
enum {
    NYB_CPU_AVX2 = 1 << 0, /* with FMA and F16C, and the OS saves ymm registers */
    NYB_CPU_AVXVNNI = 1 << 1,
    NYB_CPU_AVX512VNNI = 1 << 2, /* with F, BW, DQ and VL, and the OS saves zmm registers */
    NYB_CPU_NEON = 1 << 3,
    NYB_CPU_DOTPROD = 1 << 4,
    NYB_CPU_I8MM = 1 << 5,
    NYB_CPU_RVV = 1 << 6, /* RVV 1.0 */
};

/* -- Activations ------------------------------------------------------------------------- */

/* 32 activations as int8: x is about d * q. Made by `quantize`. */
typedef struct nyb_q8 {
    int8_t q[NYB_BLOCK]; /* -127..127 */
    float d;             /* max|x| / 127: 0 or at least 2^-63; NaN if an x was not finite */
    float s;             /* d * (float)sum */
    int32_t sum;         /* of q */
    int16_t half_sum[2]; /* of q[0..15] and q[16..31], for weights with a scale for 16 columns */
} nyb_q8;

/* 32 activations as int16 in two planes: x is about d * (256 * hi + lo). Made by `quantize16`
 * for the output head, the one matrix whose input deserves 16 bits. */
typedef struct nyb_q16 {
    int8_t hi[NYB_BLOCK];   /* -127..127 */
    int8_t lo[NYB_BLOCK];   /* -127..127 */
    float d;                /* max|x| / 32512 */
    float s;                /* d * (float)sum */
    int32_t sum;            /* of 256 * hi + lo */
    int16_t half_sum[2][2]; /* of the first and the last 16 of hi, and of lo */
    int32_t unused[3];      /* keeps the next hi 16-byte aligned */
} nyb_q16;

/* -- Packed weights ---------------------------------------------------------------------- */

/* How the scales of 8 rows are told. */
typedef enum nyb_scales {
    NYB_SCALES_D,    /* d: 8 halves */
    NYB_SCALES_D_M,  /* d, then the minimum m: 8 halves each */
    NYB_SCALES_E8M0, /* d: 8 bytes e of 2^(e - 128), or 0 if e is 0 */
    NYB_SCALES_K,    /* d * sc and -dmin * m: 8 halves d, 8 dmin, 96 bytes of sc and m in 6 bits */
    NYB_SCALES_K16,  /* d * sc: 8 halves d; in each block an int8 sc a row and 16 columns */
} nyb_scales;

/* What the number q in a tile stands for, before the scale. */
typedef enum nyb_codes {
    NYB_CODES_LINEAR, /* q - bias */
    NYB_CODES_IQ4_NL, /* nyb_iq4_nl[q] */
    NYB_CODES_FP4,    /* nyb_fp4[q] */
} nyb_codes;

static const int8_t nyb_iq4_nl[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                      1,    13,   25,  38,  53,  69,  89,  113};
/* Twice the values of a 4-bit float with two bits of exponent and one of mantissa (E2M1). */
static const int8_t nyb_fp4[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* A quantized format's tile: 8 rows by `blocks` blocks of 32 columns (docs/formats.md draws them).
 *
 *   tile  = scales_bytes of scales, then the blocks
 *   block = scales of its own (16 bytes, K16 only), high bits (32 bytes of a fifth, 64 of a fifth
 *           and sixth bit), nibbles or bytes
 *
 * A constant wherever a loop is inlined, so that what a format does not have costs nothing. */
typedef struct nyb_tile_format {
    nyb_scales scales;
    nyb_codes codes;
    int bits; /* of q: 4, 5, 6, or 8 and signed */
    int bias;
    int blocks;          /* 1, or 8 in a K-quant */
    size_t scales_bytes; /* of the whole tile's scales, in front */
    size_t block_bytes;
} nyb_tile_format;

#define NYB_TILE_Q4_0   ((nyb_tile_format){NYB_SCALES_D, NYB_CODES_LINEAR, 4, 8, 1, 16, 128})
#define NYB_TILE_Q4_1   ((nyb_tile_format){NYB_SCALES_D_M, NYB_CODES_LINEAR, 4, 0, 1, 32, 128})
#define NYB_TILE_Q5_0   ((nyb_tile_format){NYB_SCALES_D, NYB_CODES_LINEAR, 5, 16, 1, 16, 160})
#define NYB_TILE_Q5_1   ((nyb_tile_format){NYB_SCALES_D_M, NYB_CODES_LINEAR, 5, 0, 1, 32, 160})
#define NYB_TILE_Q8_0   ((nyb_tile_format){NYB_SCALES_D, NYB_CODES_LINEAR, 8, 0, 1, 16, 256})
#define NYB_TILE_Q4_K   ((nyb_tile_format){NYB_SCALES_K, NYB_CODES_LINEAR, 4, 0, 8, 128, 128})
#define NYB_TILE_Q5_K   ((nyb_tile_format){NYB_SCALES_K, NYB_CODES_LINEAR, 5, 0, 8, 128, 160})
#define NYB_TILE_Q6_K   ((nyb_tile_format){NYB_SCALES_K16, NYB_CODES_LINEAR, 6, 32, 8, 16, 208})
#define NYB_TILE_IQ4_NL ((nyb_tile_format){NYB_SCALES_D, NYB_CODES_IQ4_NL, 4, 0, 1, 16, 128})
#define NYB_TILE_MXFP4  ((nyb_tile_format){NYB_SCALES_E8M0, NYB_CODES_FP4, 4, 0, 1, 8, 128})

static inline size_t nyb_tile_bytes(nyb_tile_format f) {
    return f.scales_bytes + (size_t)f.blocks * f.block_bytes;
}

static inline int nyb_has_min(nyb_tile_format f) {
    return f.scales == NYB_SCALES_D_M || f.scales == NYB_SCALES_K;
}

/* One NYB_ROW for each quantized format (kernels_ref/kernels.def): in a kernels.def the rows of a
 * loop, in its source file the instances. */
#define NYB_QUANTIZED_ROWS(op, level, needs, panel_bytes)                                          \
    NYB_ROW(op, q4_0, Q4_0, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q4_1, Q4_1, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q5_0, Q5_0, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q5_1, Q5_1, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q8_0, Q8_0, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q4_k, Q4_K, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q5_k, Q5_K, level, needs, panel_bytes)                                             \
    NYB_ROW(op, q6_k, Q6_K, level, needs, panel_bytes)                                             \
    NYB_ROW(op, iq4_nl, IQ4_NL, level, needs, panel_bytes)                                         \
    NYB_ROW(op, mxfp4, MXFP4, level, needs, panel_bytes)

/* One NYB_ROW for each way to store keys and values. */
#define NYB_KV_ROWS(op, level, needs)                                                              \
    NYB_ROW(op, f16, KV_F16, level, needs, 0)                                                      \
    NYB_ROW(op, v8, KV_V8, level, needs, 0)                                                        \
    NYB_ROW(op, int8, KV_INT8, level, needs, 0)

/* Formats of plain floats: a tile is 8 rows by one column, and activations are floats too. Their
 * matrix operations are gemv32 and gemm32, written once in float_matrices.h. */
#define NYB_FLOAT_MATRIX_ROWS(op, level, needs)                                                    \
    NYB_ROW(op, f32, F32, level, needs, 0)                                                         \
    NYB_ROW(op, f16, F16, level, needs, 0)                                                         \
    NYB_ROW(op, bf16, BF16, level, needs, 0)

/* The reference gemm's panel: 32 columns of 8 rows as 256 int16 and two floats a row. */
enum { NYB_REF_PANEL_BYTES = 576 };

/* Packs 8 rows of a matrix into the tiles of one tile row.
 *
 * n_tiles  blocks of the format in a row: K / block_cols
 * rows     8 pointers to GGUF rows; NULL stands for a row of zeros (padding)
 * dst      n_tiles tiles
 * Returns 0, or 1 + 8 * tile + row of the first scale, or weight that is a float, that is not
 * finite. The tiles are written all the same.
 */
typedef size_t nyb_pack_fn(size_t n_tiles, const uint8_t *const rows[NYB_TILE_ROWS], uint8_t *dst);

typedef struct nyb_layout {
    const char *name;     /* of the format as GGUF writes it: "Q4_1" */
    nyb_format format;    /* */
    uint32_t block_cols;  /* columns of a GGUF block and of a tile, of which K is a multiple */
    uint32_t block_bytes; /* of one GGUF block; a tile has 8 times as many */
    nyb_pack_fn *pack;
} nyb_layout;

/* NULL where this build cannot pack the format. */
const nyb_layout *nyb_layout_of(uint32_t format);

/* Bytes of a tile row of n_blocks * 32 columns. */
static inline size_t nyb_tile_row_bytes(const nyb_layout *layout, size_t n_blocks) {
    return n_blocks * NYB_BLOCK / layout->block_cols * layout->block_bytes * NYB_TILE_ROWS;
}

/* -- Operations --------------------------------------------------------------------------- */

/* y[n] = sum_k w[n][k] * x[k], one token. y has room for n_tiles * 8 floats; flushed. Decode reads
 * each weight once, so memory is its limit. */
typedef struct nyb_gemv_args {
    size_t n_tiles;   /* tile rows: N / 8, of one matrix or of neighbours in memory */
    size_t n_blocks;  /* K / 32, and 32 * n_blocks is a multiple of the format's block_cols */
    const uint8_t *w; /* n_tiles tile rows, each of 32 * n_blocks / block_cols tiles */
    const nyb_q8 *x;  /* (n_blocks,) */
    float *y;         /* (n_tiles * 8,) */
    /* NULL, or another matrix of the same size, which is read beside: n_tiles counts the tile rows
     * of both, w and y have half of them, and these the others. */
    const uint8_t *w_beside;
    float *y_beside;
} nyb_gemv_args;

/* The same of one matrix, the output head, whose input has 16 bits. */
typedef struct nyb_gemv16_args {
    size_t n_tiles, n_blocks;
    const uint8_t *w;
    const nyb_q16 *x; /* (n_blocks,) */
    float *y;
} nyb_gemv16_args;

/* The same for weights that are floats. */
typedef struct nyb_gemv32_args {
    size_t n_tiles, n_blocks;
    const uint8_t *w;
    const float *x; /* (n_blocks * 32,) flushed */
    float *y;
} nyb_gemv32_args;

/* y[t][n] = sum_k w[n][k] * x[t][k] for T tokens: each row equals the gemv of its token. */
typedef struct nyb_gemm_args {
    size_t n_tiles, n_blocks, n_tokens;
    const uint8_t *w;
    const nyb_q8 *x; /* (n_tokens, x_stride) blocks */
    size_t x_stride;
    float *y; /* (n_tokens, y_stride) floats */
    size_t y_stride;
    void *panel; /* scratch of n_blocks * the row's panel_bytes, 64-byte aligned */
} nyb_gemm_args;

/* The same for weights that are floats. */
typedef struct nyb_gemm32_args {
    size_t n_tiles, n_blocks, n_tokens;
    const uint8_t *w;
    const float *x; /* (n_tokens, x_stride) floats */
    size_t x_stride;
    float *y; /* (n_tokens, y_stride) floats */
    size_t y_stride;
} nyb_gemm32_args;

/* out[k] = flush(scale * w[row][k]): one row of the embedding, as floats. */
typedef struct nyb_embed_args {
    size_t row, n_blocks;
    const uint8_t *w;
    float scale;
    float *out; /* (n_blocks * 32,) */
} nyb_embed_args;

/* out[k] = x[k] / sqrt(mean(x^2) + eps) * w[k]; n is a multiple of 8. May be done in place. */
typedef struct nyb_rmsnorm_args {
    size_t n;
    float eps;
    const float *x, *w;
    float *out;
} nyb_rmsnorm_args;

typedef struct nyb_quantize_args {
    size_t n_blocks;
    const float *x; /* (n_blocks * 32,) flushed */
    nyb_q8 *out;    /* (n_blocks,) */
} nyb_quantize_args;

typedef struct nyb_quantize16_args {
    size_t n_blocks;
    const float *x;
    nyb_q16 *out;
} nyb_quantize16_args;

/* x[k] = flush(x[k] + y[k]); n is a multiple of 8. */
typedef struct nyb_add_args {
    size_t n;
    float *x;
    const float *y;
} nyb_add_args;

/* out[k] = silu(gate[k]) * up[k] with silu(g) = g / (1 + exp(-g)); n is a multiple of 8. */
typedef struct nyb_silu_mul_args {
    size_t n;
    const float *gate, *up;
    float *out;
} nyb_silu_mul_args;

/* The same with gelu(g) = g / 2 * (1 + tanh(sqrt(2 / pi) * (g + 0.044715 g^3))). */
typedef nyb_silu_mul_args nyb_gelu_mul_args;

/* cos and sin of the angles of one position: turns[i] * position, in units of 2^-64 turn,
 * wrapped: out = n cosines, then n sines; n is a multiple of 8. */
typedef struct nyb_rope_angles_args {
    size_t n;
    uint64_t position;
    const uint64_t *turns; /* (n,) turns per position, times 2^64 */
    float *out;            /* (2 * n,) */
} nyb_rope_angles_args;

/* Rotates the pairs (x[i], x[i + n]) for i < n, then scales the whole head; D is a multiple of
 * 8 and at least 2 n. May be done in place. */
typedef struct nyb_rope_args {
    size_t n, head_dim;
    const float *angles; /* n cosines, n sines */
    float scale;         /* 1 for keys, 1/sqrt(D) for queries */
    const float *x;      /* (head_dim,) */
    float *out;          /* (head_dim,) */
} nyb_rope_args;

/* out = x times the orthonormal Hadamard matrix of n_block rows, a block of as many after another:
 * its own inverse, and it spreads what is large over the block. May be done in place. */
typedef struct nyb_hadamard_args {
    size_t n;       /* a multiple of n_block */
    size_t n_block; /* a power of two, 8 or more */
    const float *x; /* (n,) flushed */
    float *out;     /* (n,) flushed */
} nyb_hadamard_args;

/* Writes a position's key and value into a page (layout: nyb_attend_args). Where they are int8,
 * 32 columns (at the end of a head what is left, a multiple of 8) have a scale of their own. */
typedef struct nyb_append_args {
    size_t head_dim, position_in_page;
    const float *key, *value;      /* (head_dim,) flushed */
    void *k, *v;                   /* the page of this KV head */
    uint16_t *k_scales, *v_scales; /* of int8 */
} nyb_append_args;

/* Attention of some query heads to some positions of one page of their common KV head.
 *
 *   score[i] = sum_d q[d] * k[i][d]       first <= i < end
 *   out[d]   = sum_i exp(score[i] - max) * v[i][d]
 *
 * Each query's partial result is D floats of out (flushed), then max, then the sum of the
 * exponentials: `combine` joins those of several pages. */
typedef struct nyb_attend_args {
    size_t head_dim;   /* D, a multiple of 8 */
    size_t n_queries;  /* heads that share this KV head */
    size_t first, end; /* positions attended to, 0 <= first < end <= 128 */
    const float *q;    /* (n_queries, D), rotated and scaled */
    const void *k;     /* halves or int8, (4 groups, 4, D / 4, 32 positions): [d % 4][d / 4] */
    const void *v;     /* the same, (4 groups, D / 32 rounded up, 32 positions, 32 or fewer) */
    const uint16_t *k_scales; /* of int8: halves, (D / 32 rounded up, 128 positions) */
    const uint16_t *v_scales; /* the same */
    const void *next; /* keys that the thread will read afterwards: a kernel may fetch them */
    float *scores;    /* scratch, (n_queries, 128) */
    float *out;       /* (n_queries, out_stride), out_stride >= D + 2 */
    size_t out_stride;
} nyb_attend_args;

/* Joins the partial results of one query head, in the order of their pages. */
typedef struct nyb_combine_args {
    size_t head_dim, n_parts;
    const float *parts; /* part p at parts + p * stride */
    size_t stride;
    float *out; /* (D,) flushed */
} nyb_combine_args;

/* p[i] = exp(x[i] - max) for n values (a multiple of 8; fill up with -infinity), and their sum
 * in eight lanes. */
typedef struct nyb_softmax_args {
    size_t n;
    const float *x;
    float max;
    float *p;
    float *sum; /* one float */
} nyb_softmax_args;

/* op, arguments: one line an operation, from which the enum, the types and the union come. */
#define NYB_OPERATIONS(X)                                                                          \
    X(gemv)                                                                                        \
    X(gemv16)                                                                                      \
    X(gemv32)                                                                                      \
    X(gemm)                                                                                        \
    X(gemm32)                                                                                      \
    X(embed)                                                                                       \
    X(rmsnorm)                                                                                     \
    X(quantize)                                                                                    \
    X(quantize16)                                                                                  \
    X(add)                                                                                         \
    X(silu_mul)                                                                                    \
    X(gelu_mul)                                                                                    \
    X(rope_angles)                                                                                 \
    X(rope)                                                                                        \
    X(hadamard)                                                                                    \
    X(append)                                                                                      \
    X(attend)                                                                                      \
    X(combine)                                                                                     \
    X(softmax)

typedef enum nyb_op {
#define NYB_OP_NUMBER(op) NYB_OP_##op,
    NYB_OPERATIONS(NYB_OP_NUMBER)
#undef NYB_OP_NUMBER
        NYB_OPS
} nyb_op;

#define NYB_OP_TYPE(op) typedef void nyb_##op##_fn(const nyb_##op##_args *args);
NYB_OPERATIONS(NYB_OP_TYPE)
#undef NYB_OP_TYPE

typedef union nyb_run_fn {
#define NYB_OP_MEMBER(op) nyb_##op##_fn *op;
    NYB_OPERATIONS(NYB_OP_MEMBER)
#undef NYB_OP_MEMBER
} nyb_run_fn;

/* A row of a kernels.def. */
typedef struct nyb_row {
    const char *name; /* op_format_level, or op_level for float operations */
    const char *level;
    nyb_op op;
    uint32_t format;      /* nyb_format; NYB_F32 of float operations, nyb_kv of append and attend */
    uint32_t needs;       /* NYB_CPU bits */
    uint32_t panel_bytes; /* of a gemm: scratch for each block of 32 columns */
    nyb_run_fn run;
} nyb_row;

#endif
