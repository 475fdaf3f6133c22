/* SPDX-License-Identifier: MIT
 * IEEE binary16 to and from float, in integer and exact float arithmetic.
 */
#ifndef NYB_HALF_H
#define NYB_HALF_H

#include <stdint.h>
#include <string.h>

static inline float nyb_float_of_bits(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

static inline uint32_t nyb_bits_of_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* Exact for every half, and without a subnormal float on the way, which a CPU may be told to take
 * for zero. A normal half's exponent is raised by 112; a subnormal one, m * 2^-24, is made as
 * 2^-14 * (1 + m / 1024) - 2^-14. Infinity and NaN keep their meaning. */
static inline float nyb_float_of_half(uint16_t half) {
    const uint32_t sign = (uint32_t)(half & 0x8000) << 16, exponent = half & 0x7c00;
    const uint32_t magnitude = (uint32_t)(half & 0x7fff) << 13;
    const uint32_t special = exponent == 0x7c00 ? 0x7f800000u : 0;
    const uint32_t normal = (magnitude + (112u << 23)) | special;
    const float subnormal = nyb_float_of_bits(magnitude + (113u << 23)) - 0x1p-14f;
    return nyb_float_of_bits((exponent ? normal : nyb_bits_of_float(subnormal)) | sign);
}

/* Nearest half, ties to even; beyond the largest half the largest half (65504); NaN stays NaN. */
static inline uint16_t nyb_half_of_float(float x) {
    const uint32_t bits = nyb_bits_of_float(x);
    const uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float a = nyb_float_of_bits(bits & 0x7fffffff);
    if (a != a)
        return sign | 0x7e00;
    if (a > 65504.0f)
        a = 65504.0f;
    if (a < 0x1p-14f) /* 0.5f has a unit of 2^-24, which is the unit of a subnormal half */
        return (uint16_t)(sign | (nyb_bits_of_float(a + 0.5f) - nyb_bits_of_float(0.5f)));
    const uint32_t m = nyb_bits_of_float(a) - (112u << 23);
    return (uint16_t)(sign | (m + 0xfff + (m >> 13 & 1)) >> 13);
}

#endif
