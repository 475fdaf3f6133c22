/* SPDX-License-Identifier: MIT
 * Runs a fuzz target without libFuzzer, for any compiler:
 *
 *   TARGET FILE...                   each file once
 *   TARGET --flip SEED ROUNDS FILE   ROUNDS copies with 1 to 4 bytes replaced at random
 */
#include "../engine/checks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
__attribute__((weak)) int LLVMFuzzerInitialize(int *argc, char ***argv);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);

/* Custom mutators ask for it; nobody asks them here. */
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most) {
    (void)data, (void)most;
    return size;
}

static uint8_t *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(2);
    }
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *bytes = allocate(*size);
    if (fread(bytes, 1, *size, file) != *size) {
        perror(path);
        exit(2);
    }
    fclose(file);
    return bytes;
}

/* Steele and others' SplitMix64: the same files for the same seed everywhere. */
static uint64_t next_random(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static void flip(const char *path, uint64_t seed, uint64_t rounds) {
    size_t size;
    uint8_t *bytes = read_file(path, &size);
    for (uint64_t round = 0; round < rounds && size > 0; round++) {
        uint8_t *flipped = copy_of(bytes, size);
        for (uint64_t flips = 1 + next_random(&seed) % 4; flips > 0; flips--) {
            const uint64_t random = next_random(&seed);
            /* Extremes find more than noise does. */
            const uint8_t values[4] = {0, 0xFF, 0x80, (uint8_t)(random >> 32)};
            flipped[random % size] = values[(random >> 40) % 4];
        }
        LLVMFuzzerTestOneInput(flipped, size);
        free(flipped);
    }
    free(bytes);
}

int main(int argc, char **argv) {
    if (LLVMFuzzerInitialize) {
        LLVMFuzzerInitialize(&argc, &argv);
    }
    if (argc == 5 && strcmp(argv[1], "--flip") == 0) {
        flip(argv[4], strtoull(argv[2], NULL, 10), strtoull(argv[3], NULL, 10));
        return 0;
    }
    for (int i = 1; i < argc; i++) {
        size_t size;
        uint8_t *bytes = read_file(argv[i], &size);
        LLVMFuzzerTestOneInput(bytes, size);
        free(bytes);
    }
    return 0;
}
