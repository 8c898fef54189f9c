// The C interface, part one: settings, packing, single products. Part two, whole models, is in `api_model.cpp`.
//
// Every function checks what it is given and returns 0, or -1 and leaves a message for `zx_error`. Pointers must point to
// as much memory as the sizes beside them say; nothing else is trusted.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <memory>
#include <vector>

#if !defined(_WIN32)
#include <unistd.h>
#endif

#include "choose.h"
#include "core.h"
#include "engine.h"

namespace zx {
namespace {

thread_local std::string message;
std::atomic<const Kernels*> chosen{nullptr};
std::mutex pool_mutex;
Pool* the_pool = nullptr;
int wanted_threads = 1, known_processors = 1;
long pool_process = 0;

long process_id() {
#if defined(_WIN32)
    return 1;
#else
    return long(getpid());
#endif
}

}  // namespace

int fail(const std::string& why) {
    message = why;
    return -1;
}

const Kernels& kernels() {
    const Kernels* now = chosen.load(std::memory_order_acquire);
    return now ? *now : *kernels_named("auto");
}

Pool& pool() {
    std::lock_guard<std::mutex> lock(pool_mutex);
    // After a fork the threads of the parent are not here; its pool is left alone, for it cannot be taken down.
    if (the_pool && pool_process != process_id()) the_pool = nullptr;
    if (!the_pool) {
        the_pool = new Pool(wanted_threads, known_processors);
        pool_process = process_id();
    }
    return *the_pool;
}

}  // namespace zx

using namespace zx;

// Changes whenever a signature or the layout of packed weights does.
ZX_API int zx_abi() { return 8; }

// A hash of the sources that this library was built from.
#ifndef ZX_SOURCES
#define ZX_SOURCES "unknown"
#endif
ZX_API const char* zx_sources() { return ZX_SOURCES; }

ZX_API const char* zx_error() { return message.c_str(); }

ZX_API int zx_supports(const char* name) { return kernels_named(name) != nullptr; }

ZX_API const char* zx_kernels() { return kernels().name; }

ZX_API int zx_use_kernels(const char* name) {
    const Kernels* found = kernels_named(name);
    if (!found) return fail(std::string("this processor cannot run the kernels '") + name + "'");
    chosen.store(found, std::memory_order_release);
    return 0;
}

ZX_API int zx_threads() { return wanted_threads; }

// Not to be called while another call is at work.
ZX_API int zx_set_threads(int threads, int processors) {
    if (threads < 1 || threads > 1024 || processors < 1) return fail("threads must be 1 to 1024");
    std::lock_guard<std::mutex> lock(pool_mutex);
    if (the_pool && pool_process == process_id() && the_pool->threads() != threads) {
        delete the_pool;
        the_pool = nullptr;
    }
    wanted_threads = threads;
    known_processors = processors;
    return 0;
}

ZX_API int64_t zx_packed_bytes(int kind, int64_t rows, int64_t cols) {
    if (!is_valid(kind, rows, cols)) return fail("no such packed matrix");
    Matrix matrix;
    matrix.kind = Kind(kind);
    matrix.rows = rows;
    matrix.cols = cols;
    return int64_t(matrix.bytes());
}

ZX_API int zx_kind_of_ggml(int type) { return kind_of_ggml(type); }

ZX_API int zx_pack_ggml(int type, const uint8_t* blocks, int64_t block_bytes, const int32_t* order, int64_t rows,
                        int64_t cols, uint8_t* out, int64_t out_bytes) {
    const int kind = kind_of_ggml(type);
    if (!is_valid(kind, rows, cols)) return fail("this GGUF type or shape cannot be packed");
    if (block_bytes != int64_t(ggml_row_bytes(type, cols)) * rows) return fail("the blocks' size does not fit the shape");
    if (out_bytes != zx_packed_bytes(kind, rows, cols)) return fail("the packed size does not fit the shape");
    if (order)
        for (int64_t i = 0; i < rows; ++i)
            if (order[i] < 0 || order[i] >= rows) return fail("the order names a row that is not there");
    run_blocks((rows + ROWS - 1) / ROWS, 1, [&](int64_t first, int64_t last) {
        pack_ggml(type, blocks, order, rows, cols, first, last, out);
    });
    return 0;
}

ZX_API int zx_pack_float(int kind, const float* values, int64_t rows, int64_t cols, uint8_t* out, int64_t out_bytes) {
    const bool able = kind >= 0 && kind < KINDS && (!is_quantised(Kind(kind)) || Kind(kind) == Kind::B8S || Kind(kind) == Kind::B4M);
    if (!able || !is_valid(kind, rows, cols)) return fail("float values cannot be packed into this kind and shape");
    if (out_bytes != zx_packed_bytes(kind, rows, cols)) return fail("the packed size does not fit the shape");
    run_blocks((rows + ROWS - 1) / ROWS, 1, [&](int64_t first, int64_t last) {
        pack_float(Kind(kind), values, rows, cols, first, last, out);
    });
    return 0;
}

ZX_API int zx_unpack(int kind, const uint8_t* data, int64_t bytes, int64_t rows, int64_t cols, int64_t first, int64_t count, float* out) {
    if (!is_valid(kind, rows, cols) || bytes != zx_packed_bytes(kind, rows, cols)) return fail("no such packed matrix");
    if (first < 0 || count < 0 || first + count > rows) return fail("no such rows");
    Matrix matrix;
    matrix.kind = Kind(kind);
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.data = data;
    run_blocks(count, 8, [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; ++i) unpack_row(matrix, first + i, out + i * cols);
    });
    return 0;
}

// y = x W^T + bias, or added to y: x (tokens, cols), y (tokens, rows).
ZX_API int zx_product(int kind, const uint8_t* data, int64_t bytes, int64_t rows, int64_t cols, const float* x, int64_t tokens,
                      const float* bias, int add, float* y) {
    if (!is_valid(kind, rows, cols) || bytes != zx_packed_bytes(kind, rows, cols)) return fail("no such packed matrix");
    if (tokens < 0 || tokens > MAX_DIM) return fail("the number of rows is out of range");
    Matrix matrix;
    matrix.kind = Kind(kind);
    matrix.rows = rows;
    matrix.cols = cols;
    matrix.data = data;
    const Kernels& k = kernels();
    Product p{&matrix, x, cols, nullptr, 0, bias, y, rows, add != 0};
    std::unique_ptr<uint8_t[]> buffer;
    if (is_quantised(matrix.kind)) {
        const size_t stride = quant_bytes(size_t(cols));
        buffer.reset(new uint8_t[stride * size_t(tokens) + 64]);
        uint8_t* aligned = buffer.get() + (64 - reinterpret_cast<uintptr_t>(buffer.get()) % 64) % 64;
        for (int64_t t = 0; t < tokens; ++t) k.quantise(x + t * cols, cols, aligned + size_t(t) * stride);
        p.quant = aligned;
        p.quant_stride = int64_t(stride);
    }
    run_blocks(matrix.panels(), 1, [&](int64_t first, int64_t last) { k.product(p, first, last, 0, tokens); });
    return 0;
}

// Packs what approximates a quantised matrix in 4 bits (kind B4M), and its bounds, (rows): see refine.cpp.
ZX_API int zx_pack_coarse(int kind, const uint8_t* data, int64_t bytes, int64_t rows, int64_t cols, uint8_t* out, int64_t out_bytes, float* bounds) {
    if (!is_valid(kind, rows, cols) || bytes != zx_packed_bytes(kind, rows, cols)) return fail("no such packed matrix");
    if (!is_quantised(Kind(kind))) return fail("only quantised matrices are approximated");
    if (out_bytes != zx_packed_bytes(int(Kind::B4M), rows, cols)) return fail("the packed size does not fit the shape");
    Matrix exact, coarse;
    exact.kind = Kind(kind);
    coarse.kind = Kind::B4M;
    exact.rows = coarse.rows = rows;
    exact.cols = coarse.cols = cols;
    exact.data = data;
    coarse.data = out;
    run_blocks(exact.panels(), 8, [&](int64_t first, int64_t last) {
        pack_coarse(exact, first, last, out);
        head_bounds(exact, coarse, first * ROWS, std::min(rows, last * ROWS), bounds);
    });
    return 0;
}

// The values that a row of activations is rounded to.
ZX_API int zx_round_activations(const float* x, int64_t rows, int64_t cols, float* out) {
    if (rows < 0 || cols < GROUP || cols % GROUP || cols > MAX_DIM) return fail("no such rows of activations");
    std::vector<uint64_t> buffer(quant_bytes(size_t(cols)) / 8);
    uint8_t* row = reinterpret_cast<uint8_t*>(buffer.data());
    for (int64_t r = 0; r < rows; ++r) {
        kernels().quantise(x + r * cols, cols, row);
        const QuantRow quant = quant_row(row, size_t(cols));
        float* const values = out + r * cols;
        for (int64_t k = 0; k < cols; ++k) values[k] = quant.groups[k / GROUP].scale * float(quant.groups[k / GROUP].q[k % GROUP]);
        for (int32_t i = 0; i < *quant.fine_count; ++i)
            for (int k = 0; k < GROUP; ++k) values[quant.fine_places[i] * GROUP + k] += quant.fine[i].scale * float(quant.fine[i].q[k]);
    }
    return 0;
}

// The `count` highest values of every row, falling, with their places: (rows, size) -> (rows, count) twice. With `normalise`
// the rows are logits and the values become log-probabilities. Returns 1 when a value of x is not a number.
ZX_API int zx_candidates(const float* x, int64_t rows, int64_t size, int64_t count, int normalise, float* values, int32_t* places) {
    if (rows < 0 || size < 1 || size > MAX_DIM || count < 1 || count > size) return fail("no such rows of candidates");
    std::atomic<int> bad{0};
    run_blocks(rows, 1, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            float* best = values + row * count;
            const float above = kernels().candidates(x + row * size, size, count, best, places + row * count);
            if (above != above) bad.store(1, std::memory_order_relaxed);
            const float highest = best[0];
            for (int64_t i = 0; normalise && i < count; ++i) best[i] = best[i] - highest - above;
        }
    });
    return bad.load();
}

// Chooses a token of each row of logits, (rows, vocab): settings as `choices_of` reads them. A token of -1: the logits are
// not numbers.
ZX_API int zx_choose(const float* logits, int64_t rows, int64_t vocab, const double* settings, int32_t* tokens) {
    if (rows < 0 || vocab < 1 || vocab > MAX_DIM) return fail("no such rows of logits");
    std::vector<Choice> choices;
    if (!choices_of(settings, rows, choices)) return fail("a setting of the choice is out of range");
    const Kernels& k = kernels();
    const int64_t blocks = survey_blocks(vocab);
    const auto choose = [&](int64_t first, int64_t last) {
        std::vector<float> found(size_t(2 * blocks));
        const Survey surveyed{found.data(), found.data() + blocks};
        for (int64_t row = first; row < last; ++row) {
            survey(k, logits + row * vocab, vocab, 0, blocks, surveyed);
            tokens[row] = int32_t(choose_token(k, logits + row * vocab, vocab, surveyed, choices[size_t(row)]));
        }
    };
    if (rows == 1) choose(0, 1);  // no other thread need be woken
    else run_blocks(rows, 1, choose);
    return 0;
}

// Reads so many bytes with all threads, several times; returns the best rate in bytes per second.
ZX_API double zx_bandwidth(int64_t bytes, int rounds) {
    constexpr int64_t BLOCK = 1 << 16;
    Memory memory{size_t(bytes)};
    if (bytes < BLOCK || !memory.good()) return fail("not enough memory to measure its bandwidth");
    std::memset(memory.data(), 1, size_t(bytes));
    double best = 0;
    std::atomic<uint64_t> total{0};  // used, so that nothing is left out
    for (int round = 0; round < rounds; ++round) {
        const auto start = std::chrono::steady_clock::now();
        run_blocks(bytes / BLOCK, 1, [&](int64_t first, int64_t last) {
            const uint64_t* at = reinterpret_cast<const uint64_t*>(memory.data() + first * BLOCK);
            const uint64_t* const end = at + (last - first) * BLOCK / 8;
            uint64_t sums[8] = {};
            for (; at < end; at += 8)
                for (int i = 0; i < 8; ++i) sums[i] += at[i];
            uint64_t sum = 0;
            for (uint64_t one : sums) sum += one;
            total.fetch_add(sum, std::memory_order_relaxed);
        });
        const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
        best = std::max(best, double(bytes) / seconds);
    }
    return total.load() ? best : -1;
}
