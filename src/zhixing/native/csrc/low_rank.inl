// Products of a wide matrix with a narrow one, of a few columns: what a low-rank addition to a map needs, both ways. A library's
// general product packs the wide matrix anew for so little arithmetic, and may leave it to one thread.

// In front of a loop over accumulators, which would be kept in memory if it were not unrolled.
#if defined(__clang__)
#define ZX_ALL _Pragma("unroll")
#elif defined(__GNUC__)
#define ZX_ALL _Pragma("GCC unroll 8")
#else
#define ZX_ALL
#endif

constexpr int SLIVERS = RANKS / LANES;  // vectors in RANKS columns of a narrow matrix

// Of M rows and all columns of a piece of x: narrow += x p (`INTO`), and other += x^T q (`BACK`), where p, (cols, RANKS), and
// `other` lie in a cache. Both at once read each number of x once.
template <bool INTO, bool BACK, int M> ZX_INLINE void low_rank_rows(const float* x, int64_t stride, int64_t cols, const float* p, const float (*q)[RANKS], float* other, float (*narrow)[RANKS]) {
    Vec sum[M][SLIVERS], row[M][SLIVERS];
    ZX_ALL
    for (int m = 0; m < M; ++m)
        ZX_ALL
        for (int s = 0; s < SLIVERS; ++s) {
            if (INTO) sum[m][s] = vset(0.0f);
            if (BACK) row[m][s] = vload(q[m] + s * LANES);
        }
    for (int64_t c = 0; c < cols; ++c) {
        Vec into[SLIVERS], back[SLIVERS];
        ZX_ALL
        for (int s = 0; s < SLIVERS; ++s) {
            if (INTO) into[s] = vload(p + c * RANKS + s * LANES);
            if (BACK) back[s] = vload(other + c * RANKS + s * LANES);
        }
        ZX_ALL
        for (int m = 0; m < M; ++m) {
            const Vec value = vset(x[m * stride + c]);
            ZX_ALL
            for (int s = 0; s < SLIVERS; ++s) {
                if (INTO) sum[m][s] = vfma(value, into[s], sum[m][s]);
                if (BACK) back[s] = vfma(value, row[m][s], back[s]);
            }
        }
        if (BACK)
            ZX_ALL
            for (int s = 0; s < SLIVERS; ++s) vstore(other + c * RANKS + s * LANES, back[s]);
    }
    if (INTO) {
        ZX_ALL
        for (int m = 0; m < M; ++m)
            ZX_ALL
            for (int s = 0; s < SLIVERS; ++s) vstore(narrow[m] + s * LANES, sum[m][s]);
    }
}

template <bool INTO, bool BACK> static void low_rank_sums_of(const LowRankSums& a) {
    constexpr int M = LANES == 8 && INTO && BACK ? 2 : LANES == 8 ? 4 : 8;  // as many as there are registers for
    const auto at = [](Narrow n, int64_t i, int64_t k) -> float& { return n.at[i * n.stride + k * n.rank_stride]; };
    alignas(64) float p[LOW_RANK_COLUMNS * RANKS], other[LOW_RANK_COLUMNS * RANKS];  // 32 KB of the stack
    for (int64_t first = 0; first < a.rank; first += RANKS) {
        const int64_t ranks = a.rank - first < RANKS ? a.rank - first : RANKS;
        if (INTO) {
            std::memset(p, 0, size_t(a.cols) * RANKS * sizeof(float));
            for (int64_t k = 0; k < ranks; ++k)
                for (int64_t c = 0; c < a.cols; ++c) p[c * RANKS + k] = at(a.p, c, first + k);
        }
        if (BACK) std::memset(other, 0, size_t(a.cols) * RANKS * sizeof(float));
        for (int64_t r = 0; r < a.rows;) {
            const int64_t rows = a.rows - r >= M ? M : 1;
            alignas(64) float q[M][RANKS] = {}, narrow[M][RANKS];
            if (BACK)
                for (int64_t m = 0; m < rows; ++m)
                    for (int64_t k = 0; k < ranks; ++k) q[m][k] = at(a.q, r + m, first + k);
            const float* x = a.x + r * a.x_stride;
            if (rows == M) low_rank_rows<INTO, BACK, M>(x, a.x_stride, a.cols, p, q, other, narrow);
            else low_rank_rows<INTO, BACK, 1>(x, a.x_stride, a.cols, p, q, other, narrow);
            if (INTO)
                for (int64_t m = 0; m < rows; ++m)
                    for (int64_t k = 0; k < ranks; ++k) at(a.narrow, r + m, first + k) = narrow[m][k] * a.factor;
            r += rows;
        }
        if (BACK)
            for (int64_t k = 0; k < ranks; ++k)
                for (int64_t c = 0; c < a.cols; ++c) at(a.other, c, first + k) = other[c * RANKS + k] * a.factor;
    }
}

static void low_rank_sums(const LowRankSums& a) {
    if (a.p.at && a.q.at) low_rank_sums_of<true, true>(a);
    else if (a.p.at) low_rank_sums_of<true, false>(a);
    else low_rank_sums_of<false, true>(a);
}
