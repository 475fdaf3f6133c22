/* SPDX-License-Identifier: MIT
 * Indexes the bytes of a GGUF file as nybble._core.gguf does, in blocks of exactly the sizes that
 * the scanner asks for, and reads all that the index points at: for programs with sanitizers.
 */
#ifndef NYB_TESTS_INDEX_GGUF_H
#define NYB_TESTS_INDEX_GGUF_H

#include "checks.h"
#include "nyb_gguf.h"

typedef struct gguf_index {
    const uint8_t *data;
    uint64_t length;
    nyb_gguf_file file;
    nyb_gguf_key *keys;
    nyb_gguf_tensor *tensors;
} gguf_index;

/* Scans what is at hand of a file of `length`, more and more of it, from no byte on. */
static inline int scan_pieces(const uint8_t *bytes, uint64_t length, nyb_gguf_file *file,
                              nyb_error *error) {
    int failed;
    uint64_t have = 0;
    do {
        uint8_t *data = copy_of(bytes, have);
        failed = nyb_gguf_scan(data, have, length, file, error);
        free(data);
        must(file->wanted == 0 || (failed && file->wanted > have && file->wanted <= length),
             "a wish for what is there, or cannot be");
        have = file->wanted;
    } while (have != 0);
    return failed;
}

/* Scans the whole, and piece by piece: both say the same. 0, or -1 with `error`. */
static inline int scan_both_ways(const uint8_t *data, uint64_t length, nyb_gguf_file *file,
                                 nyb_error *error) {
    nyb_gguf_file by_pieces;
    nyb_error complaint;
    const int pieces_failed = scan_pieces(data, length, &by_pieces, &complaint);
    const int failed = nyb_gguf_scan(data, length, length, file, error);
    must(failed == pieces_failed && file->head == by_pieces.head &&
             (!failed || (error->what == complaint.what && error->at == complaint.at)),
         "the whole and its pieces are not told alike");
    return failed;
}

/* Indexes data[0, length), which nyb_gguf_scan() has accepted as `file`. 0, or -1 with `error`;
 * free_index() in either case. */
static inline int make_index(gguf_index *index, const uint8_t *data, uint64_t length,
                             const nyb_gguf_file *file, nyb_error *error) {
    *index = (gguf_index){.data = data, .length = length, .file = *file};
    index->keys = allocate(file->n_keys * sizeof *index->keys);
    index->tensors = allocate(file->n_tensors * sizeof *index->tensors);
    uint32_t *scratch = allocate(nyb_gguf_scratch_bytes(file));
    uint8_t *head = copy_of(data, file->head); /* all that an index is made of */
    const int failed =
        nyb_gguf_index(head, length, &index->file, index->keys, index->tensors, scratch, error);
    free(head);
    free(scratch);
    return failed;
}

static inline void free_index(gguf_index *index) {
    free(index->keys);
    free(index->tensors);
}

/* The sum of bytes [at, at + n), which must lie in the file. */
static inline uint32_t sum_bytes(const gguf_index *index, uint64_t at, uint64_t n) {
    uint32_t sum = 0;
    must(at <= index->length && n <= index->length - at, "an index that points out of the file");
    for (uint64_t i = 0; i < n; i++) {
        sum += index->data[at + i];
    }
    return sum;
}

/* Where the array's element at byte `at` of the file ends, or 0 if a string's length leads out of
 * the array: the file was changed then, since it was indexed. */
static inline uint64_t element_end(const gguf_index *index, const nyb_gguf_key *key, uint64_t at) {
    const uint64_t room = key->at + key->nbytes - at;
    if (key->element_type != NYB_GGUF_STRING) {
        const uint64_t nbytes = nyb_gguf_type_bytes(key->element_type);
        return nbytes <= room ? at + nbytes : 0;
    }
    const uint64_t length = room >= 8 ? nyb_gguf_number(index->data + at, 8) : 0;
    return room >= 8 && length <= room - 8 ? at + 8 + length : 0;
}

/* Reads everything, strings in arrays by their own lengths; returns the sum of all bytes. */
static inline uint32_t read_all(const gguf_index *index) {
    uint32_t sum = 0;
    for (uint32_t i = 0; i < index->file.n_keys; i++) {
        const nyb_gguf_key *key = &index->keys[i];
        sum += sum_bytes(index, key->key_at, key->key_length);
        sum += sum_bytes(index, key->at, key->nbytes);
        must(nyb_gguf_type_name(key->type) != NULL, "a key of a type that has no name");
        uint64_t at = key->at;
        for (uint64_t n = 0; key->type == NYB_GGUF_ARRAY && n < key->count; n++) {
            at = element_end(index, key, at);
            must(at != 0, "an array that holds less than its index says");
        }
        must(key->type != NYB_GGUF_ARRAY || at == key->at + key->nbytes,
             "an array that does not end where its index says");
    }
    for (uint32_t i = 0; i < index->file.n_tensors; i++) {
        const nyb_gguf_tensor *tensor = &index->tensors[i];
        must(nyb_gguf_format_of(tensor->format) != NULL, "a tensor of a format that has no name");
        must(tensor->at >= index->file.data_at, "a tensor that lies in the metadata");
        must((tensor->at - index->file.data_at) % index->file.alignment == 0,
             "a tensor that is not aligned");
        sum += sum_bytes(index, tensor->name_at, tensor->name_length);
        sum += sum_bytes(index, tensor->at, tensor->nbytes);
    }
    return sum;
}

#endif
