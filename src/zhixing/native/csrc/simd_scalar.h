// Vector primitives in plain C++, 16 lanes: the reference, and the path of processors without kernels of their own.
// Included inside a namespace of its own; compilers turn the loops into whatever vectors the target has.

constexpr int LANES = 16;
struct Vec { float at[LANES]; };
#define ZX_UNROLL  // see simd_avx512.h

#define ZX_LANES(expression) Vec r; for (int i = 0; i < LANES; ++i) r.at[i] = (expression); return r
ZX_INLINE Vec vset(float x) { ZX_LANES(x); }
ZX_INLINE Vec vload(const float* p) { ZX_LANES(p[i]); }
ZX_INLINE Vec vload_half(const uint16_t* p) { ZX_LANES(half_to_float(p[i])); }
ZX_INLINE Vec vload_bf16(const uint16_t* p) { ZX_LANES(bf16_to_float(p[i])); }
ZX_INLINE Vec vload_u8(const uint8_t* p) { ZX_LANES(float(p[i])); }
ZX_INLINE Vec vload_i8(const int8_t* p) { ZX_LANES(float(p[i])); }
ZX_INLINE Vec vadd(Vec a, Vec b) { ZX_LANES(a.at[i] + b.at[i]); }
ZX_INLINE Vec vsub(Vec a, Vec b) { ZX_LANES(a.at[i] - b.at[i]); }
ZX_INLINE Vec vmul(Vec a, Vec b) { ZX_LANES(a.at[i] * b.at[i]); }
ZX_INLINE Vec vdiv(Vec a, Vec b) { ZX_LANES(a.at[i] / b.at[i]); }
ZX_INLINE Vec vfma(Vec a, Vec b, Vec c) { ZX_LANES(a.at[i] * b.at[i] + c.at[i]); }
ZX_INLINE Vec vmax(Vec a, Vec b) { ZX_LANES(a.at[i] > b.at[i] ? a.at[i] : b.at[i]); }
ZX_INLINE Vec vmin(Vec a, Vec b) { ZX_LANES(a.at[i] < b.at[i] ? a.at[i] : b.at[i]); }
ZX_INLINE Vec vabs(Vec a) { ZX_LANES(std::fabs(a.at[i])); }
ZX_INLINE Vec vround(Vec a) { ZX_LANES(std::nearbyint(a.at[i])); }
ZX_INLINE Vec vpow2(Vec n) { ZX_LANES(from_bits(uint32_t(int32_t(n.at[i]) + 127) << 23)); }
ZX_INLINE Vec vsign_of(Vec magnitude, Vec sign) { ZX_LANES(std::copysign(magnitude.at[i], sign.at[i])); }
// Lanes from first to last - 1 of a, the others of b.
ZX_INLINE Vec vwithin(Vec a, Vec b, int first, int last) { ZX_LANES(i >= first && i < last ? a.at[i] : b.at[i]); }
#undef ZX_LANES
ZX_INLINE void vstore(float* p, Vec a) { for (int i = 0; i < LANES; ++i) p[i] = a.at[i]; }
ZX_INLINE void vstore_i8(int8_t* p, Vec a) { for (int i = 0; i < LANES; ++i) p[i] = a.at[i] >= -128.0f && a.at[i] <= 127.0f ? int8_t(a.at[i]) : int8_t(0); }
ZX_INLINE void vstore_half(uint16_t* p, Vec a) { for (int i = 0; i < LANES; ++i) p[i] = float_to_half(a.at[i]); }
ZX_INLINE int32_t sum_of_16(const int8_t* q) {
    int32_t sum = 0;
    for (int i = 0; i < 16; ++i) sum += q[i];
    return sum;
}
ZX_INLINE float vsum(Vec a) {
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; ++i) a.at[i] += a.at[i + width];
    return a.at[0];
}
ZX_INLINE float vhighest(Vec a) {
    float best = a.at[0];
    for (int i = 1; i < LANES; ++i) best = a.at[i] > best ? a.at[i] : best;
    return best;
}
ZX_INLINE void prefetch(const void*) {}
ZX_INLINE void prefetch_far(const void*) {}

// The quads of one group, 16 rows side by side, as signed or unsigned small integers.
struct Quads { int16_t at[8][64]; };

template <Kind K> ZX_INLINE void load_quads(const uint8_t* body, Quads& w) {
    constexpr int bits = layout_of(K).bits, offset = layout_of(K).offset;
    for (int quad = 0; quad < 8; ++quad) {
        for (int place = 0; place < 64; ++place) {
            int value;
            if (bits == 8) value = body[quad * 64 + place];
            else value = quad < 4 ? body[quad * 64 + place] & 15 : body[(quad - 4) * 64 + place] >> 4;
            if (bits == 5) value |= (body[256 + place] >> quad & 1) << 4;
            if (bits == 6) value |= (body[256 + quad / 4 * 64 + place] >> quad % 4 * 2 & 3) << 4;
            w.at[quad][place] = int16_t(K == Kind::B4L ? IQ4_TABLE[value & 15] : value - offset);
        }
    }
}

// Sums of products of quads [FIRST, LAST) of P panels with M groups of activations, one lane per row of weights.
template <Kind K, int FIRST, int LAST, int M, int P> ZX_INLINE void dots(const Quads* w, const uint8_t* x, size_t stride, Vec (*products)[1][M]) {
    for (int panel = 0; panel < P; ++panel)
        for (int m = 0; m < M; ++m) {
            const int8_t* const q = reinterpret_cast<const QuantGroup*>(x + size_t(m) * stride)->q;
            int32_t sum[LANES] = {};
            for (int quad = FIRST; quad < LAST; ++quad)
                for (int row = 0; row < LANES; ++row)
                    for (int i = 0; i < 4; ++i) sum[row] += int32_t(w[panel].at[quad][row * 4 + i]) * q[quad * 4 + i];
            for (int i = 0; i < LANES; ++i) products[panel][0][m].at[i] = float(sum[i]);
        }
}
