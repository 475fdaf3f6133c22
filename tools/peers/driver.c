/* SPDX-License-Identifier: MIT
 * A peer of llama.cpp's kind at work: quantizing a model, or timed at prompt and reply.
 *
 *   driver quantize IN OUT TYPE PURE      TYPE: a number of its enum llama_ftype
 *   driver serve MODEL THREADS OPTIONS POSITIONS
 *   driver count MODEL OPTIONS PROMPT GEN         for tools/count, with one thread
 *
 * OPTIONS: "defaults", or some of "repacked", "merged", "no flash" with commas between.
 *
 * `serve` keeps the model loaded and answers each line of its input with one:
 *
 *   fill N     brings the context to N tokens: "ok"
 *   prompt N   forgets, feeds N tokens up to the choice of the next: the seconds
 *   reply N    decodes N tokens behind the context as it was filled, and takes them back: the
 * seconds
 *
 * Built once for each peer against its llama.h; what differs between them is named below and
 * nothing else. What is timed is what `nybble bench` times: a prompt up to its first token, and
 * steps of one token each with the choice of the next, by a loop here, because the peers' own
 * samplers cost more than the largest of these logits. Tokens are arbitrary: a dense model does
 * the same work for all of them.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <llama.h>

#if defined(PEER_IK)
static void forget(struct llama_context *c) { llama_kv_cache_clear(c); }
static bool rewind_to(struct llama_context *c, int n) { return llama_kv_cache_seq_rm(c, 0, n, -1); }
static struct llama_batch batch_of(llama_token *ids, int n, int position) {
    return llama_batch_get_one(ids, n, position, 0);
}
static void choose_loading(struct llama_model_params *p, const char *options) {
    p->repack_tensors = strstr(options, "repacked") != NULL;
    p->merge_qkv = strstr(options, "merged") != NULL;
    p->use_mmap = !p->repack_tensors; /* a mapped file cannot be rewritten */
}
static void choose_context(struct llama_context_params *p, const char *options) {
    p->flash_attn = strstr(options, "no flash") == NULL;
}
#else
static void forget(struct llama_context *c) { llama_memory_clear(llama_get_memory(c), false); }
static bool rewind_to(struct llama_context *c, int n) {
    return llama_memory_seq_rm(llama_get_memory(c), 0, n, -1);
}
static struct llama_batch batch_of(llama_token *ids, int n, int position) {
    (void)position; /* it counts by itself */
    return llama_batch_get_one(ids, n);
}
static void choose_loading(struct llama_model_params *p, const char *options) {
    (void)p, (void)options; /* it repacks what it can by itself, and merges nothing */
}
static void choose_context(struct llama_context_params *p, const char *options) {
    p->swa_full = false; /* sliding windows cost only what they hold */
    if (strstr(options, "no flash"))
        p->flash_attn_type = LLAMA_FLASH_ATTN_TYPE_DISABLED;
}
#endif

enum { BATCH = 512 };

typedef struct run {
    struct llama_context *context;
    int vocab;
    int position; /* tokens in the context */
    llama_token next;
} run;

static double seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what) {
    fprintf(stderr, "driver: %s\n", what);
    exit(1);
}

static void quiet(enum ggml_log_level level, const char *text, void *data) {
    (void)data;
    if (level == GGML_LOG_LEVEL_ERROR)
        fputs(text, stderr);
}

/* Where an instruction counter begins and ends to count: tools/count/plugin.c. */
__attribute__((noinline)) static void count_mark(void) { __asm__ volatile(""); }

static void decode(run *r, llama_token *ids, int n) {
    count_mark();
    if (llama_decode(r->context, batch_of(ids, n, r->position)))
        fail("llama_decode failed");
    count_mark();
    r->position += n;
}

/* The token with the largest logit of the last one decoded. */
static void choose(run *r) {
    const float *logits = llama_get_logits_ith(r->context, -1);
    if (!logits)
        fail("no logits");
    int best = 0;
    for (int i = 1; i < r->vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    r->next = best;
}

static llama_token arbitrary(const run *r, int position) {
    return (llama_token)((uint64_t)position * 7919 % (uint64_t)r->vocab);
}

/* Fills the context with arbitrary tokens up to a depth. */
static void fill(run *r, int depth) {
    llama_token ids[BATCH];
    while (r->position < depth) {
        const int n = depth - r->position < BATCH ? depth - r->position : BATCH;
        for (int i = 0; i < n; i++)
            ids[i] = arbitrary(r, r->position + i);
        decode(r, ids, n);
    }
    choose(r);
}

static void empty(run *r) {
    forget(r->context);
    r->position = 0;
}

static double prompt(run *r, int n) {
    empty(r);
    const double start = seconds();
    fill(r, n);
    return seconds() - start;
}

/* What was decoded is taken back, so that the next reply begins where this one did; where the
 * memory cannot do that, all is forgotten, and the next `fill` fills anew. */
static double reply(run *r, int n) {
    const int filled = r->position;
    /* The last token once more, so that threads are awake when the clock starts, as nybble's are.
     */
    llama_token last = arbitrary(r, filled - 1);
    if (rewind_to(r->context, filled - 1)) {
        r->position = filled - 1;
        decode(r, &last, 1);
        choose(r);
    }
    const llama_token next = r->next;
    const double start = seconds();
    for (int i = 0; i < n; i++) {
        llama_token id = r->next;
        decode(r, &id, 1);
        choose(r);
    }
    const double took = seconds() - start;
    r->position = filled;
    r->next = next;
    if (!rewind_to(r->context, filled))
        empty(r);
    return took;
}

static run start(const char *path, int threads, const char *options, int positions) {
    struct llama_model_params mp = llama_model_default_params();
    choose_loading(&mp, options);
    struct llama_model *model = llama_model_load_from_file(path, mp);
    if (!model)
        fail("the model cannot be loaded");
    struct llama_context_params cp = llama_context_default_params();
    cp.n_ctx = (uint32_t)(positions + 256) / 256 * 256;
    cp.n_batch = cp.n_ubatch = BATCH;
    cp.n_threads = cp.n_threads_batch = threads;
    choose_context(&cp, options);
    run r = {.context = llama_init_from_model(model, cp)};
    if (!r.context)
        fail("no context");
    r.vocab = llama_vocab_n_tokens(llama_model_get_vocab(model));
    return r;
}

static int serve(char **args) {
    const int positions = atoi(args[3]);
    run r = start(args[0], atoi(args[1]), args[2], positions);
    fill(&r, 1);
    reply(&r, 1); /* brings the weights in */
    char line[64];
    while (fgets(line, sizeof line, stdin)) {
        int n;
        if (sscanf(line, "prompt %d", &n) == 1 && n > 0 && n <= positions) {
            printf("%.9f\n", prompt(&r, n));
        } else if (sscanf(line, "reply %d", &n) == 1 && n > 0 && r.position > 0 &&
                   r.position + n <= positions) {
            printf("%.9f\n", reply(&r, n));
        } else if (sscanf(line, "fill %d", &n) == 1 && n > 0 && n <= positions) {
            if (r.position != n) {
                empty(&r);
                fill(&r, n);
            }
            printf("ok\n");
        } else {
            fail("a line that is none of fill, prompt and reply within the positions");
        }
        fflush(stdout);
    }
    return 0;
}

/* A prompt at once, then tokens one at a time; prints what would have come after each. */
static int count(char **args) {
    const int prompt = atoi(args[2]), gen = atoi(args[3]);
    run r = start(args[0], 1, args[1], prompt + gen);
    fill(&r, prompt);
    printf("%d", r.next);
    for (int i = 0; i < gen; i++) {
        llama_token id = arbitrary(&r, r.position);
        decode(&r, &id, 1);
        choose(&r);
        printf(" %d", r.next);
    }
    printf("\n");
    return 0;
}

static int quantize(char **args) {
    llama_model_quantize_params p = llama_model_quantize_default_params();
    p.ftype = (enum llama_ftype)atoi(args[2]);
    p.pure = atoi(args[3]) != 0;
    p.allow_requantize = true; /* its speed is wanted, not its words */
    if (llama_model_quantize(args[0], args[1], &p))
        fail("the model cannot be quantized");
    return 0;
}

int main(int n, char **args) {
    llama_log_set(quiet, NULL);
    llama_backend_init();
    if (n == 6 && !strcmp(args[1], "quantize"))
        return quantize(args + 2);
    if (n == 6 && !strcmp(args[1], "serve"))
        return serve(args + 2);
    if (n == 6 && !strcmp(args[1], "count"))
        return count(args + 2);
    fputs("driver quantize IN OUT TYPE PURE\n"
          "driver serve MODEL THREADS OPTIONS POSITIONS\n"
          "driver count MODEL OPTIONS PROMPT GEN\n",
          stderr);
    return 2;
}
