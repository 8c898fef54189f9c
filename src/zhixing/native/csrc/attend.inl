// Attention over a paged cache. Up to eight queries that share a key-value head go over the keys together, a stretch at
// a time, with a running maximum and total (Milakov & Gimelshein 2018; Dao et al. 2022).

constexpr int STRETCH = 256;  // keys whose scores are held at once
constexpr int KEY_PARTS = PAGE / LANES;

ZX_INLINE Vec clamp_half(Vec x) { return vmin(vmax(x, vset(-65504.0f)), vset(65504.0f)); }

// Puts a token's key (one number into each row of the transposed page) and value into its slot.
static void store_page(const float* key, const float* value, int64_t head_dim, int64_t slot, uint16_t* keys, uint16_t* values) {
    uint16_t halves[MAX_HEAD_DIM + LANES];
    int64_t d = 0;
    for (; d + LANES <= head_dim; d += LANES) vstore_half(halves + d, clamp_half(vload(key + d)));
    if (d < head_dim) vstore_half(halves + d, clamp_half(load_some(key + d, head_dim - d)));
    for (d = 0; d < head_dim; ++d) keys[d * PAGE + slot] = halves[d];
    values += slot * head_dim;
    for (d = 0; d + LANES <= head_dim; d += LANES) vstore_half(values + d, clamp_half(vload(value + d)));
    if (d < head_dim) {
        vstore_half(halves, clamp_half(load_some(value + d, head_dim - d)));
        std::memcpy(values + d, halves, size_t(head_dim - d) * sizeof(uint16_t));
    }
}

// Scores of M queries against the 16 keys of a page; a lane is a key.
template <int M> ZX_INLINE void score_page(const uint16_t* keys, const float* const* query, int head_dim, float* scores) {
    constexpr int CHAINS = M == 1 ? 4 : M == 2 ? 2 : 1;
    Vec sum[CHAINS][M][KEY_PARTS];
    for (int c = 0; c < CHAINS; ++c)
        for (int m = 0; m < M; ++m)
            for (int part = 0; part < KEY_PARTS; ++part) sum[c][m][part] = vset(0.0f);
    int d = 0;
    for (; d + CHAINS <= head_dim; d += CHAINS)
        for (int c = 0; c < CHAINS; ++c)
            for (int part = 0; part < KEY_PARTS; ++part) {
                const Vec key = vload_half(keys + (d + c) * PAGE + part * LANES);
                for (int m = 0; m < M; ++m) sum[c][m][part] = vfma(key, vset(query[m][d + c]), sum[c][m][part]);
            }
    for (; d < head_dim; ++d)
        for (int part = 0; part < KEY_PARTS; ++part)
            for (int m = 0; m < M; ++m)
                sum[0][m][part] = vfma(vload_half(keys + d * PAGE + part * LANES), vset(query[m][d]), sum[0][m][part]);
    for (int m = 0; m < M; ++m)
        for (int part = 0; part < KEY_PARTS; ++part) {
            Vec total = sum[0][m][part];
            for (int c = 1; c < CHAINS; ++c) total = vadd(total, sum[c][m][part]);
            vstore(scores + m * STRETCH + part * LANES, total);
        }
}

ZX_INLINE void score_pages(const uint16_t* keys, const float* const* query, int count, int head_dim, float* scores) {
    int m = 0;
    for (; m + 4 <= count; m += 4) score_page<4>(keys, query + m, head_dim, scores + m * STRETCH);
    switch (count - m) {
        case 3: score_page<3>(keys, query + m, head_dim, scores + m * STRETCH); break;
        case 2: score_page<2>(keys, query + m, head_dim, scores + m * STRETCH); break;
        case 1: score_page<1>(keys, query + m, head_dim, scores + m * STRETCH); break;
        default: break;
    }
}

// Adds weights times the values of tokens [first, last) of a page to M results, S vectors of the head at a time.
template <int M, int S> ZX_INLINE void mix_slab(const uint16_t* values, int head_dim, int first, int last, const float* weights, float* const* out, int d) {
    Vec sum[M][S];
    for (int m = 0; m < M; ++m)
        for (int s = 0; s < S; ++s) sum[m][s] = vload(out[m] + d + s * LANES);
    for (int token = first; token < last; ++token)
        for (int s = 0; s < S; ++s) {
            const Vec value = vload_half(values + token * head_dim + d + s * LANES);
            for (int m = 0; m < M; ++m) sum[m][s] = vfma(value, vset(weights[m * STRETCH + token]), sum[m][s]);
        }
    for (int m = 0; m < M; ++m)
        for (int s = 0; s < S; ++s) vstore(out[m] + d + s * LANES, sum[m][s]);
}

template <int M> ZX_INLINE void mix_page(const uint16_t* values, int head_dim, int first, int last, const float* weights, float* const* out) {
    constexpr int S = M == 1 ? 4 : LANES == 16 ? (M == 2 ? 4 : 4) : (M == 2 ? 4 : 2);
    int d = 0;
    for (; d + S * LANES <= head_dim; d += S * LANES) mix_slab<M, S>(values, head_dim, first, last, weights, out, d);
    for (; d + LANES <= head_dim; d += LANES) mix_slab<M, 1>(values, head_dim, first, last, weights, out, d);
    for (; d < head_dim; ++d)
        for (int m = 0; m < M; ++m)
            for (int token = first; token < last; ++token) out[m][d] += weights[m * STRETCH + token] * half_to_float(values[token * head_dim + d]);
}

ZX_INLINE void mix_pages(const uint16_t* values, int count, int head_dim, int first, int last, const float* weights, float* const* out) {
    int m = 0;
    for (; m + 4 <= count; m += 4) mix_page<4>(values, head_dim, first, last, weights + m * STRETCH, out + m);
    switch (count - m) {
        case 3: mix_page<3>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        case 2: mix_page<2>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        case 1: mix_page<1>(values, head_dim, first, last, weights + m * STRETCH, out + m); break;
        default: break;
    }
}

// Turns the scores of keys [base, base + length) into weights; returns by how much earlier results must shrink.
ZX_INLINE float weigh(const Attend& a, int m, int32_t base, int length, float* scores, float* most, float* total) {
    const Vec nothing = vset(-3.0e38f);
    Vec top = nothing;
    for (int i = 0; i < length; i += LANES) {
        Vec score = vmul(vload(scores + i), vset(a.scale));
        if (a.soft_cap > 0) score = vmul(vtanh(vdiv(score, vset(a.soft_cap))), vset(a.soft_cap));
        score = vwithin(score, nothing, a.begin[m] - base - i, a.end[m] - base - i);
        top = vmax(top, score);
        vstore(scores + i, score);
    }
    const float highest_now = vhighest(top), before = *most;
    if (highest_now <= -2.9e38f) {  // no key of this stretch is in reach
        for (int i = 0; i < length; ++i) scores[i] = 0.0f;
        return 1.0f;
    }
    const float after = highest_now > before ? highest_now : before;
    Vec sum = vset(0.0f);
    for (int i = 0; i < length; i += LANES) {
        const Vec weight = vwithin(vexp(vsub(vload(scores + i), vset(after))), vset(0.0f), a.begin[m] - base - i, a.end[m] - base - i);
        sum = vadd(sum, weight);
        vstore(scores + i, weight);
    }
    const float shrink = before <= -2.9e38f ? 0.0f : std::exp(before - after);
    *most = after;
    *total = *total * shrink + vsum(sum);
    return shrink;
}

static void attend(const Attend& a) {
    alignas(64) float scores[ATTEND_ROWS * STRETCH];
    alignas(64) float results[ATTEND_ROWS * MAX_HEAD_DIM];
    float* out[ATTEND_ROWS];
    float most[ATTEND_ROWS], total[ATTEND_ROWS];
    int32_t begin = a.begin[0], end = a.end[0];
    for (int m = 0; m < a.count; ++m) {
        out[m] = results + m * a.head_dim;
        most[m] = -3.0e38f;
        total[m] = 0.0f;
        begin = a.begin[m] < begin ? a.begin[m] : begin;
        end = a.end[m] > end ? a.end[m] : end;
    }
    std::memset(results, 0, size_t(a.count) * size_t(a.head_dim) * sizeof(float));
    for (int32_t base = begin / PAGE * PAGE; base < end; base += STRETCH) {
        const int32_t stop = base + STRETCH < end ? base + STRETCH : end;
        const int length = (stop - base + PAGE - 1) / PAGE * PAGE;
        for (int at = 0; at < length; at += PAGE) {
            const uint16_t* keys = a.cache + a.pages[(base + at) / PAGE] * a.page_stride;
            score_pages(keys, a.query, a.count, a.head_dim, scores + at);
        }
        for (int m = 0; m < a.count; ++m) {
            const float shrink = weigh(a, m, base, length, scores + m * STRETCH, &most[m], &total[m]);
            if (shrink != 1.0f)
                for (int d = 0; d < a.head_dim; ++d) out[m][d] *= shrink;
        }
        for (int at = 0; at < length; at += PAGE) {
            const uint16_t* values = a.cache + a.pages[(base + at) / PAGE] * a.page_stride + a.value_offset;
            // Only tokens that are there: what lies behind them in the page is undefined, and 0 * NaN is not 0.
            const int first = base + at < begin ? begin - base - at : 0;
            const int last = base + at + PAGE > stop ? stop - base - at : PAGE;
            mix_pages(values, a.count, a.head_dim, first, last, scores + at, out);
        }
    }
    for (int m = 0; m < a.count; ++m) {
        const bool whole = !a.total[m];
        const float factor = whole && total[m] > 0 ? 1.0f / total[m] : 1.0f;
        for (int d = 0; d < a.head_dim; ++d) a.out[m][d] = out[m][d] * factor;
        if (!whole) {
            a.total[m][0] = most[m];
            a.total[m][1] = total[m];
        }
    }
}
