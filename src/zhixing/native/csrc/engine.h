// Runs a plan: one call takes some tokens of some sequences through the whole network.
#pragma once

#include "choose.h"
#include "core.h"
#include "plan.h"

namespace zx {

// Memory in whole pages, huge ones where the system gives them; released when it goes.
class Memory {
public:
    explicit Memory(size_t bytes);
    ~Memory();
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    uint8_t* data() const { return data_; }
    bool good() const { return data_ != nullptr; }

private:
    uint8_t* data_ = nullptr;
    void* base_ = nullptr;
    size_t bytes_ = 0;
};

// Keys and values of all layers, in pages of 16 tokens. Which page holds what is the caller's business.
struct Cache {
    const Format format;
    const std::vector<Layer> layers;
    const int64_t pages, page_bytes;
    Memory memory;
    Cache(Format how, const std::vector<Layer>& what, int64_t count);
    uint8_t* page(int64_t index) const { return memory.data() + index * page_bytes; }
    int64_t offset(int64_t layer) const { return offsets_[size_t(layer)]; }  // bytes from the start of a page

private:
    std::vector<int64_t> offsets_;
};

int64_t page_bytes(Format format, const std::vector<Layer>& layers);

// What a step is given. Tokens of one sequence stand together, in order of their positions.
struct Step {
    int64_t tokens = 0, sequences = 0, outputs = 0;
    const int32_t* ids = nullptr;         // [tokens], or null when the plan reads inputs
    const float* inputs = nullptr;        // [tokens][input width]
    const int32_t* sequence = nullptr;    // [tokens] which sequence each belongs to
    const int32_t* position = nullptr;    // [tokens] its place in it
    const int32_t* pages = nullptr;       // [sequences][page_stride] page numbers
    int64_t page_stride = 0;
    const int32_t* rows = nullptr;        // [outputs] tokens whose output is wanted
    float* out = nullptr;                 // [outputs][output width]
    bool likeliest = false;               // of the outputs only the highest is asked for: see refine.cpp
    // What sequences read besides themselves, where the plan has `Read`: keys and values that another plan stored.
    int64_t sources = 0;
    const int32_t* owner = nullptr;          // [sequences] which source each reads
    const int32_t* source_lengths = nullptr; // [sources] tokens
    const int32_t* source_pages = nullptr;   // [sources][source_page_stride] page numbers
    int64_t source_page_stride = 0;
};

// Choosing tokens behind a step whose outputs are logits. With more than one step, every token of the step is the last of
// its own sequence, and what is chosen behind it is read in the next.
struct Writing {
    int64_t steps = 0;                // at most; 0: nothing is chosen
    const Choice* choices = nullptr;  // [steps][outputs]
    const int32_t* ends = nullptr;    // [end_count] when every sequence has chosen one of these, nothing more is read
    int64_t end_count = 0;
    int32_t* tokens = nullptr;        // [steps][outputs]; -1 where logits are not numbers
};

// What an operation that attends has: `Attend` over the sequence itself, or `Read` over its source.
struct Attention { int64_t heads, kv_heads, head_dim, window; bool source; };

class Engine : public Job {
public:
    explicit Engine(std::unique_ptr<Plan> plan);
    // Checks the step; on success runs it, and what follows it. Returns an empty text, or what is wrong.
    std::string run(const Step& step, Cache* cache, Cache* source = nullptr, const Writing& writing = {});
    int64_t written() const { return written_; }  // steps that were chosen behind
    Plan& plan() { return *plan_; }

    int64_t units(int stage) override;
    void work(int stage, int64_t first, int64_t last) override;

private:
    // Queries that go over the keys together: consecutive tokens of one sequence, or of one source.
    struct Tile { int32_t token, count; };

    std::string check(const Step& step, const Cache* cache, const Cache* source) const;
    std::string check_source(const Step& step, const Cache* source) const;
    std::string check_writing(const Step& step, const Writing& writing) const;
    float* row(int64_t buffer, int64_t token) const;
    uint8_t* quantised(int64_t buffer, int64_t token) const;
    int64_t width_of_output() const { return plan_->buffers[size_t(plan_->output)]; }
    int64_t rows(const Operation& o) const { return o.outputs ? step_.outputs : step_.tokens; }
    Attention attention(const Operation& o) const;
    int64_t keys_of(const Operation& o, int64_t token) const;
    int64_t owner(int64_t token) const { return step_.owner[step_.sequence[token]]; }
    void prepare_attention(const Operation& o);
    int64_t choosing_units(int64_t part);
    void choose(int64_t part, int64_t first, int64_t last);
    bool read_on();
    int64_t attention_units(const Operation& o) const;
    bool small_attention(const Operation& o) const;
    void linear(const Operation& o, int64_t first, int64_t last);
    void attend(const Operation& o, int64_t first, int64_t last);
    void merge(const Operation& o, int64_t first, int64_t last);
    void each_row(const Operation& o, int64_t first, int64_t last);
    void make_tiles(int64_t tokens_in_tile, bool source);
    void announce(size_t next);
    bool skipped(const Operation& o) const;
    int64_t refine_parts(const Operation& o) const;
    void refine_panel(const Operation& o, int64_t token, int64_t panel);
    void lead(const Operation& o, int64_t first, int64_t last);
    void refine(const Operation& o, int64_t first, int64_t last);

    std::unique_ptr<Plan> plan_;
    std::vector<size_t> next_linear_;  // of every operation: the next one that multiplies
    std::vector<float*> buffers_;
    std::vector<uint8_t*> quantised_;
    std::unique_ptr<Memory> memory_;
    const Kernels* kernels_ = nullptr;
    Step step_;
    Writing writing_;
    int64_t written_ = 0;
    std::vector<int32_t> ids_, positions_;  // of the steps behind the first
    std::vector<uint8_t> over_;             // of every sequence: whether it has chosen an end
    std::vector<float> surveyed_;           // of every output: the highest of each block, then the sums
    Cache *cache_ = nullptr, *source_ = nullptr;
    std::vector<Tile> tiles_;
    std::vector<int32_t> last_;  // of every token: the last position of its sequence in this step
    int64_t tokens_in_tile_ = 0, block_ = 1;
    bool tiles_of_source_ = false;
    int64_t stretches_ = 0;      // parts that every query's keys are split into; 0: not split
    std::vector<float> parts_;   // results of the parts, then (highest, total) of each
    std::vector<float> limits_;  // of every row that is refined: what the highest logit is at least, length of its input
};

}  // namespace zx
