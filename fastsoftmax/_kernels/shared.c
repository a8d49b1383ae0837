/* Design
 * A. One counter hands the parts out, so that a thread that began late, or is held up, takes fewer.
 * B. A part is small beside a thread's share: what the others wait for at the end is less than one part. It is large beside
 *    what taking it costs: a locked addition, and the start of a kernel.
 */
#include "shared.h"
#include "portable.h"

/* Some 10 us of work. */
#define PART_ELEMENTS ((size_t)32 * 1024)
/* Of a large array the parts of a thread. */
#define PARTS_EACH 32
/* Rows side by side, and short rows, go in blocks; so does the beginning of a part. */
#define BLOCK_ITEMS 64

static size_t smaller(size_t a, size_t b) {
    return a < b ? a : b;
}

void fsm_share(fsm_shared *shared, fsm_part_function *run, const void *work, size_t items,
               size_t least, size_t elements, size_t threads) {
    const size_t share = (items + threads - 1) / threads;
    size_t part = elements / (threads * PARTS_EACH);
    part = part < PART_ELEMENTS ? PART_ELEMENTS : part;
    size_t step = (size_t)((double)part / (double)elements * (double)items);
    step = smaller(step < least ? least : step, share);
    step = step >= BLOCK_ITEMS ? step / BLOCK_ITEMS * BLOCK_ITEMS : step ? step : 1;
    shared->run = run;
    shared->work = work;
    shared->items = items;
    shared->step = step;
    shared->next = shared->failed = 0;
}

void fsm_work(fsm_shared *shared) {
    for (;;) {
        const size_t first = FSM_FETCH_ADD(&shared->next, shared->step);
        if (first >= shared->items) {
            return;
        }
        const size_t count = smaller(shared->step, shared->items - first);
        if (shared->run(shared->work, first, first + count)) {
            FSM_FETCH_ADD(&shared->failed, 1);
        }
    }
}
