/* SPDX-License-Identifier: MIT
 * Scans GGUF files without Python in the way, to be built with sanitizers.
 *
 *   scan_gguf FILE...                     one line a file: what is in it, or what is wrong
 *   scan_gguf --cut FILE                  every length from 0 to the file's; which are accepted
 *
 * The bytes of each scan lie in a block of exactly their size, so that AddressSanitizer sees any
 * read past them, and the index in blocks of exactly what the scanner asked for. Whatever the
 * index of an accepted file points at is then read, to the last byte.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "index_gguf.h"

/* Scans a copy of exactly `length` bytes. */
static int scan(const uint8_t *bytes, uint64_t length, nyb_gguf_file *file, uint32_t *sum,
                nyb_error *error) {
    uint8_t *data = copy_of(bytes, length);
    int failed = scan_both_ways(data, length, file, error);
    if (!failed) {
        gguf_index index;
        failed = make_index(&index, data, length, file, error);
        if (!failed) {
            *sum = read_all(&index);
        }
        free_index(&index);
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

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--cut") == 0) {
        cut_file(argv[2]);
    } else if (argc > 1) {
        for (int i = 1; i < argc; i++) {
            scan_file(argv[i]);
        }
    } else {
        fprintf(stderr, "usage: scan_gguf [--cut] FILE...\n");
        return 2;
    }
    return 0;
}
