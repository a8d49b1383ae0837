/* The interface's functions for one type, included by _interface.c for each: REAL is the type,
 * DTYPE its format in a plan, F(name) is name_f32 or name_f64. */

static int F(softmax)(const REAL *x, REAL *out, size_t rows, size_t length, double temperature) {
    return run_rows(FSM_SOFTMAX, DTYPE, x, NULL, out, rows, length, temperature);
}

static int F(log_softmax)(const REAL *x, REAL *out, size_t rows, size_t length,
                          double temperature) {
    return run_rows(FSM_LOG_SOFTMAX, DTYPE, x, NULL, out, rows, length, temperature);
}

static int F(logsumexp)(const REAL *x, REAL *out, size_t rows, size_t length) {
    for (size_t r = 0; r < rows && !length; r++) {
        out[r] = -(REAL)INFINITY;
    }
    return run_rows(FSM_LOGSUMEXP, DTYPE, x, NULL, out, rows, length, 1.0);
}

static int F(softmax_backward)(const REAL *grad_output, const REAL *output, REAL *out, size_t rows,
                               size_t length) {
    return run_rows(FSM_SOFTMAX_BACKWARD, DTYPE, grad_output, output, out, rows, length, 1.0);
}

static int F(log_softmax_backward)(const REAL *grad_output, const REAL *output, REAL *out,
                                   size_t rows, size_t length) {
    return run_rows(FSM_LOG_SOFTMAX_BACKWARD, DTYPE, grad_output, output, out, rows, length, 1.0);
}

static int F(softmax_cross_entropy)(const REAL *logits, const int64_t *labels,
                                    const double *sample_weight, REAL *loss, REAL *grad,
                                    size_t rows, size_t length, int64_t ignore_index,
                                    double label_smoothing, double temperature) {
    return run_entropies(DTYPE, logits, FSM_I64, labels, sample_weight, loss, grad, rows, length,
                         ignore_index, label_smoothing, temperature);
}

static int F(softmax_cross_entropy_targets)(const REAL *logits, const REAL *targets,
                                            const double *sample_weight, REAL *loss, REAL *grad,
                                            size_t rows, size_t length, double label_smoothing,
                                            double temperature) {
    if (!length) {
        memset(loss, 0, rows * sizeof *loss);
    }
    return run_entropies(DTYPE, logits, DTYPE, targets, sample_weight, loss, grad, rows, length,
                         FASTSOFTMAX_IGNORE_NONE, label_smoothing, temperature);
}

static int F(segment_softmax)(const REAL *data, const int64_t *indptr, REAL *out, size_t segments,
                              size_t length, double temperature) {
    return run_segments(FSM_SEGMENT_SOFTMAX, DTYPE, data, indptr, out, segments, length,
                        temperature);
}

static int F(segment_log_softmax)(const REAL *data, const int64_t *indptr, REAL *out,
                                  size_t segments, size_t length, double temperature) {
    return run_segments(FSM_SEGMENT_LOG_SOFTMAX, DTYPE, data, indptr, out, segments, length,
                        temperature);
}

static int F(segment_logsumexp)(const REAL *data, const int64_t *indptr, REAL *out, size_t segments,
                                size_t length) {
    const int status =
        run_segments(FSM_SEGMENT_LOGSUMEXP, DTYPE, data, indptr, out, segments, length, 1.0);
    for (size_t s = 0; s < segments && !length && !status; s++) {
        out[s] = -(REAL)INFINITY;
    }
    return status;
}
