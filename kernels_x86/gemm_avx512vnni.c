/* SPDX-License-Identifier: MIT
 * gemm on AVX-512 VNNI, for each format.
 */
#include "vectors_512.h"

#include "dot_vnni.h"

enum { REGISTERS = 2, TOKENS = 6, SCALED_TOKENS = 4 };
#include "gemm.h"

_Static_assert(REGISTERS * sizeof(panel_block) == 1280, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, avx512vnni, 0, 0)
