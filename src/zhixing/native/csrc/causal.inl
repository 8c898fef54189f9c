// Causal attention in float32, for PyTorch's layers, and its gradient: a block of queries at a time, with its scores in a cache.

constexpr int SIDE_BY_SIDE = 2 * LANES;        // columns that a product of small matrices takes together
constexpr int STACKED = LANES == 8 ? 4 : 8;    // and rows

// y = a b, or y += a b (`ADD`): (M, inner), (inner, SIDE_BY_SIDE). `TURNED`: a lies (inner, M).
template <int M, bool TURNED, bool ADD> ZX_INLINE void small_product(const float* a, int64_t a_stride, int64_t inner, const float* b, int64_t b_stride, float* y, int64_t y_stride) {
    Vec sum[M][2];
    ZX_ALL
    for (int m = 0; m < M; ++m)
        for (int half = 0; half < 2; ++half) sum[m][half] = ADD ? vload(y + m * y_stride + half * LANES) : vset(0.0f);
    for (int64_t k = 0; k < inner; ++k) {
        const Vec first = vload(b + k * b_stride), second = vload(b + k * b_stride + LANES);
        ZX_ALL
        for (int m = 0; m < M; ++m) {
            const Vec value = vset(TURNED ? a[k * a_stride + m] : a[m * a_stride + k]);
            sum[m][0] = vfma(value, first, sum[m][0]);
            sum[m][1] = vfma(value, second, sum[m][1]);
        }
    }
    ZX_ALL
    for (int m = 0; m < M; ++m) {
        vstore(y + m * y_stride, sum[m][0]);
        vstore(y + m * y_stride + LANES, sum[m][1]);
    }
}

// The same of any number of rows up to STACKED.
template <bool TURNED, bool ADD> ZX_INLINE void small_rows(int64_t rows, const float* a, int64_t a_stride, int64_t inner, const float* b, int64_t b_stride, float* y, int64_t y_stride) {
    if (rows == STACKED) small_product<STACKED, TURNED, ADD>(a, a_stride, inner, b, b_stride, y, y_stride);
    else
        for (int64_t m = 0; m < rows; ++m)
            small_product<1, TURNED, ADD>(TURNED ? a + m : a + m * a_stride, a_stride, inner, b, b_stride, y + m * y_stride, y_stride);
}

// Rows, (count, size), turned: (blocks of SIDE_BY_SIDE rows, size, SIDE_BY_SIDE), with zeros behind the last one.
static void turn_rows(const float* x, int64_t count, int64_t size, float* turned) {
    for (int64_t first = 0; first < count; first += SIDE_BY_SIDE, turned += size * SIDE_BY_SIDE)
        for (int64_t j = 0; j < SIDE_BY_SIDE; ++j)
            for (int64_t d = 0; d < size; ++d) turned[d * SIDE_BY_SIDE + j] = first + j < count ? x[(first + j) * size + d] : 0.0f;
}

// scores = q k^T of some queries: (rows, columns), with keys, or what else stands there, turned.
static void scores_of(const float* q, int64_t rows, const float* turned, int64_t columns, int64_t size, float* scores) {
    for (int64_t column = 0; column < columns; column += SIDE_BY_SIDE)
        for (int64_t r = 0; r < rows; r += STACKED)
            small_rows<false, false>(rows - r < STACKED ? rows - r : STACKED, q + r * size, size, size, turned + column * size, SIDE_BY_SIDE,
                                     scores + r * columns + column, columns);
}

// y = weights v of queries from `start` on, each of which sees the keys up to its own.
static void mixed_of(const float* weights, int64_t start, int64_t rows, int64_t columns, const float* v, int64_t size, float* y) {
    for (int64_t d = 0; d < size; d += SIDE_BY_SIDE)
        for (int64_t r = 0; r < rows; r += STACKED) {
            const int64_t count = rows - r < STACKED ? rows - r : STACKED;  // what the last of them sees is enough
            small_rows<false, false>(count, weights + r * columns, columns, start + r + count, v + d, size, y + r * size + d, size);
        }
}

// y += a^T b: (rows, count) of `columns` columns, (rows, size), (count, size).
static void add_turned(const float* a, int64_t rows, int64_t count, int64_t columns, const float* b, int64_t size, float* y) {
    for (int64_t d = 0; d < size; d += SIDE_BY_SIDE)
        for (int64_t j = 0; j < count; j += STACKED)
            small_rows<true, true>(count - j < STACKED ? count - j : STACKED, a + j, columns, rows, b + d, size, y + j * size + d, size);
}

static void causal(const CausalBlock& a) {
    const int64_t end = a.start + a.rows, columns = causal_columns(end);
    float* const turned = a.scratch;
    turn_rows(a.k, end, a.size, turned);
    for (int64_t head = 0; head < a.heads; ++head) {
        float* const weights = a.kept ? a.kept + head * a.kept_stride : turned + columns * a.size;
        scores_of(a.q + head * a.head_stride, a.rows, turned, columns, a.size, weights);
        for (int64_t r = 0; r < a.rows; ++r) weigh_row(weights + r * columns, a.start + r + 1, end);
        mixed_of(weights, a.start, a.rows, columns, a.v, a.size, a.y + head * a.head_stride);
    }
}

static void causal_gradient(const CausalGradient& a) {
    const int64_t numbers = a.time * a.size;
    float* const turned = a.scratch;
    float* const scores = turned + causal_columns(a.time) * a.size;
    turn_rows(a.v, a.time, a.size, turned);
    std::memset(a.dk, 0, size_t(numbers) * sizeof(float));
    std::memset(a.dv, 0, size_t(numbers) * sizeof(float));
    for (int64_t head = 0; head < a.heads; ++head) {
        const float* weights = a.kept + head * causal_kept(a.time);
        for (int64_t start = 0; start < a.time; start += CAUSAL_ROWS) {
            const int64_t rows = a.time - start < CAUSAL_ROWS ? a.time - start : CAUSAL_ROWS, end = start + rows, columns = causal_columns(end);
            const int64_t at = head * numbers + start * a.size;
            scores_of(a.dy + at, rows, turned, columns, a.size, scores);  // the gradient of the weights
            for (int64_t r = 0; r < rows; ++r) weigh_row_gradient(scores + r * columns, weights + r * columns, start + r + 1, end);
            mixed_of(scores, start, rows, columns, a.k, a.size, a.dq + at);
            add_turned(scores, rows, end, columns, a.q + at, a.size, a.dk);
            add_turned(weights, rows, end, columns, a.dy + at, a.size, a.dv);
            weights += rows * columns;
        }
    }
}
