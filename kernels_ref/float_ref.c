/* SPDX-License-Identifier: MIT
 * The float operations in plain C.
 */
#include "lanes.h"

#define NYB_LEVEL ref
#include "float_ops.h"
