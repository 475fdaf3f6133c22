/* SPDX-License-Identifier: MIT
 * gemm on AVX-VNNI, for each format.
 */
#include "vectors_256.h"

#include "dot_vnni.h"

enum { REGISTERS = 1, TOKENS = 4, SCALED_TOKENS = 4 };
#include "gemm.h"

_Static_assert(sizeof(panel_block) == 320, "kernels.def says so");

NYB_QUANTIZED_ROWS(gemm, avxvnni, 0, 0)
