/* SPDX-License-Identifier: MIT
 * replay - runs a dumped program on this machine and says whether its logits are the same bits.
 *
 *   replay FILE [THREADS [LEVEL [CHUNK [SEQUENCES]]]]
 *
 * LEVEL is the CPU's best unless it is named; "best" names it too. CHUNK is 16. As many SEQUENCES,
 * 1 to 8, are fed the same tokens in the same batches, and each has to have the logits.
 *
 * Needs no Python: a static build runs under an emulator, a sanitizer or an instruction counter.
 * `python -m tools.replay dump` makes the file (dump.h). Exit code 0 if every logit is equal, 1 if
 * not, 2 if the file or the arguments are not usable.
 */
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "dump.h"
#include "nyb_engine.h"

enum { MAX_SEQUENCES = 8 };

static _Noreturn void give_up(const char *what) {
    fprintf(stderr, "replay: %s\n", what);
    exit(2);
}

static void *aligned(uint64_t nbytes) {
    void *p = NULL;
    const uint64_t rounded = (nbytes + 63) / 64 * 64;
    if (posix_memalign(&p, 64, rounded ? rounded : 64))
        give_up("out of memory");
    memset(p, 0, rounded);
    return p;
}

/* The whole of a file, to be freed. */
static uint8_t *read_file(const char *path, uint64_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file || fseek(file, 0, SEEK_END))
        give_up("cannot open the file");
    const long end = ftell(file);
    if (end < 0)
        give_up("cannot read the file");
    rewind(file);
    *length = (uint64_t)end;
    uint8_t *bytes = aligned(*length);
    if (fread(bytes, 1, *length, file) != *length)
        give_up("cannot read the file");
    fclose(file);
    return bytes;
}

/* Where an instruction counter begins and ends to count: tools/count/plugin.c. */
__attribute__((noinline)) static void count_mark(void) { __asm__ volatile(""); }

static uint64_t count_differences(const float *got, const float *expected, uint32_t n) {
    uint64_t differences = 0;
    for (uint32_t i = 0; i < n; i++)
        differences += memcmp(&got[i], &expected[i], sizeof(float)) != 0;
    return differences;
}

static uint32_t number(int argc, char **argv, int i, uint32_t otherwise) {
    return argc > i ? (uint32_t)strtoul(argv[i], NULL, 10) : otherwise;
}

int main(int argc, char **argv) {
    if (argc < 2)
        give_up("usage: replay FILE [THREADS [LEVEL [CHUNK [SEQUENCES]]]]");
    uint64_t length;
    uint8_t *bytes = read_file(argv[1], &length);
    const char *what;
    dump d;
    if (dump_read(&d, bytes, length, &what))
        give_up(what);
    const dump_header h = d.header;

    const bool is_named = argc > 3 && strcmp(argv[3], "best") != 0;
    const nyb_level *level = is_named ? nyb_level_of(argv[3]) : NULL;
    if (is_named && (!level || (level->bits & ~nyb_cpu_bits())))
        give_up("no such level, or this CPU lacks it");
    const uint32_t cpu_bits = level ? level->bits : nyb_cpu_bits();
    const uint32_t chunk = number(argc, argv, 4, 16), sequences = number(argc, argv, 5, 1);
    if (chunk < 1 || chunk > 1 << 16 || sequences < 1 || sequences > MAX_SEQUENCES)
        give_up("no such chunk or number of sequences");
    const nyb_limits limits = {
        .threads = number(argc, argv, 2, 1),
        .max_tokens = chunk * sequences,
        .max_logits = sequences,
        .max_pages = h.max_pages,
        .n_pages = h.max_pages * sequences,
        .sequences = sequences,
        .kv = h.kv,
    };
    nyb_sizes sizes;
    nyb_error error;
    nyb_bound bound;
    uint32_t *pages = aligned(limits.n_pages * sizeof *pages);
    for (uint32_t i = 0; i < limits.n_pages; i++)
        pages[i] = i;
    if (nyb_measure(&d.program, &limits, cpu_bits, &sizes, &error))
        give_up(error.what);
    uint8_t *kv = aligned(sizes.kv_bytes), *work = aligned(sizes.work_bytes);
    if (nyb_bind(&bound, &d.program, &limits, cpu_bits, d.weights, kv, work, &error))
        give_up(error.what);

    /* The prompt, up to the first expected row, is fed in chunks; the others one at a time. */
    const uint32_t prompt = h.n_ids - h.n_rows + 1;
    uint64_t differences = 0;
    for (uint32_t done = 0; done < h.n_ids;) {
        uint32_t n = done < prompt ? prompt - done : 1;
        n = n < chunk - done % chunk ? n : chunk - done % chunk;
        const nyb_want want = done + n < prompt ? NYB_WANT_NONE : NYB_WANT_LAST;
        nyb_span spans[MAX_SEQUENCES];
        for (uint32_t s = 0; s < sequences; s++)
            spans[s] = (nyb_span){d.ids + done, n, done, pages + s * h.max_pages, s, want};
        count_mark();
        if (nyb_run(&bound, &(nyb_batch){spans, sequences}, &error))
            give_up(error.what);
        count_mark();
        done += n;
        for (uint32_t s = 0; want == NYB_WANT_LAST && s < sequences; s++)
            differences += count_differences(
                nyb_logits(&bound, s), d.expected + (uint64_t)(done - prompt) * h.vocab, h.vocab);
    }
    printf("%s: %" PRIu64 " of %" PRIu64 " logits differ\n", differences ? "DIFFERENT" : "equal",
           differences, (uint64_t)h.n_rows * h.vocab * sequences);
    free(pages), free(kv), free(work), free(bytes);
    return differences != 0;
}
