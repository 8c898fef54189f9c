// Operations on rows of float32: quantisation, norms, rotation, activations.

// Calls a body for full vectors, then once for the rest, padded with zeros in a buffer.
ZX_INLINE Vec load_some(const float* x, int64_t count) {
    float padded[LANES] = {};
    std::memcpy(padded, x, size_t(count) * sizeof(float));
    return vload(padded);
}
ZX_INLINE void store_some(float* y, Vec value, int64_t count) {
    float padded[LANES];
    vstore(padded, value);
    std::memcpy(y, padded, size_t(count) * sizeof(float));
}

// e^x, with a relative error of about 2e-7 (Cephes): x = n ln 2 + r, e^r by a polynomial of degree 6.
ZX_INLINE Vec vexp(Vec x) {
    x = vmax(vmin(x, vset(88.0f)), vset(-87.0f));
    const Vec n = vround(vmul(x, vset(1.44269504f)));
    const Vec r = vfma(n, vset(2.12194440e-4f), vfma(n, vset(-0.693359375f), x));
    Vec y = vset(1.9875691500e-4f);
    y = vfma(y, r, vset(1.3981999507e-3f));
    y = vfma(y, r, vset(8.3334519073e-3f));
    y = vfma(y, r, vset(4.1665795894e-2f));
    y = vfma(y, r, vset(1.6666665459e-1f));
    y = vfma(y, r, vset(5.0000001201e-1f));
    y = vfma(y, vmul(r, r), vadd(r, vset(1.0f)));
    return vmul(y, vpow2(n));
}

// tanh x = sign(x) (1 - 2 / (e^{2|x|} + 1)); small arguments by the series, where that difference would cancel.
ZX_INLINE Vec vtanh(Vec x) {
    const Vec size = vabs(x);
    const Vec far = vsub(vset(1.0f), vdiv(vset(2.0f), vadd(vexp(vadd(size, size)), vset(1.0f))));
    return vsign_of(far, x);
}

// erf by Abramowitz & Stegun 7.1.26; absolute error below 1.5e-7.
ZX_INLINE Vec verf(Vec x) {
    const Vec size = vabs(x), t = vdiv(vset(1.0f), vfma(vset(0.3275911f), size, vset(1.0f)));
    Vec y = vset(1.061405429f);
    y = vfma(y, t, vset(-1.453152027f));
    y = vfma(y, t, vset(1.421413741f));
    y = vfma(y, t, vset(-0.284496736f));
    y = vmul(vfma(y, t, vset(0.254829592f)), t);
    y = vsub(vset(1.0f), vmul(y, vexp(vsub(vset(0.0f), vmul(size, size)))));
    return vsign_of(y, x);
}

static void quantise(const float* x, int64_t cols, uint8_t* row) {
    const size_t groups = size_t(cols / GROUP);
    int8_t* q = reinterpret_cast<int8_t*>(row);
    float* scale = reinterpret_cast<float*>(row + quant_values(size_t(cols)));
    int32_t* sum = reinterpret_cast<int32_t*>(scale + 2 * groups);
    int32_t* half_sum = sum + groups;
    constexpr int STEPS = GROUP / LANES;
    for (size_t group = 0; group < groups; ++group, x += GROUP, q += GROUP) {
        Vec largest = vset(0.0f), values[STEPS];
        for (int i = 0; i < STEPS; ++i) {
            values[i] = vload(x + i * LANES);
            largest = vmax(largest, vabs(values[i]));
        }
        const float magnitude = vhighest(largest);
        const float inverse = magnitude > 0 ? 127.0f / magnitude : 0.0f;
        scale[group] = magnitude / 127.0f;
        Vec halves[2] = {vset(0.0f), vset(0.0f)};
        for (int i = 0; i < STEPS; ++i) {
            values[i] = vround(vmul(values[i], vset(inverse)));
            vstore_i8(q + i * LANES, values[i]);
            halves[i * 2 / STEPS] = vadd(halves[i * 2 / STEPS], values[i]);
        }
        half_sum[group * 2] = int32_t(vsum(halves[0]));
        half_sum[group * 2 + 1] = int32_t(vsum(halves[1]));
        sum[group] = half_sum[group * 2] + half_sum[group * 2 + 1];
        scale[groups + group] = scale[group] * float(sum[group]);
    }
}

static void norm(const float* x, const float* weight, const float* bias, int64_t size, float eps, bool layer, bool add, float* y) {
    const int64_t whole = size / LANES * LANES;
    float mean = 0.0f;
    if (layer) {
        Vec sum = vset(0.0f);
        for (int64_t i = 0; i < whole; i += LANES) sum = vadd(sum, vload(x + i));
        if (whole < size) sum = vadd(sum, load_some(x + whole, size - whole));
        mean = vsum(sum) / float(size);
    }
    Vec square = vset(0.0f);
    for (int64_t i = 0; i < whole; i += LANES) {
        const Vec value = vsub(vload(x + i), vset(mean));
        square = vfma(value, value, square);
    }
    float rest = 0.0f;
    for (int64_t i = whole; i < size; ++i) rest += (x[i] - mean) * (x[i] - mean);
    const float factor = 1.0f / std::sqrt((vsum(square) + rest) / float(size) + eps);
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        const bool full = count >= LANES;
        Vec value = vmul(vsub(full ? vload(x + i) : load_some(x + i, count), vset(mean)), vset(factor));
        if (weight) value = vmul(value, full ? vload(weight + i) : load_some(weight + i, count));
        if (bias) value = vadd(value, full ? vload(bias + i) : load_some(bias + i, count));
        if (add) value = vadd(value, full ? vload(y + i) : load_some(y + i, count));
        if (full) vstore(y + i, value);
        else store_some(y + i, value, count);
    }
}

// Rotates the pairs (x[i], x[i + half]).
static void rotate(float* x, const float* cos, const float* sin, int64_t half) {
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Vec low = vload(x + i), high = vload(x + half + i), c = vload(cos + i), s = vload(sin + i);
        vstore(x + i, vsub(vmul(low, c), vmul(high, s)));
        vstore(x + half + i, vfma(high, c, vmul(low, s)));
    }
    for (; i < half; ++i) {
        const float low = x[i], high = x[half + i];
        x[i] = low * cos[i] - high * sin[i];
        x[half + i] = high * cos[i] + low * sin[i];
    }
}

template <Activation A> ZX_INLINE Vec activated(Vec x) {
    const Vec one = vset(1.0f), zero = vset(0.0f);
    if constexpr (A == Activation::Silu) return vdiv(x, vadd(one, vexp(vsub(zero, x))));
    if constexpr (A == Activation::GeluTanh) {
        const Vec inner = vmul(vset(0.7978845608f), vfma(vmul(vset(0.044715f), vmul(x, x)), x, x));
        return vmul(vmul(vset(0.5f), x), vadd(one, vtanh(inner)));
    }
    if constexpr (A == Activation::Gelu) return vmul(vmul(vset(0.5f), x), vadd(one, verf(vmul(x, vset(0.7071067812f)))));
    const Vec positive = vmax(x, zero);
    return A == Activation::Relu2 ? vmul(positive, positive) : positive;
}

template <Activation A> static void activate_as(const float* gate, const float* up, int64_t size, float* y) {
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        if (count >= LANES) {
            const Vec value = activated<A>(vload(gate + i));
            vstore(y + i, up ? vmul(value, vload(up + i)) : value);
        } else {
            const Vec value = activated<A>(load_some(gate + i, count));
            store_some(y + i, up ? vmul(value, load_some(up + i, count)) : value, count);
        }
    }
}

static void activate(const float* gate, const float* up, int64_t size, Activation kind, float* y) {
    switch (kind) {
        case Activation::Silu: return activate_as<Activation::Silu>(gate, up, size, y);
        case Activation::GeluTanh: return activate_as<Activation::GeluTanh>(gate, up, size, y);
        case Activation::Gelu: return activate_as<Activation::Gelu>(gate, up, size, y);
        case Activation::Relu: return activate_as<Activation::Relu>(gate, up, size, y);
        case Activation::Relu2: return activate_as<Activation::Relu2>(gate, up, size, y);
        case Activation::Count: return;
    }
}

static void add_rows(const float* x, int64_t size, float factor, float* y) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) vstore(y + i, vfma(vload(x + i), vset(factor), vload(y + i)));
    for (; i < size; ++i) y[i] += x[i] * factor;
}

static void soft_cap(float* x, int64_t size, float scale, float cap) {
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t count = size - i;
        Vec value = vmul(count >= LANES ? vload(x + i) : load_some(x + i, count), vset(scale));
        if (cap > 0) value = vmul(vtanh(vdiv(value, vset(cap))), vset(cap));
        if (count >= LANES) vstore(x + i, value);
        else store_some(x + i, value, count);
    }
}

static float highest(const float* x, int64_t size) {
    float best = x[0];
    int64_t i = 0;
    if (size >= LANES) {
        Vec most = vload(x);
        for (i = LANES; i + LANES <= size; i += LANES) most = vmax(most, vload(x + i));
        best = vhighest(most);
    }
    for (; i < size; ++i) best = x[i] > best ? x[i] : best;
    return best;
}
