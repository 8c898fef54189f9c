// The table of kernels. Every instruction set fills one; `cpu.cpp` picks the best that this processor can run.
//
// All kernels work on rows of float32 activations, one row per token, and are pure: what they read and write is in their
// arguments. Splitting work among threads is not done here (`engine.cpp` does).
#pragma once

#include <cstdint>

#include "formats.h"

namespace zx {

// A group of a row of activations in 8 bits: x[k] = scale * q[k]. What a product reads of it stands together.
struct QuantGroup {
    int8_t q[GROUP];
    float scale;
    float scaled_sum;                // of the values, both terms: what a minimum is multiplied by
    int32_t minus_sum, minus_first;  // less the sum of q, and of its first 16: what an offset is multiplied by
};

// A row, as `quantise` writes it: all groups, then the second terms of some, which hold what the first left over. They
// are there for the few groups in which one large value makes the step coarse for its 31 neighbours. The stream of a
// Transformer has such values always in the same places, and most of the error of rounding comes from their groups.
struct QuantRow {
    const QuantGroup *groups, *fine;
    const int32_t *fine_count, *fine_places;  // which groups have a second term, rising
};

constexpr size_t quant_fine_at(size_t cols) { return (cols / GROUP * (sizeof(QuantGroup) + 4) + 4 + 15) / 16 * 16; }
constexpr size_t quant_bytes(size_t cols) { return (quant_fine_at(cols) + cols / GROUP * sizeof(QuantGroup) + 63) / 64 * 64; }

inline QuantRow quant_row(const uint8_t* at, size_t cols) {
    const int32_t* const count = reinterpret_cast<const int32_t*>(at + cols / GROUP * sizeof(QuantGroup));
    return {reinterpret_cast<const QuantGroup*>(at), reinterpret_cast<const QuantGroup*>(at + quant_fine_at(cols)), count, count + 1};
}

// y[token][row] = sum over k of w[row][k] x[token][k], plus bias, plus what y held.
struct Product {
    const Matrix* weight;
    const float* x;         // float rows, for F32, F16 and BF16 weights
    int64_t x_stride;
    const uint8_t* quant;   // quantised rows, for all other kinds
    int64_t quant_stride;   // bytes from one to the next
    const float* bias;      // or null
    float* y;
    int64_t y_stride;
    bool add;
};

enum class Activation : int32_t { Silu = 0, GeluTanh = 1, Gelu = 2, Relu = 3, Relu2 = 4, Count = 5 };

constexpr int PAGE = 16;          // tokens in a page of the cache
constexpr int MAX_HEAD_DIM = 512;
constexpr int STRETCH = 256;      // keys that are scored, weighed and mixed together
constexpr int ATTEND_ROWS = 8;    // most queries that share one pass over the keys

// How keys and values are stored. The numbers are those of `native/runtime.py`.
enum class Format : int32_t { F16 = 0, Q8 = 1, F32 = 2 };
constexpr int FORMATS = 3;

constexpr int64_t stored_bytes(Format format) { return format == Format::F16 ? 2 : format == Format::F32 ? 4 : 1; }

constexpr int SCALED = 32;  // numbers of a key or value that share a scale, where they are stored in 8 bits

// Bytes of one head's keys, or values, in a page. Behind those of 8 bits come float32 scales: of the first SCALED numbers
// of each token, of the next ones, and so on.
constexpr int64_t block_bytes(Format format, int64_t head_dim) {
    return head_dim * PAGE * stored_bytes(format) + (format == Format::Q8 ? (head_dim + SCALED - 1) / SCALED * PAGE * 4 : 0);
}

// Attention of some queries that share a key-value head. Keys of a page lie transposed, (head_dim, 16), so that a vector
// holds one coordinate of 16 tokens; values lie (16, head_dim).
struct Attend {
    Format format;
    const uint8_t* cache;       // this layer and head: first page
    int64_t page_stride;        // bytes from one page to the next
    const int32_t* pages;       // the sequence's page numbers
    int64_t value_offset;       // bytes from a page's keys to its values
    int head_dim;
    float scale;
    float soft_cap;             // 0: none
    int count;                  // queries, at most ATTEND_ROWS
    const float* query[ATTEND_ROWS];
    int32_t begin[ATTEND_ROWS], end[ATTEND_ROWS];  // keys [begin, end) of each
    float* out[ATTEND_ROWS];    // head_dim values each; not divided by the total when `total` is given
    const float* bias[ATTEND_ROWS];  // null, or what is added to the score of every key
    float* total[ATTEND_ROWS];  // null, or where (highest score, total weight) go: a part of a split
};

// A narrow matrix of `rank` columns, or its transpose: number (i, k) is at[i * stride + k * rank_stride]. Null: none.
struct Narrow {
    float* at;
    int64_t stride, rank_stride;
};

constexpr int RANKS = 16;               // columns of a narrow matrix taken together
constexpr int LOW_RANK_COLUMNS = 256;   // most columns of a wide matrix in one call: their part of a narrow one stays in a cache

// Of x, (rows, cols): narrow = factor * x p, (rows, rank), if there is a p, and other = factor * x^T q, (cols, rank), if there
// is a q.
struct LowRankSums {
    const float* x;
    int64_t x_stride, rows, cols, rank;
    float factor;
    Narrow p, narrow, q, other;
};

constexpr int CAUSAL_ROWS = 64, CAUSAL_MULTIPLE = 32;  // queries in a block; what the size of heads must be a multiple of

// Weights of a block whose queries see `end` keys lie in rows of so many numbers; those of all blocks of a head take so many.
constexpr int64_t causal_columns(int64_t end) { return (end + CAUSAL_MULTIPLE - 1) / CAUSAL_MULTIPLE * CAUSAL_MULTIPLE; }
constexpr int64_t causal_before(int64_t block) { return CAUSAL_ROWS * CAUSAL_ROWS * block * (block + 1) / 2; }
constexpr int64_t causal_kept(int64_t time) { return causal_before(time / CAUSAL_ROWS) + time % CAUSAL_ROWS * causal_columns(time); }
constexpr int64_t causal_scratch(int64_t time, int64_t size) { return causal_columns(time) * (size + CAUSAL_ROWS); }

// Queries [start, start + rows) of heads that share keys and values, each to those up to its own: queries and results, (heads,
// rows, size), the heads `head_stride` apart; keys and values, (start + rows, size). Queries are scaled already. The weights are
// kept, if there is a place for them, `kept_stride` apart from head to head.
struct CausalBlock {
    const float *q, *k, *v;
    float *y, *kept, *scratch;
    int64_t start, rows, heads, head_stride, kept_stride, size;
};

// The gradients of queries, (heads, time, size), and of the keys and values that they share, (time, size).
struct CausalGradient {
    const float *dy, *q, *k, *v, *kept;
    float *dq, *dk, *dv, *scratch;
    int64_t time, heads, size;
};

struct Kernels {
    const char* name;
    int tile;  // most tokens that share one reading of a panel
    void (*product)(const Product&, int64_t first_panel, int64_t last_panel, int64_t first_token, int64_t last_token);
    void (*quantise)(const float* x, int64_t cols, uint8_t* row);
    void (*norm)(const float* x, const float* weight, const float* bias, int64_t size, float eps, bool layer, bool add, float* y);
    void (*rotate)(float* x, const float* cos, const float* sin, int64_t half);
    void (*activate)(const float* gate, const float* up, int64_t size, Activation kind, float* y);
    void (*add)(const float* x, int64_t size, float factor, float* y);
    void (*soft_cap)(float* x, int64_t size, float scale, float cap);
    void (*store_page)(Format format, const float* key, const float* value, int64_t head_dim, int64_t slot, uint8_t* keys, uint8_t* values);
    void (*attend)(const Attend&);
    // Adds a part of one query's result, with its (highest score, total weight), to another.
    void (*merge_parts)(float* out, float* state, const float* other, const float* other_state, int head_dim);
    float (*candidates)(const float* x, int64_t size, int64_t count, float* values, int32_t* places);
    // Returns the highest of some logits; their sum is not a number when one of them is none.
    float (*survey)(const float* x, int64_t size, float* sum);
    // y = e^(x / temperature - highest); returns their sum.
    float (*weigh)(const float* x, int64_t size, float temperature, float highest, float* y);
    // For PyTorch: see rows.inl, low_rank.inl and causal.inl.
    float (*place_row)(const float* x, int64_t size, const float* cos, const float* sin, int64_t half, float eps, float factor, float* y);
    void (*place_row_gradient)(const float* dy, const float* y, int64_t size, const float* cos, const float* sin, int64_t half,
                               bool normed, float scale, float factor, float* dx);
    float (*scaled_norm_row)(const float* x, const float* weight, int64_t size, float eps, float* y);
    void (*scaled_norm_row_gradient)(const float* dy, const float* x, const float* weight, int64_t size, float scale, float* dx);
    void (*square_positive)(float* x, int64_t size, float* y);
    void (*square_positive_gradient)(float* dy, const float* x, int64_t size, float* y);
    void (*drop)(const float* x, uint32_t first, int64_t size, uint64_t seed, uint32_t levels, float scale, float* y);
    void (*weigh_row)(float* x, int64_t seen, int64_t size);
    void (*weigh_row_gradient)(float* dw, const float* w, int64_t seen, int64_t size);
    void (*gate_row_gradient)(const float* dy, const float* x, int64_t size, float* dx);
    void (*low_rank_sums)(const LowRankSums&);
    void (*causal)(const CausalBlock&);
    void (*causal_gradient)(const CausalGradient&);
};

extern const Kernels SCALAR_KERNELS;
#if defined(__x86_64__) || defined(_M_X64)
#define ZX_X86 1
extern const Kernels AVX2_KERNELS;
extern const Kernels AVX512_KERNELS;
#endif

}  // namespace zx
