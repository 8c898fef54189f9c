// A plan: a network as a flat list of operations on buffers, checked once when it is made, so that running it needs no
// checks of its own. Python walks the PyTorch modules and writes the plan (`native/plan.py`); the numbers here are the
// other half of that contract.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels.h"

namespace zx {

// Operations. Arguments are given as integers a[1..15] and numbers f[0..3]. A buffer holds a row of floats per token.
enum class Op : int64_t {
    Embed = 1,      // dst, matrix                                  f: factor
    Input = 2,      // dst: rows that the caller hands in
    Position = 3,   // dst, matrix: adds the row of the token's position
    Norm = 4,       // dst, dst_at, src, src_at, pieces, size, weight, bias, layer?, add?    f: epsilon
    Quantise = 5,   // src, src_at, cols: makes the rows that products with quantised matrices read
    Linear = 6,     // dst, src, src_at, add?, n, then n <= 3 times (matrix, dst_at, bias); last, when (see below)
    Rotate = 7,     // dst, at, heads, head_dim, half, table
    Store = 8,      // layer, key, key_at, value, value_at
    Attend = 9,     // layer, dst, src, src_at, heads, window (0: none), causal?, biases    f: scale, soft cap
    Activate = 10,  // dst, src, gate_at, up_at (-1: none), size, activation
    Add = 11,       // dst, src                                     f: factor
    Gather = 12,    // dst, src: rows of the tokens whose output is wanted; later operations work on those
    SoftCap = 13,   // dst                                          f: factor, cap (0: none)
    Read = 14,      // kv_heads, dst, src, src_at, heads, head_dim, layer: attention over a source    f: scale
    Refine = 15,    // dst, src, matrix, bounds, bias: makes exact what could be the highest; see refine.cpp
};

// When a product is computed: in every step, where only the likeliest token is asked for, or where more is.
constexpr int64_t ALWAYS = 0, ONLY_LIKELIEST = 1, ONLY_WHOLE = 2;

// What `Attend` adds to the scores is given as the number of a vector plus one (0: none): of every head a row of
// 2 * positions + BIAS_MARGIN values, where that of a key stands at positions - 1 + its distance from the query. The
// layer of `Read` is one of the source's cache, which another plan has filled.
constexpr int64_t BIAS_MARGIN = 32;  // vectors of scores reach behind the last key

struct Vector { const float* at; int64_t size; };
struct Layer {
    int64_t kv_heads, head_dim;
    bool operator==(const Layer& other) const { return kv_heads == other.kv_heads && head_dim == other.head_dim; }
};
struct Table { int64_t half; const float *cos, *sin; int64_t length; };  // (length, half) each

struct Operation {
    Op op;
    int64_t a[16];
    float f[4];
    bool outputs;  // works on the gathered rows
};

struct Plan {
    std::vector<Matrix> matrices;
    std::vector<Vector> vectors;
    std::vector<int64_t> buffers;  // widths
    std::vector<Layer> layers;
    std::vector<Table> tables;
    std::vector<Operation> operations;
    int64_t max_tokens = 0, output = 0, vocab = 0, positions = 0;  // positions: rows of a learned table, or 0
    int64_t input_width = 0;                                       // of `Input`, or 0
    std::vector<std::pair<int64_t, Layer>> reads;                  // layers of the source's cache, and what they must be

    // Quantised rows are kept per buffer; how many columns of it, or 0.
    std::vector<int64_t> quantised;
};

// Reads and checks a plan. Returns null and a reason when anything in it is out of order.
std::unique_ptr<Plan> read_plan(const int64_t* numbers, int64_t count, const double* factors, int64_t factor_count,
                                const uint8_t* blob, int64_t blob_bytes, std::string& why);

constexpr int64_t PLAN_MAGIC = 0x5a58504c, PLAN_VERSION = 2;
constexpr int64_t OP_NUMBERS = 16, OP_FACTORS = 4;

}  // namespace zx
