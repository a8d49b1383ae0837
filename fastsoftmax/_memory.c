/* Design
 * A. Above FSM_FRESH_ABOVE, malloc takes each block from the operating system and gives it back, so
 *    that the pages of every new result are zeroed again, a large part of the time of a softmax.
 *    Such results have a memory handler of their own (NEP 49): they own their data, and are
 *    resized, traced and freed as any array. The block that is freed last is kept for the next
 *    result.
 * B. The kept block is offered to the operating system (MADV_FREE), which takes its pages where
 *    memory is short, without writing them anywhere. Until then they count as the process's.
 * C. One block is kept, of at most KEEP_UP_TO bytes: a loop that assigns each result to one name
 *    uses two in turn. It goes to a result that needs most of it; for any other it is freed. Where
 *    memory is refused, it has been freed already.
 * D. The memory is NumPy's, with room before it for a header. */
#if defined(__linux__)
#define _DEFAULT_SOURCE
#include <sys/mman.h>
#include <unistd.h>
#endif

#include "_memory.h"
#include "portable.h"

#include <stdint.h>
#include <string.h>

#define KEEP_UP_TO ((size_t)1024 * 1024 * 1024)
#define LINE 64

/* Stored just before an array's memory, which begins at a cache line. */
typedef struct {
    char *block;
    size_t size; /* bytes for an array's memory */
    size_t used; /* whether another array has had it */
} header;

static PyDataMemAllocator standard;
static volatile size_t kept = 0; /* an array's memory, owned by none; or 0 */

static header header_of(const void *data) {
    header h;
    memcpy(&h, (const char *)data - sizeof h, sizeof h);
    return h;
}

static void *with_header(char *block, size_t before, size_t size, size_t used) {
    const header h = {block, size, used};
    memcpy(block + before - sizeof h, &h, sizeof h);
    return block + before;
}

/* The offset of an array's memory in a block. */
static size_t room(const char *block) {
    const uintptr_t least = (uintptr_t)block + sizeof(header);
    return (size_t)((least + LINE - 1) / LINE * LINE - (uintptr_t)block);
}

static size_t with_room(size_t size) {
    return size > SIZE_MAX - 2 * LINE ? SIZE_MAX : size + 2 * LINE;
}

static void free_block(void *data) {
    if (data) {
        const header h = header_of(data);
        standard.free(standard.ctx, h.block, with_room(h.size));
    }
}

static void *take_kept(void) {
    return kept ? (void *)FSM_EXCHANGE(&kept, 0) : NULL;
}

/* Memory for a result of `size` bytes: the kept block if most of it is needed, else a new one. */
static void *keeping_malloc(void *unused, size_t size) {
    void *const data = take_kept();
    (void)unused;
    if (data) {
        const header h = header_of(data);
        if (size <= h.size && size >= h.size - h.size / 4) {
            return with_header(h.block, (size_t)((char *)data - h.block), h.size, 1);
        }
        free_block(data);
    }
    char *const block = standard.malloc(standard.ctx, with_room(size));
    return block ? with_header(block, room(block), size, 0) : NULL;
}

static void *keeping_calloc(void *unused, size_t count, size_t size) {
    if (size && count > SIZE_MAX / size) {
        return NULL;
    }
    void *const data = keeping_malloc(unused, count * size);
    return data ? memset(data, 0, count * size) : NULL;
}

static void *keeping_realloc(void *unused, void *data, size_t size) {
    if (!data) {
        return keeping_malloc(unused, size);
    }
    const header h = header_of(data);
    const size_t before = (size_t)((char *)data - h.block);
    char *const block = standard.realloc(standard.ctx, h.block, with_room(size));
    return block ? with_header(block, before, size, h.used) : NULL;
}

#if defined(MADV_FREE)

/* Offers an array's whole pages to the operating system; returns 0 where that refuses. */
static int lend(char *data, size_t size) {
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t first = ((uintptr_t)data + page - 1) / page * page;
    const uintptr_t last = ((uintptr_t)data + size) / page * page;
    return first < last && !madvise((void *)first, (size_t)(last - first), MADV_FREE);
}

#else

static int lend(char *data, size_t size) {
    (void)data;
    (void)size;
    return 0;
}

#endif

static void keeping_free(void *unused, void *data, size_t size) {
    (void)unused;
    (void)size; /* NumPy's idea of the array's size */
    if (data) {
        const size_t own = header_of(data).size;
        if (own > FSM_FRESH_ABOVE && own <= KEEP_UP_TO && lend(data, own)) {
            data = (void *)FSM_EXCHANGE(&kept, (size_t)data);
        }
        free_block(data);
    }
}

PyDataMem_Handler *fsm_keeping_handler(const PyDataMem_Handler *of_numpy) {
    static PyDataMem_Handler handler = {
        "fastsoftmax",
        1,
        {NULL, keeping_malloc, keeping_calloc, keeping_realloc, keeping_free},
    };
    standard = of_numpy->allocator;
#if defined(MADV_FREE)
    return &handler;
#else
    return NULL;
#endif
}

int fsm_is_unused(const void *data) {
    return !header_of(data).used;
}
