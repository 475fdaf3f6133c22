/* SPDX-License-Identifier: MIT
 * gemv on AVX-VNNI, for 8-bit weights: smaller ones are read from memory as fast by AVX2.
 */
#include "vectors_256.h"

#include "dot_vnni.h"

#include "gemv.h"

NYB_ROW(gemv, q8_0, Q8_0, avxvnni, 0, 0)
NYB_ROW(gemv16, q8_0, Q8_0, avxvnni, 0, 0)
