/* SPDX-License-Identifier: MIT
 * A scanner for GGUF files, versions 2 and 3, little-endian: bytes in, an index out.
 *
 * Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, in short
 *
 *   "GGUF"  u32 version  u64 tensors  u64 keys
 *   keys    string key, u32 type, value          string = u64 length, bytes
 *   tensors string name, u32 n_dims, u64 dims[n_dims], u32 format, u64 offset
 *   padding up to general.alignment (32 if absent), then the tensors' data
 *
 * The file is taken to be hostile. nyb_gguf_scan() walks all of it up to the tensors' data and
 * checks every count, length, number and offset against the file's length; nyb_gguf_index() walks
 * it once more, with the same checks, and writes the index into memory that the caller sized by
 * the first walk. Nothing is allocated or copied, and no byte outside what is handed in is read,
 * even if the bytes change between the two walks. Of the data nothing is read: the beginning of
 * the file is enough, and where it ends is found by trying (`wanted`).
 *
 * Where the format leaves a choice: arrays of arrays are refused (ggml refuses them too, and no
 * model holds one); keys are printable ASCII, at most 65,535 bytes; tensor names are at most 64
 * bytes; tensors have 1 to 4 dimensions, none of them zero.
 */
#ifndef NYB_GGUF_H
#define NYB_GGUF_H

#include <stdint.h>

#include "nyb_error.h"

enum {
    NYB_GGUF_MAX_DIMS = 4,
    NYB_GGUF_MAX_KEYS =
        65535, /* an index of more would take memory in proportion to nothing real */
    NYB_GGUF_MAX_TENSORS = 65535
};

/* Types of metadata values, as numbered in the file. */
enum nyb_gguf_type {
    NYB_GGUF_UINT8 = 0,
    NYB_GGUF_INT8 = 1,
    NYB_GGUF_UINT16 = 2,
    NYB_GGUF_INT16 = 3,
    NYB_GGUF_UINT32 = 4,
    NYB_GGUF_INT32 = 5,
    NYB_GGUF_FLOAT32 = 6,
    NYB_GGUF_BOOL = 7,
    NYB_GGUF_STRING = 8,
    NYB_GGUF_ARRAY = 9,
    NYB_GGUF_UINT64 = 10,
    NYB_GGUF_INT64 = 11,
    NYB_GGUF_FLOAT64 = 12,
    NYB_GGUF_TYPES = 13
};

/* A weight format: `block_weights` weights along the first dimension take `block_bytes` bytes. */
typedef struct nyb_gguf_format {
    const char *name; /* as ggml spells it in capitals: "Q4_1", "Q4_K" */
    uint16_t block_weights;
    uint16_t block_bytes;
} nyb_gguf_format;

/* What a scan found out about the whole file. */
typedef struct nyb_gguf_file {
    uint32_t version; /* 2 or 3; 0 until magic and version have been accepted */
    uint32_t alignment;
    uint32_t n_keys;
    uint32_t n_tensors;
    uint64_t data_at; /* where tensor data starts; may lie past the end if there are no tensors */
    uint64_t head;    /* bytes up to the end of the list of tensors: what an index is made of */
    uint64_t needed;  /* bytes the whole file has, if a scan failed because data is cut off; or 0 */
    uint64_t wanted;  /* bytes from the start that are needed to go on, if a scan failed because
                         they were not at hand; or 0 */
} nyb_gguf_file;

/* One metadata key. All offsets are from the start of the file. */
typedef struct nyb_gguf_key {
    uint64_t key_at;
    uint64_t at;          /* the value: a number's bytes, a string's text, an array's elements */
    uint64_t nbytes;      /* bytes at `at`; strings in an array count with their lengths */
    uint64_t count;       /* elements of an array; 1 for anything else */
    uint32_t key_length;  /* bytes */
    uint8_t type;         /* enum nyb_gguf_type */
    uint8_t element_type; /* of an array; else the same as `type` */
} nyb_gguf_key;

/* One tensor. dims[0] runs fastest; dims past n_dims are 1. */
typedef struct nyb_gguf_tensor {
    uint64_t name_at;
    uint64_t at; /* from the start of the file */
    uint64_t nbytes;
    uint64_t dims[NYB_GGUF_MAX_DIMS];
    uint32_t name_length; /* bytes */
    uint32_t n_dims;
    uint32_t format; /* ggml's number; nyb_gguf_format_of() knows it */
} nyb_gguf_tensor;

/* Checks everything but duplicates and overlaps, and fills in `file`. `data` has the first `have`
 * bytes of a file of `length`. 0, or -1 with `error`: `at` is the byte offset of the offending
 * field, `value` what it holds; with file->wanted > have nothing is wrong yet, and the caller scans
 * again with that many bytes or more. */
int nyb_gguf_scan(const uint8_t *data, uint64_t have, uint64_t length, nyb_gguf_file *file,
                  nyb_error *error);

/* Bytes of `scratch` that nyb_gguf_index() needs for a scanned file. */
uint64_t nyb_gguf_scratch_bytes(const nyb_gguf_file *file);

/* Writes file->n_keys keys and file->n_tensors tensors in file order, from the first file->head
 * bytes of a file of `length`, and refuses duplicate keys and names and overlapping tensors.
 * O(n log n) whatever the file says. 0, or -1 with `error`. */
int nyb_gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                   nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error);

/* "uint32", "string", ...; NULL for a number that is no type. */
const char *nyb_gguf_type_name(uint32_t type);

/* Bytes of one value; 0 for strings, arrays and numbers that are no type. */
uint32_t nyb_gguf_type_bytes(uint32_t type);

/* Name and block of a weight format by ggml's number; NULL if unknown or removed from GGUF. */
const nyb_gguf_format *nyb_gguf_format_of(uint32_t format);

/* The little-endian number in the n <= 8 bytes at p; p need not be aligned. */
static inline uint64_t nyb_gguf_number(const uint8_t *p, unsigned n) {
    uint64_t value = 0;
    for (unsigned i = 0; i < n; i++) {
        value |= (uint64_t)p[i] << (8 * i);
    }
    return value;
}

#endif
