#include "engine.h"

#include <algorithm>
#include <cstring>
#include <new>

#if !defined(_WIN32)
#include <sys/mman.h>
#endif

namespace zx {
namespace {

constexpr int64_t TOKEN_BLOCK = 16;    // rows of activations that stay in the first cache while panels go by
constexpr int64_t MOST_UNITS = 100000; // within what the pool can count
constexpr int64_t SMALL_WORK = 16384;  // operations on floats that are not worth another thread
constexpr int64_t SMALL_ATTENTION = 1 << 18;  // multiplications of attention that are not: keys cross processors slowly
constexpr int64_t ANNOUNCED = 128 << 10;      // bytes of the next weights that a waiting thread asks for
constexpr size_t HUGE = size_t(2) << 20;
constexpr size_t SLACK = 4096;         // behind every memory, for the kernels' prefetches to aim at

// Operations per float, about: the embedding is unpacked value by value, keys are stored number by number.
constexpr int64_t cost_of(Op op) {
    switch (op) {
        case Op::Embed: return 8;
        case Op::Store: return 4;
        case Op::Activate: return 4;
        case Op::Quantise: return 3;
        case Op::Norm: return 2;
        default: return 1;
    }
}

bool attends(const Operation& o) { return o.op == Op::Attend || o.op == Op::Read; }

}  // namespace

Memory::Memory(size_t bytes) : bytes_(bytes + SLACK) {
#if defined(_WIN32)
    base_ = ::operator new(bytes_ + 64, std::nothrow);
    if (base_) data_ = static_cast<uint8_t*>(base_) + (64 - reinterpret_cast<uintptr_t>(base_) % 64) % 64;
#else
    bytes_ += HUGE;
    base_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base_ == MAP_FAILED) { base_ = nullptr; return; }
    data_ = static_cast<uint8_t*>(base_) + (HUGE - reinterpret_cast<uintptr_t>(base_) % HUGE) % HUGE;
#if defined(MADV_HUGEPAGE)
    if (bytes >= HUGE) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
#endif
}

Memory::~Memory() {
#if defined(_WIN32)
    ::operator delete(base_);
#else
    if (base_) munmap(base_, bytes_);
#endif
}

int64_t page_bytes(Format format, const std::vector<Layer>& layers) {
    int64_t bytes = 0;
    for (const Layer& layer : layers) bytes += 2 * layer.kv_heads * block_bytes(format, layer.head_dim);
    return bytes;
}

Cache::Cache(Format how, const std::vector<Layer>& what, int64_t count)
    : format(how), layers(what), pages(count), page_bytes(zx::page_bytes(how, what)), memory(size_t(count * page_bytes)) {
    int64_t at = 0;
    for (const Layer& layer : layers) {
        offsets_.push_back(at);
        at += 2 * layer.kv_heads * block_bytes(format, layer.head_dim);
    }
}

Engine::Engine(std::unique_ptr<Plan> plan) : plan_(std::move(plan)) {
    const size_t count = plan_->buffers.size();
    size_t bytes = 0;
    std::vector<size_t> places(count), quant_places(count);
    const auto reserve = [&](size_t size) { const size_t at = bytes; bytes += (size + 63) / 64 * 64; return at; };
    for (size_t i = 0; i < count; ++i) {
        if (int64_t(i) != plan_->output) places[i] = reserve(size_t(plan_->buffers[i] * plan_->max_tokens) * 4);
        if (plan_->quantised[i]) quant_places[i] = reserve(quant_bytes(size_t(plan_->quantised[i])) * size_t(plan_->max_tokens));
    }
    memory_ = std::make_unique<Memory>(bytes);
    if (!memory_->good()) throw std::bad_alloc();
    for (size_t i = 0; i < count; ++i) {
        buffers_.push_back(reinterpret_cast<float*>(memory_->data() + places[i]));
        quantised_.push_back(memory_->data() + quant_places[i]);
    }
    next_linear_.assign(plan_->operations.size(), 0);
    for (size_t i = plan_->operations.size(), next = 0; i-- > 0;) {  // behind the last one comes the next step's first
        next_linear_[i] = next;
        if (plan_->operations[i].op == Op::Linear) next = i;
    }
}

float* Engine::row(int64_t buffer, int64_t token) const {
    return buffers_[size_t(buffer)] + token * plan_->buffers[size_t(buffer)];
}

uint8_t* Engine::quantised(int64_t buffer, int64_t token) const {
    return quantised_[size_t(buffer)] + size_t(token) * quant_bytes(size_t(plan_->quantised[size_t(buffer)]));
}

std::string Engine::check(const Step& s, const Cache* cache, const Cache* source) const {
    if (s.tokens < 1 || s.tokens > plan_->max_tokens) return "a step has 1 to " + std::to_string(plan_->max_tokens) + " tokens";
    if (s.outputs < 0 || s.outputs > s.tokens || s.sequences < 1 || s.sequences > s.tokens) return "a step's counts are out of range";
    if (plan_->input_width && !s.inputs) return "the plan reads inputs, and none were given";
    if (plan_->vocab && !s.ids) return "the plan reads tokens, and none were given";
    if (!plan_->layers.empty() && (!cache || cache->layers != plan_->layers)) return "the cache was made for another plan";
    const int64_t pages = plan_->layers.empty() ? MAX_DIM : s.page_stride;
    for (int64_t t = 0; t < s.tokens; ++t) {
        if (plan_->vocab && (s.ids[t] < 0 || s.ids[t] >= plan_->vocab)) return "token id " + std::to_string(s.ids[t]) + " is outside of the vocabulary";
        if (s.sequence[t] < 0 || s.sequence[t] >= s.sequences) return "a token of a sequence that is not there";
        if (s.position[t] < 0 || s.position[t] / PAGE >= pages) return "a position behind the sequence's pages";
        if (plan_->positions && s.position[t] >= plan_->positions) return "a position behind the table of positions";
        for (const Table& table : plan_->tables)
            if (s.position[t] >= table.length) return "a position behind the table of rotations";
    }
    for (int64_t i = 0; cache && i < s.sequences * s.page_stride; ++i)
        if (s.pages[i] < 0 || s.pages[i] >= cache->pages) return "a page that is not in the cache";
    for (int64_t i = 0; i < s.outputs; ++i)
        if (s.rows[i] < 0 || s.rows[i] >= s.tokens) return "an output of a token that is not there";
    return plan_->reads.empty() ? "" : check_source(s, source);
}

std::string Engine::check_source(const Step& s, const Cache* source) const {
    if (!source || !s.owner || !s.source_lengths || !s.source_pages || s.sources < 1) return "the plan reads sources, and none were given";
    for (const auto& read : plan_->reads)
        if (read.first >= int64_t(source->layers.size()) || !(source->layers[size_t(read.first)] == read.second))
            return "the source's cache was made for another plan";
    for (int64_t i = 0; i < s.sequences; ++i)
        if (s.owner[i] < 0 || s.owner[i] >= s.sources) return "a sequence of a source that is not there";
    for (int64_t i = 0; i < s.sources; ++i)
        if (s.source_lengths[i] < 1 || (s.source_lengths[i] - 1) / PAGE >= s.source_page_stride) return "a source behind its pages";
    for (int64_t i = 0; i < s.sources * s.source_page_stride; ++i)
        if (s.source_pages[i] < 0 || s.source_pages[i] >= source->pages) return "a page that is not in the source's cache";
    return "";
}

std::string Engine::check_writing(const Step& s, const Writing& w) const {
    if (w.steps == 1) return "";
    if (width_of_output() > plan_->vocab) return "the plan's outputs are not logits of the tokens that it reads";
    if (s.sequences != s.tokens || s.outputs != s.tokens) return "a step that others follow has one token of every sequence";
    const int64_t pages = plan_->layers.empty() ? MAX_DIM : s.page_stride;
    for (int64_t t = 0; t < s.tokens; ++t) {
        if (s.sequence[t] != t || s.rows[t] != t) return "a step that others follow has its tokens in order";
        const int64_t last = s.position[t] + w.steps - 1;
        if (last / PAGE >= pages) return "a position behind the sequence's pages";
        if (plan_->positions && last >= plan_->positions) return "a position behind the table of positions";
        for (const Table& table : plan_->tables)
            if (last >= table.length) return "a position behind the table of rotations";
    }
    return "";
}

std::string Engine::run(const Step& step, Cache* cache, Cache* source, const Writing& writing) {
    std::string why = check(step, cache, source);
    if (why.empty() && writing.steps) why = check_writing(step, writing);
    if (!why.empty()) return why;
    step_ = step;
    writing_ = writing;
    written_ = 0;
    over_.assign(size_t(step.sequences), 0);
    if (writing.steps) surveyed_.resize(size_t(2 * step.outputs * survey_blocks(width_of_output())));
    if (writing.steps > 1) {
        ids_.assign(step.ids, step.ids + step.tokens);
        positions_.assign(step.position, step.position + step.tokens);
        step_.ids = ids_.data();
        step_.position = positions_.data();
    }
    cache_ = cache;
    source_ = source;
    kernels_ = &kernels();
    tokens_in_tile_ = 0;
    buffers_[size_t(plan_->output)] = step.out;
    last_.assign(step.position, step.position + step.tokens);
    for (int64_t t = step.tokens - 2; t >= 0; --t)
        if (step.sequence[t] == step.sequence[t + 1]) last_[size_t(t)] = last_[size_t(t) + 1];
    pool().run(*this);
    return "";
}

Attention Engine::attention(const Operation& o) const {
    if (o.op == Op::Read) return {o.a[5], o.a[1], o.a[6], 0, true};
    const Layer& layer = plan_->layers[size_t(o.a[1])];
    return {o.a[5], layer.kv_heads, layer.head_dim, o.a[6], false};
}

// Keys before which a token's reach ends.
int64_t Engine::keys_of(const Operation& o, int64_t token) const {
    if (o.op == Op::Read) return step_.source_lengths[owner(token)];
    // Without causality a query sees all of the sequence's tokens in this step as well.
    return (o.a[7] ? step_.position[token] : last_[size_t(token)]) + 1;
}

void Engine::make_tiles(int64_t tokens_in_tile, bool source) {
    if (tokens_in_tile == tokens_in_tile_ && source == tiles_of_source_) return;
    tokens_in_tile_ = tokens_in_tile;
    tiles_of_source_ = source;
    tiles_.clear();
    for (int64_t t = 0; t < step_.tokens; ++t) {
        const bool room = !tiles_.empty() && tiles_.back().count < tokens_in_tile;
        const bool same = room && (source ? owner(t) == owner(t - 1) : step_.sequence[t] == step_.sequence[t - 1]);
        if (same) ++tiles_.back().count;
        else tiles_.push_back({int32_t(t), 1});
    }
}

// Decides how attention is split: by stretches of keys too, when there are fewer tiles than threads could use.
void Engine::prepare_attention(const Operation& o) {
    const Attention by = attention(o);
    const int64_t group = by.heads / by.kv_heads;
    make_tiles(std::max<int64_t>(1, ATTEND_ROWS / group), by.source);
    stretches_ = 0;
    const int64_t threads = pool().threads(), plain = int64_t(tiles_.size()) * by.heads / std::min<int64_t>(group, ATTEND_ROWS);
    if (threads == 1 || plain >= 4 * threads) return;
    int64_t longest = 0;
    for (const Tile& tile : tiles_) longest = std::max<int64_t>(longest, keys_of(o, tile.token + tile.count - 1));
    const int64_t reach = by.window ? std::min<int64_t>(longest, by.window + STRETCH) : longest;
    const int64_t wanted = (reach + STRETCH - 1) / STRETCH + (by.window ? 1 : 0);
    if (wanted < 2) return;
    stretches_ = wanted;
    const size_t heads = size_t(step_.tokens * by.heads * stretches_);
    parts_.resize(heads * size_t(by.head_dim + 2));
}

int64_t Engine::attention_units(const Operation& o) const {
    const Attention by = attention(o);
    const int64_t group = by.heads / by.kv_heads, chunks = (group + ATTEND_ROWS - 1) / ATTEND_ROWS;
    return int64_t(tiles_.size()) * by.kv_heads * chunks * std::max<int64_t>(1, stretches_);
}

bool Engine::small_attention(const Operation& o) const {
    int64_t keys = 0;
    for (const Tile& tile : tiles_) keys += keys_of(o, tile.token + tile.count - 1) * tile.count;
    return keys * o.a[5] * attention(o).head_dim * 2 <= SMALL_ATTENTION;
}

// Whether an operation has nothing to do in this step.
bool Engine::skipped(const Operation& o) const {
    if (o.op == Op::Refine) return !step_.likeliest;
    return o.op == Op::Linear && o.a[15] != ALWAYS && (o.a[15] == ONLY_LIKELIEST) != step_.likeliest;
}

// Tells the pool's threads which weights they will read in a later operation, when those are what takes the time.
void Engine::announce(size_t next) {
    while (skipped(plan_->operations[next])) next = next_linear_[next];
    const Operation& o = plan_->operations[next];
    const int64_t threads = pool().threads();
    if (o.op != Op::Linear || threads == 1 || step_.tokens > 8) return;
    int64_t panels = 0;
    for (int64_t i = 0; i < o.a[5]; ++i) panels += plan_->matrices[size_t(o.a[6 + 3 * i])].panels();
    for (int64_t thread = 0; thread < threads; ++thread) {
        int64_t first = panels * thread / threads, part = 0;
        const int64_t count = panels * (thread + 1) / threads - first;
        const Matrix* matrix = &plan_->matrices[size_t(o.a[6])];
        while (first >= matrix->panels()) {
            first -= matrix->panels();
            matrix = &plan_->matrices[size_t(o.a[6 + 3 * ++part])];
        }
        pool().will_read(int(thread), matrix->panel(first), std::min(ANNOUNCED, count * int64_t(matrix->stride())));
    }
}

// Choosing is two stages behind all operations: all threads survey the logits, then each row is chosen by one.
int64_t Engine::choosing_units(int64_t part) {
    if (part == 1) return step_.outputs;
    const int64_t blocks = step_.outputs * survey_blocks(width_of_output());
    block_ = 16;
    return (blocks + block_ - 1) / block_;
}

void Engine::choose(int64_t part, int64_t first, int64_t last) {
    const int64_t size = width_of_output(), blocks = survey_blocks(size);
    const auto survey_of = [&](int64_t row) {
        float* at = surveyed_.data() + 2 * row * blocks;
        return Survey{at, at + blocks};
    };
    if (part == 1) {
        for (int64_t row = first; row < last; ++row) {
            const int64_t place = written_ * step_.outputs + row;
            writing_.tokens[place] = int32_t(choose_token(*kernels_, step_.out + row * size, size, survey_of(row), writing_.choices[place]));
        }
        return;
    }
    const int64_t end = std::min(last * block_, step_.outputs * blocks);
    for (int64_t at = first * block_; at < end;) {
        const int64_t row = at / blocks, from = at % blocks, to = std::min(blocks, from + end - at);
        survey(*kernels_, step_.out + row * size, size, from, to, survey_of(row));
        at += to - from;
    }
}

// Makes the chosen tokens the next step's; false when there is none.
bool Engine::read_on() {
    const int32_t* chosen = writing_.tokens + written_ * step_.outputs;
    const int32_t* const ends = writing_.ends + writing_.end_count;
    if (++written_ >= writing_.steps) return false;
    bool over = true;
    for (int64_t t = 0; t < step_.tokens; ++t) {
        over_[size_t(t)] |= chosen[t] < 0 || std::find(writing_.ends, ends, chosen[t]) != ends;
        over = over && over_[size_t(t)];
        ids_[size_t(t)] = std::max(chosen[t], 0);
        last_[size_t(t)] = ++positions_[size_t(t)];
    }
    return !over;
}

// Every operation is two stages: its work, and, for attention that was split, putting the parts together. Behind the
// last one tokens are chosen, where that is wanted; then comes the next step.
int64_t Engine::units(int stage) {
    const int64_t operations = int64_t(plan_->operations.size()), within = stage % (2 * operations + 2);
    if (within >= 2 * operations) return writing_.steps ? choosing_units(within - 2 * operations) : -1;
    if (within == 0 && stage > 0 && !read_on()) return -1;
    const size_t index = size_t(within / 2);
    const Operation& o = plan_->operations[index];
    const int64_t count = rows(o);
    if (skipped(o)) return 0;
    if (within % 2 && o.op == Op::Refine) {
        block_ = std::max<int64_t>(1, refine_parts(o) / MOST_UNITS + 1);
        return (refine_parts(o) + block_ - 1) / block_;
    }
    if (within % 2) {
        block_ = 4;
        return attends(o) && stretches_ ? (count + block_ - 1) / block_ : 0;
    }
    if (count == 0) return 0;
    if (o.op == Op::Refine) {
        limits_.resize(size_t(2 * count));
        block_ = 1;
        return count;
    }
    if (o.op == Op::Linear) {
        announce(next_linear_[index]);
        int64_t panels = 0;
        for (int64_t i = 0; i < o.a[5]; ++i) panels += plan_->matrices[size_t(o.a[6 + 3 * i])].panels();
        for (block_ = TOKEN_BLOCK; panels * ((count + block_ - 1) / block_) > MOST_UNITS;) block_ *= 2;
        return panels * ((count + block_ - 1) / block_);
    }
    if (attends(o)) {
        prepare_attention(o);
        block_ = small_attention(o) ? attention_units(o) : 1;
        return (attention_units(o) + block_ - 1) / block_;
    }
    const int64_t size = plan_->buffers[size_t(o.op == Op::Store ? o.a[2] : o.a[1])] * cost_of(o.op);
    block_ = std::max<int64_t>(1, SMALL_WORK / size);
    return (count + block_ - 1) / block_;
}

void Engine::work(int stage, int64_t first, int64_t last) {
    const int64_t operations = int64_t(plan_->operations.size()), within = stage % (2 * operations + 2);
    if (within >= 2 * operations) return choose(within - 2 * operations, first, last);
    const Operation& o = plan_->operations[size_t(within / 2)];
    if (o.op == Op::Linear) return linear(o, first, last);
    if (o.op == Op::Refine && within % 2) return refine(o, first * block_, std::min(last * block_, refine_parts(o)));
    if (o.op == Op::Refine) return lead(o, first, last);
    if (attends(o) && within % 2 == 0) return attend(o, first * block_, last * block_);
    const int64_t from = first * block_, to = std::min(last * block_, rows(o));
    if (attends(o)) merge(o, from, to);
    else each_row(o, from, to);
}

void Engine::linear(const Operation& o, int64_t first, int64_t last) {
    const int64_t count = rows(o), parts = o.a[5];
    int64_t ends[3] = {0, 0, 0}, panels = 0;
    for (int64_t i = 0; i < parts; ++i) ends[i] = panels += plan_->matrices[size_t(o.a[6 + 3 * i])].panels();
    while (first < last) {
        const int64_t block = first / panels, panel = first % panels;
        int64_t part = 0;
        while (panel >= ends[part]) ++part;
        const int64_t before = part ? ends[part - 1] : 0;
        const int64_t stop = std::min(ends[part] - panel, last - first) + panel;  // panels of this block and part
        const Matrix& matrix = plan_->matrices[size_t(o.a[6 + 3 * part])];
        const int64_t bias = o.a[8 + 3 * part];
        Product p;
        p.weight = &matrix;
        p.x = row(o.a[2], 0) + o.a[3];
        p.x_stride = plan_->buffers[size_t(o.a[2])];
        p.quant = is_quantised(matrix.kind) ? quantised(o.a[2], 0) : nullptr;
        p.quant_stride = int64_t(quant_bytes(size_t(plan_->quantised[size_t(o.a[2])])));
        p.bias = bias >= 0 ? plan_->vectors[size_t(bias)].at : nullptr;
        p.y = row(o.a[1], 0) + o.a[7 + 3 * part];
        p.y_stride = plan_->buffers[size_t(o.a[1])];
        p.add = o.a[4] != 0;
        kernels_->product(p, panel - before, stop - before, block * block_, std::min(count, (block + 1) * block_));
        first += stop - panel;
    }
}

void Engine::attend(const Operation& o, int64_t first, int64_t last) {
    const Attention by = attention(o);
    const int64_t heads = by.heads, group = heads / by.kv_heads, window = by.window, size = by.head_dim;
    const Cache& cache = by.source ? *source_ : *cache_;
    const int64_t offset = cache.offset(o.a[by.source ? 7 : 1]), block = block_bytes(cache.format, size);
    const float* biases = !by.source && o.a[8] ? plan_->vectors[size_t(o.a[8] - 1)].at : nullptr;
    const int64_t bias_row = biases ? plan_->vectors[size_t(o.a[8] - 1)].size / heads : 0;
    const int64_t chunks = (group + ATTEND_ROWS - 1) / ATTEND_ROWS, splits = std::max<int64_t>(1, stretches_);
    for (int64_t unit = first; unit < last; ++unit) {
        const int64_t split = unit % splits, chunk = unit / splits % chunks, kv_head = unit / splits / chunks % by.kv_heads;
        const Tile& tile = tiles_[size_t(unit / splits / chunks / by.kv_heads)];
        Attend a;
        a.format = cache.format;
        a.page_stride = cache.page_bytes;
        a.cache = cache.page(0) + offset + kv_head * block;
        a.value_offset = by.kv_heads * block;
        a.pages = by.source ? step_.source_pages + owner(tile.token) * step_.source_page_stride
                            : step_.pages + step_.sequence[tile.token] * step_.page_stride;
        a.head_dim = int(size);
        a.scale = o.f[0];
        a.soft_cap = by.source ? 0.0f : o.f[1];
        a.count = 0;
        // Stretches are counted from the first one in reach of the tile's first token; every query of a tile sees the
        // last token before it at least, so that no query is left without keys.
        const int64_t position = step_.position[tile.token];
        const int64_t base = window ? std::max<int64_t>(0, position + 1 - window) / STRETCH * STRETCH : 0;
        bool any = false;
        for (int64_t t = tile.token; t < tile.token + tile.count; ++t)
            for (int64_t h = chunk * ATTEND_ROWS; h < std::min<int64_t>(group, (chunk + 1) * ATTEND_ROWS); ++h) {
                const int64_t head = kv_head * group + h, at = step_.position[t];
                int64_t begin = window ? std::max<int64_t>(0, at + 1 - window) : 0;
                int64_t end = keys_of(o, t);
                a.bias[a.count] = biases ? biases + head * bias_row + (bias_row - BIAS_MARGIN) / 2 - 1 - at : nullptr;
                a.total[a.count] = nullptr;
                a.out[a.count] = row(o.a[2], t) + head * size;
                if (stretches_) {
                    begin = std::max(begin, base + split * STRETCH);
                    end = std::min(end, base + (split + 1) * STRETCH);
                    float* part = parts_.data() + ((t * heads + head) * stretches_ + split) * (size + 2);
                    a.out[a.count] = part + 2;
                    a.total[a.count] = part;
                    part[0] = part[1] = 0.0f;
                    if (begin >= end) begin = end = base + split * STRETCH;
                }
                any = any || end > begin;
                a.begin[a.count] = int32_t(begin);
                a.end[a.count] = int32_t(end);
                a.query[a.count++] = row(o.a[3], t) + o.a[4] + head * size;
            }
        if (any) kernels_->attend(a);
    }
}

void Engine::merge(const Operation& o, int64_t first, int64_t last) {
    const int64_t heads = o.a[5], size = attention(o).head_dim;
    for (int64_t i = first * heads; i < last * heads; ++i) {
        float* out = row(o.a[2], i / heads) + i % heads * size;
        float state[2] = {0.0f, 0.0f};
        for (int64_t s = 0; s < stretches_; ++s) {
            const float* part = parts_.data() + (i * stretches_ + s) * (size + 2);
            kernels_->merge_parts(out, state, part + 2, part, int(size));
        }
        for (int64_t d = 0; d < size; ++d) out[d] /= state[1];
    }
}

// Operations that treat every row by itself.
void Engine::each_row(const Operation& o, int64_t first, int64_t last) {
    const Kernels& k = *kernels_;
    const int64_t* a = o.a;
    const auto vector = [&](int64_t index) { return index >= 0 ? plan_->vectors[size_t(index)].at : nullptr; };
    for (int64_t t = first; t < last; ++t) {
        switch (o.op) {
            case Op::Embed: {
                float* to = row(a[1], t);
                const Matrix& matrix = plan_->matrices[size_t(a[2])];
                unpack_row(matrix, step_.ids[t], to);
                if (o.f[0] != 1.0f) k.soft_cap(to, matrix.cols, o.f[0], 0.0f);
                break;
            }
            case Op::Input: {
                const int64_t width = plan_->buffers[size_t(a[1])];
                std::memcpy(row(a[1], t), step_.inputs + t * width, size_t(width) * 4);
                break;
            }
            case Op::Position: {
                const Matrix& matrix = plan_->matrices[size_t(a[2])];
                std::vector<float> values(size_t(matrix.cols));
                unpack_row(matrix, step_.position[t], values.data());
                k.add(values.data(), matrix.cols, 1.0f, row(a[1], t));
                break;
            }
            case Op::Norm:
                for (int64_t i = 0; i < a[5]; ++i)
                    k.norm(row(a[3], t) + a[4] + i * a[6], vector(a[7]), vector(a[8]), a[6], o.f[0], a[9] != 0, a[10] != 0,
                           row(a[1], t) + a[2] + i * a[6]);
                break;
            case Op::Quantise: k.quantise(row(a[1], t) + a[2], a[3], quantised(a[1], t)); break;
            case Op::Rotate: {
                const Table& table = plan_->tables[size_t(a[6])];
                const int64_t at = step_.position[t] * table.half;
                for (int64_t h = 0; h < a[3]; ++h) k.rotate(row(a[1], t) + a[2] + h * a[4], table.cos + at, table.sin + at, a[5]);
                break;
            }
            case Op::Store: {
                const Layer& layer = plan_->layers[size_t(a[1])];
                const int32_t position = step_.position[t];
                const int64_t block = block_bytes(cache_->format, layer.head_dim);
                uint8_t* page = cache_->page(step_.pages[step_.sequence[t] * step_.page_stride + position / PAGE]) + cache_->offset(a[1]);
                for (int64_t h = 0; h < layer.kv_heads; ++h)
                    k.store_page(cache_->format, row(a[2], t) + a[3] + h * layer.head_dim, row(a[4], t) + a[5] + h * layer.head_dim,
                                 layer.head_dim, position % PAGE, page + h * block, page + (layer.kv_heads + h) * block);
                break;
            }
            case Op::Activate:
                k.activate(row(a[2], t) + a[3], a[4] >= 0 ? row(a[2], t) + a[4] : nullptr, a[5], Activation(a[6]), row(a[1], t));
                break;
            case Op::Add: k.add(row(a[2], t), plan_->buffers[size_t(a[1])], o.f[0], row(a[1], t)); break;
            case Op::Gather: std::memcpy(row(a[1], t), row(a[2], step_.rows[t]), size_t(plan_->buffers[size_t(a[1])]) * 4); break;
            case Op::SoftCap: k.soft_cap(row(a[1], t), plan_->buffers[size_t(a[1])], o.f[0], o.f[1]); break;
            default: break;
        }
    }
}

}  // namespace zx
