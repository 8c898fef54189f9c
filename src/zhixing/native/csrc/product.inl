// Matrix products: panels of 16 weight rows against up to TILE rows of activations at once.
// One panel is read once for a tile of tokens; the tile for decoding is one token, and then memory is the limit.

constexpr int PARTS = ROWS / LANES;
constexpr int64_t FEW = 2;       // tokens whose rows are asked for at once
// Bytes between the group in work and the one asked for: covers the latency of memory. They are asked into the second-level
// cache, because the first has too few places for what is under way.
constexpr size_t AHEAD = 8192;

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

constexpr bool has_minimum(Kind kind) { return layout_of(kind).scales == Scales::WithMin || layout_of(kind).scales == Scales::Super; }

// One group of M rows of activations, `stride` bytes apart: adds its scaled products with the weights of P panels, and
// (`MINIMUM`) the minimum times the sum of the activations.
template <Kind K, int M, int P, bool MINIMUM> ZX_INLINE void add_group(Vec (*sum)[M][PARTS], const Quads* w, const GroupScales (*scales)[PARTS], const uint8_t* x, size_t stride) {
    Vec products[P][PARTS][M];
    const auto add = [&](int which) {
        for (int panel = 0; panel < P; ++panel)
            for (int part = 0; part < PARTS; ++part) {
                ZX_UNROLL
                for (int m = 0; m < M; ++m) {
                    const QuantGroup& group = *reinterpret_cast<const QuantGroup*>(x + size_t(m) * stride);
                    const GroupScales& of = scales[panel][part];
                    Vec value = vfma(vmul(of.scale[which], vset(group.scale)), products[panel][part][m], sum[panel][m][part]);
                    if constexpr (MINIMUM) value = vfma(of.minimum, vset(group.scaled_sum), value);
                    sum[panel][m][part] = value;
                }
            }
    };
    if constexpr (layout_of(K).scales == Scales::SuperHalf) {
        dots<K, 0, 4, M, P>(w, x, stride, products);
        add(0);
        dots<K, 4, 8, M, P>(w, x, stride, products);
        add(1);
    } else {
        dots<K, 0, 8, M, P>(w, x, stride, products);
        add(0);
    }
}

template <Kind K, int M, int P> static void quant_tile(const Product& p, int64_t first_panel, int64_t token) {
    constexpr Layout layout = layout_of(K);
    const size_t cols = size_t(p.weight->cols), stride = size_t(p.quant_stride), panel_stride = p.weight->stride();
    const int64_t groups = int64_t(cols / GROUP), supers = int64_t(cols / SUPER);
    const uint8_t* const panels = p.weight->panel(first_panel);
    const uint8_t* const bodies = panels + header_bytes(layout.scales, cols);
    const uint8_t* const rows = p.quant + size_t(token) * stride;
    Vec sum[P][M][PARTS];
    for (int panel = 0; panel < P; ++panel)
        for (int m = 0; m < M; ++m)
            for (int part = 0; part < PARTS; ++part) sum[panel][m][part] = vset(0.0f);
    Quads w[P];
    GroupScales scales[P][PARTS];
    const auto load = [&](int64_t group) {
        for (int panel = 0; panel < P; ++panel) {
            load_quads<K>(bodies + size_t(panel) * panel_stride + size_t(group) * body_bytes(layout.bits), w[panel]);
            for (int part = 0; part < PARTS; ++part)
                scales[panel][part] = scales_at<K>(panels + size_t(panel) * panel_stride, group, supers, part);
        }
    };
    // Panels lie one behind the other: what is asked for moves on evenly over headers and bodies.
    const uint8_t *ahead = panels + AHEAD, *const stop = ahead + P * panel_stride;
    const size_t lines = (P * panel_stride / 64 + size_t(groups) - 1) / size_t(groups);
    for (int64_t group = 0; group < groups; ++group) {
        for (size_t line = 0; line < lines && ahead < stop; ++line, ahead += 64) prefetch_far(ahead);
        load(group);
        add_group<K, M, P, has_minimum(K)>(sum, w, scales, rows + size_t(group) * sizeof(QuantGroup), stride);
    }
    // Then the second terms, row by row: each has others.
    for (int m = 0; m < M; ++m) {
        const QuantRow x = quant_row(rows + size_t(m) * stride, cols);
        Vec own[P][1][PARTS];
        for (int panel = 0; panel < P; ++panel) std::memcpy(own[panel][0], sum[panel][m], sizeof own[panel][0]);
        for (int32_t i = 0; i < *x.fine_count; ++i) {
            load(x.fine_places[i]);
            add_group<K, 1, P, false>(own, w, scales, reinterpret_cast<const uint8_t*>(x.fine + i), 0);
        }
        for (int panel = 0; panel < P; ++panel) std::memcpy(sum[panel][m], own[panel][0], sizeof own[panel][0]);
    }
    for (int panel = 0; panel < P; ++panel) finish<M>(p, first_panel + panel, token, sum[panel]);
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
        prefetch_far(w + AHEAD);
        for (int part = 0; part < PARTS; ++part) {
            const Vec weights = load_weights<K>(w + part * LANES * size);
            for (int m = 0; m < M; ++m) sum[m][part] = vfma(weights, vset(x[m][k]), sum[m][part]);
        }
    }
    finish<M>(p, panel_index, token, sum);
}

template <Kind K, int M, int P> ZX_INLINE void one_tile(const Product& p, int64_t panel, int64_t token) {
    if constexpr (layout_of(K).scales != Scales::None) quant_tile<K, M, P>(p, panel, token);
    else float_tile<K, M>(p, panel, token);
}

// P panels, all tokens: tiles of MOST of them, then smaller ones.
template <Kind K, int MOST, int P> ZX_INLINE void panels_of(const Product& p, int64_t panel, int64_t first, int64_t last) {
    int64_t token = first;
    for (; token + MOST <= last; token += MOST) one_tile<K, MOST, P>(p, panel, token);
    if constexpr (MOST > 4) {
        if (token + 4 <= last) { one_tile<K, 4, P>(p, panel, token); token += 4; }
    }
    if (token + 2 <= last) { one_tile<K, 2, P>(p, panel, token); token += 2; }
    if (token < last) one_tile<K, 1, P>(p, panel, token);
}

// Another thread has just written the activations, and read the last results: asks for what is in its cache.
ZX_INLINE void ask_for_rows(const Product& p, int64_t first_panel, int64_t last_panel, int64_t first, int64_t last) {
    const char* row = reinterpret_cast<const char*>(p.quant ? p.quant + first * p.quant_stride : nullptr);
    const int64_t bytes = p.quant ? (last - first - 1) * p.quant_stride + int64_t(quant_fine_at(size_t(p.weight->cols))) : 0;
    for (int64_t at = 0; at < bytes; at += 64) prefetch(row + at);
    for (int64_t token = first; token < last; ++token)
        for (int64_t panel = first_panel; panel < last_panel; ++panel) prefetch(p.y + token * p.y_stride + panel * ROWS);
}

template <Kind K> static void product_of(const Product& p, int64_t first_panel, int64_t last_panel, int64_t first, int64_t last) {
    if (last - first <= FEW && last_panel - first_panel <= 256) ask_for_rows(p, first_panel, last_panel, first, last);
    int64_t panel = first_panel;
    // Many rows of 8 bits: what limits is how fast activations are loaded, so that two panels share each of them.
    if constexpr (PAIRS && K == Kind::B8S) {
        if (last - first >= 4)
            for (; panel + 2 <= last_panel; panel += 2) panels_of<K, 4, 2>(p, panel, first, last);
    }
    for (; panel < last_panel; ++panel) panels_of<K, TILE, 1>(p, panel, first, last);
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
