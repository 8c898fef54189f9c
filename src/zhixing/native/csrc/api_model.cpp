// The C interface, part two: whole models. See `api.cpp` for the conventions.
#include <algorithm>
#include <cstring>
#include <mutex>
#include <new>
#include <vector>

#include "engine.h"

using namespace zx;

namespace {

constexpr int64_t MAX_WRITTEN = 1024;  // steps of one call

// Steps of one engine must not overlap: it has one set of buffers.
struct Model {
    Engine engine;
    std::mutex one_step;
    explicit Model(std::unique_ptr<Plan> plan) : engine(std::move(plan)) {}
};

}  // namespace

// Makes a model of a plan (see plan.h) over weights that must stay where they are as long as the model lives.
ZX_API void* zx_model_new(const int64_t* numbers, int64_t count, const double* factors, int64_t factor_count, const uint8_t* blob, int64_t blob_bytes) {
    std::string why;
    if (reinterpret_cast<uintptr_t>(blob) % 64) { fail("the weights are not aligned to 64 bytes"); return nullptr; }
    std::unique_ptr<Plan> plan = read_plan(numbers, count, factors, factor_count, blob, blob_bytes, why);
    if (!plan) { fail(why); return nullptr; }
    try {
        return new Model(std::move(plan));
    } catch (const std::bad_alloc&) {
        fail("not enough memory for the plan's buffers");
        return nullptr;
    }
}

ZX_API void zx_model_free(void* model) { delete static_cast<Model*>(model); }

// Hands over a table of rotations, (length, half) each; it must stay where it is until another replaces it.
ZX_API int zx_model_table(void* model, int64_t index, const float* cos, const float* sin, int64_t length) {
    Plan& plan = static_cast<Model*>(model)->engine.plan();
    if (index < 0 || index >= int64_t(plan.tables.size()) || length < 0 || length > MAX_DIM) return fail("no such table");
    std::lock_guard<std::mutex> lock(static_cast<Model*>(model)->one_step);
    Table& table = plan.tables[size_t(index)];
    table.cos = cos;
    table.sin = sin;
    table.length = length;
    return 0;
}

// Bytes of a page of a cache whose keys and values are stored in a format (see `Format`).
ZX_API int64_t zx_page_bytes(void* model, int format) {
    if (format < 0 || format >= FORMATS) return fail("no such format of keys and values");
    return page_bytes(Format(format), static_cast<Model*>(model)->engine.plan().layers);
}

ZX_API void* zx_cache_new(void* model, int64_t pages, int format) {
    const int64_t bytes = zx_page_bytes(model, format);
    if (bytes < 0) return nullptr;
    if (pages < 1 || pages > INT32_MAX || (bytes && pages > (int64_t(1) << 46) / bytes)) { fail("a cache of no pages, or of too many"); return nullptr; }
    Cache* cache = new (std::nothrow) Cache(Format(format), static_cast<Model*>(model)->engine.plan().layers, pages);
    if (cache && cache->memory.good()) return cache;
    delete cache;
    fail("not enough memory for the cache");
    return nullptr;
}

ZX_API void zx_cache_free(void* cache) { delete static_cast<Cache*>(cache); }

// Copies pages of one cache into pages of another, or of the same, of which none may be both read and written.
ZX_API int zx_cache_copy_pages(void* source, void* target, int64_t count, const int32_t* from, const int32_t* to) {
    Cache &s = *static_cast<Cache*>(source), &t = *static_cast<Cache*>(target);
    if (s.layers != t.layers || s.format != t.format) return fail("the caches are of different plans or formats");
    for (int64_t i = 0; i < count; ++i)
        if (from[i] < 0 || to[i] < 0 || from[i] >= s.pages || to[i] >= t.pages) return fail("no such page");
    run_blocks(count, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) std::memcpy(t.page(to[i]), s.page(from[i]), size_t(s.page_bytes));
    });
    return 0;
}

// Copies a page of one cache into a page of another, or of the same.
ZX_API int zx_cache_copy(void* source, void* target, int64_t from, int64_t to) {
    Cache &s = *static_cast<Cache*>(source), &t = *static_cast<Cache*>(target);
    if (s.layers != t.layers || s.format != t.format) return fail("the caches are of different plans or formats");
    if (from < 0 || to < 0 || from >= s.pages || to >= t.pages) return fail("no such page");
    if (s.page(from) != t.page(to)) std::memcpy(t.page(to), s.page(from), size_t(s.page_bytes));
    return 0;
}

// Returns the number of steps that tokens were chosen behind.
static int run(void* model, const Step& step, void* cache, void* source, const Writing& writing = {}) {
    Model& m = *static_cast<Model*>(model);
    std::lock_guard<std::mutex> lock(m.one_step);
    try {
        const std::string why = m.engine.run(step, static_cast<Cache*>(cache), static_cast<Cache*>(source), writing);
        return why.empty() ? int(m.engine.written()) : fail(why);
    } catch (const std::bad_alloc&) {
        return fail("not enough memory for the step");
    }
}

static Step step_of(int64_t tokens, const int32_t* ids, const float* inputs, const int32_t* sequence, const int32_t* position,
                    int64_t sequences, const int32_t* pages, int64_t page_stride, int64_t outputs, const int32_t* rows, float* out) {
    Step step;
    step.tokens = tokens;
    step.ids = ids;
    step.inputs = inputs;
    step.sequence = sequence;
    step.position = position;
    step.sequences = sequences;
    step.pages = pages;
    step.page_stride = page_stride;
    step.outputs = outputs;
    step.rows = rows;
    step.out = out;
    return step;
}

// Runs one step; see `Step` in engine.h for what the arguments are.
ZX_API int zx_step(void* model, void* cache, int64_t tokens, const int32_t* ids, const float* inputs, const int32_t* sequence,
                   const int32_t* position, int64_t sequences, const int32_t* pages, int64_t page_stride, int64_t outputs,
                   const int32_t* rows, float* out) {
    return run(model, step_of(tokens, ids, inputs, sequence, position, sequences, pages, page_stride, outputs, rows, out), cache, nullptr);
}

// Runs a step and chooses a token behind each of its outputs; see `Writing` in engine.h for more than one step, and
// `choices_of` for the settings, (steps, outputs, 5). Returns the number of steps that were run. Where all choices are the
// likeliest token, logits may be approximate: only the highest of a row is sure (see refine.cpp).
ZX_API int zx_write(void* model, void* cache, int64_t tokens, const int32_t* ids, const int32_t* sequence, const int32_t* position,
                    int64_t sequences, const int32_t* pages, int64_t page_stride, int64_t outputs, const int32_t* rows, float* out,
                    int64_t steps, const double* settings, const int32_t* ends, int64_t end_count, int32_t* chosen) {
    if (steps < 1 || steps > MAX_WRITTEN || outputs < 0 || outputs > tokens || end_count < 0) return fail("a number of steps or outputs out of range");
    std::vector<Choice> choices;
    if (!choices_of(settings, steps * outputs, choices)) return fail("a setting of the choice is out of range");
    Writing writing;
    writing.steps = steps;
    writing.choices = choices.data();
    writing.ends = ends;
    writing.end_count = end_count;
    writing.tokens = chosen;
    Step step = step_of(tokens, ids, nullptr, sequence, position, sequences, pages, page_stride, outputs, rows, out);
    step.likeliest = std::all_of(choices.begin(), choices.end(), [](const Choice& choice) { return choice.temperature == 0; });
    return run(model, step, cache, nullptr, writing);
}

// The same for sequences that read sources, which another model has stored in a cache of its own.
ZX_API int zx_step_reading(void* model, void* cache, void* source, int64_t tokens, const int32_t* ids, const int32_t* sequence,
                           const int32_t* position, int64_t sequences, const int32_t* pages, int64_t page_stride, int64_t outputs,
                           const int32_t* rows, float* out, int64_t sources, const int32_t* owner, const int32_t* source_lengths,
                           const int32_t* source_pages, int64_t source_page_stride) {
    Step step = step_of(tokens, ids, nullptr, sequence, position, sequences, pages, page_stride, outputs, rows, out);
    step.sources = sources;
    step.owner = owner;
    step.source_lengths = source_lengths;
    step.source_pages = source_pages;
    step.source_page_stride = source_page_stride;
    return run(model, step, cache, source);
}

// Huge-page memory for weights, zeroed; null when there is none.
ZX_API void* zx_memory_new(int64_t bytes) {
    Memory* memory = bytes > 0 ? new (std::nothrow) Memory(size_t(bytes)) : nullptr;
    if (memory && memory->good()) return memory;
    delete memory;
    return nullptr;
}
ZX_API uint8_t* zx_memory_at(void* memory) { return static_cast<Memory*>(memory)->data(); }
ZX_API void zx_memory_free(void* memory) { delete static_cast<Memory*>(memory); }
