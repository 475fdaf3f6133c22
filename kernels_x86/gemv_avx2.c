/* SPDX-License-Identifier: MIT
 * gemv on AVX2, for each format.
 */
#include "dot_avx2.h"

#include "gemv.h"

NYB_QUANTIZED_ROWS(gemv, avx2, 0, 0)
NYB_QUANTIZED_ROWS(gemv16, avx2, 0, 0)
