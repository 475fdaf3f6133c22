/* SPDX-License-Identifier: MIT
 * gemv on AVX-512 VNNI, for each format.
 */
#include "vectors_512.h"

#include "dot_vnni.h"

#include "gemv.h"

NYB_QUANTIZED_ROWS(gemv, avx512vnni, 0, 0)
NYB_QUANTIZED_ROWS(gemv16, avx512vnni, 0, 0)
