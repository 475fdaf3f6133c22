/* SPDX-License-Identifier: MIT
 * gemm on AVX2, for each format.
 */
#include "dot_avx2.h"

enum { REGISTERS = 1, TOKENS = 4, SCALED_TOKENS = 4 };
#include "gemm.h"

_Static_assert(sizeof(panel_block) == 320, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, avx2, 0, 0)
