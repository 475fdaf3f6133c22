/* SPDX-License-Identifier: MIT
 * The float operations on AVX2.
 */
#include "lanes.h"

#define NYB_LEVEL avx2
#include "float_ops.h"
