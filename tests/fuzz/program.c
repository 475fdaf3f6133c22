/* SPDX-License-Identifier: MIT
 * Any bytes as a dumped program: refused, or run within its arenas, whatever its weights and
 * tokens are. An input is a dump (tools/replay/dump.h), of whose header the part without a meaning
 * says how it is run: `enum how`.
 *
 * Threads are played by one, one after another: they then read what others have not written yet,
 * which is nonsense and as harmless as any, and each goes the way that it goes beside others. So
 * a program is also run in more threads than this machine has, with no time spent on waiting.
 */
#include "../../tools/replay/dump.h"
#include "../engine/checks.h"
#include "cpu.h"
#include "nyb_engine.h"
#include "nyb_pool.h"

enum how { THREADS, CHUNK, LOGITS, HIDDEN, DIM, LEVEL, WANT };
enum {
    MOST_MEMORY = 4 << 20, /* bytes of the arenas */
    MOST_STEPS = 256,
    MOST_THREADS = 4,
    MOST_CHUNK = 16,
    MOST_PAGES = 4,
    SLOTS = 2,
};

void nyb_pool_run(uint32_t threads, nyb_work_fn *work, void *context) {
    for (uint32_t thread = 0; thread < threads; thread++)
        work(context, NULL, thread, threads);
}

void nyb_barrier(nyb_team *team, uint32_t threads) { (void)team, (void)threads; }

static void *aligned_block(uint64_t nbytes) {
    void *p = NULL;
    must(posix_memalign(&p, 64, nbytes) == 0, "no memory for the arenas");
    memset(p, 0, nbytes);
    return p;
}

/* All of these ISA levels that this machine has: the number chooses one. */
static uint32_t cpu_bits_of(uint32_t number) {
    uint32_t n = 0;
    while (nyb_levels[n].name)
        n++;
    const uint32_t bits = nyb_levels[number % n].bits;
    return bits & ~nyb_cpu_bits() ? 0 : bits;
}

/* Feeds the tokens a chunk at a time, in one slot and a piece of each chunk in the other. */
static void run(nyb_bound *bound, const dump *d, uint32_t chunk) {
    static const uint32_t pages[SLOTS][MOST_PAGES] = {{0, 2, 4, 6}, {1, 3, 5, 7}};
    const uint32_t first = d->header.fill[WANT] / SLOTS % SLOTS;
    nyb_error error = {0};
    for (uint32_t done = 0; done < d->header.n_ids; done += chunk) {
        const uint32_t left = d->header.n_ids - done, n = left < chunk ? left : chunk;
        const nyb_want want = (nyb_want)(d->header.fill[WANT] + done) % (NYB_WANT_HIDDEN + 1);
        const uint32_t apart = n > 1 ? n / 2 : n;
        const nyb_span spans[SLOTS] = {
            {d->ids + done, apart, done, pages[first], first, want},
            {d->ids + done + apart, n - apart, done, pages[1 - first], 1 - first, NYB_WANT_LAST},
        };
        const nyb_batch batch = {spans, apart < n ? SLOTS : 1};
        if (nyb_run(bound, &batch, &error)) {
            must(error.what != NULL, "a batch refused without a word");
            return;
        }
        volatile float sink = 0;
        for (uint32_t i = 0; i < bound->n_logits; i++)
            for (uint32_t id = 0; id < d->program.vocab; id++)
                sink = nyb_logits(bound, i)[id];
        for (uint32_t i = 0; i < bound->n_hidden; i++)
            for (uint32_t k = 0; k < d->program.dim; k++)
                sink = nyb_hidden(bound, i)[k];
        (void)sink;
    }
    (void)nyb_can_rewind(bound, d->header.n_ids, d->header.n_ids / 2);
    nyb_clear_page(bound, d->header.fill[WANT] / SLOTS);
    nyb_clear_slot(bound, first);
}

static void bind_and_run(dump *d) {
    const uint32_t *how = d->header.fill, bits = cpu_bits_of(how[LEVEL]);
    const nyb_limits limits = {
        .threads = how[THREADS] % (MOST_THREADS + 1),
        .max_tokens = how[CHUNK] % (MOST_CHUNK + 1),
        .max_logits = how[LOGITS] % (MOST_CHUNK + 1),
        .max_pages = d->header.max_pages,
        .n_pages = SLOTS * d->header.max_pages,
        .sequences = SLOTS,
        .kv = d->header.kv,
    };
    nyb_sizes sizes;
    nyb_error error = {0};
    nyb_bound bound;
    d->program.hidden = how[HIDDEN];
    d->program.dim = how[DIM];
    if (nyb_measure(&d->program, &limits, bits, &sizes, &error)) {
        must(error.what != NULL, "a program refused without a word");
        return;
    }
    if (sizes.kv_bytes > MOST_MEMORY || sizes.work_bytes > MOST_MEMORY - sizes.kv_bytes ||
        d->program.n_steps > MOST_STEPS || d->header.max_pages > MOST_PAGES)
        return;
    uint8_t *kv = aligned_block(sizes.kv_bytes), *work = aligned_block(sizes.work_bytes);
    uint8_t *weights = aligned_block(d->program.weights_bytes);
    if (d->program.weights_bytes)
        memcpy(weights, d->weights, d->program.weights_bytes);
    must(nyb_bind(&bound, &d->program, &limits, bits, weights, kv, work, &error) == 0,
         "a program that was measured is not bound");
    run(&bound, d, limits.max_tokens);
    free(weights);
    free(work);
    free(kv);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const char *what = NULL;
    dump d;
    uint8_t *bytes = aligned_block(size);
    if (size > 0)
        memcpy(bytes, data, size);
    if (dump_read(&d, bytes, size, &what))
        must(what != NULL, "a dump refused without a word");
    else
        bind_and_run(&d);
    free(bytes);
    return 0;
}

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

/* A number for a field: near to what it was, what another field holds, or an extreme. */
static uint32_t other_number(uint32_t was, uint32_t another, uint32_t random) {
    static const uint32_t steps[8] = {1, 2, 4, 8, 16, 32, 64, 128};
    static const uint32_t extremes[4] = {0, UINT32_MAX, 1u << 31, 1u << 24};
    switch (random % 8) {
    case 0:
    case 1:
        return was + steps[random / 8 % 8];
    case 2:
    case 3:
        return was - steps[random / 8 % 8];
    case 4:
        return another;
    case 5:
        return random / 8 % 64;
    case 6:
        return was ^ 1u << random / 8 % 32;
    default:
        return extremes[random / 8 % 4];
    }
}

/* Mostly changes a field of 32 bits, in what comes before the weights; else anything. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    uint64_t at = sizeof(dump_header), nbytes;
    uint64_t state = seed * 6364136223846793005u + 1442695040888963407u;
    const uint32_t random = (uint32_t)(state >> 33);
    if (random % 4 == 0 || size < sizeof(dump_header))
        return LLVMFuzzerMutate(data, size, most);
    for (int section = 0; section < DUMP_WEIGHTS && at + DUMP_ALIGNMENT < size; section++) {
        memcpy(&nbytes, data + at, sizeof nbytes);
        if (nbytes > size - at - DUMP_ALIGNMENT)
            break;
        at += DUMP_ALIGNMENT + (nbytes + 63) / 64 * 64;
    }
    const uint64_t words = (at < size ? at : size) / sizeof(uint32_t);
    for (uint32_t changes = 1 + random / 4 % 3; changes > 0; changes--) {
        uint32_t was, another;
        state = state * 6364136223846793005u + 1442695040888963407u;
        const uint64_t word = 3 + (state >> 40) % (words - 3); /* behind magic and version */
        memcpy(&was, data + 4 * word, sizeof was);
        memcpy(&another, data + 4 * ((state >> 20) % words), sizeof another);
        const uint32_t now = other_number(was, another, (uint32_t)(state >> 16));
        memcpy(data + 4 * word, &now, sizeof now);
    }
    return size;
}
