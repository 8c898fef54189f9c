// Passes over rows for PyTorch's layers: normalising, rotating, and the gradients of both. A row is one head of one token, or one
// token. They are bound by memory; what they save is reading it several times.

// y = factor * rotated(x / rms(x)), of which the first 2 * half numbers are rotated in pairs (i, i + half). Returns 1 / rms(x);
// a negative eps leaves out the division, and then it is 1.
static float place_row(const float* x, int64_t size, const float* cos, const float* sin, int64_t half, float eps, float factor, float* y) {
    float scale = 1.0f;
    if (eps >= 0.0f) {
        Vec squares = vset(0.0f);
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) {
            const Vec value = vload(x + i);
            squares = vfma(value, value, squares);
        }
        float sum = vsum(squares);
        for (; i < size; ++i) sum += x[i] * x[i];
        scale = 1.0f / std::sqrt(sum / float(size) + eps);
    }
    const float by = scale * factor;
    const Vec many = vset(by);
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Vec low = vmul(vload(x + i), many), high = vmul(vload(x + half + i), many), c = vload(cos + i), s = vload(sin + i);
        vstore(y + i, vsub(vmul(low, c), vmul(high, s)));
        vstore(y + half + i, vfma(high, c, vmul(low, s)));
    }
    for (; i < half; ++i) {
        const float low = x[i] * by, high = x[half + i] * by;
        y[i] = low * cos[i] - high * sin[i];
        y[half + i] = high * cos[i] + low * sin[i];
    }
    for (i = 2 * half; i + LANES <= size; i += LANES) vstore(y + i, vmul(vload(x + i), many));
    for (; i < size; ++i) y[i] = x[i] * by;
    return scale;
}

// The gradient of x from that of y: rotated back(scale * (factor * dy - y * mean(dy * y) / factor)), for rotating changes no
// mean; without normalisation (`normed` false) the second term is none.
static void place_row_gradient(const float* dy, const float* y, int64_t size, const float* cos, const float* sin, int64_t half, bool normed,
                               float scale, float factor, float* dx) {
    const float straight = scale * factor;
    float along = 0.0f;
    if (normed) {
        Vec products = vset(0.0f);
        int64_t i = 0;
        for (; i + LANES <= size; i += LANES) products = vfma(vload(dy + i), vload(y + i), products);
        float sum = vsum(products);
        for (; i < size; ++i) sum += dy[i] * y[i];
        along = -scale * sum / (float(size) * factor);
    }
    const Vec a = vset(straight), b = vset(along);
    const auto at = [&](int64_t i) { return vfma(vload(dy + i), a, vmul(vload(y + i), b)); };
    const auto one = [&](int64_t i) { return dy[i] * straight + y[i] * along; };
    int64_t i = 0;
    for (; i + LANES <= half; i += LANES) {
        const Vec low = at(i), high = at(half + i), c = vload(cos + i), s = vload(sin + i);
        vstore(dx + i, vfma(low, c, vmul(high, s)));
        vstore(dx + half + i, vsub(vmul(high, c), vmul(low, s)));
    }
    for (; i < half; ++i) {
        const float low = one(i), high = one(half + i);
        dx[i] = low * cos[i] + high * sin[i];
        dx[half + i] = high * cos[i] - low * sin[i];
    }
    for (i = 2 * half; i + LANES <= size; i += LANES) vstore(dx + i, at(i));
    for (; i < size; ++i) dx[i] = one(i);
}

// y = weight * x / rms(x). Returns 1 / rms(x).
static float scaled_norm_row(const float* x, const float* weight, int64_t size, float eps, float* y) {
    Vec squares = vset(0.0f);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Vec value = vload(x + i);
        squares = vfma(value, value, squares);
    }
    float sum = vsum(squares);
    for (; i < size; ++i) sum += x[i] * x[i];
    const float scale = 1.0f / std::sqrt(sum / float(size) + eps);
    for (i = 0; i + LANES <= size; i += LANES) vstore(y + i, vmul(vmul(vload(x + i), vset(scale)), vload(weight + i)));
    for (; i < size; ++i) y[i] = x[i] * scale * weight[i];
    return scale;
}

// The gradient of x from that of y: scale * (g - x * scale^2 * mean(g * x)) with g = weight * dy.
static void scaled_norm_row_gradient(const float* dy, const float* x, const float* weight, int64_t size, float scale, float* dx) {
    Vec products = vset(0.0f);
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) products = vfma(vmul(vload(dy + i), vload(weight + i)), vload(x + i), products);
    float sum = vsum(products);
    for (; i < size; ++i) sum += dy[i] * weight[i] * x[i];
    const float along = -scale * (scale * sum / float(size) * scale);  // in this order nothing runs out of range early
    const Vec a = vset(scale), b = vset(along);
    for (i = 0; i + LANES <= size; i += LANES)
        vstore(dx + i, vfma(vmul(vload(dy + i), vload(weight + i)), a, vmul(vload(x + i), b)));
    for (; i < size; ++i) dx[i] = dy[i] * weight[i] * scale + x[i] * along;
}

// x becomes max(x, 0), and y its square. What is not a number stays so: of the two operands, the second is taken then.
static void square_positive(float* x, int64_t size, float* y) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Vec value = vmax(vset(0.0f), vload(x + i));
        vstore(x + i, value);
        vstore(y + i, vmul(value, value));
    }
    for (; i < size; ++i) {
        x[i] = x[i] < 0.0f ? 0.0f : x[i];
        y[i] = x[i] * x[i];
    }
}

// dy becomes its product with x, and y the square of x.
static void square_positive_gradient(float* dy, const float* x, int64_t size, float* y) {
    int64_t i = 0;
    for (; i + LANES <= size; i += LANES) {
        const Vec value = vload(x + i);
        vstore(dy + i, vmul(vload(dy + i), value));
        vstore(y + i, vmul(value, value));
    }
    for (; i < size; ++i) {
        dy[i] *= x[i];
        y[i] = x[i] * x[i];
    }
}

// Weights of attention, e^(x - highest) / total, of the first `seen` of `size` scores; the others become 0.
static void weigh_row(float* x, int64_t seen, int64_t size) {
    Vec top = vset(-3.0e38f);
    int64_t i = 0;
    for (; i + LANES <= seen; i += LANES) top = vmax(top, vload(x + i));
    float highest = vhighest(top);
    for (; i < seen; ++i) highest = x[i] > highest ? x[i] : highest;
    Vec sum = vset(0.0f);
    for (i = 0; i + LANES <= seen; i += LANES) {
        const Vec score = vload(x + i), weight = vexp(vsub(score, vset(highest)));
        vstore(x + i, weight);
        sum = vadd(sum, vadd(weight, vsub(score, score)));  // what is not a number stays so: training looks for it
    }
    float total = vsum(sum);
    if (i < seen) {
        float rest[LANES];
        const int64_t left = seen - i;
        vstore(rest, vexp(vsub(load_some(x + i, left), vset(highest))));
        for (int64_t k = 0; k < left; ++k) {
            total += rest[k] + (x[i + k] - x[i + k]);
            x[i + k] = rest[k];
        }
    }
    const float inverse = 1.0f / total;
    for (i = 0; i + LANES <= seen; i += LANES) vstore(x + i, vmul(vload(x + i), vset(inverse)));
    for (; i < seen; ++i) x[i] *= inverse;
    for (; i < size; ++i) x[i] = 0.0f;
}

// The gradient of the scores from that of the weights w, in place: w * (dw - sum(w * dw)), and 0 behind what is seen.
static void weigh_row_gradient(float* dw, const float* w, int64_t seen, int64_t size) {
    Vec products = vset(0.0f);
    int64_t i = 0;
    for (; i + LANES <= seen; i += LANES) products = vfma(vload(dw + i), vload(w + i), products);
    float sum = vsum(products);
    for (; i < seen; ++i) sum += dw[i] * w[i];
    for (i = 0; i + LANES <= seen; i += LANES) vstore(dw + i, vmul(vload(w + i), vsub(vload(dw + i), vset(sum))));
    for (; i < seen; ++i) dw[i] = w[i] * (dw[i] - sum);
    for (; i < size; ++i) dw[i] = 0.0f;
}

// The gradient of x = [g, u], `size` numbers each, from that of y = g * s(g) * u with the logistic function s (`activate` with
// SiLU): [dy * u * s * (1 + g * (1 - s)), dy * g * s].
static void gate_row_gradient(const float* dy, const float* x, int64_t size, float* dx) {
    const Vec one = vset(1.0f), zero = vset(0.0f);
    for (int64_t i = 0; i < size; i += LANES) {
        const int64_t left = size - i;
        const bool whole = left >= LANES;
        const Vec gate = whole ? vload(x + i) : load_some(x + i, left), up = whole ? vload(x + size + i) : load_some(x + size + i, left);
        const Vec grad = whole ? vload(dy + i) : load_some(dy + i, left);
        const Vec share = vdiv(one, vadd(one, vexp(vsub(zero, gate)))), opened = vmul(gate, share);
        const Vec of_gate = vmul(vmul(grad, up), vfma(opened, vsub(one, share), share)), of_up = vmul(grad, opened);
        if (whole) {
            vstore(dx + i, of_gate);
            vstore(dx + size + i, of_up);
        } else {
            store_some(dx + i, of_gate, left);
            store_some(dx + size + i, of_up, left);
        }
    }
}

// A number of 32 bits for each place and seed, of which no neighbouring one can be told: two rounds of the mixing of integers by
// Wellons ("hash prospector", 2018), each with half of the seed.
static inline uint32_t mixed(uint32_t x) {
    x = (x ^ (x >> 16)) * 0x7feb352du;
    x = (x ^ (x >> 15)) * 0x846ca68bu;
    return x ^ (x >> 16);
}

// y = scale * x, or 0 * x where the number of 31 bits that belongs to the place first + i is below `levels`: places and seed alone
// decide, so that the gradient drops the same without a mask that would have to be kept. What is not finite does not become 0.
static void drop(const float* x, uint32_t first, int64_t size, uint64_t seed, uint32_t levels, float scale, float* y) {
    const uint32_t low = uint32_t(seed), high = uint32_t(seed >> 32);
    for (int64_t i = 0; i < size; ++i) {
        const int32_t drawn = int32_t(mixed(mixed((first + uint32_t(i)) ^ low) ^ high) >> 1);
        const float factor = drawn < int32_t(levels) ? 0.0f : scale;
        y[i] = x[i] * factor;  // a branch less: compilers make vectors of it
    }
}
