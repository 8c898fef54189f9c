#include "plan.h"

#include <algorithm>
#include <cmath>

namespace zx {
namespace {

// Reads numbers one after the other; remembers the first thing that is wrong, after which nothing counts.
class Reader {
public:
    Reader(const int64_t* numbers, int64_t count) : at_(numbers), left_(count) {}
    int64_t next(int64_t low, int64_t high, const char* what) {
        if (left_ < 1) { refuse(std::string("the plan ends before ") + what); return low; }
        --left_;
        const int64_t value = *at_++;
        if (value < low || value > high) { refuse(std::string(what) + " is out of range: " + std::to_string(value)); return low; }
        return value;
    }
    void refuse(const std::string& why) { if (why_.empty()) why_ = why; }
    void need(bool truth, const char* what) { if (!truth) refuse(what); }
    bool good() const { return why_.empty(); }
    const std::string& why() const { return why_; }
    int64_t left() const { return left_; }

private:
    const int64_t* at_;
    int64_t left_;
    std::string why_;
};

constexpr int64_t MOST = 1 << 20;            // of anything that is counted
constexpr int64_t FAR = int64_t(1) << 46;    // offsets

// What an operation reads and writes must be inside its buffers, and shapes must fit.
class Checker {
public:
    Checker(Plan& plan, Reader& reader) : p_(plan), r_(reader) { p_.quantised.assign(p_.buffers.size(), 0); ready_.assign(p_.buffers.size(), {-1, 0}); }

    void check(Operation& o) {
        const int64_t* a = o.a;
        o.outputs = gathered_;
        switch (o.op) {
            case Op::Embed:
                span(a[1], 0, cols(a[2]));
                r_.need(!gathered_, "tokens are embedded after the outputs were gathered");
                p_.vocab = p_.vocab ? std::min(p_.vocab, matrix(a[2]).rows) : matrix(a[2]).rows;
                break;
            case Op::Input:
                buffer(a[1]);
                r_.need(!gathered_, "inputs are read after the outputs were gathered");
                p_.input_width = width(a[1]);
                break;
            case Op::Position:
                span(a[1], 0, cols(a[2]));
                r_.need(!gathered_, "positions are added after the outputs were gathered");
                p_.positions = p_.positions ? std::min(p_.positions, matrix(a[2]).rows) : matrix(a[2]).rows;
                break;
            case Op::Norm:
                flag(a[9]); flag(a[10]);
                small(a[5]); small(a[6]);
                r_.need(a[5] >= 1 && a[6] >= 1, "a norm of nothing");
                if (!r_.good()) return;
                span(a[1], a[2], a[5] * a[6]);
                span(a[3], a[4], a[5] * a[6]);
                vector(a[7], a[6]); vector(a[8], a[6]);
                break;
            case Op::Quantise:
                small(a[3]);
                r_.need(a[3] % GROUP == 0 && a[3] > 0, "quantised rows must be whole groups");
                if (!r_.good()) return;
                span(a[1], a[2], a[3]);
                if (!r_.good()) return;
                if (!p_.quantised[size_t(a[1])]) p_.quantised[size_t(a[1])] = a[3];
                // One quantised copy per buffer: its rows are laid out for this many columns.
                if (p_.quantised[size_t(a[1])] != a[3]) r_.refuse("a buffer is quantised in two widths");
                ready_[size_t(a[1])] = {a[2], a[3]};
                return;  // writes no floats
            case Op::Linear: check_linear(a); break;
            case Op::Rotate:
                table(a[6]);
                small(a[3]); small(a[4]); small(a[5]);
                r_.need(a[3] >= 1 && a[5] >= 1 && 2 * a[5] <= a[4], "a rotation larger than the head");
                r_.need(!gathered_, "outputs cannot be rotated");
                if (!r_.good()) return;
                r_.need(p_.tables[size_t(a[6])].half == a[5], "the rotation's table has another size");
                span(a[1], a[2], a[3] * a[4]);
                break;
            case Op::Store: {
                const Layer& layer = layer_of(a[1]);
                span(a[2], a[3], layer.kv_heads * layer.head_dim);
                span(a[4], a[5], layer.kv_heads * layer.head_dim);
                r_.need(!gathered_, "outputs cannot be stored");
                return;
            }
            case Op::Attend: {
                const Layer& layer = layer_of(a[1]);
                small(a[5]);
                r_.need(a[5] >= 1 && a[5] % layer.kv_heads == 0, "heads must be a multiple of key-value heads");
                r_.need(a[6] >= 0 && a[6] <= INT32_MAX, "a window out of range");
                flag(a[7]);
                r_.need(!gathered_, "outputs cannot attend");
                if (!r_.good()) return;
                if (a[8]) check_biases(a[8] - 1, a[5]);
                if (!r_.good()) return;
                span(a[2], 0, a[5] * layer.head_dim);
                span(a[3], a[4], a[5] * layer.head_dim);
                r_.need(a[2] != a[3], "attention cannot write where it reads");
                break;
            }
            case Op::Read:
                r_.need(a[1] >= 1 && a[1] <= 1024 && a[6] >= 1 && a[6] <= MAX_HEAD_DIM, "heads of a source out of range");
                small(a[5]);
                if (r_.good()) r_.need(a[5] >= 1 && a[5] % a[1] == 0, "heads must be a multiple of key-value heads");
                r_.need(a[7] >= 0 && a[7] < MOST, "a source's layer is out of range");
                r_.need(!gathered_, "outputs cannot attend");
                if (!r_.good()) return;
                span(a[2], 0, a[5] * a[6]);
                span(a[3], a[4], a[5] * a[6]);
                r_.need(a[2] != a[3], "attention cannot write where it reads");
                p_.reads.push_back({a[7], {a[1], a[6]}});
                break;
            case Op::Activate:
                small(a[5]);
                r_.need(a[6] >= 0 && a[6] < int64_t(Activation::Count), "no such activation");
                span(a[1], 0, a[5]);
                span(a[2], a[3], a[5]);
                if (a[4] != -1) span(a[2], a[4], a[5]);
                break;
            case Op::Add:
                buffer(a[1]); buffer(a[2]);
                if (r_.good()) r_.need(width(a[1]) == width(a[2]), "buffers of unequal width cannot be added");
                break;
            case Op::Gather:
                r_.need(!gathered_, "outputs are gathered twice");
                buffer(a[2]);
                gathered_ = o.outputs = true;
                buffer(a[1]);
                r_.need(a[1] != a[2], "outputs cannot be gathered in place");
                if (r_.good()) r_.need(width(a[1]) == width(a[2]), "gathered rows have another width");
                break;
            case Op::SoftCap: buffer(a[1]); break;
            case Op::Refine: {
                const Matrix& exact = matrix(a[3]);
                r_.need(a[4] >= 0, "no such vector");
                vector(a[4], exact.rows); vector(a[5], exact.rows);
                span(a[1], 0, exact.rows);
                span(a[2], 0, exact.cols);
                r_.need(a[1] != a[2], "a product cannot write where it reads");
                if (r_.good()) needs_rounded(exact, a[2], 0);
                break;
            }
            default: r_.refuse("no such operation"); return;
        }
        if (!r_.good()) return;
        const int64_t to = a[1 + (o.op == Op::Attend || o.op == Op::Read)];
        ready_[size_t(to)] = {-1, 0};  // what was quantised of it is no longer true
        if (to == p_.output) written_ = true;
    }
    void finish() { r_.need(written_, "nothing writes the output"); }

private:
    void check_linear(const int64_t* a) {
        flag(a[4]);
        buffer(a[1]); buffer(a[2]);
        r_.need(a[5] >= 1 && a[5] <= 3, "a product has one to three matrices");
        r_.need(a[15] >= ALWAYS && a[15] <= ONLY_WHOLE, "a product at no known time");
        if (!r_.good()) return;
        r_.need(a[1] != a[2], "a product cannot write where it reads");
        for (int64_t i = 0; i < a[5] && r_.good(); ++i) {
            const int64_t *part = a + 6 + 3 * i;
            const Matrix& m = matrix(part[0]);
            if (!r_.good()) return;
            span(a[2], a[3], m.cols);
            span(a[1], part[1], m.rows);
            vector(part[2], m.rows);
            if (!r_.good()) return;
            if (is_quantised(m.kind)) needs_rounded(m, a[2], a[3]);
            r_.need(m.cols == matrix(a[6]).cols, "matrices of one product must read the same columns");
            // Different threads write them.
            for (int64_t j = 0; j < i; ++j) {
                const int64_t* other = a + 6 + 3 * j;
                r_.need(part[1] >= other[1] + matrix(other[0]).rows || other[1] >= part[1] + m.rows, "parts of one product overlap");
            }
        }
    }
    void needs_rounded(const Matrix& m, int64_t source, int64_t at) {
        const auto& done = ready_[size_t(source)];
        r_.need(is_quantised(m.kind) && done.first == at && done.second == m.cols, "a product reads rows that were not quantised");
    }
    void check_biases(int64_t index, int64_t heads) {
        r_.need(index >= 0 && index < int64_t(p_.vectors.size()), "no such vector");
        if (!r_.good()) return;
        const int64_t row = p_.vectors[size_t(index)].size / heads, positions = (row - BIAS_MARGIN) / 2;
        r_.need(positions >= 1 && heads * (2 * positions + BIAS_MARGIN) == p_.vectors[size_t(index)].size, "biases of another size");
        p_.positions = p_.positions ? std::min(p_.positions, positions) : positions;
    }
    void flag(int64_t value) { r_.need(value == 0 || value == 1, "a flag must be 0 or 1"); }
    void small(int64_t value) { r_.need(value >= 0 && value <= MAX_DIM, "a size is out of range"); }
    void buffer(int64_t index) {
        r_.need(index >= 0 && index < int64_t(p_.buffers.size()), "no such buffer");
        // The output is the caller's memory, with room for the rows that were asked for and no more.
        r_.need(index != p_.output || gathered_, "the output is used before rows are gathered");
    }
    int64_t width(int64_t index) { buffer(index); return r_.good() ? p_.buffers[size_t(index)] : 0; }
    void span(int64_t index, int64_t at, int64_t size) {
        r_.need(at >= 0 && at <= MAX_DIM && size <= width(index) - at, "an operation reaches beyond its buffer");
    }
    const Matrix& matrix(int64_t index) {
        static const Matrix none;
        r_.need(index >= 0 && index < int64_t(p_.matrices.size()), "no such matrix");
        return r_.good() ? p_.matrices[size_t(index)] : none;
    }
    int64_t cols(int64_t index) { return matrix(index).cols; }
    void vector(int64_t index, int64_t size) {
        r_.need(index >= -1 && index < int64_t(p_.vectors.size()), "no such vector");
        if (r_.good() && index >= 0) r_.need(p_.vectors[size_t(index)].size == size, "a vector of another size");
    }
    void table(int64_t index) { r_.need(index >= 0 && index < int64_t(p_.tables.size()), "no such table"); }
    const Layer& layer_of(int64_t index) {
        static const Layer none{1, 1};
        r_.need(index >= 0 && index < int64_t(p_.layers.size()), "no such layer");
        return r_.good() ? p_.layers[size_t(index)] : none;
    }

    Plan& p_;
    Reader& r_;
    std::vector<std::pair<int64_t, int64_t>> ready_;  // per buffer: what of it is quantised (from, columns)
    bool gathered_ = false, written_ = false;
};

}  // namespace

std::unique_ptr<Plan> read_plan(const int64_t* numbers, int64_t count, const double* factors, int64_t factor_count,
                                const uint8_t* blob, int64_t blob_bytes, std::string& why) {
    Reader r(numbers, count);
    auto plan = std::make_unique<Plan>();
    r.next(PLAN_MAGIC, PLAN_MAGIC, "the magic number");
    r.next(PLAN_VERSION, PLAN_VERSION, "the plan's version");
    plan->max_tokens = r.next(1, 1 << 16, "the number of tokens");
    plan->output = r.next(0, MOST, "the output buffer");
    const int64_t matrices = r.next(0, MOST, "the number of matrices"), vectors = r.next(0, MOST, "the number of vectors");
    const int64_t buffers = r.next(1, 256, "the number of buffers"), layers = r.next(0, 4096, "the number of layers");
    const int64_t tables = r.next(0, 256, "the number of tables"), operations = r.next(1, MOST, "the number of operations");
    const auto inside = [&](int64_t offset, int64_t bytes) {
        r.need(offset % 64 == 0 && bytes <= blob_bytes - offset, "a weight lies outside of the memory that was given");
    };
    for (int64_t i = 0; i < matrices && r.good(); ++i) {
        Matrix m;
        const int64_t kind = r.next(0, KINDS - 1, "a matrix's kind");
        m.kind = Kind(kind);
        m.rows = r.next(1, MAX_DIM, "a matrix's rows");
        m.cols = r.next(1, MAX_DIM, "a matrix's columns");
        const int64_t offset = r.next(0, FAR, "a matrix's place");
        r.need(is_valid(int(kind), m.rows, m.cols), "a matrix has a shape that its kind cannot have");
        if (!r.good()) break;
        inside(offset, int64_t(m.bytes()));
        m.data = blob + offset;
        plan->matrices.push_back(m);
    }
    for (int64_t i = 0; i < vectors && r.good(); ++i) {
        const int64_t size = r.next(1, MAX_DIM, "a vector's size"), offset = r.next(0, FAR, "a vector's place");
        inside(offset, size * 4);
        if (r.good()) plan->vectors.push_back({reinterpret_cast<const float*>(blob + offset), size});
    }
    for (int64_t i = 0; i < buffers && r.good(); ++i) plan->buffers.push_back(r.next(1, MAX_DIM, "a buffer's width"));
    for (int64_t i = 0; i < layers && r.good(); ++i) {
        const int64_t heads = r.next(1, 1024, "key-value heads"), size = r.next(1, MAX_HEAD_DIM, "a head's size");
        plan->layers.push_back({heads, size});
    }
    for (int64_t i = 0; i < tables && r.good(); ++i) plan->tables.push_back({r.next(1, MAX_HEAD_DIM, "a table's size"), nullptr, nullptr, 0});
    r.need(plan->output < int64_t(plan->buffers.size()), "no such output buffer");
    r.need(r.left() == operations * OP_NUMBERS && factor_count == operations * OP_FACTORS, "the operations have another length");
    if (r.good()) {
        Checker checker(*plan, r);
        for (int64_t i = 0; i < operations && r.good(); ++i) {
            Operation o{};
            for (int64_t j = 0; j < OP_NUMBERS; ++j) o.a[j] = r.next(-1, FAR, "an argument");
            for (int64_t j = 0; j < OP_FACTORS; ++j) {
                o.f[j] = float(factors[i * OP_FACTORS + j]);
                r.need(std::isfinite(o.f[j]), "a factor is not a number");
            }
            o.op = Op(o.a[0]);
            checker.check(o);
            plan->operations.push_back(o);
        }
        checker.finish();
    }
    if (r.good()) return plan;
    why = r.why();
    return nullptr;
}

}  // namespace zx
