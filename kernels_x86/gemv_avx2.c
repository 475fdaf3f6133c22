/* SPDX-License-Identifier: MIT
 * gemv on AVX2, for each format.
 */
#include "dot_avx2.h"

#include "pair_256.h"

#include "gemv.h"

void nyb_gemv_q4_0_avx2(const nyb_gemv_args *a) { gemv(FORMAT_Q4_0, a); }
void nyb_gemv_q4_1_avx2(const nyb_gemv_args *a) { gemv(FORMAT_Q4_1, a); }
void nyb_gemv_q8_0_avx2(const nyb_gemv_args *a) { gemv(FORMAT_Q8_0, a); }

void nyb_gemv16_q4_0_avx2(const nyb_gemv16_args *a) { gemv16(FORMAT_Q4_0, a); }
void nyb_gemv16_q4_1_avx2(const nyb_gemv16_args *a) { gemv16(FORMAT_Q4_1, a); }
void nyb_gemv16_q8_0_avx2(const nyb_gemv16_args *a) { gemv16(FORMAT_Q8_0, a); }
