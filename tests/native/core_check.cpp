// Runs the C++ core by itself, to be compiled with sanitizers (`make native-sanitize`): packing and products of every
// kind on odd shapes, plans that Python wrote down (given as files), steps in random arrangements on several threads,
// two models at once, and plans with numbers changed at random. It prints "ok" when nothing was found.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>
#include <vector>

extern "C" {
const char* zx_error();
int zx_supports(const char*);
int zx_use_kernels(const char*);
int zx_set_threads(int, int);
int64_t zx_packed_bytes(int, int64_t, int64_t);
int zx_kind_of_ggml(int);
int zx_pack_ggml(int, const uint8_t*, int64_t, const int32_t*, int64_t, int64_t, uint8_t*, int64_t);
int zx_pack_float(int, const float*, int64_t, int64_t, uint8_t*, int64_t);
int zx_unpack(int, const uint8_t*, int64_t, int64_t, int64_t, int64_t, int64_t, float*);
int zx_product(int, const uint8_t*, int64_t, int64_t, int64_t, const float*, int64_t, const float*, int, float*);
int zx_choose(const float*, int64_t, int64_t, const double*, int32_t*);
void* zx_model_new(const int64_t*, int64_t, const double*, int64_t, const uint8_t*, int64_t);
void zx_model_free(void*);
int zx_model_table(void*, int64_t, const float*, const float*, int64_t);
void* zx_cache_new(void*, int64_t, int);
void zx_cache_free(void*);
int zx_cache_copy(void*, void*, int64_t, int64_t);
int zx_cache_copy_pages(void*, void*, int64_t, const int32_t*, const int32_t*);
int zx_candidates(const float*, int64_t, int64_t, int64_t, int, float*, int32_t*);
int zx_step_reading(void*, void*, void*, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t, const int32_t*, int64_t,
                    int64_t, const int32_t*, float*, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t);
int zx_write(void*, void*, int64_t, const int32_t*, const int32_t*, const int32_t*, int64_t, const int32_t*, int64_t, int64_t,
             const int32_t*, float*, int64_t, const double*, const int32_t*, int64_t, int32_t*);
using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
int zx_place_heads(Parallel, int, const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t, int64_t, const float*, const float*, int64_t, float,
                   float, float*, float*, float*, float*);
int zx_place_heads_gradient(Parallel, int, const float*, const float*, const float*, const float*, const float*, const float*,
                            const int64_t*, int64_t, int64_t, int64_t, int64_t, int64_t, const float*, const float*, int64_t, int, float,
                            float*);
int zx_take_heads(Parallel, int, const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t, float*);
int zx_take_heads_gradient(Parallel, int, const float*, const int64_t*, int64_t, int64_t, int64_t, int64_t, float*);
int zx_scaled_norm_rows(Parallel, int, const float*, const float*, int64_t, int64_t, float, float*, float*);
int zx_scaled_norm_rows_gradient(Parallel, int, const float*, const float*, const float*, const float*, int64_t, int64_t, float*);
int zx_norm_rows(Parallel, int, const float*, int64_t, int64_t, float, float*, float*);
int zx_norm_rows_gradient(Parallel, int, const float*, const float*, const float*, int64_t, int64_t, float*);
int zx_square_positive(Parallel, int, float*, int64_t, float*);
int zx_square_positive_gradient(Parallel, int, float*, const float*, int64_t, float*);
int zx_drop(Parallel, int, const float*, int64_t, uint64_t, uint32_t, float*);
int zx_gate(Parallel, int, const float*, int64_t, int64_t, float*);
int zx_gate_gradient(Parallel, int, const float*, const float*, int64_t, int64_t, float*);
int zx_gate_by(Parallel, int, float*, const float*, int64_t);
int64_t zx_low_rank_parts(int64_t, int64_t, int64_t);
int zx_low_rank_sums(Parallel, int, const float*, int64_t, int64_t, int64_t, int64_t, float, float*, int64_t, int64_t, float*, int64_t, int64_t,
                     float*, int64_t, int64_t, float*, int64_t, int64_t, float*);
int64_t zx_causal_kept(int64_t);
int zx_causal(Parallel, int, const float*, const float*, int64_t, const float*, int64_t, int64_t, int64_t, int64_t, int64_t, float*, float*);
int zx_causal_gradient(Parallel, int, const float*, const float*, const float*, const float*, const float*, int64_t, int64_t, int64_t, int64_t,
                       float*, float*, float*);
int zx_causal_weights(Parallel, int, float*, int64_t, int64_t, int64_t, int64_t);
int zx_causal_weights_gradient(Parallel, int, float*, const float*, int64_t, int64_t, int64_t, int64_t);
int zx_step(void*, void*, int64_t, const int32_t*, const float*, const int32_t*, const int32_t*, int64_t, const int32_t*,
            int64_t, int64_t, const int32_t*, float*);
}

namespace {

std::mt19937_64 random_bits(7);
int64_t draw(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(random_bits); }

void need(bool truth, const char* what) {
    if (truth) return;
    std::printf("failed: %s (%s)\n", what, zx_error());
    std::exit(1);
}

// Memory whose end is the end of the allocation, so that the address sanitizer sees every byte too far. The kernels
// only prefetch beyond it.
struct Aligned {
    uint8_t* at;
    explicit Aligned(size_t bytes) : at(static_cast<uint8_t*>(std::aligned_alloc(64, (bytes + 63) / 64 * 64))) {}
    ~Aligned() { std::free(at); }
    Aligned(const Aligned&) = delete;
};

const char* const KERNELS[] = {"scalar", "avx2", "avx512"};

void check_choices() {
    for (int64_t size : {1, 255, 256, 257, 1000}) {
        Aligned logits(size_t(3 * size) * 4), settings(15 * 8), tokens(3 * 4);
        float* values = reinterpret_cast<float*>(logits.at);
        double* at = reinterpret_cast<double*>(settings.at);
        int32_t* chosen = reinterpret_cast<int32_t*>(tokens.at);
        for (int64_t i = 0; i < 3 * size; ++i) values[i] = float(draw(-500, 500)) / 50.0f;
        for (int64_t top_k : {int64_t(0), int64_t(1), int64_t(3), size, size + 5})
            for (double top_p : {1.0, 0.4})
                for (double min_p : {0.0, 0.1}) {
                    for (int row = 0; row < 3; ++row) {
                        const double one[5] = {row * 0.7, double(top_k), top_p, min_p, double(draw(0, 999)) / 1000.0};
                        std::memcpy(at + row * 5, one, sizeof one);
                    }
                    need(zx_choose(values, 3, size, at, chosen) == 0, "choices");
                    for (int row = 0; row < 3; ++row) need(chosen[row] >= 0 && chosen[row] < size, "a choice within the vocabulary");
                }
    }
}

void check_products() {
    const struct { int type; int64_t bytes, values; } types[] = {
        {2, 18, 32}, {3, 20, 32}, {6, 22, 32}, {7, 24, 32}, {8, 34, 32}, {12, 144, 256}, {13, 176, 256}, {14, 210, 256}, {20, 18, 32},
    };
    for (const auto& type : types)
        for (int64_t rows : {1, 16, 37}) {
            const int64_t cols = type.values * draw(1, 3), kind = zx_kind_of_ggml(type.type);
            std::vector<uint8_t> blocks(size_t(rows * cols / type.values * type.bytes));
            for (auto& byte : blocks) byte = uint8_t(draw(0, 255));
            Aligned packed(size_t(zx_packed_bytes(int(kind), rows, cols)));
            const int64_t size = zx_packed_bytes(int(kind), rows, cols);
            need(zx_pack_ggml(type.type, blocks.data(), int64_t(blocks.size()), nullptr, rows, cols, packed.at, size) == 0, "pack");
            std::vector<float> values(size_t(rows * cols)), x(size_t(11 * cols)), y(size_t(11 * rows)), bias(size_t(rows), 1.0f);
            need(zx_unpack(int(kind), packed.at, size, rows, cols, 0, rows, values.data()) == 0, "unpack");
            for (auto& value : x) value = float(draw(-1000, 1000)) / 100;
            for (const char* name : KERNELS)
                if (zx_supports(name)) {
                    need(zx_use_kernels(name) == 0, "kernels");
                    need(zx_product(int(kind), packed.at, size, rows, cols, x.data(), 11, bias.data(), 1, y.data()) == 0, "product");
                }
        }
    for (int kind : {0, 1, 2, 4, 7})
        for (int64_t rows : {1, 35}) {
            const int64_t cols = kind > 2 ? 96 : 51, size = zx_packed_bytes(kind, rows, cols);
            std::vector<float> values(size_t(rows * cols)), x(size_t(7 * cols), 0.5f), y(size_t(7 * rows));
            for (auto& value : values) value = float(draw(-1000, 1000)) / 100;
            Aligned packed{size_t(size)};
            need(zx_pack_float(kind, values.data(), rows, cols, packed.at, size) == 0, "pack floats");
            for (const char* name : KERNELS)
                if (zx_supports(name)) {
                    need(zx_use_kernels(name) == 0, "kernels");
                    need(zx_product(kind, packed.at, size, rows, cols, x.data(), 7, nullptr, 0, y.data()) == 0, "product");
                }
        }
}

struct File {
    std::vector<int64_t> numbers;
    std::vector<double> factors;
    std::vector<uint8_t> weights;
    int64_t vocabulary = 0;

    explicit File(const char* path) {
        std::FILE* file = std::fopen(path, "rb");
        need(file != nullptr, path);
        int64_t sizes[4];
        need(std::fread(sizes, 8, 4, file) == 4, "sizes");
        vocabulary = sizes[3];
        numbers.resize(size_t(sizes[0]));
        factors.resize(size_t(sizes[1]));
        weights.resize(size_t(sizes[2]));
        need(std::fread(numbers.data(), 8, numbers.size(), file) == numbers.size(), "numbers");
        need(std::fread(factors.data(), 8, factors.size(), file) == factors.size(), "factors");
        need(std::fread(weights.data(), 1, weights.size(), file) == weights.size(), "weights");
        std::fclose(file);
    }
};

const std::vector<float> TABLE(1024 * 512, 0.5f);

void give_tables(void* model, int64_t count) {
    for (int64_t i = 0; i < count; ++i) need(zx_model_table(model, i, TABLE.data(), TABLE.data(), 1024) == 0, "table");
}

// Steps in random arrangements: several sequences, each with some pages, growing by a few tokens at a time.
void run_steps(const File& file, const uint8_t* weights, unsigned seed, int steps, int format) {
    std::mt19937 random(seed);
    const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    void* model = zx_model_new(file.numbers.data(), int64_t(file.numbers.size()), file.factors.data(), int64_t(file.factors.size()),
                               weights, int64_t(file.weights.size()));
    need(model != nullptr, "model");
    give_tables(model, file.numbers[8]);
    const int sequences = 3, pages_each = 40, most = int(file.numbers[2]);
    void* cache = zx_cache_new(model, sequences * pages_each, format);
    need(cache != nullptr, "cache");
    std::vector<int32_t> lengths(sequences, 0);
    std::vector<float> out;
    for (int step = 0; step < steps; ++step) {
        std::vector<int32_t> ids, sequence, position, rows, pages;
        int present = 0;
        for (int s = 0; s < sequences; ++s) {
            if (lengths[size_t(s)] > pages_each * 16 - most) lengths[size_t(s)] = 0;
            const int count = std::min(pick(0, 3) == 0 ? pick(1, most) : pick(0, 1), most - int(ids.size()));
            if (count == 0) continue;
            for (int i = 0; i < count; ++i) {
                ids.push_back(pick(0, int(file.vocabulary) - 1));
                sequence.push_back(present);
                position.push_back(lengths[size_t(s)]++);
            }
            for (int page = 0; page < pages_each; ++page) pages.push_back(s * pages_each + page);
            rows.push_back(int32_t(ids.size()) - 1);
            ++present;
        }
        if (ids.empty()) continue;
        out.assign(rows.size() * size_t(file.vocabulary), 0.0f);
        if (step % 2) {  // greedy: a head may be approximated
            std::vector<double> settings;
            for (size_t i = 0; i < rows.size(); ++i) settings.insert(settings.end(), {0, 0, 1, 0, 0});
            std::vector<int32_t> tokens(rows.size());
            need(zx_write(model, cache, int64_t(ids.size()), ids.data(), sequence.data(), position.data(), present, pages.data(), pages_each,
                          int64_t(rows.size()), rows.data(), out.data(), 1, settings.data(), nullptr, 0, tokens.data()) == 1, "greedy step");
            continue;
        }
        need(zx_step(model, cache, int64_t(ids.size()), ids.data(), nullptr, sequence.data(), position.data(), present, pages.data(),
                     pages_each, int64_t(rows.size()), rows.data(), out.data()) == 0, "step");
    }
    // Then all of them write, some steps in one call.
    const int32_t order[] = {0, 1, 2};
    std::vector<int32_t> pages;
    for (int32_t page = 0; page < sequences * pages_each; ++page) pages.push_back(page);
    out.assign(size_t(sequences) * size_t(file.vocabulary), 0.0f);
    for (int burst = 0; burst < steps / 4 + 1; ++burst) {
        const int count = pick(1, 9);
        std::vector<int32_t> ids, ends, chosen(size_t(sequences * count), -2);
        std::vector<double> settings;
        for (auto& length : lengths) {
            if (length + count > pages_each * 16) length = 0;
            ids.push_back(pick(0, int(file.vocabulary) - 1));
        }
        for (int i = 0; i < sequences * count; ++i)
            for (double value : {pick(0, 1) * 0.8, double(pick(0, 5)), 0.9, 0.01, pick(0, 99) / 100.0}) settings.push_back(value);
        for (int i = pick(0, 40); i > 0; --i) ends.push_back(pick(0, int(file.vocabulary) - 1));
        const int done = zx_write(model, cache, sequences, ids.data(), order, lengths.data(), sequences, pages.data(), pages_each, sequences,
                                  order, out.data(), count, settings.data(), ends.data(), int64_t(ends.size()), chosen.data());
        need(done >= 1 && done <= count, "several steps");
        for (int i = 0; i < sequences * count; ++i)
            need(i < sequences * done ? chosen[size_t(i)] >= -1 && chosen[size_t(i)] < file.vocabulary : chosen[size_t(i)] == -2, "chosen tokens");
        for (auto& length : lengths) length += done;
    }
    need(zx_cache_copy(cache, cache, 0, 1) == 0, "copy");
    zx_cache_free(cache);
    zx_model_free(model);
}

void check_candidates() {
    for (int64_t size : {1, 15, 63, 64, 65, 300}) {
        std::vector<float> x(size_t(9 * size)), values(9 * 12);
        std::vector<int32_t> places(9 * 12);
        for (auto& value : x) value = float(draw(-1000, 1000)) / 100;
        for (const char* name : KERNELS)
            if (zx_supports(name)) {
                need(zx_use_kernels(name) == 0, "kernels");
                need(zx_candidates(x.data(), 9, size, std::min<int64_t>(size, 12), 1, values.data(), places.data()) == 0, "candidates");
            }
    }
}

// An encoder-decoder: sources are read in one step each, then beams of them go on together, sharing pages and parting.
void run_pair(const File& reader, const uint8_t* reader_weights, const File& writer, const uint8_t* writer_weights, unsigned seed) {
    std::mt19937 random(seed);
    const auto pick = [&](int low, int high) { return std::uniform_int_distribution<int>(low, high)(random); };
    const auto open = [](const File& file, const uint8_t* weights) {
        void* model = zx_model_new(file.numbers.data(), int64_t(file.numbers.size()), file.factors.data(), int64_t(file.factors.size()),
                                   weights, int64_t(file.weights.size()));
        need(model != nullptr, "model");
        return model;
    };
    void *reads = open(reader, reader_weights), *writes = open(writer, writer_weights);
    constexpr int SOURCES = 3, BEAMS = 4, ROWS = SOURCES * BEAMS, PAGES = 2;
    void *source = zx_cache_new(reads, SOURCES * PAGES, int(seed % 3)), *cache = zx_cache_new(writes, ROWS * PAGES + 1, int(seed / 2));
    need(source != nullptr && cache != nullptr, "caches");
    std::vector<int32_t> lengths, source_pages;
    for (int s = 0; s < SOURCES; ++s) {
        const int length = pick(1, int(reader.numbers[2]));
        std::vector<int32_t> ids, zeros(size_t(length), 0), places;
        for (int i = 0; i < length; ++i) ids.push_back(pick(0, int(reader.vocabulary) - 1)), places.push_back(i);
        const int32_t pages[PAGES] = {s * PAGES, s * PAGES + 1};
        need(zx_step(reads, source, length, ids.data(), nullptr, zeros.data(), places.data(), 1, pages, PAGES, 0, nullptr, nullptr) == 0, "read");
        lengths.push_back(length);
        source_pages.insert(source_pages.end(), pages, pages + PAGES);
    }
    std::vector<int32_t> rows, owners, pages, ids(ROWS, 0), positions(ROWS, 0);
    for (int r = 0; r < ROWS; ++r) {
        rows.push_back(r);
        owners.push_back(r / BEAMS);
        for (int page = 0; page < PAGES; ++page) pages.push_back(r * PAGES + page);
    }
    std::vector<float> out(size_t(ROWS) * size_t(writer.vocabulary));
    const auto step = [&](const int32_t* whose) {
        return zx_step_reading(writes, cache, source, ROWS, ids.data(), rows.data(), positions.data(), ROWS, pages.data(), PAGES, ROWS,
                               rows.data(), out.data(), SOURCES, whose, lengths.data(), source_pages.data(), PAGES);
    };
    for (int time = 0; time < PAGES * 16; ++time) {
        for (auto& id : ids) id = pick(0, int(writer.vocabulary) - 1);
        for (auto& position : positions) position = time;
        need(step(owners.data()) == 0, "step that reads");
        const int32_t from[] = {0, 2}, to[] = {ROWS * PAGES, 4};
        need(zx_cache_copy_pages(cache, cache, 2, from, to) == 0, "copies");
    }
    std::vector<int32_t> wrong(owners);
    wrong[3] = SOURCES;
    need(step(wrong.data()) != 0, "a source that is not there was read");
    need(zx_step(writes, cache, ROWS, ids.data(), nullptr, rows.data(), positions.data(), ROWS, pages.data(), PAGES, ROWS, rows.data(), out.data()) != 0,
         "a plan that reads ran without sources");
    zx_cache_free(source);
    zx_cache_free(cache);
    zx_model_free(reads);
    zx_model_free(writes);
}

// Changed plans must be refused, or run within their memory.
void run_changed(const File& file, const uint8_t* weights) {
    std::vector<int64_t> numbers = file.numbers;
    for (int64_t i = draw(1, 3); i > 0; --i) {
        int64_t& one = numbers[size_t(draw(0, int64_t(numbers.size()) - 1))];
        const int64_t choices[] = {-1, 0, 1, 2, 3, 31, 32, 64, one + 1, one - 1, one * 2, 1 << 16};
        one = choices[draw(0, 11)];
    }
    void* model = zx_model_new(numbers.data(), int64_t(numbers.size()), file.factors.data(), int64_t(file.factors.size()), weights,
                               int64_t(file.weights.size()));
    if (!model) return;
    for (int64_t i = 0; i < 4; ++i) zx_model_table(model, i, TABLE.data(), TABLE.data(), 64);
    void* cache = zx_cache_new(model, 2, int(draw(0, 2)));
    const int32_t ids[] = {0, 1, 2, 3}, zeros[] = {0, 0, 0, 0}, pages[] = {0, 1};
    std::vector<float> out(size_t(4) << 17), inputs(size_t(4) << 17);
    zx_step(model, cache, 4, ids, inputs.data(), zeros, ids, 1, pages, 2, 4, ids, out.data());
    const double greedy[] = {0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0};
    int32_t tokens[4];
    zx_write(model, cache, 4, ids, zeros, ids, 1, pages, 2, 4, ids, out.data(), 1, greedy, nullptr, 0, tokens);
    zx_cache_free(cache);
    zx_model_free(model);
}

}  // namespace

// As OpenMP starts its threads: the caller and some others do the same.
void on_threads(void (*body)(void*), void* at, unsigned threads, unsigned) {
    std::vector<std::thread> others;
    for (unsigned i = 1; i < threads; ++i) others.emplace_back(body, at);
    body(at);
    for (auto& other : others) other.join();
}

std::vector<float> some(int64_t size) {
    std::vector<float> values(static_cast<size_t>(size));
    for (float& value : values) value = float(draw(-1000, 1000)) / 300.0f;
    return values;
}

// Passes over rows in training, on shapes that fill no vector.
void check_training() {
    for (const char* name : KERNELS) {
        if (!zx_supports(name)) continue;
        need(zx_use_kernels(name) == 0, "kernels");
        for (int round = 0; round < 40; ++round) {
            const int64_t batch = draw(1, 3), time = draw(1, 40), heads = draw(1, 5), kv = draw(1, 3), size = draw(1, 70), half = draw(0, size / 2);
            const int threads = int(draw(1, 4));
            const bool normed = round % 2 == 0;
            const int64_t all = batch * time * size;
            // Every token somewhere, in any order, some places empty; or all in their order.
            const bool moved = round % 3 == 0;
            std::vector<int64_t> at(size_t(batch * time), -1);
            int64_t tokens = 0;
            for (int64_t place = 0; place < batch * time; ++place)
                if (place == 0 || draw(0, 3)) at[size_t(place)] = tokens++;
            for (int64_t place = batch * time - 1; place > 0; --place) std::swap(at[size_t(place)], at[size_t(draw(0, int(place)))]);
            const int64_t* places = moved ? at.data() : nullptr;
            const int64_t turns = moved ? tokens : time;
            const auto x = some(all * (heads + 2 * kv)), cos = some(turns * half), sin = some(turns * half);
            std::vector<float> q(size_t(all * heads)), k(size_t(all * kv)), v(k), scales(size_t(batch * time * (heads + kv))), dx(x);
            need(zx_place_heads(on_threads, threads, x.data(), places, batch, time, heads, kv, size, cos.data(), sin.data(), half,
                                normed ? 1e-5f : -1.0f, 0.5f, q.data(), k.data(), v.data(), scales.data()) == 0, "placing heads");
            need(zx_place_heads_gradient(on_threads, threads, q.data(), k.data(), v.data(), q.data(), k.data(), scales.data(), places, batch, time,
                                         heads, kv, size, cos.data(), sin.data(), half, normed, 0.5f, dx.data()) == 0, "their gradient");
            std::vector<float> taken(q.size());
            need(zx_take_heads(on_threads, threads, q.data(), places, batch, time, heads, size, taken.data()) == 0, "taking heads");
            need(zx_take_heads_gradient(on_threads, threads, taken.data(), places, batch, time, heads, size, q.data()) == 0, "their gradient");
            std::vector<float> y(x.size()), norms(size_t(batch * time * (heads + 2 * kv)));
            need(zx_norm_rows(on_threads, threads, x.data(), int64_t(norms.size()), size, 1e-5f, y.data(), norms.data()) == 0, "norms");
            need(zx_norm_rows_gradient(on_threads, threads, x.data(), y.data(), norms.data(), int64_t(norms.size()), size, dx.data()) == 0, "norms");
            const auto weight = some(size);
            need(zx_scaled_norm_rows(on_threads, threads, x.data(), weight.data(), int64_t(norms.size()), size, 1e-5f, y.data(), norms.data()) == 0, "norms");
            need(zx_scaled_norm_rows_gradient(on_threads, threads, y.data(), x.data(), weight.data(), norms.data(), int64_t(norms.size()), size,
                                              dx.data()) == 0, "norms");
            need(zx_square_positive(on_threads, threads, dx.data(), int64_t(dx.size()), y.data()) == 0, "squares");
            need(zx_square_positive_gradient(on_threads, threads, y.data(), x.data(), int64_t(x.size()), dx.data()) == 0, "squares");
            need(zx_drop(on_threads, threads, x.data(), int64_t(x.size()), 0x123456789abcdefull, 1u << 29, y.data()) == 0, "dropping");
            const auto pairs = some(2 * all), grad = some(all);
            std::vector<float> opened(grad.size()), both(pairs.size());
            need(zx_gate(on_threads, threads, pairs.data(), batch * time, size, opened.data()) == 0, "gates");
            need(zx_gate_by(on_threads, threads, opened.data(), grad.data(), int64_t(grad.size())) == 0, "gates");
            need(zx_gate_gradient(on_threads, threads, grad.data(), pairs.data(), batch * time, size, both.data()) == 0, "gates");
            const int64_t before = draw(0, 20), keys = before + time + draw(0, 9);
            auto scores = some(batch * time * keys), weights = scores;
            need(zx_causal_weights(on_threads, threads, weights.data(), batch, time, keys, before) == 0, "weights");
            need(zx_causal_weights_gradient(on_threads, threads, scores.data(), weights.data(), batch, time, keys, before) == 0, "weights");
        }
    }
    need(zx_drop(nullptr, 1, nullptr, 5, 0, 1u << 31, nullptr) < 0, "dropping all");
    need(zx_causal_weights(nullptr, 1, nullptr, 1, 5, 4, 0) < 0, "scores of too few keys");
    need(zx_norm_rows(nullptr, 1, nullptr, 0, 5, 0.0f, nullptr, nullptr) < 0, "no rows");
}

// Products for layers: with narrow matrices, transposed or not, and of causal attention, with gradients and without. Whatever is
// written has exactly the room that it needs.
void check_layers() {
    for (const char* name : KERNELS) {
        if (!zx_supports(name)) continue;
        need(zx_use_kernels(name) == 0, "kernels");
        for (int round = 0; round < 30; ++round) {
            const int threads = int(draw(1, 4));
            const int64_t rows = draw(1, 40), cols = draw(1, 700), rank = draw(1, 40), stride = cols + draw(0, 3);
            const bool turned = round % 2 == 0;
            const auto x = some((rows - 1) * stride + cols);
            auto p = some(cols * rank), q = some(rows * rank);
            std::vector<float> narrow(q.size()), other(p.size()), parts(size_t(zx_low_rank_parts(rows, cols, rank)));
            const int64_t of_rows = turned ? 1 : rank, between_rows = turned ? rows : 1, of_cols = turned ? 1 : rank, between_cols = turned ? cols : 1;
            const bool into = round % 3 != 0, back = round % 3 != 1;
            need(zx_low_rank_sums(on_threads, threads, x.data(), stride, rows, cols, rank, 0.5f, into ? p.data() : nullptr, of_cols, between_cols,
                                  narrow.data(), of_rows, between_rows, back ? q.data() : nullptr, of_rows, between_rows, other.data(), of_cols,
                                  between_cols, parts.data()) == 0, "narrow products");
            const int64_t pairs = draw(1, 3), heads = draw(1, 3), time = draw(1, 200), size = 32 * draw(1, 3), one = time * size, apart = one + draw(0, 40);
            const auto queries = some(pairs * heads * one), keys = some(pairs * one), values = some(pairs * one), far = some((pairs - 1) * apart + one);
            std::vector<float> y(queries.size()), kept(size_t(pairs * heads * zx_causal_kept(time))), dq(y.size()), dk(keys.size()), dv(keys.size());
            need(zx_causal(on_threads, threads, queries.data(), far.data(), apart, far.data(), apart, pairs, heads, time, size, y.data(), nullptr) == 0,
                 "reading");
            need(zx_causal(on_threads, threads, queries.data(), keys.data(), one, values.data(), one, pairs, heads, time, size, y.data(), kept.data()) == 0,
                 "attention");
            need(zx_causal_gradient(on_threads, threads, y.data(), queries.data(), keys.data(), values.data(), kept.data(), pairs, heads, time, size,
                                    dq.data(), dk.data(), dv.data()) == 0, "its gradient");
        }
    }
    need(zx_causal(nullptr, 1, nullptr, nullptr, 0, nullptr, 0, 1, 1, 5, 40, nullptr, nullptr) < 0, "heads of another size");
    need(zx_causal(nullptr, 1, nullptr, nullptr, 0, nullptr, 0, 1, 1, int64_t(1) << 31, 32, nullptr, nullptr) < 0, "too many positions");
    need(zx_low_rank_sums(nullptr, 1, nullptr, 5, 5, 5, 5, 1.0f, nullptr, 0, 0, nullptr, 0, 0, nullptr, 0, 0, nullptr, 0, 0, nullptr) < 0,
         "no narrow matrix");
}

int main(int count, char** arguments) {
    const int rounds = std::atoi(arguments[1]);
    zx_set_threads(2, 4);
    check_choices();
    check_products();
    check_candidates();
    check_training();
    check_layers();
    for (int i = 2; i < count; ++i) {
        if (std::string(arguments[i]) == "+") {  // a reader and the writer that goes with it
            const File reader(arguments[++i]), writer(arguments[++i]);
            Aligned reader_weights(reader.weights.size()), writer_weights(writer.weights.size());
            std::memcpy(reader_weights.at, reader.weights.data(), reader.weights.size());
            std::memcpy(writer_weights.at, writer.weights.data(), writer.weights.size());
            for (const char* name : KERNELS)
                for (int threads : {1, 3}) {
                    if (!zx_supports(name)) continue;
                    need(zx_use_kernels(name) == 0 && zx_set_threads(threads, 4) == 0, "settings");
                    run_pair(reader, reader_weights.at, writer, writer_weights.at, unsigned(threads));
                }
            for (int round = 0; round < 20 * rounds; ++round) run_changed(writer, writer_weights.at);
            continue;
        }
        const File file(arguments[i]);
        Aligned weights(file.weights.size());
        std::memcpy(weights.at, file.weights.data(), file.weights.size());
        for (const char* name : KERNELS) {
            if (!zx_supports(name)) continue;
            need(zx_use_kernels(name) == 0, "kernels");
            for (int threads : {1, 2, 5}) {
                need(zx_set_threads(threads, 4) == 0, "threads");
                run_steps(file, weights.at, unsigned(threads), rounds, threads / 2);
            }
        }
        need(zx_set_threads(3, 4) == 0, "threads");
        std::thread other([&] { run_steps(file, weights.at, 11, rounds, 1); });  // two models share the pool
        run_steps(file, weights.at, 12, rounds, 0);
        other.join();
        for (int round = 0; round < 20 * rounds; ++round) run_changed(file, weights.at);
    }
    std::puts("ok");
    return 0;
}
