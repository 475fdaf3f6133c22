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
static size_t contraction(const uint8_t *text, size_t at, size_t end, int any_case) {
    static const char SUFFIXES[][3] = {"s", "t", "re", "ve", "m", "ll", "d"};
    const uint8_t lower = any_case ? 0x20 : 0; /* the bit that makes an ASCII letter small */
    if (text[at] != '\'') {
        return 0;
    }
    for (size_t i = 0; i < sizeof SUFFIXES / sizeof SUFFIXES[0]; i++) {
        size_t n = 0;
        while (SUFFIXES[i][n] != 0 && at + 1 + n < end &&
               (text[at + 1 + n] | lower) == SUFFIXES[i][n]) {
            n++;
        }
        if (SUFFIXES[i][n] == 0) {
            return 1 + n;
        }
    }
    return 0;
}

/* \s+(?!\S)|\s+, where white space is: it keeps its last character for the word behind it, if it
 * has another. */
static size_t white_space(const uint8_t *text, size_t at, size_t end) {
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

/* 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+ */
static size_t stage_gpt2(const uint8_t *text, size_t at, size_t end) {
    const unsigned kinds = NYB_CHAR_LETTER | NYB_CHAR_NUMBER | NYB_CHAR_SPACE;
    const size_t short_form = contraction(text, at, end, 0);
    if (short_form != 0) {
        return at + short_form;
    }
    const size_t start = at + (text[at] == ' ');
    const character first = read_at(text, start, end);
    if (start < end && !(first.classes & NYB_CHAR_SPACE)) {
        const unsigned kind = first.classes & (NYB_CHAR_LETTER | NYB_CHAR_NUMBER);
        return kind ? run(text, first.end, end, kind, 1) : run(text, first.end, end, kinds, 0);
    }
    return white_space(text, at, end);
}

static int is_line_end(uint32_t c) { return c == '\r' || c == '\n'; }

/* The end of \s*[\r\n]+ at `at`, or `at` if it is not there: white space up to its last line end.
 */
static size_t lines(const uint8_t *text, size_t at, size_t end) {
    size_t last = at;
    for (character c; (c = read_at(text, at, end)).classes & NYB_CHAR_SPACE; at = c.end) {
        last = is_line_end(c.code) ? c.end : last;
    }
    return last;
}

/* (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,digits}
 * | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+, where \p{L} is one of the classes `letters`
 */
static inline size_t words(const uint8_t *text, size_t at, size_t end, unsigned letters,
                           int digits) {
    const unsigned kinds = letters | NYB_CHAR_NUMBER | NYB_CHAR_SPACE;
    const size_t short_form = contraction(text, at, end, 1);
    if (short_form != 0) {
        return at + short_form;
    }
    character first = read_at(text, at, end);
    if (first.classes & NYB_CHAR_NUMBER) {
        for (; digits > 1 && read_at(text, first.end, end).classes & NYB_CHAR_NUMBER; digits--) {
            first = read_at(text, first.end, end);
        }
        return first.end;
    }
    if (first.classes & letters ||
        (!is_line_end(first.code) && read_at(text, first.end, end).classes & letters)) {
        return run(text, first.end, end, letters, 1);
    }
    size_t start = at + (text[at] == ' ');
    if (start < end && !(read_at(text, start, end).classes & kinds)) {
        for (start = run(text, start, end, kinds, 0); start < end && is_line_end(text[start]);) {
            start++;
        }
        return start;
    }
    const size_t after_lines = lines(text, at, end);
    return after_lines > at ? after_lines : white_space(text, at, end);
}

static size_t stage_llama3(const uint8_t *text, size_t at, size_t end) {
    return words(text, at, end, NYB_CHAR_LETTER, 3);
}

static size_t stage_qwen2(const uint8_t *text, size_t at, size_t end) {
    return words(text, at, end, NYB_CHAR_LETTER, 1);
}

static size_t stage_qwen35(const uint8_t *text, size_t at, size_t end) {
    return words(text, at, end, NYB_CHAR_LETTER | NYB_CHAR_MARK, 1);
}

/* \p{N} alone; what is between is a piece */
static size_t stage_number_alone(const uint8_t *text, size_t at, size_t end) {
    const character first = read_at(text, at, end);
    if (first.classes & NYB_CHAR_NUMBER) {
        return first.end;
    }
    return run(text, first.end, end, NYB_CHAR_NUMBER, 0);
}

typedef int (*predicate)(character c);

/* The end of X+ at `at`, which may be `at`. */
static size_t run_of(const uint8_t *text, size_t at, size_t end, predicate is) {
    for (character c; (c = read_at(text, at, end)).end > at && is(c);) {
        at = c.end;
    }
    return at;
}

/* The end of \s?X+ (X+ if not `spaced`) at `at`; `at` if it is not there. */
static size_t match(const uint8_t *text, size_t at, size_t end, predicate is, int spaced) {
    const character first = read_at(text, at, end);
    if (spaced && first.classes & NYB_CHAR_SPACE) {
        const size_t after = run_of(text, first.end, end, is);
        if (after > first.end) {
            return after;
        }
    }
    return run_of(text, at, end, is);
}

/* \s?X+ (X+ if not `spaced`); what is between is a piece */
static size_t runs(const uint8_t *text, size_t at, size_t end, predicate is, int spaced) {
    const size_t found = match(text, at, end, is, spaced);
    if (found > at) {
        return found;
    }
    for (;;) {
        const character c = read_at(text, at, end);
        if (at == end || is(c)) {
            return at;
        }
        if (spaced && c.classes & NYB_CHAR_SPACE && c.end < end && is(read_at(text, c.end, end))) {
            return at;
        }
        at = c.end;
    }
}

static int is_one_of(character c, const char *characters) {
    for (; *characters != 0; characters++) {
        if (c.code == (uint8_t)*characters) {
            return 1;
        }
    }
    return 0;
}

static int is_letter(character c) { return (c.classes & NYB_CHAR_LETTER) != 0; }

static int is_number(character c) { return (c.classes & NYB_CHAR_NUMBER) != 0; }

static int is_punctuation(character c) { return (c.classes & NYB_CHAR_PUNCTUATION) != 0; }

static int is_punctuation_or_symbol(character c) { /* symbols to Unicode, but not to these rules */
    return is_punctuation(c) || is_one_of(c, "$+<=>^~|");
}

static int is_falcon_punctuation(character c) {
    return is_punctuation_or_symbol(c) || c.code == '`';
}

/* [!-/:-~！-／：-～‘-‟　-。]. U+3000, which is white space too, is in it, as in tokenizer.json;
 * llama.cpp takes it for white space only. */
static int is_deepseek_punctuation(character c) {
    return (c.code >= 0x21 && c.code <= 0x2F) || (c.code >= 0x3A && c.code <= 0x7E) ||
           (c.code >= 0xFF01 && c.code <= 0xFF0F) || (c.code >= 0xFF1A && c.code <= 0xFF5E) ||
           (c.code >= 0x2018 && c.code <= 0x201F) || (c.code >= 0x3000 && c.code <= 0x3002);
}

/* [一-龥ࠀ-一가-퟿] */
static int is_deepseek_cjk(character c) {
    return (c.code >= 0x800 && c.code <= 0x9FA5) || (c.code >= 0xAC00 && c.code <= 0xD7FF);
}

/* Letters that have two cases, as DeepSeek LLM's tokenizer.json lists them: ranges in order. */
static int is_deepseek_letter(character c) {
    static const uint32_t RANGES[][2] = {
        {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},
        {0xD8, 0xF6},       {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},
        {0x295, 0x2AF},     {0x370, 0x373},     {0x376, 0x377},     {0x37B, 0x37D},
        {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},     {0x38C, 0x38C},
        {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
        {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},
        {0x1C90, 0x1CBA},   {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},
        {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},   {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},
        {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},   {0x1F5B, 0x1F5B},
        {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
        {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},
        {0x1FD6, 0x1FDB},   {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},
        {0x2102, 0x2102},   {0x2107, 0x2107},   {0x210A, 0x2113},   {0x2115, 0x2115},
        {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},   {0x2128, 0x2128},
        {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
        {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},
        {0x2C7E, 0x2CE4},   {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},
        {0xA680, 0xA69B},   {0xA722, 0xA76F},   {0xA771, 0xA787},   {0xA78B, 0xA78E},
        {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},   {0xFF21, 0xFF3A},
        {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
        {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943},
    };
    size_t low = 0, high = sizeof RANGES / sizeof RANGES[0];
    while (low < high) { /* the first range that ends at or beyond it */
        const size_t middle = low + (high - low) / 2;
        if (RANGES[middle][1] < c.code) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low < sizeof RANGES / sizeof RANGES[0] && RANGES[low][0] <= c.code;
}

/* [\p{P}$+<=>^~|]+; what is between is a piece */
static size_t stage_punctuation(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_punctuation_or_symbol, 0);
}

/* [\p{P}$+<=>^~|`]+; what is between is a piece */
static size_t stage_falcon_punctuation(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_falcon_punctuation, 0);
}

/* \p{N}+; what is between is a piece */
static size_t stage_number_run(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_number, 0);
}

/* \s?\p{L}+; what is between is a piece */
static size_t stage_letters(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_letter, 1);
}

/* \s?\p{P}+; what is between is a piece */
static size_t stage_spaced_punctuation(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_punctuation, 1);
}

static size_t stage_deepseek_letters(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_deepseek_letter, 1);
}

static size_t stage_deepseek_punctuation(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_deepseek_punctuation, 1);
}

static size_t stage_deepseek_cjk(const uint8_t *text, size_t at, size_t end) {
    return runs(text, at, end, is_deepseek_cjk, 0);
}

/* [\r\n]; what is between is a piece */
static size_t stage_line_end_alone(const uint8_t *text, size_t at, size_t end) {
    if (is_line_end(text[at])) {
        return at + 1;
    }
    while (at < end && !is_line_end(text[at])) {
        at++;
    }
    return at;
}

/* \s+$; what is before is a piece */
static size_t stage_last_space(const uint8_t *text, size_t at, size_t end) {
    size_t last = at; /* where the white space starts that goes on to here */
    for (size_t i = at; i < end;) {
        const character c = read_at(text, i, end);
        last = c.classes & NYB_CHAR_SPACE ? last : c.end;
        i = c.end;
    }
    return last > at ? last : end;
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
    [NYB_PRE_FALCON] = {stage_falcon_punctuation, stage_gpt2, stage_three_digits},
    [NYB_PRE_LLAMA3] = {stage_llama3},
    [NYB_PRE_QWEN2] = {stage_qwen2},
    [NYB_PRE_QWEN35] = {stage_qwen35},
    [NYB_PRE_DEEPSEEK_LLM] = {stage_line_end_alone, stage_deepseek_letters,
                              stage_deepseek_punctuation, stage_last_space, stage_deepseek_cjk,
                              stage_number_run},
    [NYB_PRE_DEEPSEEK_CODER] = {stage_line_end_alone, stage_letters, stage_spaced_punctuation,
                                stage_deepseek_cjk, stage_number_alone},
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
