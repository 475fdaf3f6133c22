/* SPDX-License-Identifier: MIT */
#include "nyb_pretokenize.h"

#include "nyb_unicode.h"

/* One character of the text; past the end it is nothing, of length 0. */
typedef struct {
    uint32_t code;
    unsigned classes;
    size_t end;
} character;

static character read_at(const uint8_t *text, size_t at, size_t end) {
    character c = {NYB_CHAR_INVALID, 0, at};
    if (at < end) {
        c.end = at + nyb_utf8_decode(text + at, end - at, &c.code);
        c.classes = nyb_char_class(c.code);
    }
    return c;
}

/* The end of the run of characters from `at` on that have (`wanted`) or have not (!`wanted`) one
 * of `classes`. */
static size_t run(const uint8_t *text, size_t at, size_t end, unsigned classes, int wanted) {
    while (at < end) {
        const character c = read_at(text, at, end);
        if (((c.classes & classes) != 0) != wanted) {
            break;
        }
        at = c.end;
    }
    return at;
}

/* The length of an English contraction ('s 't 're 've 'm 'll 'd) at `at`, or 0. */
static size_t contraction(const uint8_t *text, size_t at, size_t end) {
    static const char SUFFIXES[][3] = {"s", "t", "re", "ve", "m", "ll", "d"};
    if (text[at] != '\'') {
        return 0;
    }
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof SUFFIXES[0]; i++) {
        size_t n = 0;
        while (SUFFIXES[i][n] != 0 && at + 1 + n < end && text[at + 1 + n] == SUFFIXES[i][n]) {
            n++;
        }
        if (SUFFIXES[i][n] == 0) {
            return 1 + n;
        }
    }
    return 0;
}

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t stage_gpt2(const uint8_t *text, size_t at, size_t end) {
    const unsigned kinds = NYB_CHAR_LETTER | NYB_CHAR_NUMBER | NYB_CHAR_SPACE;
    const size_t short_form = contraction(text, at, end);
    if (short_form != 0) {
        return at + short_form;
    }
    const size_t start = at + (text[at] == ' ');
    const character first = read_at(text, start, end);
    if (start < end && !(first.classes & NYB_CHAR_SPACE)) {
        const unsigned kind = first.classes & (NYB_CHAR_LETTER | NYB_CHAR_NUMBER);
        return kind ? run(text, first.end, end, kind, 1) : run(text, first.end, end, kinds, 0);
    }
    /* White space keeps its last character for the word behind it, if it has another. */
    size_t last = at, after = read_at(text, at, end).end;
    while (after < end) {
        const character c = read_at(text, after, end);
        if (!(c.classes & NYB_CHAR_SPACE)) {
            return last > at ? last : after;
        }
        last = after;
        after = c.end;
    }
    return end;
}

/* \p{N} alone; what is between is a piece */
static size_t stage_number_alone(const uint8_t *text, size_t at, size_t end) {
    const character first = read_at(text, at, end);
    if (first.classes & NYB_CHAR_NUMBER) {
        return first.end;
    }
    return run(text, first.end, end, NYB_CHAR_NUMBER, 0);
}

/* \p{N}+; what is between is a piece */
static size_t stage_number_run(const uint8_t *text, size_t at, size_t end) {
    const int number = (read_at(text, at, end).classes & NYB_CHAR_NUMBER) != 0;
    return run(text, at, end, NYB_CHAR_NUMBER, number);
}

static int is_punctuation(character c) {
    static const char ALSO[] = "$+<=>^~|"; /* symbols to Unicode */
    for (const char *s = ALSO; *s != 0; s++) {
        if (c.code == (uint8_t)*s) {
            return 1;
        }
    }
    return (c.classes & NYB_CHAR_PUNCTUATION) != 0;
}

/* [\p{P}$+<=>^~|]+; what is between is a piece */
static size_t stage_punctuation(const uint8_t *text, size_t at, size_t end) {
    character c = read_at(text, at, end);
    const int first = is_punctuation(c);
    while (c.end > at && is_punctuation(c) == first) {
        at = c.end;
        c = read_at(text, at, end);
    }
    return at;
}

static int is_digit(uint8_t byte) { return byte >= '0' && byte <= '9'; }

static int three_digits(const uint8_t *text, size_t at, size_t end) {
    return end - at >= 3 && is_digit(text[at]) && is_digit(text[at + 1]) && is_digit(text[at + 2]);
}

/* [0-9][0-9][0-9]; what is between is a piece */
static size_t stage_three_digits(const uint8_t *text, size_t at, size_t end) {
    if (three_digits(text, at, end)) {
        return at + 3;
    }
    while (at < end && !three_digits(text, at, end)) {
        at++;
    }
    return at;
}

typedef size_t (*stage)(const uint8_t *text, size_t at, size_t end);

/* A row per enum nyb_pretokenizer; unused stages are null. */
static const stage STAGES[NYB_PRE_COUNT][NYB_PRE_STAGES] = {
    [NYB_PRE_DEFAULT] = {stage_punctuation, stage_gpt2, stage_number_run, stage_three_digits},
    [NYB_PRE_GPT2] = {stage_gpt2},
    [NYB_PRE_SMOLLM] = {stage_number_alone, stage_gpt2},
};

void nyb_words_start(nyb_words *words, unsigned pre, const uint8_t *text, size_t from, size_t to) {
    words->text = text;
    words->at = from;
    words->pre = pre;
    words->ends[0] = to;
    for (size_t i = 1; i <= NYB_PRE_STAGES; i++) {
        words->ends[i] = from;
    }
}

size_t nyb_words_next(nyb_words *words) {
    const stage *stages = STAGES[words->pre];
    size_t i = 0;
    for (; i < NYB_PRE_STAGES && stages[i]; i++) {
        if (words->ends[i + 1] == words->at) {
            words->ends[i + 1] = stages[i](words->text, words->at, words->ends[i]);
        }
    }
    words->at = words->ends[i];
    return words->at;
}
