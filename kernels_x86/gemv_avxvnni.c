/* SPDX-License-Identifier: MIT
 * gemv on AVX-VNNI, for 8-bit weights: 4-bit ones are read from memory as fast by AVX2.
 */
#include "dot_avxvnni.h"

#include "pair_256.h"

#include "gemv.h"

void nyb_gemv_q8_0_avxvnni(const nyb_gemv_args *a) { gemv(FORMAT_Q8_0, a); }
void nyb_gemv16_q8_0_avxvnni(const nyb_gemv16_args *a) { gemv16(FORMAT_Q8_0, a); }
