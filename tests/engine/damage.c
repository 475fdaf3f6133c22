/* SPDX-License-Identifier: MIT
 * Replays copies of a dump of each of which a field is overwritten, in three threads: built with
 * sanitizers by test_replay.py. Each copy has a process of its own, in which replay may end where
 * it likes.
 *
 *   damage FILE        which is overwritten, and is as it was in the end
 *
 * Prints how many copies were refused, of how many. Exit code 1 if one ended otherwise than replay
 * does, which is what a sanitizer finds if it is told another exit code than 1 (exitcode=99 in its
 * options).
 */
#define main replay
#include "../../tools/replay/replay.c"
#undef main

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

/* How a process ends whose dump has these four bytes there: replay's exit code, or another. */
static int try_one(char *path, int file, uint64_t at, uint32_t value) {
    if (pwrite(file, &value, sizeof value, (off_t)at) != sizeof value)
        give_up("cannot write to the file");
    const pid_t child = fork();
    if (child == 0) {
        alarm(60); /* no copy takes a second */
        char *arguments[] = {"replay", path, "3"};
        if (!freopen("/dev/null", "w", stdout))
            give_up("no /dev/null");
        exit(replay(3, arguments));
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) != child)
        give_up("no process for a copy");
    return WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
}

int main(int argc, char **argv) {
    /* Of the steps, the buffers, the attentions and the ropes. 44 bytes take the 14 words of a step
     * in turn, 20 the 6 of a buffer. */
    static const uint64_t strides[] = {44, 20, 4, 4};
    static const uint32_t values[] = {0xFFFFFFFF, 0x7FFFFFF0, 64, 0};
    uint64_t length, begin = sizeof(dump_header);
    unsigned refused = 0, tried = 0;
    const int file = argc == 2 ? open(argv[1], O_RDWR) : -1;
    if (file < 0)
        give_up("usage: damage FILE");
    uint8_t *bytes = read_file(argv[1], &length);
    for (int section = 0; section < 4; section++) {
        uint64_t nbytes;
        memcpy(&nbytes, bytes + begin, sizeof nbytes);
        begin += DUMP_ALIGNMENT;
        for (uint64_t at = begin; at < begin + nbytes; at += strides[section]) {
            for (int i = 0; i < 4; i++, tried++) {
                const int code = try_one(argv[1], file, at, values[i]);
                if (code < 0 || code > 2) {
                    fprintf(stderr, "section %d, at %" PRIu64 ": %d\n", section, at, code);
                    return 1;
                }
                refused += code == 2;
            }
            if (pwrite(file, bytes + at, 4, (off_t)at) != 4)
                give_up("cannot write to the file");
        }
        begin += (nbytes + DUMP_ALIGNMENT - 1) / DUMP_ALIGNMENT * DUMP_ALIGNMENT;
    }
    close(file);
    free(bytes);
    printf("%u of %u\n", refused, tried);
    return 0;
}
