/* Runs one instruction set's kernels over a file of rows and writes the results' bytes to standard
 * output.
 *
 *     bits              the names of those that run here
 *     bits NAME < rows
 *
 * The file is a sequence of records, written by test_bits.py: a header, then the operands of all
 * rows, without gaps; all numbers little-endian, as the results are. No Python and no foreign
 * library, so that it can be built statically for another processor and run in an emulator. The
 * caller's rounding mode is another than the kernels'.
 */
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#endif

#include "arrays.h"
#include "kernels.h"

/* A record's function is one of fsm_rows, or one of these. */
enum { ENTROPY_OF_LABELS = FSM_ROW_FUNCTIONS, ENTROPY_OF_TARGETS, LOGSUMEXP_WITH_WEIGHTS };

typedef struct {
    int64_t function, dtype, rows, n;
    double temperature, smoothing, weight; /* the last two of a cross-entropy */
} header;

static const size_t sizes[FSM_DTYPES] = {4, 8, 2, 2};

static void fail(const char *reason) {
    fprintf(stderr, "bits: %s\n", reason);
    exit(2);
}

static void *allocate(size_t size) {
    void *memory = malloc(size);
    if (!memory) {
        fail("out of memory");
    }
    return memory;
}

/* Numbers of `size` bytes from this machine's byte order to little-endian, or back. */
static void swap(void *memory, size_t bytes, size_t size) {
    const uint16_t one = 1;
    if (*(const char *)&one) {
        return;
    }
    for (char *at = memory; at != (char *)memory + bytes; at += size) {
        for (size_t i = 0; i < size / 2; i++) {
            const char byte = at[i];
            at[i] = at[size - 1 - i];
            at[size - 1 - i] = byte;
        }
    }
}

static void *read_numbers(size_t bytes, size_t size) {
    void *memory = allocate(bytes);
    if (fread(memory, 1, bytes, stdin) != bytes) {
        fail("the input ends early");
    }
    swap(memory, bytes, size);
    return memory;
}

static void write_numbers(void *memory, size_t bytes, size_t size) {
    swap(memory, bytes, size);
    if (fwrite(memory, 1, bytes, stdout) != bytes) {
        fail("cannot write");
    }
}

static const fsm_kernels *kernels;

/* Chooses the kernels of a name, or without one, prints all names. */
static void choose(const char *name) {
    const fsm_kernels *const *tables;
    const size_t count = fsm_compiled(&tables);
    for (size_t i = 0; i < count; i++) {
        if (!fsm_supported(tables[i])) {
            continue;
        }
        if (!name) {
            puts(tables[i]->name);
        } else if (!strcmp(tables[i]->name, name)) {
            kernels = tables[i];
        }
    }
}

/* An operand of rows: where it is, its format, and its steps from row to row and from element to
 * element. */
static void set_operand(fsm_plan *plan, enum fsm_operand operand, void *memory,
                        enum fsm_dtype dtype, size_t row, size_t element) {
    plan->base[operand] = memory;
    plan->dtype[operand] = dtype;
    plan->dimension[0].step[operand] = (ptrdiff_t)row;
    plan->dimension[1].step[operand] = (ptrdiff_t)element;
}

static void run_record(const header *h) {
    const int labelled = h->function == ENTROPY_OF_LABELS;
    const int is_entropy = labelled || h->function == ENTROPY_OF_TARGETS;
    const int weighted = h->function == LOGSUMEXP_WITH_WEIGHTS;
    const enum fsm_function function = is_entropy ? FSM_CROSS_ENTROPY
                                       : weighted ? FSM_LOGSUMEXP
                                                  : (enum fsm_function)h->function;
    const enum fsm_dtype dtype = (enum fsm_dtype)h->dtype;
    const enum fsm_dtype computing = weighted || dtype == FSM_F64 ? FSM_F64 : FSM_F32;
    const size_t rows = (size_t)h->rows, n = (size_t)h->n, size = sizes[dtype], row = n * size;
    const int single = is_entropy || function == FSM_LOGSUMEXP;
    fsm_plan plan = {
        .kernels = kernels,
        .function = function,
        .computing = computing,
        .temperature = fsm_make_temperature(h->temperature, computing),
        .smoothing = h->smoothing,
        .weight = h->weight,
        .outer = 1,
        .inner = 1,
    };
    plan.dimension[0].extent = rows;
    plan.dimension[1].extent = n;
    set_operand(&plan, FSM_X, read_numbers(rows * row, size), dtype, row, size);
    if (labelled) {
        set_operand(&plan, FSM_Y, read_numbers(rows * 8, 8), FSM_I64, 8, 0);
    } else if (is_entropy || weighted || function >= FSM_SOFTMAX_BACKWARD) {
        set_operand(&plan, FSM_Y, read_numbers(rows * row, size), dtype, row, size);
    }
    const size_t width = single ? size : row, second = weighted ? size : is_entropy ? row : 0;
    set_operand(&plan, FSM_OUT, allocate(rows * width), dtype, width, single ? 0 : size);
    if (second) {
        set_operand(&plan, FSM_GRAD, allocate(rows * second), dtype, second, weighted ? 0 : size);
    }
    enum fsm_status status = fsm_prepare(&plan, NULL);
    void *scratch = allocate(plan.scratch + 64);
    char *line = (char *)scratch + (64 - (uintptr_t)scratch % 64) % 64;
    if (status || fsm_run(&plan, 0, plan.items, line, NULL)) {
        fail("the plan failed");
    }
    write_numbers(plan.base[FSM_OUT], rows * width, size);
    if (second) {
        write_numbers(plan.base[FSM_GRAD], rows * second, size);
    }
    free(scratch);
    for (int operand = 0; operand < FSM_OPERANDS; operand++) {
        free(plan.base[operand]);
    }
}

int main(int count, char **arguments) {
#if defined(_WIN32)
    _setmode(_fileno(stdin), _O_BINARY);
    _setmode(_fileno(stdout), _O_BINARY);
#endif
#if defined(FE_UPWARD)
    fesetround(FE_UPWARD);
#endif
    choose(arguments[1]);
    if (count < 2) {
        return 0;
    }
    if (!kernels) {
        fail("no such kernels here");
    }
    header h;
    while (fread(&h, sizeof h, 1, stdin) == 1) {
        swap(&h, sizeof h, 8);
        run_record(&h);
    }
    return 0;
}
