// The C interface, part three: passes over rows, for PyTorch's layers, on PyTorch's own threads.
#include "core.h"
#include "openmp.h"

using namespace zx;

namespace {

constexpr int64_t TOKENS_AT_ONCE = 16, NUMBERS_AT_ONCE = 1 << 14, ROWS_AT_ONCE = 64;

}  // namespace

// From joined projections x, (tokens, heads + 2 * kv_heads, size), to queries, (batch, heads, time, size), keys and values,
// (batch, kv_heads, time, size): queries and keys normalised (eps >= 0) and rotated, queries times `factor`. scales, (tokens,
// heads + kv_heads): what they were multiplied by. `at`, (batch, time), says which token is where, -1 where there is none, which
// becomes zero; cos and sin are then (tokens, half). Null: the tokens in their order, and cos and sin are (time, half).
ZX_API int zx_place_heads(Parallel parallel, int threads, const float* x, const int64_t* at, int64_t batch, int64_t time, int64_t heads,
                          int64_t kv_heads, int64_t size, const float* cos, const float* sin, int64_t half, float eps, float factor,
                          float* q, float* k, float* v, float* scales) {
    if (!in_range({batch, time, heads, kv_heads, size}) || half < 0 || 2 * half > size) return fail("no such heads");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, batch * time, TOKENS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t row = place / time, step = place % time, token = at ? at[place] : place, turn = at ? token : step;
            const auto query = [&](int64_t h) { return q + ((row * heads + h) * time + step) * size; };
            const auto key = [&](int64_t h) { return k + ((row * kv_heads + h) * time + step) * size; };
            const auto value = [&](int64_t h) { return v + ((row * kv_heads + h) * time + step) * size; };
            if (token < 0) {
                for (int64_t h = 0; h < heads; ++h) std::fill_n(query(h), size, 0.0f);
                for (int64_t h = 0; h < kv_heads; ++h) std::fill_n(key(h), size, 0.0f), std::fill_n(value(h), size, 0.0f);
                continue;
            }
            const float* from = x + token * (heads + 2 * kv_heads) * size;
            float* scale = scales + token * (heads + kv_heads);
            for (int64_t h = 0; h < heads + kv_heads; ++h, from += size)
                scale[h] = kernel.place_row(from, size, cos + turn * half, sin + turn * half, half, eps, h < heads ? factor : 1.0f,
                                            h < heads ? query(h) : key(h - heads));
            for (int64_t h = 0; h < kv_heads; ++h, from += size) std::copy_n(from, size, value(h));
        }
    });
    return 0;
}

// The gradient of x from those of q, k and v, of those tokens alone that are there; `normed` says whether they were normalised.
ZX_API int zx_place_heads_gradient(Parallel parallel, int threads, const float* dq, const float* dk, const float* dv, const float* q,
                                   const float* k, const float* scales, const int64_t* at, int64_t batch, int64_t time, int64_t heads,
                                   int64_t kv_heads, int64_t size, const float* cos, const float* sin, int64_t half, int normed,
                                   float factor, float* dx) {
    if (!in_range({batch, time, heads, kv_heads, size}) || half < 0 || 2 * half > size) return fail("no such heads");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, batch * time, TOKENS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t row = place / time, step = place % time, token = at ? at[place] : place, turn = at ? token : step;
            if (token < 0) continue;
            float* to = dx + token * (heads + 2 * kv_heads) * size;
            const float* scale = scales + token * (heads + kv_heads);
            for (int64_t h = 0; h < heads + kv_heads; ++h, to += size) {
                const bool query = h < heads;
                const int64_t from = query ? ((row * heads + h) * time + step) * size : ((row * kv_heads + h - heads) * time + step) * size;
                kernel.place_row_gradient((query ? dq : dk) + from, (query ? q : k) + from, size, cos + turn * half, sin + turn * half, half,
                                          normed != 0, scale[h], query ? factor : 1.0f, to);
            }
            for (int64_t h = 0; h < kv_heads; ++h, to += size) std::copy_n(dv + ((row * kv_heads + h) * time + step) * size, size, to);
        }
    });
    return 0;
}

// From x, (batch, heads, time, size), back to y, (tokens, heads, size): `at` as above.
ZX_API int zx_take_heads(Parallel parallel, int threads, const float* x, const int64_t* at, int64_t batch, int64_t time, int64_t heads,
                         int64_t size, float* y) {
    if (!in_range({batch, time, heads, size})) return fail("no such heads");
    on_threads(parallel, threads, batch * time, TOKENS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t row = place / time, step = place % time, token = at ? at[place] : place;
            for (int64_t h = 0; token >= 0 && h < heads; ++h)
                std::copy_n(x + ((row * heads + h) * time + step) * size, size, y + (token * heads + h) * size);
        }
    });
    return 0;
}

// The gradient of x from that of y: zero where there is no token.
ZX_API int zx_take_heads_gradient(Parallel parallel, int threads, const float* dy, const int64_t* at, int64_t batch, int64_t time,
                                  int64_t heads, int64_t size, float* dx) {
    if (!in_range({batch, time, heads, size})) return fail("no such heads");
    on_threads(parallel, threads, batch * time, TOKENS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t place = first; place < last; ++place) {
            const int64_t row = place / time, step = place % time, token = at ? at[place] : place;
            for (int64_t h = 0; h < heads; ++h) {
                float* to = dx + ((row * heads + h) * time + step) * size;
                if (token < 0) std::fill_n(to, size, 0.0f);
                else std::copy_n(dy + (token * heads + h) * size, size, to);
            }
        }
    });
    return 0;
}

// y = x / rms(x), (rows, size); scales, (rows): 1 / rms(x).
ZX_API int zx_norm_rows(Parallel parallel, int threads, const float* x, int64_t rows, int64_t size, float eps, float* y, float* scales) {
    if (!in_range({rows, size}) || eps < 0) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            scales[row] = kernel.place_row(x + row * size, size, nullptr, nullptr, 0, eps, 1.0f, y + row * size);
    });
    return 0;
}

ZX_API int zx_norm_rows_gradient(Parallel parallel, int threads, const float* dy, const float* y, const float* scales, int64_t rows,
                                 int64_t size, float* dx) {
    if (!in_range({rows, size})) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            kernel.place_row_gradient(dy + row * size, y + row * size, size, nullptr, nullptr, 0, true, scales[row], 1.0f, dx + row * size);
    });
    return 0;
}

// x becomes max(x, 0), y its square; of `size` numbers each.
ZX_API int zx_square_positive(Parallel parallel, int threads, float* x, int64_t size, float* y) {
    if (!in_range({size})) return fail("no such numbers");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, size, NUMBERS_AT_ONCE,
               [&](int64_t first, int64_t last) { kernel.square_positive(x + first, last - first, y + first); });
    return 0;
}

// dy becomes dy * x, half of the gradient before max(x, 0)^2; y becomes the square of x.
ZX_API int zx_square_positive_gradient(Parallel parallel, int threads, float* dy, const float* x, int64_t size, float* y) {
    if (!in_range({size})) return fail("no such numbers");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, size, NUMBERS_AT_ONCE,
               [&](int64_t first, int64_t last) { kernel.square_positive_gradient(dy + first, x + first, last - first, y + first); });
    return 0;
}

// Softmax of scores, (matrices, rows, keys), in place: row r sees the first `before` + r + 1 keys of them.
ZX_API int zx_causal_weights(Parallel parallel, int threads, float* x, int64_t matrices, int64_t rows, int64_t keys, int64_t before) {
    if (!in_range({matrices, rows, keys}) || before < 0 || before + rows > keys) return fail("no such scores");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, matrices * rows, ROWS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) kernel.weigh_row(x + row * keys, before + row % rows + 1, keys);
    });
    return 0;
}

// The gradient of the scores from that of the weights, in place.
ZX_API int zx_causal_weights_gradient(Parallel parallel, int threads, float* dw, const float* w, int64_t matrices, int64_t rows,
                                      int64_t keys, int64_t before) {
    if (!in_range({matrices, rows, keys}) || before < 0 || before + rows > keys) return fail("no such scores");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, matrices * rows, ROWS_AT_ONCE, [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) kernel.weigh_row_gradient(dw + row * keys, w + row * keys, before + row % rows + 1, keys);
    });
    return 0;
}

// y = silu(g) * u of x = [g, u], (rows, 2 * size): (rows, size).
ZX_API int zx_gate(Parallel parallel, int threads, const float* x, int64_t rows, int64_t size, float* y) {
    if (!in_range({rows, size})) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
            const float* gate = x + 2 * row * size;
            kernel.activate(gate, gate + size, size, Activation::Silu, y + row * size);
        }
    });
    return 0;
}

// g becomes silu(g) * u; of `size` numbers each.
ZX_API int zx_gate_by(Parallel parallel, int threads, float* g, const float* u, int64_t size) {
    if (!in_range({size})) return fail("no such numbers");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, size, NUMBERS_AT_ONCE,
               [&](int64_t first, int64_t last) { kernel.activate(g + first, u + first, last - first, Activation::Silu, g + first); });
    return 0;
}

// The gradient of x, (rows, 2 * size), from that of y.
ZX_API int zx_gate_gradient(Parallel parallel, int threads, const float* dy, const float* x, int64_t rows, int64_t size, float* dx) {
    if (!in_range({rows, size})) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) kernel.gate_row_gradient(dy + row * size, x + 2 * row * size, size, dx + 2 * row * size);
    });
    return 0;
}

// y = x / (1 - p), of at most 2^32 numbers, each 0 with p = levels / 2^31 instead: which ones, the seed says. x may be y.
ZX_API int zx_drop(Parallel parallel, int threads, const float* x, int64_t size, uint64_t seed, uint32_t levels, float* y) {
    if (!in_range({size}) || levels >= uint32_t(1) << 31) return fail("no such numbers or share");
    const Kernels& kernel = kernels();
    const float scale = float(2147483648.0 / (2147483648.0 - double(levels)));
    on_threads(parallel, threads, size, NUMBERS_AT_ONCE, [&](int64_t first, int64_t last) {
        kernel.drop(x + first, uint32_t(first), last - first, seed, levels, scale, y + first);
    });
    return 0;
}

// y = weight * x / rms(x), (rows, size); scales, (rows): 1 / rms(x).
ZX_API int zx_scaled_norm_rows(Parallel parallel, int threads, const float* x, const float* weight, int64_t rows, int64_t size, float eps,
                               float* y, float* scales) {
    if (!in_range({rows, size}) || eps < 0) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            scales[row] = kernel.scaled_norm_row(x + row * size, weight, size, eps, y + row * size);
    });
    return 0;
}

// The gradient of x from that of y.
ZX_API int zx_scaled_norm_rows_gradient(Parallel parallel, int threads, const float* dy, const float* x, const float* weight,
                                        const float* scales, int64_t rows, int64_t size, float* dx) {
    if (!in_range({rows, size})) return fail("no such rows");
    const Kernels& kernel = kernels();
    on_threads(parallel, threads, rows, std::max<int64_t>(1, NUMBERS_AT_ONCE / size), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row)
            kernel.scaled_norm_row_gradient(dy + row * size, x + row * size, weight, size, scales[row], dx + row * size);
    });
    return 0;
}
