/* SPDX-License-Identifier: MIT
 * The float operations on the 256-bit half of AVX-512: the same lanes with twice the registers,
 * which is what attention to several queries at once wants.
 */
#include "lanes.h"

#define NYB_LEVEL avx512vnni
#define NYB_SUMS  16
#include "float_ops.h"
