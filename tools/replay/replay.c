/* SPDX-License-Identifier: MIT
 * replay - runs a dumped program on this machine and says whether its logits are the same bits.
 *
 *   replay FILE [THREADS [LEVEL [CHUNK]]]
 *
 * Needs no Python: a static build runs under an emulator, a sanitizer or an instruction counter.
 * `python -m tools.replay dump` makes the file: a header, then sections in the order below, each
 * a 64-bit length and its bytes, filled up to 64. Exit code 0 if every logit is equal, 1 if not,
 * 2 if the file or the arguments are not usable.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "nyb_engine.h"

typedef struct header {
    char magic[8]; /* "NYBRPLAY" */
    uint32_t version, max_pages, vocab, logits_buffer;
    uint32_t n_ids, n_rows; /* tokens fed, and how many of the last have expected logits */
    uint64_t fill[4];
} header;

_Static_assert(sizeof(header) == 64, "sections begin at a multiple of 64");

typedef struct section {
    void *data;
    uint64_t nbytes;
} section;

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

static section read_section(FILE *file) {
    section s;
    if (fread(&s.nbytes, sizeof s.nbytes, 1, file) != 1 || s.nbytes > (uint64_t)1 << 36)
        give_up("the file is cut off");
    fseek(file, 56, SEEK_CUR);
    s.data = aligned(s.nbytes);
    if (s.nbytes && fread(s.data, s.nbytes, 1, file) != 1)
        give_up("the file is cut off");
    fseek(file, (long)((64 - s.nbytes % 64) % 64), SEEK_CUR);
    return s;
}

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
        give_up("usage: replay FILE [THREADS [LEVEL [CHUNK]]]");
    FILE *file = fopen(argv[1], "rb");
    if (!file)
        give_up("cannot open the file");
    header h;
    if (fread(&h, sizeof h, 1, file) != 1 || memcmp(h.magic, "NYBRPLAY", 8) || h.version != 2)
        give_up("this is not a dumped program of version 2");
    section s[8];
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        s[i] = read_section(file);
    fclose(file);

    const nyb_program program = {
        .n_steps = (uint32_t)(s[0].nbytes / sizeof(nyb_step)),
        .steps = s[0].data,
        .n_buffers = (uint32_t)(s[1].nbytes / sizeof(nyb_buffer)),
        .buffers = s[1].data,
        .n_attentions = (uint32_t)(s[2].nbytes / sizeof(nyb_attention)),
        .attentions = s[2].data,
        .n_ropes = (uint32_t)(s[3].nbytes / sizeof(nyb_rope)),
        .ropes = s[3].data,
        .n_turns = (uint32_t)(s[4].nbytes / sizeof(uint64_t)),
        .turns = s[4].data,
        .weights_bytes = s[5].nbytes,
        .vocab = h.vocab,
        .logits = h.logits_buffer,
    };
    const int32_t *ids = s[6].data;
    const float *expected = s[7].data;
    if (s[6].nbytes != h.n_ids * sizeof(int32_t) || h.n_rows < 1 || h.n_rows > h.n_ids ||
        s[7].nbytes != (uint64_t)h.n_rows * h.vocab * sizeof(float))
        give_up("the file's tokens or logits have the wrong size");

    const nyb_level *level = argc > 3 ? nyb_level_of(argv[3]) : NULL;
    if (argc > 3 && (!level || (level->bits & ~nyb_cpu_bits())))
        give_up("no such level, or this CPU lacks it");
    const uint32_t cpu_bits = level ? level->bits : nyb_cpu_bits();
    const uint32_t chunk = number(argc, argv, 4, 16);
    const nyb_limits limits = {
        .threads = number(argc, argv, 2, 1),
        .max_tokens = chunk,
        .max_logits = chunk,
        .max_pages = h.max_pages,
        .n_pages = h.max_pages,
        .sequences = 1,
    };
    nyb_sizes sizes;
    nyb_error error;
    nyb_bound bound;
    uint32_t *pages = aligned(h.max_pages * sizeof *pages);
    for (uint32_t i = 0; i < h.max_pages; i++)
        pages[i] = i;
    if (nyb_measure(&program, &limits, cpu_bits, &sizes, &error))
        give_up(error.what);
    uint8_t *kv = aligned(sizes.kv_bytes), *work = aligned(sizes.work_bytes);
    if (nyb_bind(&bound, &program, &limits, cpu_bits, s[5].data, kv, work, &error))
        give_up(error.what);

    /* Tokens before the expected rows are fed in chunks, the others one at a time. */
    uint64_t differences = 0;
    for (uint32_t done = 0; done < h.n_ids;) {
        const uint32_t plain = h.n_ids - h.n_rows;
        uint32_t n = done < plain ? plain - done : 1;
        n = n < chunk - done % chunk ? n : chunk - done % chunk;
        const nyb_want want = done < plain ? NYB_WANT_NONE : NYB_WANT_LAST;
        const nyb_span span = {ids + done, n, done, pages, 0, want};
        if (nyb_run(&bound, &(nyb_batch){&span, 1}, &error))
            give_up(error.what);
        if (want == NYB_WANT_LAST)
            differences += count_differences(
                nyb_logits(&bound, 0), expected + (uint64_t)(done - plain) * h.vocab, h.vocab);
        done += n;
    }
    printf("%s: %" PRIu64 " of %" PRIu64 " logits differ\n", differences ? "DIFFERENT" : "equal",
           differences, (uint64_t)h.n_rows * h.vocab);
    free(pages), free(kv), free(work);
    for (size_t i = 0; i < sizeof s / sizeof *s; i++)
        free(s[i].data);
    return differences != 0;
}
