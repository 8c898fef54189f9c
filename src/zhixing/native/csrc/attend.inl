// Attention over a paged cache. Up to eight queries that share a key-value head go over the keys together, a stretch at
// a time, with a running maximum and total (Milakov & Gimelshein 2018; Dao et al. 2022).

constexpr int KEY_PARTS = PAGE / LANES;

// Stored numbers [at, at + LANES) of a block of keys or values; those of 8 bits without their scale.
template <Format F> ZX_INLINE Vec load_stored(const uint8_t* block, int64_t at) {
    if constexpr (F == Format::F16) return vload_half(reinterpret_cast<const uint16_t*>(block) + at);
    else if constexpr (F == Format::F32) return vload(reinterpret_cast<const float*>(block) + at);
    else return vload_i8(reinterpret_cast<const int8_t*>(block) + at);
}

template <Format F> ZX_INLINE float one_stored(const uint8_t* block, int64_t at) {
    if constexpr (F == Format::F16) return half_to_float(reinterpret_cast<const uint16_t*>(block)[at]);
    else if constexpr (F == Format::F32) return reinterpret_cast<const float*>(block)[at];
    else return float(reinterpret_cast<const int8_t*>(block)[at]);
}

// The scales of the tokens of a block of 8 bits, for their numbers [at, at + SCALED).
ZX_INLINE const float* scales_of(const uint8_t* block, int64_t head_dim, int64_t at) {
    return reinterpret_cast<const float*>(block + head_dim * PAGE) + at / SCALED * PAGE;
}

ZX_INLINE Vec clamp(Vec x, float most) { return vmin(vmax(x, vset(-most)), vset(most)); }

// Numbers [at, at + LANES) of a row, with zeros behind its end.
ZX_INLINE Vec load_row(const float* row, int64_t at, int64_t size) { return at + LANES <= size ? vload(row + at) : load_some(row + at, size - at); }

// Rounds SCALED numbers of a row of `size`, from `at` on, to 8 bits; returns their scale.
ZX_INLINE float round_part(const float* from, int64_t at, int64_t size, int8_t* to) {
    Vec values[SCALED / LANES], most = vset(0.0f);
    for (int i = 0; i < SCALED / LANES; ++i) {
        const int64_t d = at + i * LANES;
        values[i] = d < size ? clamp(load_row(from, d, size), 3.0e38f) : vset(0.0f);
        most = vmax(most, vabs(values[i]));
    }
    const float largest = vhighest(most), inverse = largest > 1.0e-30f ? 127.0f / largest : 0.0f;
    for (int i = 0; i < SCALED / LANES; ++i) vstore_i8(to + at + i * LANES, vround(vmul(values[i], vset(inverse))));
    return largest / 127.0f;
}

// What one token's key, or value, is stored as: head_dim numbers (room for SCALED more), and the scales of those of 8 bits.
template <Format F, typename T> ZX_INLINE void convert(const float* from, int64_t head_dim, T* to, float* scales) {
    if constexpr (F == Format::F16) {
        for (int64_t d = 0; d < head_dim; d += LANES) vstore_half(to + d, clamp(load_row(from, d, head_dim), 65504.0f));
    } else {
        for (int64_t d = 0; d < head_dim; d += SCALED) scales[d / SCALED] = round_part(from, d, head_dim, to);
    }
}

// Puts a token's key (one number into each row of the transposed page) and value into its slot.
template <typename T> ZX_INLINE void place(const T* key, const T* value, int64_t head_dim, int64_t slot, T* keys, T* values) {
    for (int64_t d = 0; d < head_dim; ++d) keys[d * PAGE + slot] = key[d];
    std::memcpy(values + slot * head_dim, value, size_t(head_dim) * sizeof(T));
}

template <Format F, typename T> ZX_INLINE void store_as(const float* key, const float* value, int64_t head_dim, int64_t slot, uint8_t* keys, uint8_t* values) {
    T key_row[MAX_HEAD_DIM + SCALED], value_row[MAX_HEAD_DIM + SCALED];
    float key_scales[MAX_HEAD_DIM / SCALED + 1], value_scales[MAX_HEAD_DIM / SCALED + 1];
    convert<F>(key, head_dim, key_row, key_scales);
    convert<F>(value, head_dim, value_row, value_scales);
    place(key_row, value_row, head_dim, slot, reinterpret_cast<T*>(keys), reinterpret_cast<T*>(values));
    if constexpr (F == Format::Q8)
        for (int64_t d = 0; d < head_dim; d += SCALED) {
            std::memcpy(keys + head_dim * PAGE + (d / SCALED * PAGE + slot) * 4, key_scales + d / SCALED, 4);
            std::memcpy(values + head_dim * PAGE + (d / SCALED * PAGE + slot) * 4, value_scales + d / SCALED, 4);
        }
}

static void store_page(Format format, const float* key, const float* value, int64_t head_dim, int64_t slot, uint8_t* keys, uint8_t* values) {
    switch (format) {
        case Format::F16: return store_as<Format::F16, uint16_t>(key, value, head_dim, slot, keys, values);
        case Format::Q8: return store_as<Format::Q8, int8_t>(key, value, head_dim, slot, keys, values);
        case Format::F32: return place(key, value, head_dim, slot, reinterpret_cast<float*>(keys), reinterpret_cast<float*>(values));
    }
}

// Adds the products of numbers [first, last) of M queries and of the 16 keys of a page to sums; a lane is a key.
template <Format F, int M>
ZX_INLINE void add_scores(const uint8_t* keys, const float* const* query, int first, int last, Vec (&sum)[M][KEY_PARTS]) {
    for (int d = first; d < last; ++d)
        for (int part = 0; part < KEY_PARTS; ++part) {
            const Vec key = load_stored<F>(keys, int64_t(d) * PAGE + part * LANES);
            for (int m = 0; m < M; ++m) sum[m][part] = vfma(key, vset(query[m][d]), sum[m][part]);
        }
}

// Scores of M queries against the 16 keys of a page.
template <Format F, int M> ZX_INLINE void score_page(const uint8_t* keys, const float* const* query, int head_dim, float* scores) {
    Vec sum[M][KEY_PARTS];
    for (int m = 0; m < M; ++m)
        for (int part = 0; part < KEY_PARTS; ++part) sum[m][part] = vset(0.0f);
    if constexpr (F != Format::Q8) {
        add_scores<F, M>(keys, query, 0, head_dim, sum);
        for (int m = 0; m < M; ++m)
            for (int part = 0; part < KEY_PARTS; ++part) vstore(scores + m * STRETCH + part * LANES, sum[m][part]);
    } else {
        // What was summed so far waits in `scores`: there are registers for one part's sums only.
        for (int d = 0; d < head_dim; d += SCALED) {
            if (d > 0)
                for (int m = 0; m < M; ++m)
                    for (int part = 0; part < KEY_PARTS; ++part) sum[m][part] = vset(0.0f);
            add_scores<F, M>(keys, query, d, d + SCALED < head_dim ? d + SCALED : head_dim, sum);
            for (int m = 0; m < M; ++m)
                for (int part = 0; part < KEY_PARTS; ++part) {
                    const Vec scale = vload(scales_of(keys, head_dim, d) + part * LANES);
                    float* score = scores + m * STRETCH + part * LANES;
                    vstore(score, d == 0 ? vmul(sum[m][part], scale) : vfma(sum[m][part], scale, vload(score)));
                }
        }
    }
}

template <Format F> ZX_INLINE void score_pages(const uint8_t* keys, const float* const* query, int count, int head_dim, float* scores) {
    int m = 0;
    if constexpr (LANES == 16)  // 32 registers: eight sums at once
        for (; m + 8 <= count; m += 8) score_page<F, 8>(keys, query + m, head_dim, scores + m * STRETCH);
    for (; m + 4 <= count; m += 4) score_page<F, 4>(keys, query + m, head_dim, scores + m * STRETCH);
    switch (count - m) {
        case 3: score_page<F, 3>(keys, query + m, head_dim, scores + m * STRETCH); break;
        case 2: score_page<F, 2>(keys, query + m, head_dim, scores + m * STRETCH); break;
        case 1: score_page<F, 1>(keys, query + m, head_dim, scores + m * STRETCH); break;
        default: break;
    }
}

// Adds weights times the values of tokens [first, last) of a page to M results, S vectors of the head at a time.
template <Format F, int M, int S> ZX_INLINE void mix_slab(const uint8_t* values, int head_dim, int first, int last, const float* weights, float* const* out, int d) {
    Vec sum[M][S];
    for (int m = 0; m < M; ++m)
        for (int s = 0; s < S; ++s) sum[m][s] = vload(out[m] + d + s * LANES);
    for (int token = first; token < last; ++token)
        for (int s = 0; s < S; ++s) {
            const Vec value = load_stored<F>(values, int64_t(token) * head_dim + d + s * LANES);
            for (int m = 0; m < M; ++m) sum[m][s] = vfma(value, vset(weights[m * STRETCH + token]), sum[m][s]);
        }
    for (int m = 0; m < M; ++m)
        for (int s = 0; s < S; ++s) vstore(out[m] + d + s * LANES, sum[m][s]);
}

// The same for numbers [d, last) of the head.
template <Format F, int M>
ZX_INLINE void mix_page(const uint8_t* values, int head_dim, int first, int end, const float* weights, float* const* out, int d, int last) {
    constexpr int S = M <= 2 ? 4 : M == 8 ? 2 : LANES == 16 ? 4 : 2;
    for (; d + S * LANES <= last; d += S * LANES) mix_slab<F, M, S>(values, head_dim, first, end, weights, out, d);
    if constexpr (S == 4)
        for (; d + 2 * LANES <= last; d += 2 * LANES) mix_slab<F, M, 2>(values, head_dim, first, end, weights, out, d);
    for (; d + LANES <= last; d += LANES) mix_slab<F, M, 1>(values, head_dim, first, end, weights, out, d);
    for (; d < last; ++d)
        for (int m = 0; m < M; ++m)
            for (int token = first; token < end; ++token) out[m][d] += weights[m * STRETCH + token] * one_stored<F>(values, int64_t(token) * head_dim + d);
}

// The same for all numbers; those of 8 bits part by part, with weights that their scales are in.
template <Format F, int M> ZX_INLINE void mix_all(const uint8_t* values, int head_dim, int first, int last, const float* weights, float* const* out) {
    if constexpr (F != Format::Q8) return mix_page<F, M>(values, head_dim, first, last, weights, out, 0, head_dim);
    else {
        float scaled[M * STRETCH];  // only the first PAGE numbers of each row are used
        for (int d = 0; d < head_dim; d += SCALED) {
            for (int m = 0; m < M; ++m)
                for (int i = 0; i < PAGE; i += LANES)
                    vstore(scaled + m * STRETCH + i, vmul(vload(weights + m * STRETCH + i), vload(scales_of(values, head_dim, d) + i)));
            mix_page<F, M>(values, head_dim, first, last, scaled, out, d, d + SCALED < head_dim ? d + SCALED : head_dim);
        }
    }
}

template <Format F> ZX_INLINE void mix_pages(const uint8_t* values, int count, int head_dim, int first, int last, const float* weights, float* const* out) {
    int m = 0;
    if constexpr (LANES == 16)
        for (; m + 8 <= count; m += 8) mix_all<F, 8>(values, head_dim, first, last, weights + m * STRETCH, out + m);
    for (; m + 4 <= count; m += 4) mix_all<F, 4>(values, head_dim, first, last, weights + m * STRETCH, out + m);
    switch (count - m) {
        case 3: mix_all<F, 3>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        case 2: mix_all<F, 2>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        case 1: mix_all<F, 1>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        default: break;
    }
}

// Turns the scores of keys [base, base + length) into weights relative to the highest; false when none is in reach.
ZX_INLINE bool weigh(const Attend& a, int m, int32_t base, int length, float* scores, float* most, float* total) {
    const Vec nothing = vset(-3.0e38f);
    Vec top = nothing;
    for (int i = 0; i < length; i += LANES) {
        Vec score = vmul(vload(scores + i), vset(a.scale));
        if (a.bias[m]) score = vadd(score, vload(a.bias[m] + base + i));
        if (a.soft_cap > 0) score = vmul(vtanh(vdiv(score, vset(a.soft_cap))), vset(a.soft_cap));
        score = vwithin(score, nothing, a.begin[m] - base - i, a.end[m] - base - i);
        top = vmax(top, score);
        vstore(scores + i, score);
    }
    *most = vhighest(top);
    const bool any = a.begin[m] < base + length && a.end[m] > base;
    Vec sum = vset(0.0f);
    for (int i = 0; i < length; i += LANES) {
        Vec weight = vexp(vsub(vload(scores + i), vset(*most)));
        weight = vwithin(weight, vset(0.0f), a.begin[m] - base - i, a.end[m] - base - i);
        sum = vadd(sum, weight);
        vstore(scores + i, weight);
    }
    *total = vsum(sum);
    return any;
}

// One stretch: unnormalised results, highest score and total weight of each query; a total of 0 means no key in reach.
template <Format F> static void attend_stretch(const Attend& a, int32_t base, int32_t begin, int32_t end, float* const* out, float* most, float* total) {
    alignas(64) float scores[ATTEND_ROWS * STRETCH];
    const int length = (end - base + PAGE - 1) / PAGE * PAGE;
    const int lines = int(block_bytes(F, a.head_dim) / 64);
    for (int at = 0; at < length; at += PAGE) {
        const uint8_t* keys = a.cache + a.pages[(base + at) / PAGE] * a.page_stride;
        // Pages lie anywhere: ask for the next but one, and for the values of this one, while its keys are scored.
        const uint8_t* next = at + 2 * PAGE < length ? a.cache + a.pages[(base + at) / PAGE + 2] * a.page_stride : keys;
        for (int line = 0; line < lines; ++line) {
            prefetch(next + line * 64);
            prefetch(keys + a.value_offset + line * 64);
        }
        score_pages<F>(keys, a.query, a.count, a.head_dim, scores + at);
    }
    for (int m = 0; m < a.count; ++m) {
        if (!weigh(a, m, base, length, scores + m * STRETCH, &most[m], &total[m])) total[m] = 0.0f;
        std::memset(out[m], 0, size_t(a.head_dim) * sizeof(float));
    }
    for (int at = 0; at < length; at += PAGE) {
        const uint8_t* values = a.cache + a.pages[(base + at) / PAGE] * a.page_stride + a.value_offset;
        // Only tokens that are there: what lies behind them in the page is undefined, and 0 * NaN is not 0.
        const int first = base + at < begin ? begin - base - at : 0;
        const int last = base + at + PAGE > end ? end - base - at : PAGE;
        if (first < last) mix_pages<F>(values, a.count, a.head_dim, first, last, scores + at, out);
    }
}

// Puts two parts of one query's result together.
static void merge_parts(float* out, float* state, const float* other, const float* other_state, int head_dim) {
    if (other_state[1] == 0.0f) return;
    if (state[1] == 0.0f) {
        std::memcpy(out, other, size_t(head_dim) * sizeof(float));
        state[0] = other_state[0];
        state[1] = other_state[1];
        return;
    }
    const float most = state[0] > other_state[0] ? state[0] : other_state[0];
    const float mine = std::exp(state[0] - most), theirs = std::exp(other_state[0] - most);
    for (int d = 0; d < head_dim; ++d) out[d] = out[d] * mine + other[d] * theirs;
    state[0] = most;
    state[1] = state[1] * mine + other_state[1] * theirs;
}

template <Format F> static void attend_as(const Attend& a) {
    alignas(64) float results[ATTEND_ROWS * MAX_HEAD_DIM];
    float* parts[ATTEND_ROWS];
    float most[ATTEND_ROWS], total[ATTEND_ROWS], state[ATTEND_ROWS][2];
    int32_t begin = a.begin[0], end = a.end[0];
    for (int m = 0; m < a.count; ++m) {
        parts[m] = results + m * a.head_dim;
        begin = a.begin[m] < begin ? a.begin[m] : begin;
        end = a.end[m] > end ? a.end[m] : end;
    }
    // Stretches begin at multiples of their length, whoever computes them: so the result does not depend on how the
    // work was split, or on what else is in the batch.
    const int32_t first = begin / STRETCH * STRETCH;
    for (int32_t base = first; base < end; base += STRETCH) {
        const int32_t stop = base + STRETCH < end ? base + STRETCH : end;
        const bool fresh = base == first;
        attend_stretch<F>(a, base, begin, stop, fresh ? a.out : parts, most, total);
        for (int m = 0; m < a.count; ++m) {
            const float part[2] = {most[m], total[m]};
            if (fresh) std::memcpy(state[m], part, sizeof part);
            else merge_parts(a.out[m], state[m], parts[m], part, a.head_dim);
        }
    }
    for (int m = 0; m < a.count; ++m) {
        if (a.total[m]) std::memcpy(a.total[m], state[m], sizeof state[m]);
        else if (state[m][1] > 0)
            for (int d = 0; d < a.head_dim; ++d) a.out[m][d] /= state[m][1];
    }
}

static void attend(const Attend& a) {
    switch (a.format) {
        case Format::F16: return attend_as<Format::F16>(a);
        case Format::Q8: return attend_as<Format::Q8>(a);
        case Format::F32: return attend_as<Format::F32>(a);
    }
}
