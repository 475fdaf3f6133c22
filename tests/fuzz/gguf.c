/* SPDX-License-Identifier: MIT
 * Any bytes as a GGUF file: refused, or indexed so that whatever the index says can be read. The
 * file may change between the two walks of the scanner, and after them.
 */
#include "../engine/index_gguf.h"

enum { CHANGES = 3 }; /* bytes that change at a time */

/* A number from the bytes, so that an input does the same each time. */
static uint64_t mixed(const uint8_t *data, size_t size) {
    uint64_t hash = 14695981039346656037u; /* FNV-1a */
    for (size_t i = 0; i < size; i++) {
        hash = (hash ^ data[i]) * 1099511628211u;
    }
    return hash;
}

static void change(uint8_t *data, size_t size, uint64_t *seed) {
    for (int i = 0; i < CHANGES; i++) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        const uint8_t values[4] = {0, 0xFF, 0x80, (uint8_t)(*seed >> 56)};
        data[(*seed >> 20) % size] = values[(*seed >> 12) % 4];
    }
}

/* What is left to trust of an index when the file has changed since: that it is within the file.
 * Arrays of strings are walked as far as they can be. */
static uint32_t read_what_is_there(const gguf_index *index) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < index->file.n_keys; i++) {
        const nyb_gguf_key *key = &index->keys[i];
        sum += sum_bytes(index, key->key_at, key->key_length);
        sum += sum_bytes(index, key->at, key->nbytes);
        uint64_t at = key->at;
        for (uint64_t n = 0; key->type == NYB_GGUF_ARRAY && n < key->count && at != 0; n++) {
            at = element_end(index, key, at);
        }
    }
    return sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    nyb_gguf_file file;
    nyb_error error = {0};
    gguf_index index;
    if (scan_both_ways(data, size, &file, &error)) {
        must(error.what != NULL && error.at <= size, "an error that does not say where");
        return 0;
    }
    if (make_index(&index, data, size, &file, &error) == 0) {
        (void)read_all(&index);
    }
    free_index(&index);

    uint8_t *changing = copy_of(data, size);
    uint64_t seed = mixed(data, size);
    change(changing, size, &seed);
    if (make_index(&index, changing, size, &file, &error) == 0) {
        (void)read_all(&index);
        change(changing, size, &seed);
        (void)read_what_is_there(&index);
    }
    free_index(&index);
    free(changing);
    return 0;
}
