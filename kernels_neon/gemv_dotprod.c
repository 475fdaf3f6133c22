/* SPDX-License-Identifier: MIT
 * gemv on SDOT, for each format.
 */
#include "dot_dotprod.h"

#include "gemv.h"

NYB_QUANTIZED_ROWS(gemv, dotprod, 0, 0)
NYB_QUANTIZED_ROWS(gemv16, dotprod, 0, 0)
