/* Design
 * A. Helpers are threads that sleep without the GIL until they are called. A call wakes some, takes
 *    parts of the work itself, and returns when no helper is at its work any more: one that did not
 *    wake in time is called off, not waited for.
 * B. The process has no more helpers than CPUs, whoever asks for them; what they do not do, the
 *    callers do. One that was idle for some seconds ends. Where no thread or no memory for one is
 *    to be had, there is one helper fewer, and no error.
 * C. Helpers know nothing of Python but its portable locks: no exception, signal handler or
 *    interpreter that ends can interfere. Only the main thread takes the GIL, for a moment now and
 *    then, and runs the handlers of signals that have come. Where one raises, all threads of the
 *    call stop at their next question; where one forks, the child does without those that it has
 *    not got.
 * D. A helper is its caller's between engage() and release(), and the pool's otherwise. It frees
 *    itself, after leaving the pool.
 * E. Each release of a lock follows an acquisition: a helper acquires `wake` once for each time
 *    that it is released, and is not released again before it did (REVOKED).
 */
#include "Python.h"

#include <stdlib.h>

#include "_threads.h"
#include "portable.h"
#include "shared.h"

/* What a helper does. */
enum {
    IDLE,     /* asleep, or about to be */
    ASSIGNED, /* called, but not yet awake */
    REVOKED,  /* called and called off, but not yet awake */
    WORKING,  /* taking parts */
    AWAITED   /* taking parts, while the caller sleeps until it is done */
};

typedef struct helper {
    volatile size_t state;
    fsm_shared *shared; /* the work, and as which of its threads */
    size_t thread;
    PyThread_type_lock wake; /* released to wake the helper */
    PyThread_type_lock done; /* released to wake the caller that awaits it */
    struct helper *next;     /* in the pool, or of the same call */
} helper;

#define IDLE_MICROSECONDS 5000000
/* After its work a helper waits awake before it sleeps, some 20 us: most callers come again soon,
 * and to wake a thread takes longer than that. */
#define TRIES 400
/* Before a caller sleeps it waits awake, for some 50 us: to be woken takes as long. */
#define PAUSES 2000
/* A caller that waits for a helper asks its watch after each sleep of this length. */
#define AWAKE_MICROSECONDS 20000
/* Scratch of this size is on the stack. */
#define SMALL_SCRATCH (16 * 1024)
#define PAGE 4096

/* A call in the main thread, which runs signal handlers. */
typedef struct {
    fsm_watch watch; /* the first member: a watch is its call */
    PyThreadState *state;
} main_call;

static struct {
    volatile size_t locked;
    helper *idle;
    size_t count, most;
    size_t forks; /* since the package was imported: of each, this process is the child */
} pool = {0, NULL, 0, 1, 0};

void fsm_limit_helpers(size_t most) {
    pool.most = most;
}

static void lock_pool(void) {
    while (!FSM_COMPARE_EXCHANGE(&pool.locked, 0, 1)) {
        FSM_PAUSE();
    }
}

static void unlock_pool(void) {
    FSM_EXCHANGE(&pool.locked, 0);
}

void fsm_forget_helpers(void) {
    /* Their memory is lost: what state they were in is not known. */
    pool.idle = NULL;
    pool.count = 0;
    pool.forks++;
    unlock_pool();
}

/* A lock that is taken; NULL without memory. */
static PyThread_type_lock new_lock(void) {
    PyThread_type_lock lock = PyThread_allocate_lock();
    if (lock) {
        PyThread_acquire_lock(lock, 1);
    }
    return lock;
}

static void free_helper(helper *h) {
    PyThread_type_lock const locks[2] = {h->wake, h->done};
    for (int i = 0; i < 2; i++) {
        if (locks[i]) {
            PyThread_release_lock(locks[i]);
            PyThread_free_lock(locks[i]);
        }
    }
    free(h);
}

/* ---- a helper's side ---- */

/* Takes a helper that was idle for long out of the pool. Returns 0 where it cannot: a caller has
 * it, or has just called it off. */
static int retire(helper *h) {
    lock_pool();
    helper **at = &pool.idle;
    while (*at && *at != h) {
        at = &(*at)->next;
    }
    const int retires = *at == h && h->state == IDLE;
    if (retires) {
        *at = h->next;
        pool.count--;
    }
    unlock_pool();
    return retires;
}

/* Waits for its next call; returns 0 after IDLE_MICROSECONDS without one. */
static int is_woken(helper *h) {
    for (int i = 0; i < TRIES; i++) {
        if (PyThread_acquire_lock(h->wake, 0)) {
            return 1;
        }
        FSM_PAUSE();
    }
    return PyThread_acquire_lock_timed(h->wake, IDLE_MICROSECONDS, 0) == PY_LOCK_ACQUIRED;
}

static void serve(void *argument) {
    helper *h = argument;
    for (;;) {
        if (!is_woken(h)) {
            if (retire(h)) {
                free_helper(h);
                return;
            }
            continue;
        }
        while (!FSM_COMPARE_EXCHANGE(&h->state, REVOKED, IDLE)) {
            if (FSM_COMPARE_EXCHANGE(&h->state, ASSIGNED, WORKING)) {
                fsm_watch watch = {.status = &h->shared->status};
                fsm_work(h->shared, h->thread, &watch);
                if (FSM_EXCHANGE(&h->state, IDLE) == AWAITED) {
                    PyThread_release_lock(h->done);
                }
                break;
            }
        }
    }
}

/* ---- a caller's side ---- */

static helper *new_helper(void) {
    helper *h = calloc(1, sizeof *h);
    if (!h) {
        return NULL;
    }
    h->wake = new_lock();
    h->done = new_lock();
    if (!h->wake || !h->done || PyThread_start_new_thread(serve, h) == PYTHREAD_INVALID_THREAD_ID) {
        free_helper(h);
        return NULL;
    }
    return h;
}

/* An idle helper, or a new one; NULL where there may or can be no more. */
static helper *engage(void) {
    lock_pool();
    helper *h = pool.idle;
    const int starts = !h && pool.count < pool.most;
    if (h) {
        pool.idle = h->next;
    }
    pool.count += (size_t)starts;
    unlock_pool();
    if (starts && !(h = new_helper())) {
        lock_pool();
        pool.count--;
        unlock_pool();
    }
    return h;
}

/* Returns the helpers of a call to the pool, the first one on top: at the next call they have the
 * ranges that they had. */
static void release(helper *last) {
    lock_pool();
    while (last) {
        helper *before = last->next;
        last->next = pool.idle;
        pool.idle = last;
        last = before;
    }
    unlock_pool();
}

static void assign(helper *h, fsm_shared *shared, size_t thread) {
    h->shared = shared;
    h->thread = thread;
    /* One that was called off and has not woken up yet is on its way. */
    if (!FSM_COMPARE_EXCHANGE(&h->state, REVOKED, ASSIGNED)) {
        FSM_EXCHANGE(&h->state, ASSIGNED);
        PyThread_release_lock(h->wake);
    }
}

/* Returns once the helper neither does nor will do anything for this call. */
static void dismiss(helper *h, fsm_watch *watch, size_t forks) {
    if (FSM_COMPARE_EXCHANGE(&h->state, ASSIGNED, REVOKED)) {
        return;
    }
    for (int i = 0; i < PAUSES; i++) {
        if (FSM_COMPARE_EXCHANGE(&h->state, IDLE, IDLE)) {
            return;
        }
        FSM_PAUSE();
    }
    if (FSM_COMPARE_EXCHANGE(&h->state, WORKING, AWAITED)) {
        while (pool.forks == forks &&
               PyThread_acquire_lock_timed(h->done, AWAKE_MICROSECONDS, 0) != PY_LOCK_ACQUIRED) {
            fsm_stops(watch);
        }
    }
}

/* Where scratch begins: half a page from where large arrays do. A load that follows a store to the
 * same place in another page waits for it, as if both were one. */
static char *begin_scratch(char *memory) {
    return memory + (PAGE + PAGE / 2 - (uintptr_t)memory % PAGE) % PAGE;
}

/* Not inlined: the plainest call needs no such frame. */
FSM_NOINLINE int run_on_stack(const fsm_plan *plan, fsm_watch *watch) {
    char memory[SMALL_SCRATCH + PAGE];
    return fsm_run(plan, 0, plan->items, begin_scratch(memory), watch);
}

/* A caller and the helpers that it has engaged. */
typedef struct {
    fsm_shared shared;
    helper *helpers;
    size_t engaged, forks; /* `forks` when they were engaged */
    fsm_watch *watch;
} crew;

static void engage_crew(crew *c, size_t threads, fsm_watch *watch) {
    helper *next;
    c->helpers = NULL;
    c->engaged = 0;
    c->forks = pool.forks;
    c->watch = watch;
    while (c->engaged + 1 < threads && (next = engage())) {
        next->next = c->helpers;
        c->helpers = next;
        c->engaged++;
    }
}

/* Shares items of the work that is set. */
static int run_shared(crew *c, size_t items, size_t least, size_t elements) {
    fsm_shared *shared = &c->shared;
    fsm_share(shared, items, least, elements, c->engaged + 1);
    if (c->watch) {
        c->watch->status = &shared->status;
    }
    size_t thread = c->engaged;
    for (helper *h = c->helpers; h; h = h->next) {
        assign(h, shared, thread--);
    }
    fsm_work(shared, 0, c->watch);
    for (helper *h = c->helpers; h && pool.forks == c->forks; h = h->next) {
        dismiss(h, c->watch, c->forks);
    }
    return c->engaged && pool.forks != c->forks && !shared->status ? FSM_FORKED
                                                                   : (int)shared->status;
}

static void release_crew(crew *c) {
    if (!c->engaged || pool.forks == c->forks) {
        release(c->helpers);
    }
}

/* Scratch for each of them. Returns what is to be freed, or NULL. */
static char *allocate_scratch(crew *c, const fsm_plan *plan) {
    const size_t each = (plan->scratch + PAGE) / PAGE * PAGE, all = c->engaged + 1;
    char *memory = each > PTRDIFF_MAX / (all + 1) ? NULL : malloc(all * each + PAGE);
    if (memory) {
        c->shared.scratch = begin_scratch(memory);
        c->shared.scratch_size = each;
    }
    return memory;
}

FSM_NOINLINE int run_in_threads(const fsm_plan *plan, size_t elements, size_t threads,
                                fsm_watch *watch) {
    crew c;
    engage_crew(&c, threads, watch);
    char *memory = allocate_scratch(&c, plan);
    int status = FSM_NO_MEMORY;
    if (memory && !c.engaged) {
        status = fsm_run(plan, 0, plan->items, c.shared.scratch, watch);
    } else if (memory) {
        c.shared.run = fsm_run;
        c.shared.work = plan;
        status = run_shared(&c, plan->items, plan->least, elements);
    }
    free(memory);
    release_crew(&c);
    return status;
}

/* Long rows, one after the other, of each of which the threads take pieces. */
FSM_NOINLINE int run_rows_in_threads(const fsm_plan *plan, size_t threads, fsm_watch *watch) {
    crew c;
    engage_crew(&c, threads, watch);
    fsm_row_at_work row;
    fsm_piece *sums = malloc(plan->pieces * sizeof *sums);
    char *memory = allocate_scratch(&c, plan);
    int status = sums && memory ? 0 : FSM_NO_MEMORY;
    c.shared.run = fsm_run_pieces;
    c.shared.work = &row;
    for (size_t r = 0; r < plan->items && !status; r++) {
        fsm_begin_row(&row, plan, r, sums, c.shared.scratch, watch);
        int more = 1;
        while (more && !status) {
            status = run_shared(&c, plan->pieces, 1, plan->n);
            more = !status && fsm_end_pass(&row);
            status = status ? status : (int)c.shared.status; /* it may have been set meanwhile */
        }
    }
    free(memory);
    free(sums);
    release_crew(&c);
    return status;
}

static int execute(fsm_plan *plan, size_t elements, size_t threads, fsm_watch *watch) {
    const int status = fsm_prepare(plan, watch);
    if (status) {
        return status;
    }
    /* Of few long rows pieces are shared, where rows would leave a thread without work. */
    if (threads > 1 && plan->pieces && plan->items < 4 * threads && plan->items % threads) {
        return run_rows_in_threads(plan, threads, watch);
    }
    threads = threads < plan->items ? threads : plan->items;
    if (threads <= 1 && !plan->scratch) {
        return fsm_run(plan, 0, plan->items, NULL, watch);
    }
    if (threads <= 1 && plan->scratch <= SMALL_SCRATCH) {
        return run_on_stack(plan, watch);
    }
    return run_in_threads(plan, elements, threads, watch);
}

int fsm_execute(fsm_plan *plan) {
    return execute(plan, 0, 1, NULL);
}

/* In the main thread: whether a handler runs. Calls of its own do not ask: were each to run
 * handlers that make calls, the stack would overflow. */
static int handling = 0;

/* Runs the handlers of signals that have come. */
static int handle_signals(fsm_watch *watch) {
    main_call *call = (main_call *)watch;
    PyEval_RestoreThread(call->state);
    handling = 1;
    const int raised = PyErr_CheckSignals();
    handling = 0;
    call->state = PyEval_SaveThread();
    return raised ? FSM_INTERRUPTED : 0;
}

int fsm_execute_released(fsm_plan *plan, size_t elements, size_t threads, int is_main) {
    volatile size_t interrupted = 0;
    main_call call = {.watch = {.status = &interrupted, .ask = handle_signals}};
    const int asks = is_main && !handling;
    call.watch.asked = asks ? fsm_now() : 0;
    call.state = PyEval_SaveThread();
    const int status = execute(plan, elements, threads, asks ? &call.watch : NULL);
    PyEval_RestoreThread(call.state);
    return PyErr_Occurred() ? -1 : status;
}
