#include "pool.h"

#include <chrono>

#if defined(__x86_64__) || defined(_M_X64)
#include <immintrin.h>
#define ZX_PAUSE() _mm_pause()
#define ZX_ASK(at) _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T1)
#elif defined(__aarch64__) && !defined(_MSC_VER)
#define ZX_PAUSE() __asm__ volatile("yield")
#else
#define ZX_PAUSE() std::this_thread::yield()
#endif
#if !defined(ZX_ASK) && defined(__GNUC__)
#define ZX_ASK(at) __builtin_prefetch(at, 0, 2)
#elif !defined(ZX_ASK)
#define ZX_ASK(at) ((void)(at))
#endif

namespace zx {
namespace {

using Clock = std::chrono::steady_clock;

// Inside a job the next stage is microseconds away; between two tokens the caller may take a fifth of a millisecond.
constexpr auto SPIN_INSIDE = std::chrono::microseconds(40), SPIN_BETWEEN = std::chrono::microseconds(150);

}  // namespace

Pool::Pool(int threads, int processors) : shares_(size_t(threads)), spins_(threads > processors ? 0 : 1) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
}

Pool::~Pool() {
    stopping_.store(true);
    {
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }
    for (auto& worker : workers_) worker.join();
}

void Pool::will_read(int thread, const uint8_t* at, int64_t bytes) {
    Share& share = shares_[size_t(thread)];
    share.ahead.store(at, std::memory_order_relaxed);
    share.ahead_bytes.store(bytes, std::memory_order_release);
}

void Pool::run(Job& job) {
    std::lock_guard<std::mutex> one_caller(callers_);
    job_ = &job;
    stage_ = -1;
    advance();
    for (;;) {
        const Word seen = state_.load(std::memory_order_acquire);
        if (seen & OVER) return;
        if (!take_and_work(0, seen)) wait_while(0, seen, true);
    }
}

// Takes half of what is left of a share in the stage of this number: of one's own from the front, of another's from the
// back. False when nothing is left, or the stage is another one by now.
bool Pool::take(int from, bool own, Word number, int64_t& first, int64_t& last) {
    std::atomic<Word>& word = shares_[size_t(from)].word;
    Word seen = word.load(std::memory_order_acquire);
    while (seen >> (2 * UNIT_BITS) == number) {
        const Word begin = seen & UNIT_MASK, end = seen >> UNIT_BITS & UNIT_MASK;
        if (begin == end) return false;
        const Word taken = (end - begin + 1) / 2;
        const Word left = own ? seen + taken : seen - (taken << UNIT_BITS);
        if (!word.compare_exchange_weak(seen, left, std::memory_order_acq_rel, std::memory_order_acquire)) continue;
        first = int64_t(own ? begin : end - taken);
        last = first + int64_t(taken);
        return true;
    }
    return false;
}

// Returns the thread with most units left in the stage of this number, or -1.
int Pool::fullest(Word number) const {
    int found = -1;
    Word most = 0;
    for (int other = 0; other < threads(); ++other) {
        const Word seen = shares_[size_t(other)].word.load(std::memory_order_acquire);
        const Word units = (seen >> UNIT_BITS & UNIT_MASK) - (seen & UNIT_MASK);
        if (seen >> (2 * UNIT_BITS) == number && units > most) {
            most = units;
            found = other;
        }
    }
    return found;
}

// Does what is left of the thread's own share of the stage that was seen, or some of another's; false when all is taken.
// What is done is counted once, at the end: the counter is every thread's, and travels slowly between processors.
bool Pool::take_and_work(int thread, Word seen) {
    if (seen & OVER) return false;
    const Word number = seen & STAGE_MASK;
    int64_t first, last, done = 0;
    while (take(thread, true, number, first, last)) {
        job_->work(stage_, first, last);
        done += last - first;
    }
    for (int from; done == 0;) {
        if ((from = fullest(number)) < 0) return false;
        if (!take(from, false, number, first, last)) continue;
        job_->work(stage_, first, last);
        done = last - first;
    }
    if (left_.fetch_sub(done, std::memory_order_acq_rel) == done) advance();
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
    const Word number = (state_.load(std::memory_order_relaxed) + 1) & STAGE_MASK;
    if (units >= 0) {
        left_.store(units, std::memory_order_relaxed);
        const int64_t count = threads();
        for (int64_t i = 0; i < count; ++i) {
            const Word begin = Word(units * i / count), end = Word(units * (i + 1) / count);
            shares_[size_t(i)].word.store(number << (2 * UNIT_BITS) | end << UNIT_BITS | begin, std::memory_order_release);
        }
    }
    state_.store(number | (units < 0 ? OVER : 0), std::memory_order_seq_cst);
    if (sleepers_.load(std::memory_order_seq_cst) > 0) {
        std::lock_guard<std::mutex> lock(mutex_);
        changed_.notify_all();
    }
}

// Waits until the stage that was seen is no longer the present one.
Pool::Word Pool::wait_while(int thread, Word seen, bool inside) {
    const auto same = [&](Word now) { return now == seen; };
    Word now = state_.load(std::memory_order_acquire);
    if (spins_) {
        const auto until = Clock::now() + (inside ? SPIN_INSIDE : SPIN_BETWEEN);
        Share& share = shares_[size_t(thread)];
        const uint8_t* ahead = nullptr;
        int64_t left = share.ahead_bytes.exchange(0, std::memory_order_acquire);
        if (left > 0) ahead = share.ahead.load(std::memory_order_relaxed);
        do {
            for (int i = 0; i < 32; ++i) {
                now = state_.load(std::memory_order_acquire);
                if (!same(now)) {
                    if (left > 0 && !(now & OVER)) will_read(thread, ahead, left);  // goes on in the next wait
                    return now;
                }
                if (left > 0) {
                    for (int line = 0; line < 4; ++line, ahead += 64, left -= 64) ZX_ASK(ahead);
                } else {
                    ZX_PAUSE();
                }
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

void Pool::serve(int thread) {
    while (!stopping_.load(std::memory_order_relaxed)) {
        const Word seen = state_.load(std::memory_order_acquire);
        if (!take_and_work(thread, seen)) wait_while(thread, seen, !(seen & OVER));
    }
}

}  // namespace zx
