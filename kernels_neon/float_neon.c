/* SPDX-License-Identifier: MIT
 * The float operations on NEON.
 */
#include "lanes.h"

#define NYB_LEVEL neon
#include "float_ops.h"
