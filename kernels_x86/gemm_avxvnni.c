/* SPDX-License-Identifier: MIT
 * gemm on AVX-VNNI, for each format.
 */
#include "dot_avxvnni.h"

#include "gemm_256.h"

void nyb_gemm_q4_0_avxvnni(const nyb_gemm_args *a) { gemm(FORMAT_Q4_0, a); }
void nyb_gemm_q4_1_avxvnni(const nyb_gemm_args *a) { gemm(FORMAT_Q4_1, a); }
void nyb_gemm_q8_0_avxvnni(const nyb_gemm_args *a) { gemm(FORMAT_Q8_0, a); }
