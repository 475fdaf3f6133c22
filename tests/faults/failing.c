/* SPDX-License-Identifier: MIT
 * Memory that is refused, for tests: preloaded before the C library, this fails the n-th request.
 *
 * Requests are those that code of a watched module makes: malloc, calloc, realloc, aligned_alloc,
 * posix_memalign, mmap, pthread_create; whoever asks is known by the return address. A file's
 * mapping counts too, whoever makes it. What watched modules hold is counted: what they were given
 * less what they gave back.
 *
 * Python's own allocators can be told to fail instead (faults_in_python): requests are those that a
 * watched module makes of them, be it through some functions of Python's.
 *
 * A test sets this up through ctypes, in one thread; requests may come from several.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <link.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum {
    MAX_RANGES = 64,
    DEPTH = 10, /* calls from a watched module to Python's allocator, at most */
};

/* Python's PyMemAllocatorEx, which is part of its stable interface since 3.4. */
typedef struct allocator {
    void *context;
    void *(*malloc)(void *, size_t);
    void *(*calloc)(void *, size_t, size_t);
    void *(*realloc)(void *, void *, size_t);
    void (*free)(void *, void *);
} allocator;

typedef struct range {
    uintptr_t begin, end;
} range;

static struct {
    range code[MAX_RANGES]; /* where the watched modules' instructions are */
    int n_code;
    const char *watched;        /* part of their paths */
    atomic_long held;           /* by watched modules: pieces of memory, mappings, threads */
    atomic_long requests;       /* since faults_begin */
    atomic_long first;          /* number of the first that fails, from 1; 0: none does */
    atomic_int all_others;      /* and those after it fail as well */
    const char *_Atomic failed; /* the function that failed first */
    /* Python's allocators */
    allocator before[3];
    atomic_int in_python;
} faults;

static void *next(const char *name) { return dlsym(RTLD_NEXT, name); }

/* The function of the C library, looked up once. */
#define NEXT(name)                                                                                 \
    static __typeof__(&name) _Atomic found;                                                        \
    __typeof__(&name) real = found;                                                                \
    if (!real)                                                                                     \
    found = real = (__typeof__(&name))next(#name)

static int is_watched(const void *caller) {
    for (int i = 0; i < faults.n_code; i++)
        if ((uintptr_t)caller - faults.code[i].begin < faults.code[i].end - faults.code[i].begin)
            return 1;
    return 0;
}

/* Counts a request; says whether it is one to fail. */
static int fails(const char *function) {
    const long number = atomic_fetch_add(&faults.requests, 1) + 1;
    const long first = atomic_load(&faults.first);
    if (!first || number < first || (number > first && !atomic_load(&faults.all_others)))
        return 0;
    const char *none = NULL;
    atomic_compare_exchange_strong(&faults.failed, &none, function);
    return 1;
}

static int is_refused(int watched, const char *function) {
    return watched && !atomic_load(&faults.in_python) && fails(function);
}

static void *given(int watched, void *p) {
    if (watched && p)
        atomic_fetch_add(&faults.held, 1);
    return p;
}

static void given_back(int watched, const void *p) {
    if (watched && p)
        atomic_fetch_sub(&faults.held, 1);
}

#define CALLER() is_watched(__builtin_extract_return_addr(__builtin_return_address(0)))

static void *no_memory(void) {
    errno = ENOMEM;
    return NULL;
}

void *malloc(size_t n) {
    const int watched = CALLER();
    NEXT(malloc);
    return is_refused(watched, "malloc") ? no_memory() : given(watched, real(n));
}

void *calloc(size_t n, size_t size) {
    const int watched = CALLER();
    NEXT(calloc);
    return is_refused(watched, "calloc") ? no_memory() : given(watched, real(n, size));
}

void *realloc(void *p, size_t n) {
    const int watched = CALLER();
    NEXT(realloc);
    if (is_refused(watched, "realloc"))
        return no_memory();
    void *moved = real(p, n);
    return p ? moved : given(watched, moved);
}

void *aligned_alloc(size_t alignment, size_t n) {
    const int watched = CALLER();
    NEXT(aligned_alloc);
    return is_refused(watched, "aligned_alloc") ? no_memory() : given(watched, real(alignment, n));
}

int posix_memalign(void **p, size_t alignment, size_t n) {
    const int watched = CALLER();
    NEXT(posix_memalign);
    if (is_refused(watched, "posix_memalign"))
        return ENOMEM;
    const int error = real(p, alignment, n);
    if (!error)
        given(watched, *p);
    return error;
}

void free(void *p) {
    NEXT(free);
    given_back(CALLER(), p);
    real(p);
}

static void *map(int watched, void *at, size_t n, int protection, int flags, int file,
                 off_t offset) {
    NEXT(mmap);
    if (is_refused(watched || file != -1, "mmap")) {
        errno = ENOMEM;
        return MAP_FAILED;
    }
    void *p = real(at, n, protection, flags, file, offset);
    given(watched && p != MAP_FAILED, p);
    return p;
}

void *mmap(void *at, size_t n, int protection, int flags, int file, off_t offset) {
    return map(CALLER(), at, n, protection, flags, file, offset);
}

void *mmap64(void *at, size_t n, int protection, int flags, int file, off64_t offset) {
    return map(CALLER(), at, n, protection, flags, file, offset);
}

int munmap(void *p, size_t n) {
    NEXT(munmap);
    given_back(CALLER(), p);
    return real(p, n);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*start)(void *),
                   void *argument) {
    const int watched = CALLER();
    NEXT(pthread_create);
    if (is_refused(watched, "pthread_create"))
        return EAGAIN;
    const int error = real(thread, attributes, start, argument);
    if (!error)
        given(watched, &faults);
    return error;
}

int pthread_join(pthread_t thread, void **result) {
    const int watched = CALLER();
    NEXT(pthread_join);
    const int error = real(thread, result);
    if (!error)
        given_back(watched, &faults);
    return error;
}

static int note_module(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size, (void)context;
    for (int i = 0; strstr(info->dlpi_name, faults.watched) && i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        if (part->p_type != PT_LOAD || !(part->p_flags & PF_X) || faults.n_code == MAX_RANGES)
            continue;
        const uintptr_t begin = info->dlpi_addr + part->p_vaddr;
        faults.code[faults.n_code++] = (range){begin, begin + part->p_memsz};
    }
    return 0;
}

/* Watches the modules that are loaded now and whose paths have this in them; returns how many
 * ranges of code that is. */
int faults_watch(const char *part_of_path) {
    faults.n_code = 0;
    faults.watched = part_of_path;
    dl_iterate_phdr(note_module, NULL);
    return faults.n_code;
}

/* Fails request number `first` from now on, and with all_others all that come after it. */
void faults_begin(long first, int all_others) {
    atomic_store(&faults.requests, 0);
    atomic_store(&faults.failed, NULL);
    atomic_store(&faults.all_others, all_others);
    atomic_store(&faults.first, first);
}

/* Fails none any more; returns the function that failed first, or NULL. */
const char *faults_end(void) {
    atomic_store(&faults.first, 0);
    return atomic_load(&faults.failed);
}

long faults_requests(void) { return atomic_load(&faults.requests); }
long faults_held(void) { return atomic_load(&faults.held); }

/* -- Python's allocators: raw memory is left alone, because Python's start of threads and its end
 * cannot do without */

static int is_refused_in_python(void) {
    void *callers[DEPTH];
    if (!atomic_load(&faults.in_python) || !atomic_load(&faults.first))
        return 0;
    const int n = backtrace(callers, DEPTH);
    for (int i = 0; i < n; i++)
        if (is_watched(callers[i]))
            return fails("Python's");
    return 0;
}

static void *python_malloc(void *context, size_t n) {
    const allocator *a = context;
    return is_refused_in_python() ? NULL : a->malloc(a->context, n);
}

static void *python_calloc(void *context, size_t n, size_t size) {
    const allocator *a = context;
    return is_refused_in_python() ? NULL : a->calloc(a->context, n, size);
}

static void *python_realloc(void *context, void *p, size_t n) {
    const allocator *a = context;
    return is_refused_in_python() ? NULL : a->realloc(a->context, p, n);
}

static void python_free(void *context, void *p) {
    const allocator *a = context;
    a->free(a->context, p);
}

/* From now on requests are those to Python's allocators of memory and of objects.
 * get, set : PyMem_GetAllocator and PyMem_SetAllocator */
void faults_in_python(void (*get)(int, allocator *), void (*set)(int, allocator *)) {
    void *caller;
    backtrace(&caller, 1); /* which allocates the first time */
    for (int domain = 1; domain <= 2; domain++) {
        get(domain, &faults.before[domain]);
        allocator own = {&faults.before[domain], python_malloc, python_calloc, python_realloc,
                         python_free};
        set(domain, &own);
    }
    atomic_store(&faults.in_python, 1);
}
