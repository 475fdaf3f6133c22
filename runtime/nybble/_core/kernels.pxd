# The kernels' contract (kernels_ref/nyb_kernels.h, targets/), word for word.
from libc.stdint cimport int8_t, int16_t, int32_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "nyb_kernels.h" nogil:
    enum:
        NYB_ARITHMETIC
        NYB_BLOCK
        NYB_TILE_ROWS
        NYB_LANES
        NYB_PAGE
        NYB_F32
        NYB_F16
        NYB_BF16
        NYB_FORMATS
        NYB_KV_F16
        NYB_KV_V8
        NYB_KV_INT8
    enum nyb_op:
        NYB_OP_gemv
        NYB_OP_gemv16
        NYB_OP_gemv32
        NYB_OP_gemm
        NYB_OP_gemm32
        NYB_OP_embed
        NYB_OP_rmsnorm
        NYB_OP_quantize
        NYB_OP_quantize16
        NYB_OP_add
        NYB_OP_silu_mul
        NYB_OP_gelu_mul
        NYB_OP_rope_angles
        NYB_OP_rope
        NYB_OP_hadamard
        NYB_OP_append
        NYB_OP_attend
        NYB_OP_combine
        NYB_OP_softmax
        NYB_OPS
    ctypedef struct nyb_q8:
        int8_t q[32]
        float d
        float s
        int32_t sum
        int16_t half_sum[2]
    ctypedef struct nyb_q16:
        int8_t hi[32]
        int8_t lo[32]
        float d
        float s
        int32_t sum
        int16_t half_sum[2][2]
        int32_t unused[3]
    ctypedef struct nyb_layout:
        const char *name
        uint32_t format
        uint32_t block_cols
        uint32_t block_bytes
        # 0, or 1 + 8 * tile + row of the first scale or float that is not finite
        size_t (*pack)(size_t n_tiles, const uint8_t *const *rows, uint8_t *dst) noexcept nogil
    ctypedef struct nyb_gemv_args:
        size_t n_tiles
        size_t n_blocks
        const uint8_t *w
        const nyb_q8 *x
        float *y
        const uint8_t *w_beside
        float *y_beside
    ctypedef struct nyb_gemv16_args:
        size_t n_tiles
        size_t n_blocks
        const uint8_t *w
        const nyb_q16 *x
        float *y
    ctypedef struct nyb_gemm_args:
        size_t n_tiles
        size_t n_blocks
        size_t n_tokens
        const uint8_t *w
        const nyb_q8 *x
        size_t x_stride
        float *y
        size_t y_stride
        void *panel
    ctypedef struct nyb_gemv32_args:
        size_t n_tiles
        size_t n_blocks
        const uint8_t *w
        const float *x
        float *y
    ctypedef struct nyb_gemm32_args:
        size_t n_tiles
        size_t n_blocks
        size_t n_tokens
        const uint8_t *w
        const float *x
        size_t x_stride
        float *y
        size_t y_stride
    ctypedef struct nyb_embed_args:
        size_t row
        size_t n_blocks
        const uint8_t *w
        float scale
        float *out
    ctypedef struct nyb_rmsnorm_args:
        size_t n
        float eps
        const float *x
        const float *w
        float *out
    ctypedef struct nyb_quantize_args:
        size_t n_blocks
        const float *x
        nyb_q8 *out
    ctypedef struct nyb_quantize16_args:
        size_t n_blocks
        const float *x
        nyb_q16 *out
    ctypedef struct nyb_add_args:
        size_t n
        float *x
        const float *y
    ctypedef struct nyb_silu_mul_args:
        size_t n
        const float *gate
        const float *up
        float *out
    ctypedef nyb_silu_mul_args nyb_gelu_mul_args
    ctypedef struct nyb_rope_angles_args:
        size_t n
        uint64_t position
        const uint64_t *turns
        float *out
    ctypedef struct nyb_rope_args:
        size_t n
        size_t head_dim
        const float *angles
        float scale
        const float *x
        float *out
    ctypedef struct nyb_hadamard_args:
        size_t n
        size_t n_block
        const float *x
        float *out
    ctypedef struct nyb_append_args:
        size_t head_dim
        size_t position_in_page
        const float *key
        const float *value
        void *k
        void *v
        uint16_t *k_scales
        uint16_t *v_scales
    ctypedef struct nyb_attend_args:
        size_t head_dim
        size_t n_queries
        size_t first
        size_t end
        const float *q
        const void *k
        const void *v
        const uint16_t *k_scales
        const uint16_t *v_scales
        const void *next
        float *scores
        float *out
        size_t out_stride
    ctypedef struct nyb_combine_args:
        size_t head_dim
        size_t n_parts
        const float *parts
        size_t stride
        float *out
    ctypedef struct nyb_softmax_args:
        size_t n
        const float *x
        float max
        float *p
        float *sum
    ctypedef union nyb_run_fn:
        void (*gemv)(const nyb_gemv_args *args) noexcept nogil
        void (*gemv16)(const nyb_gemv16_args *args) noexcept nogil
        void (*gemv32)(const nyb_gemv32_args *args) noexcept nogil
        void (*gemm)(const nyb_gemm_args *args) noexcept nogil
        void (*gemm32)(const nyb_gemm32_args *args) noexcept nogil
        void (*embed)(const nyb_embed_args *args) noexcept nogil
        void (*rmsnorm)(const nyb_rmsnorm_args *args) noexcept nogil
        void (*quantize)(const nyb_quantize_args *args) noexcept nogil
        void (*quantize16)(const nyb_quantize16_args *args) noexcept nogil
        void (*add)(const nyb_add_args *args) noexcept nogil
        void (*silu_mul)(const nyb_silu_mul_args *args) noexcept nogil
        void (*gelu_mul)(const nyb_gelu_mul_args *args) noexcept nogil
        void (*rope_angles)(const nyb_rope_angles_args *args) noexcept nogil
        void (*rope)(const nyb_rope_args *args) noexcept nogil
        void (*hadamard)(const nyb_hadamard_args *args) noexcept nogil
        void (*append)(const nyb_append_args *args) noexcept nogil
        void (*attend)(const nyb_attend_args *args) noexcept nogil
        void (*combine)(const nyb_combine_args *args) noexcept nogil
        void (*softmax)(const nyb_softmax_args *args) noexcept nogil
    ctypedef struct nyb_row:
        const char *name
        const char *level
        nyb_op op
        uint32_t format
        uint32_t needs
        uint32_t panel_bytes
        nyb_run_fn run
    const nyb_layout *nyb_layout_of(uint32_t format) noexcept

cdef extern from "registry.h" nogil:
    ctypedef struct nyb_rows:
        pass
    const nyb_row nyb_registry[]
    void nyb_rows_pick(nyb_rows *rows, uint32_t cpu_bits) noexcept
    const nyb_row *nyb_row_named(const char *name) noexcept

cdef extern from "cpu.h" nogil:
    ctypedef struct nyb_level:
        const char *name
        uint32_t bits
    const nyb_level nyb_levels[]
    const char *const nyb_levels_missing[]
    const char *nyb_compiler() noexcept
    uint32_t nyb_cpu_bits() noexcept
    const nyb_level *nyb_level_of(const char *name) noexcept
