// The C interface, part four: products for PyTorch's layers, on PyTorch's own threads: with matrices of a few columns, and of
// causal attention.
#include <exception>
#include <vector>

#include "core.h"
#include "openmp.h"

using namespace zx;

namespace {

constexpr int64_t MOST_TIME = 1 << 20;

// Columns are taken in pieces of equal width, an even number of them where there are enough: two threads share them almost equally.
// Their number does not depend on the threads, and so neither do the sums.
int64_t pieces_of(int64_t cols) { return cols < 64 ? 1 : 2 * ((cols + 2 * LOW_RANK_COLUMNS - 1) / (2 * LOW_RANK_COLUMNS)); }

struct Piece {
    int64_t first, size;
};

Piece piece_at(int64_t cols, int64_t piece) {
    const int64_t pieces = pieces_of(cols), width = ((cols + pieces - 1) / pieces + 15) / 16 * 16;  // lines of a cache
    const int64_t first = std::min(cols, piece * width);
    return {first, std::min(cols, first + width) - first};
}

Narrow rows_from(Narrow n, int64_t first) { return {n.at ? n.at + first * n.stride : nullptr, n.stride, n.rank_stride}; }

}  // namespace

// How many numbers `parts` of zx_low_rank_sums must have room for.
ZX_API int64_t zx_low_rank_parts(int64_t rows, int64_t cols, int64_t rank) { return pieces_of(cols) * rows * rank; }

// Of x, (rows, cols): narrow = factor * x p, (rows, rank), and other = factor * x^T q, (cols, rank); p or q may be null. Narrow
// matrices have two strides, so that they may be transposed. `parts` is room for sums over some of the columns.
ZX_API int zx_low_rank_sums(Parallel parallel, int threads, const float* x, int64_t x_stride, int64_t rows, int64_t cols, int64_t rank,
                            float factor, float* p, int64_t p_stride, int64_t p_rank_stride, float* narrow, int64_t narrow_stride,
                            int64_t narrow_rank_stride, float* q, int64_t q_stride, int64_t q_rank_stride, float* other,
                            int64_t other_stride, int64_t other_rank_stride, float* parts) {
    if (!in_range({rows, cols, rank}) || (!p && !q)) return fail("no such product of low rank");
    const Kernels& kernel = kernels();
    const Narrow of_p{p, p_stride, p_rank_stride}, of_q{q, q_stride, q_rank_stride}, of_other{other, other_stride, other_rank_stride};
    on_threads(parallel, threads, pieces_of(cols), 1, [&](int64_t begin, int64_t end) {
        for (int64_t at = begin; at < end; ++at) {
            const Piece piece = piece_at(cols, at);
            if (!piece.size) {
                if (p) std::fill_n(parts + at * rows * rank, rows * rank, 0.0f);
                continue;
            }
            kernel.low_rank_sums({x + piece.first, x_stride, rows, piece.size, rank, factor, rows_from(of_p, piece.first),
                                  {p ? parts + at * rows * rank : nullptr, rank, 1}, of_q, rows_from(of_other, piece.first)});
        }
    });
    if (!p) return 0;
    for (int64_t at = 1; at < pieces_of(cols); ++at)
        for (int64_t i = 0; i < rows * rank; ++i) parts[i] += parts[at * rows * rank + i];
    for (int64_t row = 0; row < rows; ++row)
        for (int64_t k = 0; k < rank; ++k) narrow[row * narrow_stride + k * narrow_rank_stride] = parts[row * rank + k];
    return 0;
}

// Calls work(unit, scratch) for units, each with room for the scratch of causal attention; fails where there is no memory for it.
template <typename Work> static int with_scratch(Parallel parallel, int threads, int64_t units, int64_t numbers, const Work& work) {
    std::atomic<bool> short_of_memory{false};
    on_threads(parallel, threads, units, 1, [&](int64_t begin, int64_t end) {
        static thread_local std::vector<float> scratch;
        try {
            if (scratch.size() < size_t(numbers)) scratch.resize(size_t(numbers));
        } catch (const std::exception&) {
            short_of_memory = true;
            return;
        }
        for (int64_t at = begin; at < end; ++at) work(at, scratch.data());
    });
    return short_of_memory ? fail("not enough memory for attention") : 0;
}

// How many numbers `kept` of zx_causal must have room for, for each head.
ZX_API int64_t zx_causal_kept(int64_t time) { return causal_kept(time); }

// Causal attention: queries, scaled already, and results, (pairs, heads, time, size), the heads of a pair sharing keys and values,
// (pairs, time, size), which lie `stride` numbers apart. The weights are kept, where there is a place for them.
ZX_API int zx_causal(Parallel parallel, int threads, const float* q, const float* k, int64_t k_stride, const float* v, int64_t v_stride,
                     int64_t pairs, int64_t heads, int64_t time, int64_t size, float* y, float* kept) {
    if (!in_range({pairs, heads, time, size}) || time > MOST_TIME || size > MAX_HEAD_DIM || size % CAUSAL_MULTIPLE) return fail("no such heads");
    const Kernels& kernel = kernels();
    const int64_t blocks = (time + CAUSAL_ROWS - 1) / CAUSAL_ROWS, per_head = causal_kept(time);
    return with_scratch(parallel, threads, pairs * blocks, causal_scratch(time, size), [&](int64_t at, float* scratch) {
        // The last blocks have most to do, and begin: so threads end together.
        const int64_t pair = at % pairs, block = blocks - 1 - at / pairs, start = block * CAUSAL_ROWS, first = (pair * heads * time + start) * size;
        kernel.causal({q + first, k + pair * k_stride, v + pair * v_stride, y + first,
                       kept ? kept + pair * heads * per_head + causal_before(block) : nullptr, scratch, start,
                       std::min<int64_t>(CAUSAL_ROWS, time - start), heads, time * size, per_head, size});
    });
}

// The gradients of queries, keys and values from that of the result, by the weights that were kept.
ZX_API int zx_causal_gradient(Parallel parallel, int threads, const float* dy, const float* q, const float* k, const float* v, const float* kept,
                              int64_t pairs, int64_t heads, int64_t time, int64_t size, float* dq, float* dk, float* dv) {
    if (!in_range({pairs, heads, time, size}) || time > MOST_TIME || size > MAX_HEAD_DIM || size % CAUSAL_MULTIPLE) return fail("no such heads");
    const Kernels& kernel = kernels();
    return with_scratch(parallel, threads, pairs, causal_scratch(time, size), [&](int64_t pair, float* scratch) {
        const int64_t shared = pair * time * size, own = shared * heads;
        kernel.causal_gradient({dy + own, q + own, k + shared, v + shared, kept + pair * heads * causal_kept(time), dq + own, dk + shared,
                                dv + shared, scratch, time, heads, size});
    });
}
