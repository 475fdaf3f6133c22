/* SPDX-License-Identifier: MIT
 * Counts the instructions that an emulated program executes, by function and by section.
 *
 *   qemu-aarch64 -plugin plugin.so,out=FILE,mark=NAME program ...
 *
 * Each call of the program's function NAME ends a section; the program's end ends the last one.
 * FILE gets a line "section function count" for each function of a static program that ran in a
 * section, and at the end "end vcpus N": the counts are exact for one thread only, and more of
 * them are for the reader to refuse.
 *
 * It is compiled against qemu's own qemu-plugin.h, which is GPL-2.0-or-later, so what comes out is
 * too; this source's licence permits that. It is a tool for a checkout, built there on demand, and
 * in no wheel.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <qemu-plugin.h>

QEMU_PLUGIN_EXPORT int qemu_plugin_version = QEMU_PLUGIN_VERSION;

typedef struct function {
    const char *name; /* qemu's, and lives as long as it does */
    uint64_t count;   /* of instructions in this section */
} function;

/* By the name's address: one name may be in here twice, and the reader adds them up. */
enum { FUNCTIONS = 1 << 16 };
static function functions[FUNCTIONS];
static uint32_t n_functions, n_vcpus, section;
static FILE *out;
static const char *mark;
static uint64_t mark_at; /* where its first instruction is, once it has been met */

static function *function_of(const char *name) {
    uint32_t i = (uint32_t)((uintptr_t)name * 0x9E3779B97F4A7C15u >> 48);
    while (functions[i].name && functions[i].name != name)
        i = (i + 1) % FUNCTIONS;
    if (!functions[i].name) {
        functions[i].name = name;
        if (++n_functions == FUNCTIONS) {
            fputs("plugin: too many functions\n", stderr);
            abort();
        }
    }
    return &functions[i];
}

static void end_section(void) {
    for (uint32_t i = 0; i < FUNCTIONS; i++) {
        if (functions[i].count)
            fprintf(out, "%" PRIu32 " %s %" PRIu64 "\n", section, functions[i].name,
                    functions[i].count);
        functions[i].count = 0;
    }
    section++;
}

static void on_mark(unsigned int vcpu, void *data) {
    (void)vcpu, (void)data;
    end_section();
}

/* Instructions of one function in a row are added at the first of them: they run together. */
static void on_block(qemu_plugin_id_t id, struct qemu_plugin_tb *block) {
    (void)id;
    const size_t n = qemu_plugin_tb_n_insns(block);
    for (size_t i = 0; i < n;) {
        struct qemu_plugin_insn *first = qemu_plugin_tb_get_insn(block, i);
        const char *symbol = qemu_plugin_insn_symbol(first);
        const char *name = symbol ? symbol : "?";
        size_t end = i + 1;
        while (end < n && qemu_plugin_insn_symbol(qemu_plugin_tb_get_insn(block, end)) == symbol)
            end++;
        if (mark && !strcmp(name, mark)) {
            const uint64_t at = qemu_plugin_insn_vaddr(first);
            mark_at = mark_at ? mark_at : at;
            if (at == mark_at)
                qemu_plugin_register_vcpu_insn_exec_cb(first, on_mark, QEMU_PLUGIN_CB_NO_REGS,
                                                       NULL);
        } else {
            qemu_plugin_register_vcpu_insn_exec_inline(first, QEMU_PLUGIN_INLINE_ADD_U64,
                                                       &function_of(name)->count, end - i);
        }
        i = end;
    }
}

static void on_vcpu(qemu_plugin_id_t id, unsigned int vcpu) {
    (void)id, (void)vcpu;
    n_vcpus++;
}

static void on_end(qemu_plugin_id_t id, void *data) {
    (void)id, (void)data;
    end_section();
    fprintf(out, "end vcpus %" PRIu32 "\n", n_vcpus);
    fclose(out);
}

QEMU_PLUGIN_EXPORT int qemu_plugin_install(qemu_plugin_id_t id, const qemu_info_t *info, int argc,
                                           char **argv) {
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "out=", 4))
            out = fopen(argv[i] + 4, "w");
        else if (!strncmp(argv[i], "mark=", 5))
            mark = strdup(argv[i] + 5);
    }
    if (!out) {
        fputs("plugin: out=FILE is missing, or FILE cannot be written\n", stderr);
        return -1;
    }
    qemu_plugin_register_vcpu_init_cb(id, on_vcpu);
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_block);
    qemu_plugin_register_atexit_cb(id, on_end, NULL);
    return 0;
}
