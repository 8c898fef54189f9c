#include "pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define ZX_PAUSE() _mm_pause()
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define ZX_PAUSE() __asm__ volatile("yield")
#else
#define ZX_PAUSE() std::this_thread::yield()
#endif

namespace zx {
namespace {

using Clock = std::chrono::steady_clock;

// Inside a job the next stage is microseconds away; between two tokens the caller may take a fifth of a millisecond.
constexpr auto SPIN_INSIDE = std::chrono::microseconds(40), SPIN_BETWEEN = std::chrono::microseconds(150);

}  // namespace

Pool::Pool(int threads, int processors) : spins_(threads > processors ? 0 : 1) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { serve(); });
}

Pool::~Pool() {
    stopping_.store(true);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }
    for (auto& worker : workers_) worker.join();
}

void Pool::run(Job& job) {
    std::lock_guard<std::mutex> one_caller(callers_);
    job_ = &job;
    stage_ = -1;
    advance();
    for (;;) {
        const State seen = state_.load(std::memory_order_acquire);
        if (over(seen)) return;
        if (!take_and_work()) wait_while(seen, true);
    }
}

// Takes some units of the present stage and does them; false when all are handed out.
bool Pool::take_and_work() {
    State seen = state_.load(std::memory_order_acquire);
    int64_t next, taken;
    do {
        const int64_t total = int64_t(seen >> UNIT_BITS & MOST_UNITS);
        next = int64_t(seen & MOST_UNITS);
        if (next >= total) return false;
        taken = (total - next) / (2 * threads());
        if (taken < 1) taken = 1;
    } while (!state_.compare_exchange_weak(seen, seen + State(taken), std::memory_order_acq_rel, std::memory_order_acquire));
    job_->work(stage_, next, next + taken);
    if (left_.fetch_sub(taken, std::memory_order_acq_rel) == taken) advance();
    return true;
}

// Called by whoever finished the last unit of a stage: opens the next one. Stages of one unit are done right here.
void Pool::advance() {
    for (;;) {
        ++stage_;
        int64_t units = job_->units(stage_);
        if (units < 0) {
            // The caller may begin the next job as soon as it sees this: nothing of this one may be touched behind it.
            publish(-1);
            return;
        }
        if (units == 1 || (units > 0 && workers_.empty())) {
            job_->work(stage_, 0, units);
        } else if (units > 0) {
            publish(units);
            return;
        }
    }
}

// Opens a stage of so many units; a negative number says that the job is over.
void Pool::publish(int64_t units) {
    State low = MOST_UNITS << UNIT_BITS | MOST_UNITS;
    if (units >= 0) {
        left_.store(units, std::memory_order_relaxed);
        low = State(units) << UNIT_BITS;
    }
    const State number = (state_.load(std::memory_order_relaxed) >> (2 * UNIT_BITS)) + 1;
    state_.store(number << (2 * UNIT_BITS) | low, std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }
}

// Waits until the stage that `seen` belongs to is no longer the present one.
Pool::State Pool::wait_while(State seen, bool inside) {
    const auto same = [&](State now) { return now >> (2 * UNIT_BITS) == seen >> (2 * UNIT_BITS); };
    State now = state_.load(std::memory_order_acquire);
    if (spins_) {
        const auto until = Clock::now() + (inside ? SPIN_INSIDE : SPIN_BETWEEN);
        do {
            for (int i = 0; i < 32; ++i) {
                now = state_.load(std::memory_order_acquire);
                if (!same(now)) return now;
                ZX_PAUSE();
            }
        } while (Clock::now() < until);
    }
    std::unique_lock<std::mutex> lock(mutex_);
    sleepers_.fetch_add(1, std::memory_order_seq_cst);
    changed_.wait(lock, [&] {
        now = state_.load(std::memory_order_seq_cst);
        return !same(now) || stopping_.load();
    });
    sleepers_.fetch_sub(1, std::memory_order_relaxed);
    return now;
}

void Pool::serve() {
    while (!stopping_.load(std::memory_order_relaxed)) {
        const State seen = state_.load(std::memory_order_acquire);
        if (!take_and_work()) wait_while(seen, !over(seen));
    }
}

}  // namespace zx
