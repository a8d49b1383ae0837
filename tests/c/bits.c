/* Runs one instruction set's kernels over a file of rows and writes the results' bytes to standard output.
 *
 *     bits NAME < rows
 *
 * The file is a sequence of records, written by test_bits.py: a header, then the operands of all rows, without gaps. No Python
 * and no foreign library, so that it can be built statically for another processor and run in an emulator.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "arrays.h"
#include "kernels.h"

/* After the functions of kernels.h. */
enum { ENTROPY_OF_LABELS = FSM_FUNCTIONS, ENTROPY_OF_TARGETS };

typedef struct {
    int64_t function, dtype, rows, n;
    double parameter; /* the temperature; the smoothing of a cross-entropy */
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

static void *read_bytes(size_t size) {
    void *memory = allocate(size);
    if (fread(memory, 1, size, stdin) != size) {
        fail("the input ends early");
    }
    return memory;
}

static void write_bytes(const void *memory, size_t size) {
    if (fwrite(memory, 1, size, stdout) != size) {
        fail("cannot write");
    }
}

static const fsm_kernels *find(const char *name) {
    const fsm_kernels *const *tables;
    const size_t count = fsm_compiled(&tables);
    for (size_t i = 0; i < count; i++) {
        if (!strcmp(tables[i]->name, name) && fsm_supported(tables[i])) {
            return tables[i];
        }
    }
    fail("no such kernels here");
    return NULL;
}

static fsm_operand rows_at(void *memory, size_t n, size_t size) {
    return (fsm_operand){
        .base = memory, .outer = {(ptrdiff_t)(n * size)}, .inner = {(ptrdiff_t)size}};
}

static void run_rows(const fsm_kernels *kernels, const header *h) {
    const size_t rows = (size_t)h->rows, n = (size_t)h->n, size = sizes[h->dtype];
    const int two = h->function == FSM_SOFTMAX_BACKWARD || h->function == FSM_LOG_SOFTMAX_BACKWARD;
    const size_t width = h->function == FSM_LOGSUMEXP ? 1 : n;
    void *x = read_bytes(rows * n * size);
    void *y = two ? read_bytes(rows * n * size) : NULL;
    void *out = allocate(rows * width * size);
    fsm_job job = {
        .kernels = kernels,
        .function = (enum fsm_function)h->function,
        .dtype = (enum fsm_dtype)h->dtype,
        .outer_dimensions = 1,
        .inner_dimensions = 1,
        .outer_shape = {rows},
        .inner_shape = {n},
        .x = rows_at(x, n, size),
        .y = rows_at(y, n, size),
        .out = rows_at(out, width, size),
        .temperature = fsm_make_temperature(h->parameter, (enum fsm_dtype)h->dtype),
    };
    if (fsm_run_job(&job, 0, fsm_prepare(&job))) {
        fail("out of memory");
    }
    write_bytes(out, rows * width * size);
    free(x);
    free(y);
    free(out);
}

static void run_entropy(const fsm_kernels *kernels, const header *h) {
    const size_t rows = (size_t)h->rows, n = (size_t)h->n, size = sizes[h->dtype];
    const int labelled = h->function == ENTROPY_OF_LABELS;
    void *x = read_bytes(rows * n * size);
    void *labels = read_bytes(rows * (labelled ? sizeof(intptr_t) : n * size));
    void *loss = allocate(rows * size), *grad = allocate(rows * n * size);
    const ptrdiff_t stride = (ptrdiff_t)(n * size);
    const fsm_cross_entropy batch = {
        .rows = rows,
        .n = n,
        .x = x,
        .x_stride = stride,
        .label = labelled ? labels : NULL,
        .target = labelled ? NULL : labels,
        .target_stride = stride,
        .smoothing = h->parameter,
        .loss = loss,
        .grad = grad,
        .grad_stride = stride,
    };
    const uint64_t saved = fsm_enter();
    kernels->cross_entropy[h->dtype](&batch);
    fsm_leave(saved);
    write_bytes(loss, rows * size);
    write_bytes(grad, rows * n * size);
    free(x);
    free(labels);
    free(loss);
    free(grad);
}

int main(int count, char **arguments) {
    if (count != 2) {
        fail("usage: bits NAME < rows");
    }
    const fsm_kernels *kernels = find(arguments[1]);
    header h;
    while (fread(&h, sizeof h, 1, stdin) == 1) {
        if (h.function < FSM_FUNCTIONS) {
            run_rows(kernels, &h);
        } else {
            run_entropy(kernels, &h);
        }
    }
    return 0;
}
