/* SPDX-License-Identifier: MIT
 * Tokens that mean something by their spelling.
 */
#include <string.h>

#include "nyb_vocab_tables.h"

/* Spellings that mean something whatever type the file gives them; llama.cpp's lists. */
static const struct {
    const char *spelling;
    enum nyb_token_role role;
} ROLES[] = {
    {"<|eot_id|>", NYB_ROLE_END},
    {"<|im_end|>", NYB_ROLE_END},
    {"<|end|>", NYB_ROLE_END},
    {"<|return|>", NYB_ROLE_END},
    {"<|call|>", NYB_ROLE_END},
    {"<|flush|>", NYB_ROLE_END},
    {"<|calls|>", NYB_ROLE_END},
    {"<end_of_turn>", NYB_ROLE_END},
    {"<|endoftext|>", NYB_ROLE_END},
    {"<|eom_id|>", NYB_ROLE_END},
    {"<EOT>", NYB_ROLE_END},
    {"_<EOT>", NYB_ROLE_END},
    {"[EOT]", NYB_ROLE_END},
    {"[EOS]", NYB_ROLE_END},
    {"<|end_of_text|>", NYB_ROLE_END},
    {"<end_of_utterance>", NYB_ROLE_END},
    {"<eos>", NYB_ROLE_END},
    {"<turn|>", NYB_ROLE_END},
    {"<|tool_response>", NYB_ROLE_END},
    {"<\xEF\xBD\x9C"
     "end\xE2\x96\x81of\xE2\x96\x81sentence\xEF\xBD\x9C>",
     NYB_ROLE_END},
    {"[e~[", NYB_ROLE_END},
    /* Padding and separators of fill-in-the-middle: a reply that runs into one is over. */
    {"<|fim_pad|>", NYB_ROLE_END},
    {"<fim-pad>", NYB_ROLE_END},
    {"<fim_pad>", NYB_ROLE_END},
    {"<PAD>", NYB_ROLE_END},
    {"[PAD]", NYB_ROLE_END},
    {"<|fim_repo|>", NYB_ROLE_END},
    {"<|repo_name|>", NYB_ROLE_END},
    {"<fim-repo>", NYB_ROLE_END},
    {"<REPO>", NYB_ROLE_END},
    {"<reponame>", NYB_ROLE_END},
    {"<|file_sep|>", NYB_ROLE_END},
    {"<|fim_prefix|>", NYB_ROLE_FILL},
    {"<fim-prefix>", NYB_ROLE_FILL},
    {"<fim_prefix>", NYB_ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81"
     "begin\xEF\xBD\x9C>",
     NYB_ROLE_FILL},
    {"<PRE>", NYB_ROLE_FILL},
    {NYB_SPACE_MARK "<PRE>", NYB_ROLE_FILL},
    {"<|code_prefix|>", NYB_ROLE_FILL},
    {"<|prefix|>", NYB_ROLE_FILL},
    {"<|fim_suffix|>", NYB_ROLE_FILL},
    {"<fim-suffix>", NYB_ROLE_FILL},
    {"<fim_suffix>", NYB_ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81hole\xEF\xBD\x9C>",
     NYB_ROLE_FILL},
    {"<SUF>", NYB_ROLE_FILL},
    {NYB_SPACE_MARK "<SUF>", NYB_ROLE_FILL},
    {"<|code_suffix|>", NYB_ROLE_FILL},
    {"<|suffix|>", NYB_ROLE_FILL},
    {"<|fim_middle|>", NYB_ROLE_FILL},
    {"<fim-middle>", NYB_ROLE_FILL},
    {"<fim_middle>", NYB_ROLE_FILL},
    {"<\xEF\xBD\x9C"
     "fim\xE2\x96\x81"
     "end\xEF\xBD\x9C>",
     NYB_ROLE_FILL},
    {"<MID>", NYB_ROLE_FILL},
    {NYB_SPACE_MARK "<MID>", NYB_ROLE_FILL},
    {"<|code_middle|>", NYB_ROLE_FILL},
    {"<|middle|>", NYB_ROLE_FILL},
};

/* HTML's </s> is an ordinary tag in Gemma's vocabulary, and the end token in Llama's. */
static const char CLOSING_S[] = "</s>";

static int is_spelled(nyb_string s, const char *spelling) {
    return strlen(spelling) == s.n && memcmp(spelling, s.at, s.n) == 0;
}

/* Whether it is worth a look: a vocabulary asks after each of its tokens some times. */
static int may_have_role(nyb_string s) {
    if (s.n < 4 || s.n > 32) {
        return 0;
    }
    const uint8_t last = s.at[s.n - 1], first = nyb_is_space_mark(s.at, 0, s.n) ? s.at[3] : s.at[0];
    return (first == '<' || first == '[' || first == '_') &&
           (last == '>' || last == ']' || last == '[');
}

enum nyb_token_role nyb_role_of(nyb_string s, unsigned type) {
    if (!may_have_role(s)) {
        return NYB_ROLE_NONE;
    }
    for (size_t i = 0; i < sizeof ROLES / sizeof ROLES[0]; i++) {
        if (is_spelled(s, ROLES[i].spelling)) {
            return ROLES[i].role;
        }
    }
    return type == NYB_TOKEN_CONTROL && is_spelled(s, CLOSING_S) ? NYB_ROLE_END : NYB_ROLE_NONE;
}
