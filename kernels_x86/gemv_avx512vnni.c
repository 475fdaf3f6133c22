/* SPDX-License-Identifier: MIT
 * gemv on AVX-512 VNNI, for each format.
 */
#include "pair_512.h"

#include "gemv.h"

void nyb_gemv_q4_0_avx512vnni(const nyb_gemv_args *a) { gemv(FORMAT_Q4_0, a); }
void nyb_gemv_q4_1_avx512vnni(const nyb_gemv_args *a) { gemv(FORMAT_Q4_1, a); }
void nyb_gemv_q8_0_avx512vnni(const nyb_gemv_args *a) { gemv(FORMAT_Q8_0, a); }

void nyb_gemv16_q4_0_avx512vnni(const nyb_gemv16_args *a) { gemv16(FORMAT_Q4_0, a); }
void nyb_gemv16_q4_1_avx512vnni(const nyb_gemv16_args *a) { gemv16(FORMAT_Q4_1, a); }
void nyb_gemv16_q8_0_avx512vnni(const nyb_gemv16_args *a) { gemv16(FORMAT_Q8_0, a); }
