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

// Rounds one group to whole steps of `scale`.
ZX_INLINE void round_group(const Vec* values, float scale, QuantGroup& to) {
    const Vec inverse = vset(scale > 0 ? 1.0f / scale : 0.0f);
    for (int i = 0; i < GROUP / LANES; ++i) vstore_i8(to.q + i * LANES, vround(vmul(values[i], inverse)));
    const int32_t first = sum_of_16(to.q), sum = first + sum_of_16(to.q + 16);
    to.scale = scale;
    to.scaled_sum = scale * float(sum);
    to.minus_sum = -sum;
    to.minus_first = -first;
}

// The step by which 127 reaches the largest magnitude; 0 when that is so small that its inverse would overflow.
ZX_INLINE float step_for(const Vec* values) {
    Vec largest = vset(0.0f);
    for (int i = 0; i < GROUP / LANES; ++i) largest = vmax(largest, vabs(values[i]));
    const float step = vhighest(largest) / 127.0f;
    return step < 1e-30f ? 0.0f : step;
}

// The error of a group goes with the square of its step: those whose square is above COARSE times the mean get a second
// term, which makes their error 250 times smaller.
constexpr float COARSE = 1.5f;

static void quantise(const float* x, int64_t cols, uint8_t* row) {
    const size_t groups = size_t(cols / GROUP);
    const QuantRow to = quant_row(row, size_t(cols));
    QuantGroup *group = const_cast<QuantGroup*>(to.groups), *fine = const_cast<QuantGroup*>(to.fine);
    int32_t *count = const_cast<int32_t*>(to.fine_count), *places = const_cast<int32_t*>(to.fine_places);
    constexpr int STEPS = GROUP / LANES;
    Vec values[STEPS];
    float squares = 0.0f;
    for (size_t g = 0; g < groups; ++g) {
        for (int i = 0; i < STEPS; ++i) values[i] = vload(x + g * GROUP + i * LANES);
        const float scale = step_for(values);
        round_group(values, scale, group[g]);
        squares += scale * scale;
    }
    const float bound = COARSE * squares / float(groups);
    *count = 0;
    for (size_t g = 0; g < groups; ++g) {
        const float scale = group[g].scale;
        if (!(scale * scale > bound)) continue;
        for (int i = 0; i < STEPS; ++i)
            values[i] = vsub(vload(x + g * GROUP + i * LANES), vmul(vload_i8(group[g].q + i * LANES), vset(scale)));
        const float step = step_for(values);
        if (step == 0.0f) continue;
        round_group(values, step, fine[*count]);
        group[g].scaled_sum += fine[*count].scaled_sum;
        places[(*count)++] = int32_t(g);
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

// Returns the highest of some logits; their sum is not a number when one of them is none.
static float survey(const float* x, int64_t size, float* sum) {
    float best = x[0], all = 0.0f;
    int64_t i = 0;
    if (size >= LANES) {
        Vec most = vload(x), together = most;
        for (i = LANES; i + LANES <= size; i += LANES) {
            const Vec value = vload(x + i);
            most = vmax(most, value);
            together = vadd(together, value);
        }
        best = vhighest(most);
        all = vsum(together);
    }
    for (; i < size; ++i) {
        best = x[i] > best ? x[i] : best;
        all += x[i];
    }
    *sum = all;
    return best;
}

// The `count` highest values of a row, falling, and their places; of equal ones the first come first. Returns by how
// much the logarithm of the sum of all exponentials is above the highest, or no number when one of the row is none.
static float candidates(const float* x, int64_t size, int64_t count, float* values, int32_t* places) {
    constexpr int64_t BLOCK = 4 * LANES;
    int64_t found = 0;
    for (int64_t at = 0; at < size;) {
        if (found == count && at % BLOCK == 0 && at + BLOCK <= size) {
            const Vec most = vmax(vmax(vload(x + at), vload(x + at + LANES)), vmax(vload(x + at + 2 * LANES), vload(x + at + 3 * LANES)));
            if (!(vhighest(most) > values[count - 1])) { at += BLOCK; continue; }
        }
        const int64_t start = at, stop = at = at + LANES < size ? at + LANES : size;
        if (found == count && stop - start == LANES && !(vhighest(vload(x + start)) > values[count - 1])) continue;
        for (int64_t i = start; i < stop; ++i) {
            if (found == count && !(x[i] > values[count - 1])) continue;
            int64_t place = found < count ? found++ : count - 1;
            for (; place > 0 && values[place - 1] < x[i]; --place) {
                values[place] = values[place - 1];
                places[place] = places[place - 1];
            }
            values[place] = x[i];
            places[place] = int32_t(i);
        }
    }
    int bad = 0;
    for (int64_t i = 0; i < size; ++i) bad |= x[i] != x[i];
    if (bad) return std::nanf("");
    const Vec most = vset(values[0]);
    Vec sum = vset(0.0f);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) sum = vadd(sum, vexp(vsub(vload(x + i), most)));
    float total = vsum(sum);
    for (; i < size; ++i) total += std::exp(x[i] - values[0]);
    return std::log(total);
}

// y = e^(x / temperature - highest); returns their sum.
static float weigh_logits(const float* x, int64_t size, float temperature, float highest, float* y) {
    const Vec divisor = vset(temperature), top = vset(highest);
    Vec together = vset(0.0f);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Vec weight = vexp(vsub(vdiv(vload(x + i), divisor), top));
        together = vadd(together, weight);
        vstore(y + i, weight);
    }
    float all = vsum(together);
    if (i < size) {
        store_some(y + i, vexp(vsub(vdiv(load_some(x + i, size - i), divisor), top)), size - i);
        for (; i < size; ++i) all += y[i];
    }
    return all;
}
