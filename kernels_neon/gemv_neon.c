/* SPDX-License-Identifier: MIT
 * gemv on plain NEON, for each format.
 */
#include "dot_neon.h"

#include "gemv.h"

NYB_QUANTIZED_ROWS(gemv, neon, 0, 0)
NYB_QUANTIZED_ROWS(gemv16, neon, 0, 0)
