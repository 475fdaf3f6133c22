/* SPDX-License-Identifier: MIT
 * CPU detection: cpuid on x86, the kernel's auxiliary vector elsewhere, never /proc/cpuinfo
 * (an emulator shows the host's).
 */
#include "cpu.h"

#include <string.h>

#include "nyb_kernels.h"

#if defined(__x86_64__) || defined(__i386__)

#include <cpuid.h>

/* The register states that the OS saves (XCR0): bits 1, 2 are xmm, ymm; 5, 6, 7 are zmm. */
static uint64_t saved_states(void) {
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (uint64_t)high << 32 | low;
}

uint32_t nyb_cpu_bits(void) {
    enum { YMM = 0x6, ZMM = 0xe6 };
    uint32_t a, b, c, d, bits = 0;
    if (!__get_cpuid(1, &a, &b, &c, &d))
        return 0;
    const uint32_t fma = c >> 12 & 1, osxsave = c >> 27 & 1, f16c = c >> 29 & 1;
    if (!osxsave)
        return 0;
    const uint64_t saved = saved_states();
    uint32_t max_subleaf;
    if (!__get_cpuid_count(7, 0, &max_subleaf, &b, &c, &d))
        return 0;
    const uint32_t avx2 = b >> 5 & 1;
    if (avx2 && fma && f16c && (saved & YMM) == YMM)
        bits |= NYB_CPU_AVX2;
    const uint32_t f = b >> 16 & 1, dq = b >> 17 & 1, bw = b >> 30 & 1, vl = b >> 31 & 1;
    const uint32_t vnni512 = c >> 11 & 1;
    if (f && dq && bw && vl && vnni512 && (saved & ZMM) == ZMM)
        bits |= NYB_CPU_AVX512VNNI;
    if (max_subleaf >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
        if ((bits & NYB_CPU_AVX2) && (a >> 4 & 1))
            bits |= NYB_CPU_AVXVNNI;
    return bits;
}

#elif defined(__aarch64__) && defined(__linux__)

#include <sys/auxv.h>

uint32_t nyb_cpu_bits(void) {
    /* HWCAP_ASIMDDP and HWCAP2_I8MM by value: an old C library's headers may lack them. */
    const unsigned long hwcap = getauxval(AT_HWCAP), hwcap2 = getauxval(AT_HWCAP2);
    uint32_t bits = NYB_CPU_NEON;
    if (hwcap >> 20 & 1)
        bits |= NYB_CPU_DOTPROD;
    if (hwcap2 >> 13 & 1)
        bits |= NYB_CPU_I8MM;
    return bits;
}

#elif defined(__arm__) && defined(__linux__)

#include <sys/auxv.h>

uint32_t nyb_cpu_bits(void) {
    /* HWCAP_NEON is bit 12, HWCAP_VFPv4 (fused multiply-add) bit 16: nybble's NEON means both. */
    const unsigned long hwcap = getauxval(AT_HWCAP);
    return (hwcap >> 12 & 1) && (hwcap >> 16 & 1) ? NYB_CPU_NEON : 0;
}

#else

uint32_t nyb_cpu_bits(void) { return 0; }

#endif

const nyb_level nyb_levels[] = {
    {"ref", 0},
#if NYB_HAVE_AVX2
    {"avx2", NYB_CPU_AVX2},
#endif
#if NYB_HAVE_AVXVNNI
    {"avxvnni", NYB_CPU_AVX2 | NYB_CPU_AVXVNNI},
#endif
#if NYB_HAVE_AVX512VNNI
    {"avx512vnni", NYB_CPU_AVX2 | NYB_CPU_AVX512VNNI},
#endif
#if NYB_HAVE_NEON
    {"neon", NYB_CPU_NEON},
#endif
#if NYB_HAVE_DOTPROD
    {"dotprod", NYB_CPU_NEON | NYB_CPU_DOTPROD},
#endif
#if NYB_HAVE_I8MM
    {"i8mm", NYB_CPU_NEON | NYB_CPU_DOTPROD | NYB_CPU_I8MM},
#endif
    {NULL, 0},
};

const char *const nyb_levels_missing[] = {
#if defined(__x86_64__) && !NYB_HAVE_AVX2
    "avx2",
#endif
#if defined(__x86_64__) && !NYB_HAVE_AVXVNNI
    "avxvnni",
#endif
#if defined(__x86_64__) && !NYB_HAVE_AVX512VNNI
    "avx512vnni",
#endif
#if defined(__aarch64__) && !NYB_HAVE_NEON
    "neon",
#endif
#if defined(__aarch64__) && !NYB_HAVE_DOTPROD
    "dotprod",
#endif
#if defined(__aarch64__) && !NYB_HAVE_I8MM
    "i8mm",
#endif
    NULL,
};

const char *nyb_compiler(void) {
#if defined(__clang__)
    return __VERSION__; /* names itself */
#else
    return "gcc " __VERSION__;
#endif
}

const nyb_level *nyb_level_of(const char *name) {
    for (const nyb_level *level = nyb_levels; level->name; level++)
        if (!strcmp(level->name, name))
            return level;
    return NULL;
}
