/* Design
 * A. Each thread has a range of its own, the same from call to call, whose rows may still be in its
 *    caches. It takes parts of that range by an atomic counter, then parts of the others' ranges: a
 *    thread that started late, or is held up, takes fewer.
 * B. A part is small beside a thread's share: the others wait at the end for less than one part. It
 *    is large beside what taking it costs: an atomic addition and the start of a kernel. */
#include "shared.h"
#include "portable.h"

#include <time.h>

/* Elements of a part at least: some 5 us of work. */
#define PART_ELEMENTS ((size_t)16 * 1024)
/* Parts of each thread, of a large array. */
#define PARTS_EACH 32
/* Parts of this many items are multiples of it: kernels take short rows in blocks. */
#define BLOCK_ITEMS 64
/* The least time between two questions of a watch. */
#define ASK_MILLISECONDS 25

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

void fsm_share(fsm_shared *shared, size_t items, size_t least, size_t elements, size_t threads) {
    const size_t ranges = smaller(threads, FSM_MOST_RANGES);
    size_t share = (items + ranges - 1) / ranges;
    size_t part = elements / (threads * PARTS_EACH);
    part = part < PART_ELEMENTS ? PART_ELEMENTS : part;
    size_t step = (size_t)((double)part / (double)elements * (double)items);
    step = smaller(step < least ? least : step, share);
    if (step >= BLOCK_ITEMS) {
        step = step / BLOCK_ITEMS * BLOCK_ITEMS;
        share = (share + BLOCK_ITEMS - 1) / BLOCK_ITEMS * BLOCK_ITEMS;
    } else { /* equal parts of a range */
        const size_t parts = step ? share / step : share;
        step = (share + parts - 1) / parts;
    }
    shared->step = step;
    shared->status = 0;
    shared->ranges = ranges;
    for (size_t r = 0; r < ranges; r++) {
        shared->range[r].next = smaller(r * share, items);
        shared->range[r].last = smaller((r + 1) * share, items);
    }
}

int64_t fsm_now(void) {
#if defined(TIME_UTC)
    struct timespec now = {0, 0};
    (void)timespec_get(&now, TIME_UTC);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
#else /* an old C library of Windows, where clock() is the time that has passed */
    return (int64_t)clock() * 1000 / CLOCKS_PER_SEC;
#endif
}

int fsm_stops(fsm_watch *watch) {
    if (!watch) {
        return 0;
    }
    if (watch->ask && !FSM_READ(watch->status)) {
        const int64_t now = fsm_now();
        /* Or the clock has been set back. */
        if (now >= watch->asked + ASK_MILLISECONDS || now < watch->asked) {
            const int status = watch->ask(watch);
            fsm_enter(); /* it may have run code that changed the environment */
            watch->asked = fsm_now();
            (void)FSM_COMPARE_EXCHANGE(watch->status, 0, (size_t)status);
        }
    }
    return (int)FSM_READ(watch->status);
}

void fsm_work(fsm_shared *shared, size_t thread, fsm_watch *watch) {
    for (size_t turn = 0; turn < shared->ranges; turn++) {
        fsm_range *range = &shared->range[(thread + turn) % shared->ranges];
        for (;;) {
            const size_t first = FSM_FETCH_ADD(&range->next, shared->step);
            if (first >= range->last || FSM_READ(&shared->status)) {
                break;
            }
            const size_t count = smaller(shared->step, range->last - first);
            char *scratch = shared->scratch + thread * shared->scratch_size;
            const int status = shared->run(shared->work, first, first + count, scratch, watch);
            (void)FSM_COMPARE_EXCHANGE(&shared->status, 0, (size_t)status);
        }
    }
}
