// Causal attention of a prompt, in float32, for PyTorch's layers: a block of queries at a time, with its scores in a cache.

constexpr int SIDE_BY_SIDE = 2 * LANES;        // columns that a product of small matrices takes together
constexpr int STACKED = LANES == 8 ? 4 : 8;    // and rows

// y = a b: (M, inner), (inner, SIDE_BY_SIDE).
template <int M> ZX_INLINE void small_product(const float* a, int64_t a_stride, int64_t inner, const float* b, int64_t b_stride, float* y, int64_t y_stride) {
    Vec sum[M][2];
    ZX_ALL
    for (int m = 0; m < M; ++m) sum[m][0] = sum[m][1] = vset(0.0f);
    for (int64_t k = 0; k < inner; ++k) {
        const Vec first = vload(b + k * b_stride), second = vload(b + k * b_stride + LANES);
        ZX_ALL
        for (int m = 0; m < M; ++m) {
            const Vec value = vset(a[m * a_stride + k]);
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

static void small_rows(int64_t rows, const float* a, int64_t a_stride, int64_t inner, const float* b, int64_t b_stride, float* y, int64_t y_stride) {
    if (rows == STACKED) small_product<STACKED>(a, a_stride, inner, b, b_stride, y, y_stride);
    else
        for (int64_t m = 0; m < rows; ++m) small_product<1>(a + m * a_stride, a_stride, inner, b, b_stride, y + m * y_stride, y_stride);
}

// Keys, (count, size), turned: (blocks of SIDE_BY_SIDE keys, size, SIDE_BY_SIDE), with zeros behind the last one.
static void turn_keys(const float* k, int64_t count, int64_t size, float* turned) {
    for (int64_t first = 0; first < count; first += SIDE_BY_SIDE, turned += size * SIDE_BY_SIDE)
        for (int64_t j = 0; j < SIDE_BY_SIDE; ++j)
            for (int64_t d = 0; d < size; ++d) turned[d * SIDE_BY_SIDE + j] = first + j < count ? k[(first + j) * size + d] : 0.0f;
}

static void read_causally(const CausalBlock& a) {
    const int64_t end = a.start + a.rows, columns = (end + SIDE_BY_SIDE - 1) / SIDE_BY_SIDE * SIDE_BY_SIDE;
    float* const turned = a.scratch;
    float* const scores = turned + columns * a.size;  // (rows, columns)
    turn_keys(a.k, end, a.size, turned);
    for (int64_t head = 0; head < a.heads; ++head) {
        const float* const q = a.q + head * a.head_stride;
        float* const y = a.y + head * a.head_stride;
        for (int64_t column = 0; column < columns; column += SIDE_BY_SIDE)
            for (int64_t r = 0; r < a.rows; r += STACKED)
                small_rows(a.rows - r < STACKED ? a.rows - r : STACKED, q + r * a.size, a.size, a.size, turned + column * a.size, SIDE_BY_SIDE,
                           scores + r * columns + column, columns);
        for (int64_t r = 0; r < a.rows; ++r) weigh_row(scores + r * columns, a.start + r + 1, end);
        for (int64_t d = 0; d < a.size; d += SIDE_BY_SIDE)
            for (int64_t r = 0; r < a.rows; r += STACKED) {
                const int64_t rows = a.rows - r < STACKED ? a.rows - r : STACKED;  // what the last of them sees is enough
                small_rows(rows, scores + r * columns, columns, a.start + r + rows, a.v + d, a.size, y + r * a.size + d, a.size);
            }
    }
}
