/* SPDX-License-Identifier: MIT
 * The pool. See nyb_pool.h for what it promises.
 *
 * A call is announced by a new ticket, which says how many threads are its team. Threads wait for
 * it spinning for a while, then asleep on the ticket as a futex. Those that are not of the team are
 * neither woken nor waited for: they may see this ticket or only a later one. Inside a call the
 * team meets at a counter that only grows: the n-th barrier of a team of t is passed when it has
 * reached n * t.
 */
#include "nyb_pool.h"

#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum {
    STACK_BYTES = 256 * 1024,
    SPINS = 2000,         /* some 10 to 80 us of looking before the clock is asked */
    IDLE_NS = 200 * 1000, /* awake between calls for so long, then asleep */
    OFFER_NS = 1000000,   /* how often a waiting thread offers its core to others */
    LATE_NS = 200 * 1000, /* a barrier that takes longer is late: a thread may have lost its core */
    MIN_LATE = 2,         /* late barriers that a thread has to have seen */
    WINDOW_NS = 10000000, /* calls of a team are judged when they have taken 10 ms */
    STALE_NS = 100000000, /* together, or not at all if that is long ago */
    FEWER_NS = 75000000,  /* how long a team stays smaller, or for the time of a long call: */
    MOST_TIMES = 16,      /* once, twice, four times, ..., for as long as it does not help */
    TEAMS = 128,          /* more than NYB_MAX_THREADS */
    CALLS_UNSEEN = 1 << 20, /* the most calls that a thread may sleep through */
};
_Static_assert(NYB_MAX_THREADS <= 64, "each has a bit, and a team of all is less than TEAMS");

struct nyb_team {
    _Alignas(64) atomic_uint arrived; /* at barriers, since the call began */
    /* of this call, by all its threads */
    _Alignas(64) atomic_uint late; /* barriers that were late */
    atomic_ullong waited;          /* ns at barriers, but for the first looks at each */
};

/* Calls of a team in a row, and how they went. */
typedef struct window {
    int64_t since, ns;      /* since: when the first began */
    uint64_t waited;        /* ns, of all threads together */
    uint32_t late, threads; /* late: barriers, of all threads together */
} window;

static struct {
    /* written by the caller, read by the team after the ticket */
    nyb_work_fn *work;
    void *context;
    /* the number of the call times TEAMS, and its team, 0 to stop; the futex */
    _Alignas(64) atomic_uint ticket;
    atomic_ullong asleep;          /* a bit for each thread */
    _Alignas(64) atomic_uint done; /* of the team those that have finished this call */
    nyb_team team;
    /* the caller's alone */
    pthread_t thread[NYB_MAX_THREADS];
    uint32_t started; /* threads there are, the caller included */
    window recent;
    uint32_t most; /* threads of a team until then */
    int64_t most_until;
    uint32_t times; /* so many times as long it will be smaller when it is next */
    uint64_t busy_calls;
} pool = {.started = 1, .most = NYB_MAX_THREADS, .times = 1};

static int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
    __asm__ volatile("yield");
#endif
}

/* Spins until `*counter` is at least `goal`; returns for how many ns, or 0 if for less than it
 * takes to begin to count them. Spins on even where a thread must have lost its core: to give this
 * one away could cost a whole time slice, which is longer than a token. Only now and then it is
 * offered, in case the other thread is queued behind this one. */
static int64_t wait_until(atomic_uint *counter, uint32_t goal) {
    int64_t since = 0, offered = 0;
    for (uint32_t turn = 0; atomic_load_explicit(counter, memory_order_acquire) < goal; turn++) {
        relax();
        if (turn < SPINS || turn % 64)
            continue;
        const int64_t now = now_ns();
        since = since ? since : now;
        offered = offered ? offered : now;
        if (now - offered > OFFER_NS) {
            sched_yield();
            offered = now_ns();
        }
    }
    return since ? now_ns() - since : 0;
}

void nyb_barrier(nyb_team *team, uint32_t threads) {
    /* everyone arrives once at each barrier, so the next multiple of the team is this one's end */
    const uint32_t mine = atomic_fetch_add_explicit(&team->arrived, 1, memory_order_acq_rel);
    const uint32_t goal = (mine / threads + 1) * threads;
    const int64_t waited = wait_until(&team->arrived, goal);
    if (waited)
        atomic_fetch_add_explicit(&team->waited, (uint64_t)waited, memory_order_relaxed);
    if (waited > LATE_NS)
        atomic_fetch_add_explicit(&team->late, 1, memory_order_relaxed);
}

/* A thread's bit among a futex's 32; two threads may share one, and wake for each other. */
static uint32_t bits(uint32_t me) { return UINT32_C(1) << me % 32; }

/* Thread `me` waits for a ticket after `seen` that is for it, awake for IDLE_NS. */
static uint32_t next_ticket(uint32_t seen, uint32_t me) {
    int64_t since = 0;
    for (uint32_t turn = 0;; turn++) {
        const uint32_t ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
        if (ticket != seen) {
            const uint32_t team = ticket % TEAMS;
            if (me < team || team == 0)
                return ticket;
            seen = ticket;
        }
        relax();
        if (turn < SPINS || turn % 64)
            continue;
        const int64_t now = now_ns();
        since = since ? since : now;
        if (now - since > IDLE_NS) {
            atomic_fetch_or(&pool.asleep, UINT64_C(1) << me);
            syscall(SYS_futex, &pool.ticket, FUTEX_WAIT_BITSET_PRIVATE, seen, NULL, NULL, bits(me));
            atomic_fetch_and(&pool.asleep, ~(UINT64_C(1) << me));
        }
    }
}

/* Announces a call to a team of so many, or with 0 the end to all. Now and then all are woken, so
 * that none still waits for another ticket than one that has come again: there are 2^25 numbers. */
static void announce(uint32_t team) {
    const uint32_t number = atomic_load_explicit(&pool.ticket, memory_order_relaxed) / TEAMS + 1;
    const int is_for_all = team == 0 || number % CALLS_UNSEEN == 0;
    const uint64_t woken = ~UINT64_C(1) & (is_for_all ? UINT64_MAX : UINT64_MAX >> (64 - team));
    atomic_store(&pool.ticket, number * TEAMS + team);
    if (atomic_load(&pool.asleep) & woken) {
        const uint32_t who = (uint32_t)woken | (uint32_t)(woken >> 32);
        syscall(SYS_futex, &pool.ticket, FUTEX_WAKE_BITSET_PRIVATE, INT_MAX, NULL, NULL, who);
    }
}

static void *live(void *argument) {
    const uint32_t me = (uint32_t)(uintptr_t)argument;
    /* The ticket is 0 before the first thread is started, and a later one is started before its
     * first call is announced. */
    uint32_t seen = atomic_load_explicit(&pool.ticket, memory_order_acquire);
    atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
    for (;;) {
        seen = next_ticket(seen, me);
        if (seen % TEAMS == 0)
            return NULL;
        pool.work(pool.context, &pool.team, me, seen % TEAMS);
        atomic_fetch_add_explicit(&pool.done, 1, memory_order_release);
    }
}

/* Starts threads until there are `wanted`, or no more can be had. */
static void start(uint32_t wanted) {
    pthread_attr_t attributes;
    sigset_t all, before;
    if (wanted <= pool.started || pthread_attr_init(&attributes))
        return;
    pthread_attr_setstacksize(&attributes, STACK_BYTES);
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are for the program's own threads */
    while (pool.started < wanted) {
        void *number = (void *)(uintptr_t)pool.started;
        atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
        if (pthread_create(&pool.thread[pool.started], &attributes, live, number))
            break;
        pool.started++;
        wait_until(&pool.done, 1); /* until it has read the ticket */
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* Whether a team would be as quick with one thread fewer. Where n - 1 of n threads with equal
 * shares wait for one that lost its core, or that is slow, they would be if they wait for more than
 * 1 / n of the time. Four fifths of that are enough, for n threads do not read n times as fast as
 * one. Of many threads a quarter is asked: less than that they lose to waiting for one another in
 * turn, and would with one fewer. */
static int is_worth_less(const window *w) {
    const uint32_t others = w->threads - 1;
    const uint64_t waited = w->waited / others; /* by each of them */
    const uint64_t percent = w->threads < 4 ? 80 / w->threads : 25;
    return w->late >= MIN_LATE * others && waited * 100 > (uint64_t)w->ns * percent;
}

/* Decides on the next calls by the barriers of the last ones. That all threads are awake at once
 * is tried again and again: a team that was smaller already halves. */
static void judge(uint32_t threads, int64_t began) {
    const int64_t now = now_ns();
    window *w = &pool.recent;
    if (threads != w->threads || began - w->since > STALE_NS)
        *w = (window){.since = began, .threads = threads};
    w->ns += now - began;
    w->waited += atomic_load_explicit(&pool.team.waited, memory_order_relaxed);
    w->late += atomic_load_explicit(&pool.team.late, memory_order_relaxed);
    if (w->ns < WINDOW_NS)
        return;
    if (is_worth_less(w)) {
        const int was_smaller = began < pool.most_until;
        const int64_t call_ns = now - began > FEWER_NS ? now - began : FEWER_NS;
        pool.most = was_smaller ? (threads + 1) / 2 : threads - 1;
        pool.most_until = now + pool.times * call_ns;
        pool.times = pool.times < MOST_TIMES ? 2 * pool.times : MOST_TIMES;
        pool.busy_calls++;
    } else if (threads > pool.most) { /* they were all there, and it went well */
        pool.times = 1;
    }
    *w = (window){.threads = 0};
}

void nyb_pool_run(uint32_t threads, nyb_work_fn *work, void *context) {
    if (threads > NYB_MAX_THREADS)
        threads = NYB_MAX_THREADS;
    start(threads);
    if (threads > pool.started)
        threads = pool.started;
    if (threads > pool.most && now_ns() < pool.most_until) {
        pool.busy_calls++;
        threads = pool.most;
    }
    pool.work = work;
    pool.context = context;
    atomic_store_explicit(&pool.team.arrived, 0, memory_order_relaxed);
    if (threads <= 1) {
        work(context, &pool.team, 0, threads);
        return;
    }
    const int64_t began = now_ns();
    atomic_store_explicit(&pool.team.late, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.team.waited, 0, memory_order_relaxed);
    atomic_store_explicit(&pool.done, 0, memory_order_relaxed);
    announce(threads);
    work(context, &pool.team, 0, threads);
    wait_until(&pool.done, threads - 1);
    judge(threads, began);
}

typedef struct barriers {
    uint32_t n, threads;
    int64_t ns; /* that they took; stays 0 where not all were there */
} barriers;

static void meet(void *context, nyb_team *team, uint32_t thread, uint32_t threads) {
    barriers *b = context;
    if (threads == 1 || threads < b->threads)
        return;
    nyb_barrier(team, threads); /* until all are awake */
    const int64_t start = now_ns();
    for (uint32_t i = 0; i < b->n; i++)
        nyb_barrier(team, threads);
    if (thread == 0)
        b->ns = now_ns() - start;
}

double nyb_barrier_seconds(uint32_t threads, uint32_t n) {
    barriers b = {.n = n, .threads = threads};
    nyb_pool_run(threads, meet, &b);
    return n ? (double)b.ns / 1e9 / n : 0;
}

void nyb_pool_stop(void) {
    announce(0);
    while (pool.started > 1)
        pthread_join(pool.thread[--pool.started], NULL);
}

uint32_t nyb_pool_threads(void) { return pool.started; }
uint64_t nyb_pool_busy_calls(void) { return pool.busy_calls; }
