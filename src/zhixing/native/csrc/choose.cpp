// See choose.h.
#include "choose.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace zx {
namespace {

struct Candidate {
    float logit;   // divided by the temperature
    double weight; // e^(logit - highest)
    int64_t token;
};

// The likelier first; of equal ones the first in the vocabulary.
bool likelier(const Candidate& a, const Candidate& b) { return a.logit != b.logit ? a.logit > b.logit : a.token < b.token; }

struct Row {
    const Kernels& k;
    const float* logits;
    int64_t size;
    const float* tops;              // the highest of each block
    std::vector<float>& weights;    // e^(logit / temperature - the highest of these)
    std::vector<double>& sums;      // the weights of each block together
    float highest = -INFINITY;      // of all logits
    float temperature = 1.0f;

    int64_t blocks() const { return survey_blocks(size); }
    int64_t length(int64_t block) const { return std::min(SURVEYED, size - block * SURVEYED); }
    float scaled(float logit) const { return logit / temperature; }

    // Puts the survey's blocks together; false when a logit is not a number.
    bool review(const float* block_sums) {
        float sum = 0.0f;
        for (int64_t b = 0; b < blocks(); ++b) {
            sum += block_sums[b];
            highest = std::max(highest, tops[b]);
        }
        if (!std::isnan(sum)) return true;
        for (int64_t i = 0; i < size; ++i)  // or infinities of both signs
            if (std::isnan(logits[i])) return false;
        return true;
    }

    int64_t likeliest() const {
        for (int64_t b = 0; b < blocks(); ++b) {
            if (tops[b] != highest) continue;
            for (int64_t i = b * SURVEYED;; ++i)
                if (logits[i] == highest) return i;
        }
        return 0;
    }

    // Computes all weights; returns their sum.
    double weigh() {
        weights.resize(size_t(size));
        sums.resize(size_t(blocks()));
        double total = 0.0;
        for (int64_t b = 0; b < blocks(); ++b) {
            const int64_t from = b * SURVEYED;
            sums[size_t(b)] = double(k.weigh(logits + from, length(b), temperature, scaled(highest), weights.data() + from));
            total += sums[size_t(b)];
        }
        return total;
    }

    // Collects the tokens whose logit is at least a bound, in the vocabulary's order.
    void collect(float bound, std::vector<Candidate>& found) const {
        found.clear();
        for (int64_t b = 0; b < blocks(); ++b) {
            if (!(tops[b] >= bound)) continue;
            const int64_t from = b * SURVEYED, to = from + length(b);
            for (int64_t i = from; i < to; ++i)
                if (logits[i] >= bound) found.push_back({scaled(logits[i]), 0.0, i});
        }
    }

    void weigh(std::vector<Candidate>& found) const {
        for (Candidate& one : found) one.weight = std::exp(double(one.logit) - double(scaled(highest)));
    }

    // The k likeliest, sorted: no fewer than k logits reach the k-th highest of the blocks' highest.
    void best(int64_t count, std::vector<Candidate>& found) const {
        float bound = -INFINITY;
        if (count <= blocks()) {
            std::vector<float> order(tops, tops + blocks());
            std::nth_element(order.begin(), order.begin() + (count - 1), order.end(), std::greater<float>());
            bound = order[size_t(count - 1)];
        }
        collect(bound, found);
        count = std::min(count, int64_t(found.size()));
        std::partial_sort(found.begin(), found.begin() + count, found.end(), likelier);
        found.resize(size_t(count));
        weigh(found);
    }

    // The likeliest that hold a share of the whole, sorted, and perhaps some more.
    void nucleus(double share, double total, std::vector<Candidate>& found) const {
        for (float depth = 2.0f;; depth *= 2.0f) {
            const float bound = depth > 64.0f ? -INFINITY : highest - depth * temperature;
            collect(bound, found);
            double held = 0.0;
            for (const Candidate& one : found) held += double(weights[size_t(one.token)]);
            if (bound == -INFINITY || held > share * total * (1.0 + 1e-6)) break;
        }
        std::sort(found.begin(), found.end(), likelier);
        weigh(found);
    }

    // Draws from the whole vocabulary, in its order.
    int64_t draw(double point) const {
        double total = 0.0;
        for (double sum : sums) total += sum;
        double before = 0.0;
        const double wanted = point * total;
        int64_t last = 0;
        for (size_t b = 0; b < sums.size(); ++b) {
            if (before + sums[b] <= wanted) {
                before += sums[b];
                continue;
            }
            const int64_t from = int64_t(b) * SURVEYED, to = from + length(int64_t(b));
            for (last = from; last < to; ++last) {
                before += double(weights[size_t(last)]);
                if (before > wanted) return last;
            }
            return to - 1;  // a block's sum and those of its values may differ by rounding
        }
        return likeliest();
    }
};

// Draws one of some candidates, in their order.
int64_t draw(const std::vector<Candidate>& found, double point) {
    double total = 0.0;
    for (const Candidate& one : found) total += one.weight;
    double before = 0.0;
    for (const Candidate& one : found) {
        before += one.weight;
        if (before > point * total) return one.token;
    }
    for (size_t i = found.size(); i-- > 0;)
        if (found[i].weight > 0.0) return found[i].token;
    return found.front().token;
}

}  // namespace

bool choices_of(const double* settings, int64_t count, std::vector<Choice>& choices) {
    choices.clear();
    for (const double* s = settings; count > 0; --count, s += 5) {
        const bool sound = s[0] >= 0 && s[0] < 1e6 && s[1] >= 0 && s[1] < 1e9 && s[2] > 0 && s[2] <= 1 && s[3] >= 0 && s[3] <= 1 && s[4] >= 0 && s[4] < 1;
        if (!sound) return false;
        choices.push_back({s[0], int64_t(s[1]), s[2], s[3], s[4]});
    }
    return true;
}

void survey(const Kernels& kernels, const float* logits, int64_t size, int64_t first, int64_t last, const Survey& to) {
    for (int64_t b = first; b < last; ++b)
        to.tops[b] = kernels.survey(logits + b * SURVEYED, std::min(SURVEYED, size - b * SURVEYED), &to.sums[b]);
}

int64_t choose_token(const Kernels& kernels, const float* logits, int64_t size, const Survey& surveyed, const Choice& choice) {
    thread_local std::vector<float> weights;
    thread_local std::vector<double> sums;
    thread_local std::vector<Candidate> found;
    Row row{kernels, logits, size, surveyed.tops, weights, sums};
    if (!row.review(surveyed.sums)) return -1;
    if (choice.temperature == 0.0 || !std::isfinite(row.highest)) return row.likeliest();
    row.temperature = float(choice.temperature);
    const bool some = choice.top_k > 0;  // even of all: then they are sorted
    double total = 0.0;
    if (some) {
        row.best(std::min(choice.top_k, size), found);
        for (const Candidate& one : found) total += one.weight;
    } else if (choice.top_p < 1.0 || choice.min_p <= 0.0) {
        total = row.weigh();
    }
    if (choice.top_p < 1.0) {
        if (!some) row.nucleus(choice.top_p, total, found);
        double before = 0.0;
        size_t kept = 0;
        while (kept < found.size() && (kept == 0 || before < choice.top_p * total)) before += found[kept++].weight;
        found.resize(kept);
    }
    if (choice.min_p > 0.0) {
        const float bound = row.scaled(row.highest) + float(std::log(choice.min_p));
        if (some || choice.top_p < 1.0) {
            found.erase(std::remove_if(found.begin(), found.end(), [&](const Candidate& one) { return one.logit < bound; }), found.end());
        } else {
            // A little below the bound, so that rounding in the division decides and not this one.
            row.collect(float(double(row.highest) + choice.temperature * (std::log(choice.min_p) - 1e-3)), found);
            found.erase(std::remove_if(found.begin(), found.end(), [&](const Candidate& one) { return one.logit < bound; }), found.end());
            row.weigh(found);
        }
        return draw(found, choice.point);
    }
    return some || choice.top_p < 1.0 ? draw(found, choice.point) : row.draw(choice.point);
}

}  // namespace zx
