// Packing and unpacking. Plain code: it runs once per model, or for single rows (the embedding).
#include "formats.h"

#include <cmath>
#include <cstring>
#include <vector>

namespace zx {

const int8_t IQ4_TABLE[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

bool is_valid(int kind, int64_t rows, int64_t cols) {
    if (kind < 0 || kind >= KINDS || rows < 1 || cols < 1 || rows > MAX_DIM || cols > MAX_DIM) return false;
    return cols % layout_of(Kind(kind)).multiple == 0;
}

namespace {

// One row before it is interleaved: values as stored (unsigned), scales as the header holds them.
struct Row {
    std::vector<uint8_t> values;    // [cols]
    std::vector<uint16_t> scale;    // half: per group, or per super-block
    std::vector<uint16_t> minimum;  // half: likewise
    std::vector<uint8_t> fine;      // 8-bit: [group][2]

    explicit Row(int64_t cols)
        : values(size_t(cols)), scale(size_t(cols / GROUP)), minimum(size_t(cols / GROUP)), fine(size_t(cols / GROUP * 2)) {}
};

uint16_t read_half(const uint8_t* at) { uint16_t value; std::memcpy(&value, at, 2); return value; }

// The 32 values of the simple kinds: low nibbles are the first half, high nibbles the second.
void split_nibbles(const uint8_t* packed, const uint8_t* high_bits, uint8_t* values) {
    uint32_t high = 0;
    if (high_bits) std::memcpy(&high, high_bits, 4);
    for (int j = 0; j < 16; ++j) {
        values[j] = uint8_t((packed[j] & 15) | (high >> j & 1) << 4);
        values[j + 16] = uint8_t(packed[j] >> 4 | (high >> (j + 16) & 1) << 4);
    }
}

// The eight 6-bit scales and minima of a Q4_K or Q5_K super-block, in its 12 bytes.
void read_six_bit(const uint8_t* packed, int index, uint8_t* scale, uint8_t* minimum) {
    if (index < 4) {
        *scale = packed[index] & 63;
        *minimum = packed[index + 4] & 63;
    } else {
        *scale = uint8_t((packed[index + 4] & 15) | (packed[index - 4] >> 6) << 4);
        *minimum = uint8_t(packed[index + 4] >> 4 | (packed[index] >> 6) << 4);
    }
}

void read_k_block(const uint8_t* block, bool five_bits, int64_t super, Row& row) {
    row.scale[size_t(super)] = read_half(block);
    row.minimum[size_t(super)] = read_half(block + 2);
    const uint8_t *scales = block + 4, *high = block + 16, *low = block + (five_bits ? 48 : 16);
    uint8_t* values = &row.values[size_t(super * SUPER)];
    for (int group = 0; group < 8; ++group) {
        uint8_t* fine = &row.fine[size_t(super * 16 + group * 2)];
        read_six_bit(scales, group, fine, fine + 1);
        for (int i = 0; i < 32; ++i) {
            const uint8_t both = low[group / 2 * 32 + i];
            int value = group % 2 ? both >> 4 : both & 15;
            if (five_bits) value |= (high[i] >> group & 1) << 4;
            values[group * 32 + i] = uint8_t(value);
        }
    }
}

void read_q6_block(const uint8_t* block, int64_t super, Row& row) {
    row.scale[size_t(super)] = read_half(block + 208);
    std::memcpy(&row.fine[size_t(super * 16)], block + 192, 16);
    uint8_t* values = &row.values[size_t(super * SUPER)];
    for (int half = 0; half < 2; ++half) {
        const uint8_t *low = block + half * 64, *high = block + 128 + half * 32;
        for (int i = 0; i < 32; ++i) {
            values[half * 128 + i] = uint8_t((low[i] & 15) | (high[i] & 3) << 4);
            values[half * 128 + i + 32] = uint8_t((low[i + 32] & 15) | (high[i] >> 2 & 3) << 4);
            values[half * 128 + i + 64] = uint8_t(low[i] >> 4 | (high[i] >> 4 & 3) << 4);
            values[half * 128 + i + 96] = uint8_t(low[i + 32] >> 4 | (high[i] >> 6 & 3) << 4);
        }
    }
}

void read_row(Ggml type, const uint8_t* source, int64_t cols, Row& row) {
    const size_t block = ggml_row_bytes(int(type), SUPER) / (type == Ggml::Q4_K || type == Ggml::Q5_K || type == Ggml::Q6_K ? 1 : 8);
    if (type == Ggml::Q4_K || type == Ggml::Q5_K || type == Ggml::Q6_K) {
        for (int64_t super = 0; super < cols / SUPER; ++super, source += block) {
            if (type == Ggml::Q6_K) read_q6_block(source, super, row);
            else read_k_block(source, type == Ggml::Q5_K, super, row);
        }
        return;
    }
    for (int64_t group = 0; group < cols / GROUP; ++group, source += block) {
        uint8_t* values = &row.values[size_t(group * GROUP)];
        row.scale[size_t(group)] = read_half(source);
        row.minimum[size_t(group)] = read_half(source + 2);  // where the kind has none, it is not written out
        switch (type) {
            case Ggml::Q4_0: case Ggml::IQ4_NL: split_nibbles(source + 2, nullptr, values); break;
            case Ggml::Q4_1: split_nibbles(source + 4, nullptr, values); break;
            case Ggml::Q5_0: split_nibbles(source + 6, source + 2, values); break;
            case Ggml::Q5_1: split_nibbles(source + 8, source + 4, values); break;
            default:  // Q8_0: signed, stored with 128 added
                for (int i = 0; i < GROUP; ++i) values[i] = uint8_t(source[2 + i] ^ 128);
        }
    }
}

void put_half(uint8_t* at, int row, uint16_t value) { std::memcpy(at + row * 2, &value, 2); }

void put_header(const Layout& layout, const Row& row, int64_t cols, int at, uint8_t* header) {
    const int64_t groups = cols / GROUP, supers = cols / SUPER;
    switch (layout.scales) {
        case Scales::None: break;
        case Scales::Simple:
            for (int64_t g = 0; g < groups; ++g) put_half(header + g * 32, at, row.scale[size_t(g)]);
            break;
        case Scales::WithMin:
            for (int64_t g = 0; g < groups; ++g) {
                put_half(header + g * 64, at, row.scale[size_t(g)]);
                put_half(header + g * 64 + 32, at, row.minimum[size_t(g)]);
            }
            break;
        case Scales::Super:
        case Scales::SuperHalf: {
            const int64_t wide = layout.scales == Scales::Super ? 64 : 32;
            for (int64_t s = 0; s < supers; ++s) {
                put_half(header + s * wide, at, row.scale[size_t(s)]);
                if (wide == 64) put_half(header + s * wide + 32, at, row.minimum[size_t(s)]);
            }
            for (int64_t g = 0; g < groups * 2; ++g) header[supers * wide + g * 16 + at] = row.fine[size_t(g)];
        }
    }
}

// Bit planes of a group: nibbles of quads 0-3 low and 4-7 high, then the fifth bits (bit j: quad j) or the sixth and
// fifth together (two planes of four quads each).
void put_body(int bits, const uint8_t* values, int at, uint8_t* body) {
    for (int i = 0; i < 4; ++i) {
        const int place = at * 4 + i;
        if (bits == 8) {
            for (int quad = 0; quad < 8; ++quad) body[quad * 64 + place] = values[quad * 4 + i];
            continue;
        }
        for (int quad = 0; quad < 4; ++quad)
            body[quad * 64 + place] = uint8_t((values[quad * 4 + i] & 15) | (values[(quad + 4) * 4 + i] & 15) << 4);
        if (bits == 5) {
            int plane = 0;
            for (int quad = 0; quad < 8; ++quad) plane |= (values[quad * 4 + i] >> 4 & 1) << quad;
            body[256 + place] = uint8_t(plane);
        } else if (bits == 6) {
            for (int upper = 0; upper < 2; ++upper) {
                int plane = 0;
                for (int quad = 0; quad < 4; ++quad) plane |= (values[(upper * 4 + quad) * 4 + i] >> 4 & 3) << quad * 2;
                body[256 + upper * 64 + place] = uint8_t(plane);
            }
        }
    }
}

int get_body(int bits, const uint8_t* body, int at, int column) {
    const int quad = column / 4, place = at * 4 + column % 4;
    if (bits == 8) return body[quad * 64 + place];
    const uint8_t both = body[quad % 4 * 64 + place];
    int value = quad < 4 ? both & 15 : both >> 4;
    if (bits == 5) value |= (body[256 + place] >> quad & 1) << 4;
    if (bits == 6) value |= (body[256 + quad / 4 * 64 + place] >> quad % 4 * 2 & 3) << 4;
    return value;
}

void put_row(Kind kind, const Row& row, int64_t cols, int at, uint8_t* panel) {
    const Layout layout = layout_of(kind);
    put_header(layout, row, cols, at, panel);
    uint8_t* body = panel + header_bytes(layout.scales, size_t(cols));
    for (int64_t group = 0; group < cols / GROUP; ++group)
        put_body(layout.bits, &row.values[size_t(group * GROUP)], at, body + size_t(group) * body_bytes(layout.bits));
}

// Symmetric 8 bits: the largest magnitude becomes 127.
void quantise8(const float* values, int64_t cols, Row& row) {
    for (int64_t group = 0; group < cols / GROUP; ++group) {
        const float* from = values + group * GROUP;
        float largest = 0;
        for (int i = 0; i < GROUP; ++i) largest = std::fmax(largest, std::fabs(from[i]));
        row.scale[size_t(group)] = float_to_half(largest / 127.0f);
        const float scale = half_to_float(row.scale[size_t(group)]), inverse = scale > 0 ? 1.0f / scale : 0.0f;
        for (int i = 0; i < GROUP; ++i) {
            const float rounded = std::nearbyint(from[i] * inverse);
            row.values[size_t(group * GROUP + i)] = uint8_t(int(std::fmax(-127.0f, std::fmin(127.0f, rounded))) + 128);
        }
    }
}

// Four bits with scale and minimum. Several scales around the range's own are tried; for each, scale and minimum are
// fitted to the rounded values by least squares, and the smallest error weighted towards large values wins.
void quantise4(const float* values, int64_t cols, Row& row) {
    for (int64_t group = 0; group < cols / GROUP; ++group) {
        const float* from = values + group * GROUP;
        float low = from[0], high = from[0], square = 0;
        for (int i = 0; i < GROUP; ++i) {
            low = std::fmin(low, from[i]);
            high = std::fmax(high, from[i]);
            square += from[i] * from[i];
        }
        const float typical = std::sqrt(square / GROUP);
        float best = INFINITY, scale = 0, minimum = low;
        for (int trial = -6; trial <= 12 && high > low; ++trial) {
            const float step = (high - low) / (15.0f + 0.15f * float(trial));
            float sum_w = 0, sum_q = 0, sum_qq = 0, sum_x = 0, sum_qx = 0;
            for (int i = 0; i < GROUP; ++i) {
                const float weight = typical + std::fabs(from[i]);
                const float q = std::fmax(0.0f, std::fmin(15.0f, std::nearbyint((from[i] - low) / step)));
                sum_w += weight; sum_q += weight * q; sum_qq += weight * q * q;
                sum_x += weight * from[i]; sum_qx += weight * q * from[i];
            }
            const float determinant = sum_w * sum_qq - sum_q * sum_q;
            if (determinant <= 0) continue;
            const float fit = half_to_float(float_to_half((sum_w * sum_qx - sum_q * sum_x) / determinant));
            const float base = half_to_float(float_to_half((sum_qq * sum_x - sum_q * sum_qx) / determinant));
            if (!(fit > 0)) continue;
            float error = 0;
            for (int i = 0; i < GROUP; ++i) {
                const float q = std::fmax(0.0f, std::fmin(15.0f, std::nearbyint((from[i] - base) / fit)));
                const float off = fit * q + base - from[i];
                error += (typical + std::fabs(from[i])) * off * off;
            }
            if (error < best) { best = error; scale = fit; minimum = base; }
        }
        row.scale[size_t(group)] = float_to_half(scale);
        row.minimum[size_t(group)] = float_to_half(minimum);
        minimum = half_to_float(row.minimum[size_t(group)]);
        for (int i = 0; i < GROUP; ++i) {
            const float q = scale > 0 ? std::nearbyint((from[i] - minimum) / scale) : 0.0f;
            row.values[size_t(group * GROUP + i)] = uint8_t(std::fmax(0.0f, std::fmin(15.0f, q)));
        }
    }
}

// The same without a search: the range's own scale and minimum.
void quantise4_at_once(const float* values, int64_t cols, Row& row) {
    for (int64_t group = 0; group < cols / GROUP; ++group) {
        const float* from = values + group * GROUP;
        float low = from[0], high = from[0];
        for (int i = 0; i < GROUP; ++i) {
            low = from[i] < low ? from[i] : low;
            high = from[i] > high ? from[i] : high;
        }
        row.scale[size_t(group)] = float_to_half((high - low) / 15.0f);
        row.minimum[size_t(group)] = float_to_half(low);
        const float scale = half_to_float(row.scale[size_t(group)]), minimum = half_to_float(row.minimum[size_t(group)]);
        const float inverse = scale > 0 ? 1.0f / scale : 0.0f;
        for (int i = 0; i < GROUP; ++i) {
            const float q = (from[i] - minimum) * inverse + 0.5f;
            row.values[size_t(group * GROUP + i)] = uint8_t(int(q > 15.0f ? 15.0f : q > 0.0f ? q : 0.0f));
        }
    }
}

void put_float_row(Kind kind, const float* values, int64_t cols, int at, uint8_t* panel) {
    for (int64_t k = 0; k < cols; ++k) {
        if (kind == Kind::F32) std::memcpy(panel + (k * ROWS + at) * 4, values + k, 4);
        else put_half(panel + k * ROWS * 2, at, kind == Kind::F16 ? float_to_half(values[k]) : float_to_bf16(values[k]));
    }
}

// Calls take(column, scale times integer, minimum) for every value of a row of a quantised matrix.
template <typename Take> void each_value(const Matrix& matrix, int64_t index, Take take) {
    const uint8_t* panel = matrix.panel(index / ROWS);
    const int at = int(index % ROWS);
    const Layout layout = layout_of(matrix.kind);
    const int64_t supers = matrix.cols / SUPER;
    const uint8_t* body = panel + header_bytes(layout.scales, size_t(matrix.cols));
    const auto half_at = [&](int64_t offset) { return half_to_float(read_half(panel + offset + at * 2)); };
    for (int64_t group = 0; group < matrix.cols / GROUP; ++group, body += body_bytes(layout.bits)) {
        float scale[2] = {0, 0}, minimum = 0;
        switch (layout.scales) {
            case Scales::Simple: scale[0] = scale[1] = half_at(group * 32); break;
            case Scales::WithMin: scale[0] = scale[1] = half_at(group * 64); minimum = half_at(group * 64 + 32); break;
            case Scales::Super: {
                const uint8_t* fine = panel + supers * 64 + group * 32 + at;
                scale[0] = scale[1] = half_at(group / 8 * 64) * float(fine[0]);
                minimum = -half_at(group / 8 * 64 + 32) * float(fine[16]);
                break;
            }
            default: {
                const uint8_t* fine = panel + supers * 32 + group * 32 + at;
                for (int half = 0; half < 2; ++half) scale[half] = half_at(group / 8 * 32) * float(int8_t(fine[half * 16]));
            }
        }
        for (int k = 0; k < GROUP; ++k) {
            const int value = get_body(layout.bits, body, at, k);
            take(group * GROUP + k, scale[k / 16] * float(matrix.kind == Kind::B4L ? IQ4_TABLE[value] : value - layout.offset), minimum);
        }
    }
}

}  // namespace

int kind_of_ggml(int type) {
    switch (Ggml(type)) {
        case Ggml::F32: return int(Kind::F32);
        case Ggml::F16: return int(Kind::F16);
        case Ggml::BF16: return int(Kind::BF16);
        case Ggml::Q4_0: return int(Kind::B4S);
        case Ggml::Q4_1: return int(Kind::B4M);
        case Ggml::Q5_0: return int(Kind::B5S);
        case Ggml::Q5_1: return int(Kind::B5M);
        case Ggml::Q8_0: return int(Kind::B8S);
        case Ggml::Q4_K: return int(Kind::B4K);
        case Ggml::Q5_K: return int(Kind::B5K);
        case Ggml::Q6_K: return int(Kind::B6K);
        case Ggml::IQ4_NL: return int(Kind::B4L);
    }
    return -1;
}

size_t ggml_row_bytes(int type, int64_t cols) {
    const size_t n = size_t(cols);
    switch (Ggml(type)) {
        case Ggml::F32: return n * 4;
        case Ggml::F16: case Ggml::BF16: return n * 2;
        case Ggml::Q4_0: case Ggml::IQ4_NL: return n / GROUP * 18;
        case Ggml::Q4_1: return n / GROUP * 20;
        case Ggml::Q5_0: return n / GROUP * 22;
        case Ggml::Q5_1: return n / GROUP * 24;
        case Ggml::Q8_0: return n / GROUP * 34;
        case Ggml::Q4_K: return n / SUPER * 144;
        case Ggml::Q5_K: return n / SUPER * 176;
        case Ggml::Q6_K: return n / SUPER * 210;
    }
    return 0;
}

void pack_ggml(int type, const uint8_t* blocks, const int32_t* order, int64_t rows, int64_t cols, int64_t first,
               int64_t last, uint8_t* out) {
    const Kind kind = Kind(kind_of_ggml(type));
    const size_t stride = panel_bytes(kind, size_t(cols)), row_bytes = ggml_row_bytes(type, cols);
    Row row(is_quantised(kind) ? cols : 0);
    for (int64_t panel = first; panel < last; ++panel) {
        uint8_t* to = out + size_t(panel) * stride;
        std::memset(to, 0, stride);  // rows past the end have scale zero
        for (int at = 0; at < ROWS && panel * ROWS + at < rows; ++at) {
            const int64_t index = panel * ROWS + at;
            const uint8_t* source = blocks + size_t(order ? order[index] : index) * row_bytes;
            if (is_quantised(kind)) {
                read_row(Ggml(type), source, cols, row);
                put_row(kind, row, cols, at, to);
                continue;
            }
            const size_t size = kind == Kind::F32 ? 4 : 2;
            for (size_t k = 0; k < size_t(cols); ++k)
                std::memcpy(to + (k * ROWS + size_t(at)) * size, source + k * size, size);
        }
    }
}

void pack_float(Kind kind, const float* values, int64_t rows, int64_t cols, int64_t first, int64_t last, uint8_t* out) {
    const size_t stride = panel_bytes(kind, size_t(cols));
    Row row(is_quantised(kind) ? cols : 0);
    for (int64_t panel = first; panel < last; ++panel) {
        uint8_t* to = out + size_t(panel) * stride;
        std::memset(to, 0, stride);
        for (int at = 0; at < ROWS && panel * ROWS + at < rows; ++at) {
            const float* from = values + (panel * ROWS + at) * cols;
            if (!is_quantised(kind)) {
                put_float_row(kind, from, cols, at, to);
                continue;
            }
            if (kind == Kind::B8S) quantise8(from, cols, row);
            else quantise4(from, cols, row);
            put_row(kind, row, cols, at, to);
        }
    }
}

void pack_coarse(const Matrix& exact, int64_t first, int64_t last, uint8_t* out) {
    const size_t stride = panel_bytes(Kind::B4M, size_t(exact.cols));
    Row row(exact.cols);
    std::vector<float> values(size_t(exact.cols));
    for (int64_t panel = first; panel < last; ++panel) {
        uint8_t* to = out + size_t(panel) * stride;
        std::memset(to, 0, stride);
        for (int at = 0; at < ROWS && panel * ROWS + at < exact.rows; ++at) {
            unpack_row(exact, panel * ROWS + at, values.data());
            quantise4_at_once(values.data(), exact.cols, row);
            put_row(Kind::B4M, row, exact.cols, at, to);
        }
    }
}

void unpack_row(const Matrix& matrix, int64_t index, float* out) {
    const uint8_t* panel = matrix.panel(index / ROWS);
    const int at = int(index % ROWS);
    const Layout layout = layout_of(matrix.kind);
    if (layout.scales == Scales::None) {
        for (int64_t k = 0; k < matrix.cols; ++k) {
            const size_t place = size_t(k) * ROWS + size_t(at);
            if (matrix.kind == Kind::F32) std::memcpy(out + k, panel + place * 4, 4);
            else out[k] = matrix.kind == Kind::F16 ? half_to_float(read_half(panel + place * 2)) : bf16_to_float(read_half(panel + place * 2));
        }
        return;
    }
    each_value(matrix, index, [&](int64_t k, float scaled, float minimum) { out[k] = scaled + minimum; });
}

double row_magnitude(const Matrix& matrix, int64_t index) {
    double total = 0.0, squares = 0.0;
    each_value(matrix, index, [&](int64_t k, float scaled, float minimum) {
        squares += double(scaled) * scaled;
        if (k % GROUP != GROUP - 1) return;
        const double together = std::sqrt(squares) + std::fabs(minimum) * std::sqrt(double(GROUP));
        total += together * together;
        squares = 0.0;
    });
    return std::sqrt(total);
}

}  // namespace zx
