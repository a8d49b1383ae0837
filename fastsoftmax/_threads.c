/* Design
 * A. Helpers are threads that sleep without the GIL until a call assigns them work. The caller
 *    wakes some, takes parts of the work itself, and returns when no helper is working for it any
 *    more: the assignment of one that did not wake in time is revoked, not waited for.
 * B. The process has no more helpers than CPUs, whoever asks for them; what they do not do, the
 *    callers do. A helper that was idle for some seconds ends. Where no thread can be started, or
 *    there is no memory for one, there is one helper fewer, and no error.
 * C. Helpers use nothing of Python but its portable locks: no exception, signal handler or ending
 *    interpreter can interfere. Only the main thread takes the GIL now and then, for a moment, to
 *    run the handlers of signals that have arrived. If one raises, all threads of the call stop at
 *    their next question; if one forks, the child goes on without the helpers, which it does not
 *    have.
 * D. A helper belongs to its caller from engage() to release(), otherwise to the pool. A helper
 *    that ends leaves the pool first and then frees itself.
 * E. Each release of a lock follows an acquisition: a helper acquires `wake` once for each time
 *    that it is released, and nobody releases it again before that (REVOKED). */
#include "Python.h"

#include <stdlib.h>

#include "_threads.h"
#include "portable.h"
#include "shared.h"

/* Helper states. A caller sets ASSIGNED, REVOKED and AWAITED, the helper WORKING and IDLE. */
enum {
    IDLE,     /* waiting for a call */
    ASSIGNED, /* called, not started */
    REVOKED,  /* its call was revoked before it started */
    WORKING,  /* running */
    AWAITED   /* running while the caller is blocked */
};

typedef struct helper {
    volatile size_t state;
    fsm_shared *shared; /* the work, and the helper's number in it */
    size_t thread;
    PyThread_type_lock wake; /* released to wake the helper */
    PyThread_type_lock done; /* released to wake a caller that waits for it */
    struct helper *next;     /* in the pool, or in its call */
} helper;

#define IDLE_MICROSECONDS 5000000
/* A helper spins some 20 us before it sleeps: waking it takes longer, and calls come soon. */
#define TRIES 400
/* A caller spins before it sleeps, some 50 us: to be woken takes as long. */
#define PAUSES 2000
/* A caller that waits for a helper sleeps this long between questions to its watch. */
#define AWAKE_MICROSECONDS 20000
/* Scratch up to this size is on the stack. */
#define SMALL_SCRATCH (16 * 1024)
#define PAGE 4096

/* A call in the main thread, which runs signal handlers. */
typedef struct {
    fsm_watch watch; /* the first member, so that a watch's address is its call's */
    PyThreadState *state;
} main_call;

static struct {
    volatile size_t locked;
    helper *idle;
    size_t count, most;
    size_t forks; /* how often this process has been the child of a fork */
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
    /* The helpers' memory is leaked, as their state is unknown. */
    pool.idle = NULL;
    pool.count = 0;
    pool.forks++;
    unlock_pool();
}

/* A new lock, acquired; NULL without memory. */
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

/* ---- helper ---- */

/* Takes an idle helper out of the pool. Returns 0 if a caller has it, or has just revoked. */
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

/* Waits for the next call; returns 0 after IDLE_MICROSECONDS without one. */
static int is_woken(helper *h) {
    for (int i = 0; i < TRIES; i++) {
        if (PyThread_acquire_lock(h->wake, 0)) {
            return 1;
        }
        FSM_PAUSE();
    }
    return PyThread_acquire_lock_timed(h->wake, IDLE_MICROSECONDS, 0) == PY_LOCK_ACQUIRED;
}

/* A helper thread: waits, works for a call unless that is revoked, and so on until it retires. */
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

/* ---- caller ---- */

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

/* An idle helper, or a new one; NULL if there may be no more, or none can be started. */
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

/* Returns helpers to the pool, so that the next call gives each the range that it had. */
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
    /* A helper whose call was revoked has been woken already, and is on its way. */
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

/* Scratch begins half a page from where large arrays do: a load waits for an earlier store to the
 * same offset in another page, as if both had the same address. */
static char *begin_scratch(char *memory) {
    return memory + (PAGE + PAGE / 2 - (uintptr_t)memory % PAGE) % PAGE;
}

/* Not inlined, so that calls without scratch have no such frame. */
FSM_NOINLINE int run_on_stack(const fsm_plan *plan, fsm_watch *watch) {
    char memory[SMALL_SCRATCH + PAGE];
    return fsm_run(plan, 0, plan->items, begin_scratch(memory), watch);
}

/* A caller and the helpers that it has engaged. */
typedef struct {
    fsm_shared shared;
    helper *helpers;
    size_t engaged, forks; /* `forks` of the pool when they were engaged */
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

/* Runs `items` of the work set in c->shared, by the caller and its helpers. Returns a status. */
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

/* Allocates scratch for each thread. Returns memory to be freed, or NULL. */
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

/* Long rows one after the other, the threads sharing the pieces of each. */
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
            status = status ? status : (int)c.shared.status; /* a signal handler may have set it */
        }
    }
    free(memory);
    free(sums);
    release_crew(&c);
    return status;
}

/* Prepares and runs a plan: in this thread, or shared by items or by pieces of rows. */
static int execute(fsm_plan *plan, size_t elements, size_t threads, fsm_watch *watch) {
    const int status = fsm_prepare(plan, watch);
    if (status) {
        return status;
    }
    /* Pieces of few long rows are shared, where whole rows would leave a thread without work. */
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

/* Whether the main thread runs a signal handler. Calls made by the handler run no handlers:
 * otherwise handlers that make calls would overflow the stack. */
static int handling = 0;

/* fsm_watch.ask: runs the handlers of signals that have arrived. */
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
