/* SPDX-License-Identifier: MIT
 * Reading a dumped program: every length is checked against the dump's.
 */
#include "dump.h"

#include <string.h>

_Static_assert(sizeof(dump_header) == DUMP_ALIGNMENT, "sections begin at a multiple of 64");

/* The most pages: a context of 2^23 positions. */
enum { MAX_PAGES = 1 << 16 };

typedef struct section {
    const void *data;
    uint64_t nbytes;
} section;

static uint64_t aligned(uint64_t n) {
    return (n + DUMP_ALIGNMENT - 1) / DUMP_ALIGNMENT * DUMP_ALIGNMENT;
}

/* Takes the section that begins at *at. What fills up the last one may be missing. */
static int take_section(const uint8_t *bytes, uint64_t length, uint64_t *at, section *s) {
    if (length - *at < DUMP_ALIGNMENT)
        return -1;
    memcpy(&s->nbytes, bytes + *at, sizeof s->nbytes);
    *at += DUMP_ALIGNMENT;
    if (s->nbytes > length - *at)
        return -1;
    s->data = bytes + *at;
    const uint64_t filled = aligned(s->nbytes);
    *at += filled < length - *at ? filled : length - *at;
    return 0;
}

/* The number of structs of `size` bytes that fill a section. */
static int count(const section *s, uint64_t size, uint32_t *n) {
    *n = (uint32_t)(s->nbytes / size);
    return s->nbytes % size || s->nbytes / size > UINT32_MAX ? -1 : 0;
}

int dump_read(dump *dump, const uint8_t *bytes, uint64_t length, const char **what) {
    dump_header *h = &dump->header;
    section s[DUMP_SECTIONS];
    uint64_t at = sizeof *h;
    *dump = (struct dump){0};
    *what = "this is no dumped program, or one of another version";
    if (length < sizeof *h)
        return -1;
    memcpy(h, bytes, sizeof *h);
    if (memcmp(h->magic, "NYBRPLAY", sizeof h->magic) || h->version != DUMP_VERSION)
        return -1;
    *what = "the file is cut off";
    for (int i = 0; i < DUMP_SECTIONS; i++)
        if (take_section(bytes, length, &at, &s[i]))
            return -1;
    *what = "the file's tokens or logits have the wrong size";
    if (s[DUMP_IDS].nbytes != (uint64_t)h->n_ids * sizeof(int32_t) || h->n_rows < 1 ||
        h->n_rows > h->n_ids || s[DUMP_EXPECTED].nbytes / sizeof(float) / h->n_rows != h->vocab ||
        s[DUMP_EXPECTED].nbytes % (sizeof(float) * h->n_rows))
        return -1;
    *what = "the file has no pages or too many";
    if (h->max_pages < 1 || h->max_pages > MAX_PAGES)
        return -1;
    *what = "a section is not of whole structs";
    nyb_program *p = &dump->program;
    if (count(&s[DUMP_STEPS], sizeof(nyb_step), &p->n_steps) ||
        count(&s[DUMP_BUFFERS], sizeof(nyb_buffer), &p->n_buffers) ||
        count(&s[DUMP_ATTENTIONS], sizeof(nyb_attention), &p->n_attentions) ||
        count(&s[DUMP_ROPES], sizeof(nyb_rope), &p->n_ropes) ||
        count(&s[DUMP_TURNS], sizeof(uint64_t), &p->n_turns))
        return -1;
    p->steps = s[DUMP_STEPS].data;
    p->buffers = s[DUMP_BUFFERS].data;
    p->attentions = s[DUMP_ATTENTIONS].data;
    p->ropes = s[DUMP_ROPES].data;
    p->turns = s[DUMP_TURNS].data;
    p->weights_bytes = s[DUMP_WEIGHTS].nbytes;
    p->vocab = h->vocab;
    p->logits = h->logits_buffer;
    dump->weights = s[DUMP_WEIGHTS].data;
    dump->ids = s[DUMP_IDS].data;
    dump->expected = s[DUMP_EXPECTED].data;
    return 0;
}
