/* SPDX-License-Identifier: MIT
 * The pool: one persistent team of threads for a process, shared by all models.
 *
 * Threads spin at the barriers inside a call, because a token has some 150 of them in a few
 * milliseconds, and sleep between calls. The team gets smaller when the machine is busy: where so
 * much time is lost at barriers that one thread fewer would be as quick, it is one thread fewer for
 * a while, then all again to see. What is computed does not depend on how many do it, so a changing
 * team changes no bit.
 */
#ifndef NYB_POOL_H
#define NYB_POOL_H

#include <stdint.h>

enum { NYB_MAX_THREADS = 64 };

/* A team at work: what its threads share. */
typedef struct nyb_team nyb_team;

/* A thread's part of a call: this is thread `thread` of `threads`. */
typedef void nyb_work_fn(void *context, nyb_team *team, uint32_t thread, uint32_t threads);

/* Runs the work on a team of up to `threads`: at most that many, this one included, and fewer
 * while the machine is busy or if threads cannot be had. Returns when all are done. One call
 * at a time in a process: the caller holds a lock. */
void nyb_pool_run(uint32_t threads, nyb_work_fn *work, void *context);

/* Waits until all threads of the team are here. */
void nyb_barrier(nyb_team *team, uint32_t threads);

/* Seconds that a barrier of a team of `threads` takes that has nothing else to do, as the mean of
 * `n` of them: what a phase costs beside its work. 0 where the team is one thread, which waits for
 * nobody, or is smaller for a while. */
double nyb_barrier_seconds(uint32_t threads, uint32_t n);

/* Ends the pool's threads; the next run starts them again. Before a fork, and at exit. */
void nyb_pool_stop(void);

/* What `doctor` and tests may ask: threads there are now; calls that show that the machine was
 * busy: those that fewer threads did for that, and those after which a team got smaller. */
uint32_t nyb_pool_threads(void);
uint64_t nyb_pool_busy_calls(void);

#endif
