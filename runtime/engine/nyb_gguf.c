/* SPDX-License-Identifier: MIT
 * The GGUF scanner; nyb_gguf.h has the format and what is promised.
 *
 * One walk serves both passes: without an index it only checks, with one it also writes. Every
 * step goes through room(), so `at <= length` holds between any two lines, and nothing is ever
 * computed as at + n before n is known to fit. Every look at the bytes goes through reach() first:
 * steps over them do not, so that text is not asked for before it is needed.
 */
#include "nyb_gguf.h"

#include <string.h>

enum { KEY_BYTES_MAX = 65535, NAME_BYTES_MAX = 64, ALIGNMENT_DEFAULT = 32 };

/* No length, count or offset above this is accepted, so sums of two of them cannot wrap. */
static const uint64_t SIZE_LIMIT = (uint64_t)1 << 62;

/* The least bytes a key (length, one character, type, one byte) and a tensor (length, one
 * character, n_dims, one dimension, format, offset) can take: hostile counts end here. */
enum { KEY_LEAST = 8 + 1 + 4 + 1, TENSOR_LEAST = 8 + 1 + 4 + 8 + 4 + 8 };

static const struct {
    const char *name;
    uint32_t nbytes;
} TYPES[NYB_GGUF_TYPES] = {
    [NYB_GGUF_UINT8] = {"uint8", 1},     [NYB_GGUF_INT8] = {"int8", 1},
    [NYB_GGUF_UINT16] = {"uint16", 2},   [NYB_GGUF_INT16] = {"int16", 2},
    [NYB_GGUF_UINT32] = {"uint32", 4},   [NYB_GGUF_INT32] = {"int32", 4},
    [NYB_GGUF_FLOAT32] = {"float32", 4}, [NYB_GGUF_BOOL] = {"bool", 1},
    [NYB_GGUF_STRING] = {"string", 0},   [NYB_GGUF_ARRAY] = {"array", 0},
    [NYB_GGUF_UINT64] = {"uint64", 8},   [NYB_GGUF_INT64] = {"int64", 8},
    [NYB_GGUF_FLOAT64] = {"float64", 8},
};

/* By ggml's numbers. The gaps (4, 5, 31 to 33, 36 to 38) were formats once and are gone. */
static const nyb_gguf_format FORMATS[] = {
    [0] = {"F32", 1, 4},         [1] = {"F16", 1, 2},         [2] = {"Q4_0", 32, 18},
    [3] = {"Q4_1", 32, 20},      [6] = {"Q5_0", 32, 22},      [7] = {"Q5_1", 32, 24},
    [8] = {"Q8_0", 32, 34},      [9] = {"Q8_1", 32, 36},      [10] = {"Q2_K", 256, 84},
    [11] = {"Q3_K", 256, 110},   [12] = {"Q4_K", 256, 144},   [13] = {"Q5_K", 256, 176},
    [14] = {"Q6_K", 256, 210},   [15] = {"Q8_K", 256, 292},   [16] = {"IQ2_XXS", 256, 66},
    [17] = {"IQ2_XS", 256, 74},  [18] = {"IQ3_XXS", 256, 98}, [19] = {"IQ1_S", 256, 50},
    [20] = {"IQ4_NL", 32, 18},   [21] = {"IQ3_S", 256, 110},  [22] = {"IQ2_S", 256, 82},
    [23] = {"IQ4_XS", 256, 136}, [24] = {"I8", 1, 1},         [25] = {"I16", 1, 2},
    [26] = {"I32", 1, 4},        [27] = {"I64", 1, 8},        [28] = {"F64", 1, 8},
    [29] = {"IQ1_M", 256, 56},   [30] = {"BF16", 1, 2},       [34] = {"TQ1_0", 256, 54},
    [35] = {"TQ2_0", 256, 66},   [39] = {"MXFP4", 32, 17},    [40] = {"NVFP4", 64, 36},
    [41] = {"Q1_0", 128, 18},    [42] = {"Q2_0", 64, 18},
};

const char *nyb_gguf_type_name(uint32_t type) {
    return type < NYB_GGUF_TYPES ? TYPES[type].name : NULL;
}

uint32_t nyb_gguf_type_bytes(uint32_t type) {
    return type < NYB_GGUF_TYPES ? TYPES[type].nbytes : 0;
}

const nyb_gguf_format *nyb_gguf_format_of(uint32_t format) {
    if (format >= sizeof FORMATS / sizeof FORMATS[0] || FORMATS[format].name == NULL) {
        return NULL;
    }
    return &FORMATS[format];
}

typedef struct scan {
    const uint8_t *data;
    uint64_t have;   /* bytes at `data` */
    uint64_t length; /* of the file, at least `have` */
    uint64_t at;     /* next byte to read, at most `length` */
    uint64_t wanted; /* how many bytes `data` has to have to go on; 0 unless it has less */
    nyb_error *error;
} scan;

static uint64_t room(const scan *s) { return s->length - s->at; }

/* Whether the bytes up to `end`, which is within the file, are at hand; 0, or -1. */
static int reach(scan *s, uint64_t end) {
    if (end <= s->have) {
        return 0;
    }
    s->wanted = end;
    return nyb_fail(s->error, "more of the file has to be read", s->have, end);
}

/* The next `nbytes` (4 or 8) as a number; `what` is the complaint if the file ends before them. */
static int read_number(scan *s, unsigned nbytes, const char *what, uint64_t *value) {
    if (room(s) < nbytes) {
        return nyb_fail(s->error, what, s->at, s->length);
    }
    if (reach(s, s->at + nbytes)) {
        return -1;
    }
    *value = nyb_gguf_number(s->data + s->at, nbytes);
    s->at += nbytes;
    return 0;
}

/* A string of `least` to `most` bytes: where its text starts and how long it is. */
static int read_string(scan *s, uint64_t least, uint64_t most, const char *what, uint64_t *text_at,
                       uint64_t *text_length) {
    const uint64_t start = s->at;
    uint64_t n;
    if (read_number(s, 8, "the file ends where a string's length should be", &n)) {
        return -1;
    }
    if (n < least || n > most) {
        return nyb_fail(s->error, what, start, n);
    }
    if (n > room(s)) {
        return nyb_fail(s->error, "a string runs past the end of the file", start, n);
    }
    *text_at = s->at;
    *text_length = n;
    s->at += n;
    return 0;
}

static int check_bools(scan *s, uint64_t count) {
    if (reach(s, s->at + count)) {
        return -1;
    }
    for (uint64_t i = 0; i < count; i++) {
        if (s->data[s->at + i] > 1) {
            return nyb_fail(s->error, "a bool is neither 0 nor 1", s->at + i, s->data[s->at + i]);
        }
    }
    return 0;
}

/* `count` numbers of `type`, counted at `count_at` if they are an array's. */
static int read_numbers(scan *s, uint32_t type, uint64_t count, uint64_t count_at) {
    const uint64_t nbytes = nyb_gguf_type_bytes(type);
    if (count > room(s) / nbytes) {
        return nyb_fail(s->error, "a value runs past the end of the file", count_at, count);
    }
    if (type == NYB_GGUF_BOOL && check_bools(s, count)) {
        return -1;
    }
    s->at += count * nbytes;
    return 0;
}

static int read_strings(scan *s, uint64_t count, uint64_t count_at) {
    if (count > room(s) / 8) {
        return nyb_fail(s->error, "an array of strings runs past the end of the file", count_at,
                        count);
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t text_at, text_length;
        if (read_string(s, 0, SIZE_LIMIT, "a string's length is not possible", &text_at,
                        &text_length)) {
            return -1;
        }
    }
    return 0;
}

static int read_array(scan *s, nyb_gguf_key *key) {
    const uint64_t type_at = s->at;
    uint64_t type, count;
    if (read_number(s, 4, "the file ends where an array's element type should be", &type)) {
        return -1;
    }
    if (type == NYB_GGUF_ARRAY) {
        return nyb_fail(s->error, "arrays of arrays are not supported", type_at, type);
    }
    if (type >= NYB_GGUF_TYPES) {
        return nyb_fail(s->error, "an array's element type is unknown", type_at, type);
    }
    const uint64_t count_at = s->at;
    if (read_number(s, 8, "the file ends where an array's length should be", &count)) {
        return -1;
    }
    key->element_type = (uint8_t)type;
    key->count = count;
    key->at = s->at;
    const int failed = type == NYB_GGUF_STRING ? read_strings(s, count, count_at)
                                               : read_numbers(s, (uint32_t)type, count, count_at);
    if (failed) {
        return -1;
    }
    key->nbytes = s->at - key->at;
    return 0;
}

static int read_value(scan *s, nyb_gguf_key *key) {
    const uint64_t type_at = s->at;
    uint64_t type;
    if (read_number(s, 4, "the file ends where a metadata type should be", &type)) {
        return -1;
    }
    if (type >= NYB_GGUF_TYPES) {
        return nyb_fail(s->error, "a metadata type is unknown", type_at, type);
    }
    key->type = key->element_type = (uint8_t)type;
    key->count = 1;
    if (type == NYB_GGUF_ARRAY) {
        return read_array(s, key);
    }
    if (type == NYB_GGUF_STRING) {
        return read_string(s, 0, SIZE_LIMIT, "a string's length is not possible", &key->at,
                           &key->nbytes);
    }
    key->at = s->at;
    key->nbytes = nyb_gguf_type_bytes((uint32_t)type);
    return read_numbers(s, (uint32_t)type, 1, s->at);
}

static int is_alignment(const scan *s, const nyb_gguf_key *key) {
    static const char name[] = "general.alignment";
    return key->key_length == sizeof name - 1 &&
           memcmp(s->data + key->key_at, name, sizeof name - 1) == 0;
}

static int read_key(scan *s, nyb_gguf_file *file, nyb_gguf_key *key) {
    uint64_t key_length;
    if (read_string(s, 1, KEY_BYTES_MAX, "a metadata key is empty or longer than 65,535 bytes",
                    &key->key_at, &key_length)) {
        return -1;
    }
    if (reach(s, s->at)) {
        return -1;
    }
    key->key_length = (uint32_t)key_length;
    for (uint64_t i = key->key_at; i < s->at; i++) {
        if (s->data[i] < 0x20 || s->data[i] > 0x7E) {
            return nyb_fail(s->error, "a metadata key is not plain ASCII", i, s->data[i]);
        }
    }
    if (read_value(s, key)) {
        return -1;
    }
    if (is_alignment(s, key)) {
        if (key->type != NYB_GGUF_UINT32) {
            return nyb_fail(s->error, "general.alignment is not of type uint32", key->at,
                            key->type);
        }
        if (reach(s, s->at)) {
            return -1;
        }
        const uint32_t alignment = (uint32_t)nyb_gguf_number(s->data + key->at, 4);
        if (alignment < 8 || (alignment & (alignment - 1)) != 0) {
            return nyb_fail(s->error, "general.alignment is not a power of two of 8 or more",
                            key->at, alignment);
        }
        file->alignment = alignment;
    }
    return 0;
}

/* dims[0..n_dims) and their format to a size in bytes, with every product below SIZE_LIMIT. */
static int size_tensor(scan *s, nyb_gguf_tensor *tensor, uint64_t dims_at, uint64_t format_at) {
    uint64_t weights = 1;
    for (uint32_t i = 0; i < tensor->n_dims; i++) {
        const uint64_t dim = tensor->dims[i];
        if (dim == 0) {
            return nyb_fail(s->error, "a tensor's dimension is zero", dims_at + 8 * i, dim);
        }
        if (dim > SIZE_LIMIT / weights) {
            return nyb_fail(s->error, "a tensor's dimensions are too large", dims_at + 8 * i, dim);
        }
        weights *= dim;
    }
    const nyb_gguf_format *format = nyb_gguf_format_of(tensor->format);
    if (format == NULL) {
        return nyb_fail(s->error, "a tensor's format is unknown or was removed from GGUF",
                        format_at, tensor->format);
    }
    if (tensor->dims[0] % format->block_weights != 0) {
        return nyb_fail(s->error, "a tensor's rows are not whole blocks of its format", dims_at,
                        tensor->dims[0]);
    }
    const uint64_t blocks = weights / format->block_weights;
    if (blocks > SIZE_LIMIT / format->block_bytes) {
        return nyb_fail(s->error, "a tensor's dimensions are too large", dims_at, tensor->dims[0]);
    }
    tensor->nbytes = blocks * format->block_bytes;
    return 0;
}

/* Leaves in tensor->at the offset from the start of the data, as the file has it. */
static int read_tensor(scan *s, const nyb_gguf_file *file, nyb_gguf_tensor *tensor) {
    static const char ends[] = "the file ends inside its list of tensors";
    uint64_t name_length, n_dims, format;
    if (read_string(s, 1, NAME_BYTES_MAX, "a tensor's name is empty or longer than 64 bytes",
                    &tensor->name_at, &name_length) ||
        read_number(s, 4, ends, &n_dims)) {
        return -1;
    }
    tensor->name_length = (uint32_t)name_length;
    if (n_dims < 1 || n_dims > NYB_GGUF_MAX_DIMS) {
        return nyb_fail(s->error, "a tensor's number of dimensions is not 1 to 4", s->at - 4,
                        n_dims);
    }
    tensor->n_dims = (uint32_t)n_dims;
    const uint64_t dims_at = s->at;
    for (uint32_t i = 0; i < NYB_GGUF_MAX_DIMS; i++) {
        tensor->dims[i] = 1;
        if (i < n_dims && read_number(s, 8, ends, &tensor->dims[i])) {
            return -1;
        }
    }
    const uint64_t format_at = s->at;
    if (read_number(s, 4, ends, &format)) {
        return -1;
    }
    tensor->format = (uint32_t)format;
    const uint64_t offset_at = s->at;
    if (read_number(s, 8, ends, &tensor->at) || size_tensor(s, tensor, dims_at, format_at)) {
        return -1;
    }
    if (tensor->at % file->alignment != 0) {
        return nyb_fail(s->error, "a tensor's offset is not a multiple of the alignment", offset_at,
                        tensor->at);
    }
    if (tensor->at > SIZE_LIMIT || tensor->nbytes > SIZE_LIMIT - tensor->at) {
        return nyb_fail(s->error, "a tensor's offset is too large", offset_at, tensor->at);
    }
    return 0;
}

static int read_header(scan *s, nyb_gguf_file *file) {
    static const char ends[] = "the file ends inside its header";
    uint64_t version, n_tensors, n_keys;
    if (reach(s, s->length < 4 ? s->length : 4)) {
        return -1;
    }
    if (s->length < 4 || memcmp(s->data, "GGUF", 4) != 0) {
        return nyb_fail(s->error, "this is not a GGUF file: it does not begin with \"GGUF\"", 0,
                        nyb_gguf_number(s->data, s->length < 4 ? (unsigned)s->length : 4));
    }
    s->at = 4;
    if (read_number(s, 4, ends, &version)) {
        return -1;
    }
    if ((version & 0xFFFF) == 0 && version != 0) {
        return nyb_fail(s->error,
                        "the GGUF file is big-endian; only little-endian ones are supported", 4,
                        version);
    }
    if (version != 2 && version != 3) {
        return nyb_fail(s->error,
                        version < 2
                            ? "this GGUF version is too old (2 and 3 are read); convert the model "
                              "again"
                            : "this GGUF version is not known (2 and 3 are read); a newer nybble "
                              "may know it",
                        4, version);
    }
    file->version = (uint32_t)version;
    if (read_number(s, 8, ends, &n_tensors) || read_number(s, 8, ends, &n_keys)) {
        return -1;
    }
    if (n_keys > UINT32_MAX || n_keys > room(s) / KEY_LEAST) {
        return nyb_fail(s->error, "the file is too short for so many metadata keys", 16, n_keys);
    }
    if (n_tensors > UINT32_MAX || n_tensors > room(s) / TENSOR_LEAST) {
        return nyb_fail(s->error, "the file is too short for so many tensors", 8, n_tensors);
    }
    if (n_keys > NYB_GGUF_MAX_KEYS || n_tensors > NYB_GGUF_MAX_TENSORS) {
        return nyb_fail(
            s->error, "no model has so many metadata keys or tensors; 65,535 of each are read",
            n_keys > NYB_GGUF_MAX_KEYS ? 16 : 8, n_keys > NYB_GGUF_MAX_KEYS ? n_keys : n_tensors);
    }
    file->n_keys = (uint32_t)n_keys;
    file->n_tensors = (uint32_t)n_tensors;
    return 0;
}

/* The file from its first key on. `keys` and `tensors` are NULL, or have room for the counts in
 * `file`, which is why the counts are not read again here. */
static int walk(scan *s, nyb_gguf_file *file, nyb_gguf_key *keys, nyb_gguf_tensor *tensors) {
    file->alignment = ALIGNMENT_DEFAULT;
    for (uint32_t i = 0; i < file->n_keys; i++) {
        nyb_gguf_key unwanted;
        if (read_key(s, file, keys ? &keys[i] : &unwanted)) {
            return -1;
        }
    }
    uint64_t end = 0, last_at = 0; /* the tensor that ends last, and where it is listed */
    for (uint32_t i = 0; i < file->n_tensors; i++) {
        nyb_gguf_tensor unwanted, *tensor = tensors ? &tensors[i] : &unwanted;
        const uint64_t listed_at = s->at;
        if (read_tensor(s, file, tensor)) {
            return -1;
        }
        if (tensor->at + tensor->nbytes > end) {
            end = tensor->at + tensor->nbytes;
            last_at = listed_at;
        }
    }
    if (reach(s, s->at)) { /* names of tensors have been stepped over */
        return -1;
    }
    file->head = s->at;
    file->data_at = (s->at + file->alignment - 1) / file->alignment * file->alignment;
    if (file->n_tensors > 0 && file->data_at + end > s->length) {
        file->needed = file->data_at + end;
        return nyb_fail(s->error, "a tensor's data runs past the end of the file", last_at,
                        file->needed);
    }
    for (uint32_t i = 0; tensors && i < file->n_tensors; i++) {
        tensors[i].at += file->data_at;
    }
    return 0;
}

int nyb_gguf_scan(const uint8_t *data, uint64_t have, uint64_t length, nyb_gguf_file *file,
                  nyb_error *error) {
    scan s = {.data = data, .have = have, .length = length, .error = error};
    *file = (nyb_gguf_file){0};
    if (length > SIZE_LIMIT) {
        return nyb_fail(error, "the file is too large", 0, length);
    }
    const int failed = read_header(&s, file) || walk(&s, file, NULL, NULL);
    file->wanted = s.wanted;
    return failed ? -1 : 0;
}

/* What is sorted: numbers of keys or tensors, by something that the index says about them. */
typedef struct sorted {
    const uint8_t *data;
    const nyb_gguf_key *keys;
    const nyb_gguf_tensor *tensors;
} sorted;

typedef int compare(const sorted *by, uint32_t a, uint32_t b);

/* Any total order will do: by length first, so that bytes are looked at only where it is equal. */
static int compare_text(const uint8_t *data, uint64_t a_at, uint32_t a_length, uint64_t b_at,
                        uint32_t b_length) {
    if (a_length != b_length) {
        return a_length < b_length ? -1 : 1;
    }
    return memcmp(data + a_at, data + b_at, a_length);
}

static int compare_keys(const sorted *by, uint32_t a, uint32_t b) {
    const nyb_gguf_key *x = &by->keys[a], *y = &by->keys[b];
    return compare_text(by->data, x->key_at, x->key_length, y->key_at, y->key_length);
}

static int compare_names(const sorted *by, uint32_t a, uint32_t b) {
    const nyb_gguf_tensor *x = &by->tensors[a], *y = &by->tensors[b];
    return compare_text(by->data, x->name_at, x->name_length, y->name_at, y->name_length);
}

static int compare_offsets(const sorted *by, uint32_t a, uint32_t b) {
    const uint64_t x = by->tensors[a].at, y = by->tensors[b].at;
    return (x > y) - (x < y);
}

/* Merges order[from, middle) and order[middle, to) into out[from, to); equals keep their order. */
static void merge(const sorted *by, compare *in_order, const uint32_t *order, uint32_t *out,
                  uint64_t from, uint64_t middle, uint64_t to) {
    uint64_t left = from, right = middle;
    for (uint64_t i = from; i < to; i++) {
        const int take_left =
            left < middle && (right == to || in_order(by, order[left], order[right]) <= 0);
        out[i] = take_left ? order[left++] : order[right++];
    }
}

/* 0 .. n-1 sorted, by merging runs of 1, 2, 4, ...: no recursion and no bad case for a file to
 * find. Uses 2 * n numbers of scratch and returns the half that holds the result. */
static const uint32_t *sort(const sorted *by, compare *in_order, uint32_t n, uint32_t *scratch) {
    uint32_t *order = scratch, *other = scratch + n;
    for (uint32_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (uint64_t run = 1; run < n; run *= 2) {
        for (uint64_t from = 0; from < n; from += 2 * run) {
            const uint64_t middle = from + run < n ? from + run : n;
            const uint64_t to = middle + run < n ? middle + run : n;
            merge(by, in_order, order, other, from, middle, to);
        }
        uint32_t *swap = order;
        order = other;
        other = swap;
    }
    return order;
}

static int check_duplicate_keys(const sorted *by, uint32_t n, uint32_t *scratch, nyb_error *error) {
    const uint32_t *order = sort(by, compare_keys, n, scratch);
    for (uint32_t i = 1; i < n; i++) {
        if (compare_keys(by, order[i - 1], order[i]) == 0) {
            return nyb_fail(error, "a metadata key occurs twice; the first is at the offset given",
                            by->keys[order[i]].key_at, by->keys[order[i - 1]].key_at);
        }
    }
    return 0;
}

static int check_duplicate_names(const sorted *by, uint32_t n, uint32_t *scratch,
                                 nyb_error *error) {
    const uint32_t *order = sort(by, compare_names, n, scratch);
    for (uint32_t i = 1; i < n; i++) {
        if (compare_names(by, order[i - 1], order[i]) == 0) {
            return nyb_fail(error, "a tensor's name occurs twice; the first is at the offset given",
                            by->tensors[order[i]].name_at, by->tensors[order[i - 1]].name_at);
        }
    }
    return 0;
}

static int check_overlaps(const sorted *by, uint32_t n, uint32_t *scratch, nyb_error *error) {
    const uint32_t *order = sort(by, compare_offsets, n, scratch);
    for (uint32_t i = 1; i < n; i++) {
        const nyb_gguf_tensor *left = &by->tensors[order[i - 1]];
        const nyb_gguf_tensor *right = &by->tensors[order[i]];
        if (left->nbytes > right->at - left->at) { /* no tensor is empty */
            return nyb_fail(error, "two tensors overlap; the other one starts at the offset given",
                            right->at, left->at);
        }
    }
    return 0;
}

uint64_t nyb_gguf_scratch_bytes(const nyb_gguf_file *file) {
    const uint64_t n = file->n_keys > file->n_tensors ? file->n_keys : file->n_tensors;
    return 2 * n * sizeof(uint32_t);
}

int nyb_gguf_index(const uint8_t *data, uint64_t length, nyb_gguf_file *file, nyb_gguf_key *keys,
                   nyb_gguf_tensor *tensors, uint32_t *scratch, nyb_error *error) {
    enum { HEADER_BYTES = 24 };
    scan s = {
        .data = data, .have = file->head, .length = length, .at = HEADER_BYTES, .error = error};
    if (walk(&s, file, keys, tensors)) {
        return -1;
    }
    const sorted by = {data, keys, tensors};
    if (check_duplicate_keys(&by, file->n_keys, scratch, error) ||
        check_duplicate_names(&by, file->n_tensors, scratch, error) ||
        check_overlaps(&by, file->n_tensors, scratch, error)) {
        return -1;
    }
    return 0;
}
