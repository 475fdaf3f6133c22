/* SPDX-License-Identifier: MIT
 * Calls a kernel with the CPU told to flush subnormal floats, operands and results, to zero: what
 * 32-bit ARM's NEON always does, and what a library built with -ffast-math may leave behind in a
 * thread.
 */
#include <stdint.h>

#if defined(__x86_64__)

void call_flushing(void (*kernel)(const void *), const void *args) {
    enum { FLUSH_RESULTS = 0x8000, FLUSH_OPERANDS = 0x0040 };
    const uint32_t before = __builtin_ia32_stmxcsr();
    __builtin_ia32_ldmxcsr(before | FLUSH_RESULTS | FLUSH_OPERANDS);
    kernel(args);
    __builtin_ia32_ldmxcsr(before);
}

#elif defined(__aarch64__)

void call_flushing(void (*kernel)(const void *), const void *args) {
    enum { FLUSH = 1 << 24 };
    uint64_t before;
    __asm__ volatile("mrs %0, fpcr" : "=r"(before));
    __asm__ volatile("msr fpcr, %0" : : "r"(before | FLUSH) : "memory");
    kernel(args);
    __asm__ volatile("msr fpcr, %0" : : "r"(before) : "memory");
}

#endif
