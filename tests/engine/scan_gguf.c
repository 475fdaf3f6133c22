/* SPDX-License-Identifier: MIT
 * Scans GGUF files without Python in the way, to be built with sanitizers.
 *
 *   scan_gguf FILE...                     one line a file: what is in it, or what is wrong
 *   scan_gguf --cut FILE                  every length from 0 to the file's; which are accepted
 *   scan_gguf --flip SEED ROUNDS FILE     ROUNDS copies with 1 to 4 bytes replaced at random
 *
 * The bytes of each scan lie in a block of exactly their size, so that AddressSanitizer sees any
 * read past them, and the index in blocks of exactly what the scanner asked for. Whatever the
 * index of an accepted file points at is then read, to the last byte.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nyb_gguf.h"

static void *allocate(uint64_t nbytes) {
    void *block = malloc(nbytes);
    if (block == NULL && nbytes > 0) {
        fprintf(stderr, "no memory for %" PRIu64 " bytes\n", nbytes);
        exit(2);
    }
    return block;
}

static uint32_t sum_bytes(const uint8_t *p, uint64_t n) {
    uint32_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += p[i];
    }
    return sum;
}

/* Everything the index points at, strings in arrays by their own lengths. */
static uint32_t read_all(const uint8_t *data, const nyb_gguf_file *file, const nyb_gguf_key *keys,
                         const nyb_gguf_tensor *tensors) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < file->n_keys; i++) {
        const nyb_gguf_key *key = &keys[i];
        sum += sum_bytes(data + key->key_at, key->key_length);
        sum += sum_bytes(data + key->at, key->nbytes);
        uint64_t at = key->at;
        for (uint64_t n = 0; key->type == NYB_GGUF_ARRAY && n < key->count; n++) {
            at += key->element_type == NYB_GGUF_STRING ? 8 + nyb_gguf_number(data + at, 8)
                                                       : nyb_gguf_type_bytes(key->element_type);
        }
        if (key->type == NYB_GGUF_ARRAY && at != key->at + key->nbytes) {
            fprintf(stderr, "array %" PRIu32 " does not end where its index says\n", i);
            exit(2);
        }
    }
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        sum += sum_bytes(data + tensors[i].name_at, tensors[i].name_length);
        sum += sum_bytes(data + tensors[i].at, tensors[i].nbytes);
    }
    return sum;
}

static uint8_t *copy_of(const uint8_t *bytes, uint64_t n) {
    uint8_t *data = allocate(n);
    if (n > 0) {
        memcpy(data, bytes, n);
    }
    return data;
}

/* Scans what is at hand of a file of `length`, more and more of it, from no byte on. */
static int scan_pieces(const uint8_t *bytes, uint64_t length, nyb_gguf_file *file,
                       nyb_error *error) {
    int failed;
    uint64_t have = 0;
    do {
        uint8_t *data = copy_of(bytes, have);
        failed = nyb_gguf_scan(data, have, length, file, error);
        free(data);
        if (file->wanted != 0 && (!failed || file->wanted <= have || file->wanted > length)) {
            fprintf(stderr, "has %" PRIu64 ", wants %" PRIu64 "\n", have, file->wanted);
            exit(2);
        }
        have = file->wanted;
    } while (have != 0);
    return failed;
}

/* Scans copies of exactly as many bytes as are said to be there. */
static int scan(const uint8_t *bytes, uint64_t length, nyb_gguf_file *file, uint32_t *sum,
                nyb_error *error) {
    nyb_gguf_file by_pieces;
    nyb_error complaint;
    const int pieces_failed = scan_pieces(bytes, length, &by_pieces, &complaint);
    uint8_t *data = copy_of(bytes, length);
    int failed = nyb_gguf_scan(data, length, length, file, error);
    if (failed != pieces_failed || file->head != by_pieces.head ||
        (failed && (error->what != complaint.what || error->at != complaint.at))) {
        fprintf(stderr, "the whole and its pieces are not told alike\n");
        exit(2);
    }
    if (!failed) {
        uint8_t *head = copy_of(bytes, file->head);
        nyb_gguf_key *keys = allocate(file->n_keys * sizeof *keys);
        nyb_gguf_tensor *tensors = allocate(file->n_tensors * sizeof *tensors);
        uint32_t *scratch = allocate(nyb_gguf_scratch_bytes(file));
        failed = nyb_gguf_index(head, length, file, keys, tensors, scratch, error);
        if (!failed) {
            *sum = read_all(data, file, keys, tensors);
        }
        free(head);
        free(scratch);
        free(tensors);
        free(keys);
    }
    free(data);
    return failed;
}

static uint8_t *read_file(const char *path, uint64_t *length) {
    FILE *stream = fopen(path, "rb");
    if (stream == NULL || fseek(stream, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    *length = (uint64_t)ftell(stream);
    rewind(stream);
    uint8_t *bytes = allocate(*length);
    if (fread(bytes, 1, *length, stream) != *length) {
        perror(path);
        exit(2);
    }
    fclose(stream);
    return bytes;
}

static void scan_file(const char *path) {
    uint64_t length;
    uint8_t *bytes = read_file(path, &length);
    nyb_gguf_file file;
    nyb_error error;
    uint32_t sum;
    if (scan(bytes, length, &file, &sum, &error)) {
        printf("error: %s (byte %" PRIu64 ", value %" PRIu64 ")\n", error.what, error.at,
               error.value);
    } else {
        printf("keys %" PRIu32 " tensors %" PRIu32 " sum %" PRIu32 "\n", file.n_keys,
               file.n_tensors, sum);
    }
    free(bytes);
}

static void cut_file(const char *path) {
    uint64_t whole, accepted = 0, first = 0;
    uint8_t *bytes = read_file(path, &whole);
    for (uint64_t length = 0; length <= whole; length++) {
        nyb_gguf_file file;
        nyb_error error;
        uint32_t sum;
        if (scan(bytes, length, &file, &sum, &error) == 0) {
            first = accepted++ == 0 ? length : first;
        }
    }
    printf("accepted %" PRIu64 " of %" PRIu64 ", the first of %" PRIu64 " bytes\n", accepted,
           whole + 1, first);
    free(bytes);
}

/* Steele and others' SplitMix64: the same files for the same seed everywhere. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void flip_file(const char *path, uint64_t seed, uint64_t rounds) {
    uint64_t length, accepted = 0;
    uint8_t *bytes = read_file(path, &length), *flipped = allocate(length);
    for (uint64_t round = 0; round < rounds && length > 0; round++) {
        memcpy(flipped, bytes, length);
        for (uint64_t flips = 1 + next_random(&seed) % 4; flips > 0; flips--) {
            const uint64_t random = next_random(&seed);
            /* Extremes find more than noise does. */
            const uint8_t values[4] = {0, 0xFF, 0x80, (uint8_t)(random >> 32)};
            flipped[random % length] = values[(random >> 40) % 4];
        }
        nyb_gguf_file file;
        nyb_error error;
        uint32_t sum;
        accepted += scan(flipped, length, &file, &sum, &error) == 0;
    }
    printf("accepted %" PRIu64 " of %" PRIu64 "\n", accepted, rounds);
    free(flipped);
    free(bytes);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--cut") == 0) {
        cut_file(argv[2]);
    } else if (argc == 5 && strcmp(argv[1], "--flip") == 0) {
        flip_file(argv[4], strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
    } else if (argc > 1) {
        for (int i = 1; i < argc; i++) {
            scan_file(argv[i]);
        }
    } else {
        fprintf(stderr, "usage: scan_gguf [--cut | --flip SEED ROUNDS] FILE...\n");
        return 2;
    }
    return 0;
}
