/* SPDX-License-Identifier: MIT
 * gemm on AVX2, for each format.
 */
#include "dot_avx2.h"

#include "gemm_256.h"

void nyb_gemm_q4_0_avx2(const nyb_gemm_args *a) { gemm(FORMAT_Q4_0, a); }
void nyb_gemm_q4_1_avx2(const nyb_gemm_args *a) { gemm(FORMAT_Q4_1, a); }
void nyb_gemm_q8_0_avx2(const nyb_gemm_args *a) { gemm(FORMAT_Q8_0, a); }
