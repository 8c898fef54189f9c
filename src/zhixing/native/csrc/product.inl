// Matrix products: panels of 16 weight rows against up to TILE rows of activations at once.
// One panel is read once for a tile of tokens; the tile for decoding is one token, and then memory is the limit.

constexpr int PARTS = ROWS / LANES;
constexpr int64_t FEW = 2;       // tokens whose rows are asked for at once
constexpr size_t AHEAD = 2560;  // bytes between the group in work and the one asked for: covers the latency of memory

template <int M> ZX_INLINE void finish(const Product& p, int64_t panel, int64_t token, Vec (*sum)[PARTS]) {
    const int64_t row = panel * ROWS, left = p.weight->rows - row;
    for (int m = 0; m < M; ++m) {
        float* y = p.y + (token + m) * p.y_stride + row;
        if (left >= ROWS) {
            for (int part = 0; part < PARTS; ++part) {
                Vec value = sum[m][part];
                if (p.bias) value = vadd(value, vload(p.bias + row + part * LANES));
                if (p.add) value = vadd(value, vload(y + part * LANES));
                vstore(y + part * LANES, value);
            }
            continue;
        }
        float values[ROWS];
        for (int part = 0; part < PARTS; ++part) vstore(values + part * LANES, sum[m][part]);
        for (int64_t i = 0; i < left; ++i) y[i] = values[i] + (p.bias ? p.bias[row + i] : 0.0f) + (p.add ? y[i] : 0.0f);
    }
}

// The scale (two for 6 bits) and the minimum of one group, for one part of the rows.
struct GroupScales { Vec scale[2], minimum; };

template <Kind K> ZX_INLINE GroupScales scales_at(const uint8_t* panel, int64_t group, int64_t supers, int part) {
    constexpr Scales S = layout_of(K).scales;
    GroupScales out;
    if constexpr (S == Scales::Simple) {
        out.scale[0] = vload_half(reinterpret_cast<const uint16_t*>(panel + group * 32) + part * LANES);
    } else if constexpr (S == Scales::WithMin) {
        const uint16_t* at = reinterpret_cast<const uint16_t*>(panel + group * 64) + part * LANES;
        out.scale[0] = vload_half(at);
        out.minimum = vload_half(at + ROWS);
    } else if constexpr (S == Scales::Super) {
        const uint16_t* at = reinterpret_cast<const uint16_t*>(panel + group / 8 * 64) + part * LANES;
        const uint8_t* fine = panel + supers * 64 + group * 32 + part * LANES;
        out.scale[0] = vmul(vload_half(at), vload_u8(fine));
        out.minimum = vsub(vset(0.0f), vmul(vload_half(at + ROWS), vload_u8(fine + ROWS)));
    } else if constexpr (S == Scales::SuperHalf) {
        const Vec super = vload_half(reinterpret_cast<const uint16_t*>(panel + group / 8 * 32) + part * LANES);
        const int8_t* fine = reinterpret_cast<const int8_t*>(panel + supers * 32 + group * 32) + part * LANES;
        out.scale[0] = vmul(super, vload_i8(fine));
        out.scale[1] = vmul(super, vload_i8(fine + ROWS));
    }
    return out;
}

// One group of one row of activations: the scaled products of its q with the weights.
template <Kind K> ZX_INLINE Vec add_group(Vec sum, const Quads& w, const GroupScales& scales, const int8_t* q, float scale, int32_t total, const int32_t* halves) {
    const Vec factor = vset(scale);
    if constexpr (layout_of(K).scales == Scales::SuperHalf) {
        sum = vfma(vmul(scales.scale[0], factor), dot<K, 0, 4>(w, q, halves[0]), sum);
        return vfma(vmul(scales.scale[1], factor), dot<K, 4, 8>(w, q, halves[1]), sum);
    } else {
        return vfma(vmul(scales.scale[0], factor), dot<K, 0, 8>(w, q, total), sum);
    }
}

template <typename T> ZX_INLINE const T* behind(const T* at, size_t bytes) {
    return reinterpret_cast<const T*>(reinterpret_cast<const char*>(at) + bytes);
}

template <Kind K, int M> static void quant_tile(const Product& p, int64_t panel_index, int64_t token) {
    constexpr Layout layout = layout_of(K);
    constexpr bool has_min = layout.scales == Scales::WithMin || layout.scales == Scales::Super;
    const size_t cols = size_t(p.weight->cols), stride = size_t(p.quant_stride);
    const int64_t groups = int64_t(cols / GROUP), supers = int64_t(cols / SUPER);
    const uint8_t* panel = p.weight->panel(panel_index);
    const uint8_t* body = panel + header_bytes(layout.scales, cols);
    const QuantRow x = quant_row(p.quant + size_t(token) * stride, cols);
    Vec sum[M][PARTS];
    for (int m = 0; m < M; ++m)
        for (int part = 0; part < PARTS; ++part) sum[m][part] = vset(0.0f);
    // Panels lie one behind the other: what is asked for moves on evenly over headers and bodies.
    const uint8_t *ahead = panel + AHEAD, *const stop = ahead + p.weight->stride();
    const size_t lines = (p.weight->stride() / 64 + size_t(groups) - 1) / size_t(groups);
    for (int64_t group = 0; group < groups; ++group, body += body_bytes(layout.bits)) {
        for (size_t line = 0; line < lines && ahead < stop; ++line, ahead += 64) prefetch(ahead);
        for (int part = 0; part < PARTS; ++part) {
            Quads w;
            load_quads<K>(body, part, w);
            const GroupScales scales = scales_at<K>(panel, group, supers, part);
            ZX_UNROLL
            for (int m = 0; m < M; ++m) {
                const size_t away = size_t(m) * stride;  // every array of a row is this far from that of the first row
                if constexpr (M >= 4) prefetch(behind(x.q, away) + group * GROUP + 2 * 64);  // many streams: too many to be foreseen
                Vec& to = sum[m][part];
                to = add_group<K>(to, w, scales, behind(x.q, away) + group * GROUP, behind(x.scale, away)[group],
                                  behind(x.sum, away)[group], behind(x.half_sum, away) + group * 2);
                const float fine = behind(x.fine_scale, away)[group];
                if (fine != 0.0f)
                    to = add_group<K>(to, w, scales, behind(x.fine, away) + group * GROUP, fine,
                                      behind(x.fine_sum, away)[group], behind(x.fine_half_sum, away) + group * 2);
                if constexpr (has_min) to = vfma(scales.minimum, vset(behind(x.scaled_sum, away)[group]), to);
            }
        }
    }
    finish<M>(p, panel_index, token, sum);
}

template <Kind K> ZX_INLINE Vec load_weights(const uint8_t* at) {
    if constexpr (K == Kind::F32) return vload(reinterpret_cast<const float*>(at));
    else if constexpr (K == Kind::F16) return vload_half(reinterpret_cast<const uint16_t*>(at));
    else return vload_bf16(reinterpret_cast<const uint16_t*>(at));
}

template <Kind K, int M> static void float_tile(const Product& p, int64_t panel_index, int64_t token) {
    constexpr int size = layout_of(K).bits / 8;
    const int64_t cols = p.weight->cols;
    const uint8_t* w = p.weight->panel(panel_index);
    const float* x[M];
    for (int m = 0; m < M; ++m) x[m] = p.x + (token + m) * p.x_stride;
    Vec sum[M][PARTS];
    for (int m = 0; m < M; ++m)
        for (int part = 0; part < PARTS; ++part) sum[m][part] = vset(0.0f);
    // Columns in order, whatever M is: a row's result must not depend on how many rows there are.
    for (int64_t k = 0; k < cols; ++k, w += ROWS * size) {
        prefetch(w + AHEAD);
        for (int part = 0; part < PARTS; ++part) {
            const Vec weights = load_weights<K>(w + part * LANES * size);
            for (int m = 0; m < M; ++m) sum[m][part] = vfma(weights, vset(x[m][k]), sum[m][part]);
        }
    }
    finish<M>(p, panel_index, token, sum);
}

template <Kind K, int M> ZX_INLINE void one_tile(const Product& p, int64_t panel, int64_t token) {
    if constexpr (layout_of(K).scales == Scales::None) float_tile<K, M>(p, panel, token);
    else quant_tile<K, M>(p, panel, token);
}

// Another thread has just written the activations, and read the last results: asks for what is in its cache.
ZX_INLINE void ask_for_rows(const Product& p, int64_t first_panel, int64_t last_panel, int64_t first, int64_t last) {
    const char* row = reinterpret_cast<const char*>(p.quant ? p.quant + first * p.quant_stride : nullptr);
    const int64_t bytes = p.quant ? (last - first) * p.quant_stride : 0;
    for (int64_t at = 0; at < bytes; at += 64) prefetch(row + at);
    for (int64_t token = first; token < last; ++token)
        for (int64_t panel = first_panel; panel < last_panel; ++panel) prefetch(p.y + token * p.y_stride + panel * ROWS);
}

template <Kind K> static void product_of(const Product& p, int64_t first_panel, int64_t last_panel, int64_t first, int64_t last) {
    if (last - first <= FEW && last_panel - first_panel <= 256) ask_for_rows(p, first_panel, last_panel, first, last);
    for (int64_t panel = first_panel; panel < last_panel; ++panel) {
        int64_t token = first;
        for (; token + TILE <= last; token += TILE) one_tile<K, TILE>(p, panel, token);
        if constexpr (TILE > 4) {
            if (token + 4 <= last) { one_tile<K, 4>(p, panel, token); token += 4; }
        }
        if (token + 2 <= last) { one_tile<K, 2>(p, panel, token); token += 2; }
        if (token < last) one_tile<K, 1>(p, panel, token);
    }
}

static void product(const Product& p, int64_t first_panel, int64_t last_panel, int64_t first_token, int64_t last_token) {
    switch (p.weight->kind) {
        case Kind::F32: return product_of<Kind::F32>(p, first_panel, last_panel, first_token, last_token);
        case Kind::F16: return product_of<Kind::F16>(p, first_panel, last_panel, first_token, last_token);
        case Kind::BF16: return product_of<Kind::BF16>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B4S: return product_of<Kind::B4S>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B4M: return product_of<Kind::B4M>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B5S: return product_of<Kind::B5S>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B5M: return product_of<Kind::B5M>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B8S: return product_of<Kind::B8S>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B4K: return product_of<Kind::B4K>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B5K: return product_of<Kind::B5K>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B6K: return product_of<Kind::B6K>(p, first_panel, last_panel, first_token, last_token);
        case Kind::B4L: return product_of<Kind::B4L>(p, first_panel, last_panel, first_token, last_token);
    }
}
