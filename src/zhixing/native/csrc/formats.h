// Packed weight formats: what a matrix looks like in memory, and how GGUF blocks and float rows become it.
//
// A matrix (rows x cols) is cut into panels of 16 rows. A panel is a header with all scales, then a body with the
// values, group (32 columns) by group. In the body four consecutive columns of one row stay together (a "quad"), and the
// quads of the 16 rows lie side by side: 64 bytes. That is what every integer dot-product instruction wants: one 32-bit
// lane is one row. The layout is the same for all instruction sets, so a packed file serves every processor.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace zx {

constexpr int ROWS = 16;    // rows in a panel
constexpr int GROUP = 32;   // columns that share a scale
constexpr int SUPER = 256;  // columns of a super-block (GGUF's K kinds)
constexpr int64_t MAX_DIM = int64_t(1) << 24;

// The numbers are part of the file format of the cache: append, never renumber.
enum class Kind : int32_t {
    F32 = 0,
    F16 = 1,
    BF16 = 2,
    B4S = 3,  // 4 bits, scale:            d * (q - 8)      Q4_0
    B4M = 4,  // 4 bits, scale, minimum:   d * q + m        Q4_1
    B5S = 5,  // 5 bits, scale:            d * (q - 16)     Q5_0
    B5M = 6,  // 5 bits, scale, minimum:   d * q + m        Q5_1
    B8S = 7,  // 8 bits, scale:            d * (q - 128)    Q8_0
    B4K = 8,  // 4 bits, two-level scales: d s q - e t      Q4_K
    B5K = 9,  // 5 bits, two-level scales: d s q - e t      Q5_K
    B6K = 10, // 6 bits, a scale per 16:   d s (q - 32)     Q6_K
    B4L = 11, // 4 bits into a table:      d * table[q]     IQ4_NL
};
constexpr int KINDS = 12;

// How the scales of a panel are laid out.
enum class Scales { None, Simple, WithMin, Super, SuperHalf };

struct Layout {
    int bits;       // per value in the body
    Scales scales;
    int offset;     // subtracted from the stored (unsigned) values
    int multiple;   // cols must be a multiple of this
};

constexpr Layout layout_of(Kind kind) {
    switch (kind) {
        case Kind::F32: return {32, Scales::None, 0, 1};
        case Kind::F16: return {16, Scales::None, 0, 1};
        case Kind::BF16: return {16, Scales::None, 0, 1};
        case Kind::B4S: return {4, Scales::Simple, 8, GROUP};
        case Kind::B4M: return {4, Scales::WithMin, 0, GROUP};
        case Kind::B5S: return {5, Scales::Simple, 16, GROUP};
        case Kind::B5M: return {5, Scales::WithMin, 0, GROUP};
        case Kind::B8S: return {8, Scales::Simple, 128, GROUP};
        case Kind::B4K: return {4, Scales::Super, 0, SUPER};
        case Kind::B5K: return {5, Scales::Super, 0, SUPER};
        case Kind::B6K: return {6, Scales::SuperHalf, 32, SUPER};
        case Kind::B4L: return {4, Scales::Simple, 128, GROUP};
    }
    return {0, Scales::None, 0, 1};
}

constexpr bool is_quantised(Kind kind) { return layout_of(kind).scales != Scales::None; }

constexpr size_t body_bytes(int bits) { return size_t(ROWS) * GROUP * bits / 8; }  // of one group

// Bytes of a panel's header, rounded up so that the body begins on a cache line.
constexpr size_t header_bytes(Scales scales, size_t cols) {
    size_t groups = cols / GROUP, supers = cols / SUPER, bytes = 0;
    switch (scales) {
        case Scales::None: return 0;
        case Scales::Simple: bytes = groups * 32; break;                     // [group][16] half
        case Scales::WithMin: bytes = groups * 64; break;                    // [group][scale, min][16] half
        case Scales::Super: bytes = supers * 64 + groups * 32; break;        // [super][d, e][16] half, [group][s, t][16] u8
        case Scales::SuperHalf: bytes = supers * 32 + groups * 32; break;    // [super][16] half, [group][2][16] i8
    }
    return (bytes + 63) / 64 * 64;
}

constexpr size_t panel_bytes(Kind kind, size_t cols) {
    const Layout layout = layout_of(kind);
    if (layout.scales == Scales::None) return (cols * ROWS * layout.bits / 8 + 63) / 64 * 64;
    return header_bytes(layout.scales, cols) + cols / GROUP * body_bytes(layout.bits);
}

// A packed matrix; it does not own its memory.
struct Matrix {
    Kind kind = Kind::F32;
    int64_t rows = 0, cols = 0;
    const uint8_t* data = nullptr;

    int64_t panels() const { return (rows + ROWS - 1) / ROWS; }
    size_t stride() const { return panel_bytes(kind, size_t(cols)); }
    size_t bytes() const { return size_t(panels()) * stride(); }
    const uint8_t* panel(int64_t index) const { return data + size_t(index) * stride(); }
};

// Whether such a matrix can be: known kind, sizes within bounds, cols a multiple of what the kind needs.
bool is_valid(int kind, int64_t rows, int64_t cols);

// Number formats. Conversions round to nearest even, as the hardware does.
inline uint32_t bits_of(float value) { uint32_t bits; std::memcpy(&bits, &value, 4); return bits; }
inline float from_bits(uint32_t bits) { float value; std::memcpy(&value, &bits, 4); return value; }
inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16, exponent = (half >> 10) & 31, fraction = half & 0x3ff;
    if (exponent == 31) return from_bits(sign | 0x7f800000 | fraction << 13);
    if (exponent == 0) {  // zero and subnormals: fraction * 2^-24, exact in float
        const float value = float(fraction) * 5.9604644775390625e-8f;
        return sign ? -value : value;
    }
    return from_bits(sign | (exponent + 112) << 23 | fraction << 13);
}

inline uint16_t float_to_half(float value) {
    const uint32_t bits = bits_of(value), sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffff;
    if (magnitude > 0x7f800000) return uint16_t(sign | 0x7e00);   // not a number
    if (magnitude >= 0x477ff000) return uint16_t(sign | 0x7c00);  // rounds to infinity
    if (magnitude < 0x38800000) {                                 // subnormal: round(value * 2^24)
        const float scaled = from_bits(magnitude) * 16777216.0f;
        return uint16_t(sign | uint32_t(std::nearbyint(scaled)));
    }
    const uint32_t rounded = magnitude + 0xfff + (magnitude >> 13 & 1);
    return uint16_t(sign | (rounded - 0x38000000) >> 13);
}
inline float bf16_to_float(uint16_t value) { return from_bits(uint32_t(value) << 16); }
inline uint16_t float_to_bf16(float value) {
    const uint32_t bits = bits_of(value);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

extern const int8_t IQ4_TABLE[16];

// GGUF's type numbers, of the kinds that are repacked.
enum class Ggml : int32_t {
    F32 = 0, F16 = 1, Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q4_K = 12, Q5_K = 13, Q6_K = 14, IQ4_NL = 20,
    BF16 = 30,
};

// Returns the packed kind of a GGUF type, or -1 when it is not repacked; and the bytes of one row of it.
int kind_of_ggml(int type);
size_t ggml_row_bytes(int type, int64_t cols);

// Packs panels [first, last). `order[i]`, when given, is the source row that becomes row i.
void pack_ggml(int type, const uint8_t* blocks, const int32_t* order, int64_t rows, int64_t cols, int64_t first,
               int64_t last, uint8_t* out);

// Packs float32 rows into any of F32, F16, BF16, and, choosing scales itself, B8S and B4M.
void pack_float(Kind kind, const float* values, int64_t rows, int64_t cols, int64_t first, int64_t last, uint8_t* out);

// Writes one row's values as float32, exactly what the kernels compute with.
void unpack_row(const Matrix& matrix, int64_t row, float* out);

// How large the terms are that a row's values are put together from: of every group the length of its scaled integers
// and of its minima, added, and of these the length over all groups. The row is quantised.
double row_magnitude(const Matrix& matrix, int64_t row);

// Packs panels [first, last) of what approximates a quantised matrix in 4 bits, and how far it can be off in each row:
// see refine.cpp. The search for the best scales would take a minute for a large head and gain a twentieth.
void pack_coarse(const Matrix& exact, int64_t first, int64_t last, uint8_t* out);
void head_bounds(const Matrix& exact, const Matrix& approximate, int64_t first, int64_t last, float* bounds);

}  // namespace zx
