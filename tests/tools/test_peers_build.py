"""The peers' source packages, what is built of them, and the driver over their libraries."""

import hashlib
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tools.peers import build
from tools.peers.build import Form, Peer


def sdist(tmp_path, text="int llama;"):
    """A source package as PyPI has them, with a tree in vendor/."""
    folder = tmp_path / "made" / "some_peer-1.2" / "vendor" / "tree"
    folder.mkdir(parents=True)
    (folder / "llama.c").write_text(text)
    (folder.parents[1] / "setup.py").write_text("raise SystemExit")
    archive = tmp_path / "some_peer-1.2.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(folder.parents[1], "some_peer-1.2")
    return archive


def peer_of(archive):
    return Peer(
        name="some",
        package="some-peer",
        version="1.2",
        sha256=hashlib.sha256(archive.read_bytes()).hexdigest(),
        tree="vendor/tree",
        forms=(),
    )


def test_a_source_package_that_is_there_is_not_fetched_again(tmp_path):
    archive = sdist(tmp_path)
    assert build.download(peer_of(archive), tmp_path) == archive
    build.extract(archive, "vendor/tree", tmp_path / "source")
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["llama.c"]
    build.extract(archive, "vendor/tree", tmp_path / "source")  # as if another run were faster
    assert [path.name for path in (tmp_path / "source").iterdir()] == ["llama.c"]


def test_a_package_with_another_sum_is_refused(tmp_path, monkeypatch):
    archive = sdist(tmp_path)
    peer = peer_of(archive)

    def pip_brings_it(command, log):
        archive.rename(Path(command[-1]) / archive.name)

    monkeypatch.setattr(build, "run", pip_brings_it)
    (tmp_path / "cache").mkdir()
    fine = build.download(peer, tmp_path / "cache")
    assert fine.parent == tmp_path / "cache"
    archive.write_bytes(b"something else")
    (tmp_path / "other").mkdir()
    with pytest.raises(build.BuildError, match="some-peer==1.2: what PyPI has is not the pinned"):
        build.download(peer, tmp_path / "other")
    assert list((tmp_path / "other").iterdir()) == []


def test_a_failed_command_is_named_with_its_log(tmp_path):
    log = tmp_path / "a.log"
    heard = []
    command = [sys.executable, "-c", "print('[1/2] one'); print('no such header'); exit(4)"]
    with pytest.raises(build.BuildError) as error:
        build.run(command, log, heard.append)
    assert "exit status 4" in str(error.value)
    assert "exit(4)" in str(error.value)
    assert "\nno such header\n" in str(error.value)
    assert str(log) in str(error.value)
    assert heard == ["[1/2] one"]
    assert "no such header" in log.read_text()


def test_compiler_is_what_cmake_wrote_down(tmp_path):
    folder = tmp_path / "build" / "CMakeFiles" / "3.31.0"
    folder.mkdir(parents=True)
    (folder / "CMakeCXXCompiler.cmake").write_text(
        'set(CMAKE_CXX_COMPILER "/usr/bin/c++")\nset(CMAKE_CXX_COMPILER_ID "GNU")\n'
        'set(CMAKE_CXX_COMPILER_VERSION "12.2.0")\nset(CMAKE_CXX_COMPILER_WRAPPER "")\n'
    )
    assert build.compiler(tmp_path / "driver") == "gcc 12.2.0"


# A llama.h of each peer, as far as the driver uses it, with functions that count.
API = """
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
typedef int32_t llama_token;
enum ggml_log_level { GGML_LOG_LEVEL_ERROR };
enum llama_ftype { LLAMA_FTYPE_NONE };
enum llama_flash_attn_type { LLAMA_FLASH_ATTN_TYPE_DISABLED, LLAMA_FLASH_ATTN_TYPE_AUTO };
struct llama_model_params { bool repack_tensors, merge_qkv, use_mmap; };
struct llama_context_params { uint32_t n_ctx, n_batch, n_ubatch, n_threads, n_threads_batch;
                              bool swa_full, flash_attn;
                              enum llama_flash_attn_type flash_attn_type; };
typedef struct { enum llama_ftype ftype; bool pure, allow_requantize; } llama_model_quantize_params;
struct llama_batch { llama_token *token; int n, position; };
struct llama_model; struct llama_context; struct llama_vocab;
typedef void *llama_memory_t;
static int cells, calls, rewound;
/* The eighth time it cannot. */
static bool rewind_cells(int n) {
    fprintf(stderr, "back to %d%s\\n", n, ++rewound < 8 ? "" : " fails");
    cells = rewound < 8 ? n : cells;
    return rewound < 8;
}
static void llama_log_set(void (*f)(enum ggml_log_level, const char *, void *), void *p) {
    (void)f, (void)p;
}
static void llama_backend_init(void) {}
static struct llama_model_params llama_model_default_params(void) {
    return (struct llama_model_params){.use_mmap = true};
}
static struct llama_context_params llama_context_default_params(void) {
    return (struct llama_context_params){
        .swa_full = true, .flash_attn = true, .flash_attn_type = LLAMA_FLASH_ATTN_TYPE_AUTO};
}
static llama_model_quantize_params llama_model_quantize_default_params(void) {
    return (llama_model_quantize_params){0};
}
static int llama_model_quantize(const char *in, const char *out,
                                const llama_model_quantize_params *p) {
    printf("%s %s %d %d %d\\n", in, out, (int)p->ftype, p->pure, p->allow_requantize);
    return 0;
}
static struct llama_model *llama_model_load_from_file(const char *path,
                                                      struct llama_model_params p) {
    fprintf(stderr, "%s repack %d merge %d mmap %d\\n", path, p.repack_tensors, p.merge_qkv,
            p.use_mmap);
    return (struct llama_model *)1;
}
static struct llama_context *llama_init_from_model(struct llama_model *m,
                                                   struct llama_context_params p) {
    (void)m;
    fprintf(stderr, "context %u batch %u threads %u flash %d %d\\n", p.n_ctx, p.n_ubatch,
            p.n_threads, p.flash_attn, p.flash_attn_type);
    return (struct llama_context *)1;
}
static const struct llama_vocab *llama_model_get_vocab(struct llama_model *m) {
    return (struct llama_vocab *)m;
}
static int llama_vocab_n_tokens(const struct llama_vocab *v) { (void)v; return 5; }
static float *llama_get_logits_ith(struct llama_context *c, int i) {
    static float logits[5] = {0, 1, 4, 4, 3};
    (void)c, (void)i;
    return logits;
}
static int llama_decode(struct llama_context *c, struct llama_batch b) {
    (void)c, calls++;
    if (b.position >= 0 && b.position != cells)
        return 1;
    fprintf(stderr, "at %d: %d from %d\\n", cells, b.n, b.token[0]);
    cells += b.n;
    return 0;
}
#ifdef PEER_IK
static void llama_kv_cache_clear(struct llama_context *c) { (void)c, cells = 0; }
static bool llama_kv_cache_seq_rm(struct llama_context *c, int s, int from, int to) {
    (void)c, (void)s, (void)to;
    return rewind_cells(from);
}
static struct llama_batch llama_batch_get_one(llama_token *t, int n, int p, int s) {
    (void)s;
    return (struct llama_batch){t, n, p};
}
#else
static llama_memory_t llama_get_memory(struct llama_context *c) { return c; }
static void llama_memory_clear(llama_memory_t m, bool data) { (void)m, (void)data, cells = 0; }
static bool llama_memory_seq_rm(llama_memory_t m, int s, int from, int to) {
    (void)m, (void)s, (void)to;
    return rewind_cells(from);
}
static struct llama_batch llama_batch_get_one(llama_token *t, int n) {
    return (struct llama_batch){t, n, -1};
}
#endif
"""


# What the peer is asked for: by default, with everything; flash_attn is ik_llama.cpp's name for
# it, flash_attn_type llama.cpp's, whose 1 is "auto".
ASKED = {
    "llama.cpp": (
        [],
        ("repack 0 merge 0 mmap 1", "flash 1 1"),
        ("repack 0 merge 0 mmap 1", "flash 1 0"),
    ),
    "ik_llama.cpp": (
        ["-DPEER_IK=1"],
        ("repack 0 merge 0 mmap 1", "flash 1 1"),
        ("repack 1 merge 1 mmap 0", "flash 0 1"),
    ),
}


@pytest.mark.parametrize("name", ASKED)
def test_the_driver_feeds_what_it_is_asked_for(tmp_path, name):
    define, by_default, with_everything = ASKED[name]
    (tmp_path / "llama.h").write_text(API)
    program = tmp_path / "driver"
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined"]
    subprocess.run(
        ["cc", *flags, *define, f"-I{tmp_path}", str(build.DRIVER), "-o", str(program)], check=True
    )

    def serve(options, *lines):
        arguments = ["serve", "m.gguf", "2", options, "902"]
        asked = "".join(f"{line}\n" for line in lines)
        return subprocess.run([program, *arguments], input=asked, capture_output=True, text=True)

    for options, want in (
        ("defaults", by_default),
        ("repacked,merged,no flash", with_everything),
    ):
        loading, context = serve(options).stderr.splitlines()[:2]
        assert loading == f"m.gguf {want[0]}"
        assert context == f"context 1024 batch 512 threads 2 {want[1]}"
    done = serve(
        "defaults", "fill 1", "reply 2", "prompt 600", "reply 2", "reply 1", "fill 900", "fill 900"
    )
    assert done.returncode == 0, done.stderr
    ok, *times, last, again = done.stdout.splitlines()
    assert (ok, last, again) == ("ok",) * 3
    assert len(times) == 4
    assert all(float(time) > 0 for time in times)
    fed = done.stderr.splitlines()[2:]
    # token 2 is the first of the largest logits; 512 * 7919 % 5 is 3
    assert fed == [
        # what comes before the clock starts: the last token once more; 599 * 7919 % 5 is 1
        *("at 0: 1 from 0", "back to 0", "at 0: 1 from 0", "at 1: 1 from 2", "back to 1"),
        *("back to 0", "at 0: 1 from 0", "at 1: 1 from 2", "at 2: 1 from 2", "back to 1"),
        *("at 0: 512 from 0", "at 512: 88 from 3"),  # the prompt
        *("back to 599", "at 599: 1 from 1", "at 600: 1 from 2", "at 601: 1 from 2", "back to 600"),
        # what was decoded cannot be taken back, and all is filled anew
        *("back to 599", "at 599: 1 from 1", "at 600: 1 from 2", "back to 600 fails"),
        *("at 0: 512 from 0", "at 512: 388 from 3"),
    ]
    for wrong in ("reply 903", "prompt 903", "fill 0", "prompt x", "stop"):
        done = serve("defaults", wrong)
        assert done.returncode == 1
        assert "none of fill, prompt and reply" in done.stderr
    done = subprocess.run(
        [program, "quantize", "in", "out", "25", "1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "in out 25 1 1\n"
    done = subprocess.run(
        [program, "count", "m", "no flash", "3", "2"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "2 2 2\n"
    assert done.stderr.splitlines()[1].startswith("context 256 batch 512 threads 1 ")
    assert done.stderr.splitlines()[2:] == ["at 0: 3 from 0", "at 3: 1 from 2", "at 4: 1 from 1"]
    assert subprocess.run([program, "serve"], capture_output=True).returncode == 2


def test_pins_are_whole():
    for peer in build.PEERS.values():
        assert len(bytes.fromhex(peer.sha256)) == 32
        assert peer.forms[0] == Form("file")
        assert any(form.ftype is not None for form in peer.forms)
        assert len({form.name for form in peer.forms}) == len(peer.forms)
