// The thread pool: runs a list of stages, each a number of independent units of work, on a few threads.
//
// A stage is over when its units are done, not when every thread has arrived. A thread that the operating system has
// taken off its processor is therefore waited for only if it holds a unit; the others do the rest of the work. Every
// thread begins with a share of its own, neighbouring units that it takes from the front in shrinking runs, so that it
// reads memory in one stream; when its share is done it takes from the back of the fullest other one. So threads of
// unequal speed end together. Waiting threads spin for a moment, then sleep: an idle pool costs nothing, and a waiting
// thread frees its processor for the one that holds the unit.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace zx {

// Work for a pool. All methods are called by one thread at a time, except `work`.
class Job {
public:
    virtual ~Job() = default;
    virtual int64_t units(int stage) = 0;  // 0 passes the stage by, a negative number ends the job
    virtual void work(int stage, int64_t first, int64_t last) = 0;
};

class Pool {
public:
    // `threads` counts the calling one. More threads than processors do not spin at all.
    Pool(int threads, int processors);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    // What a thread will read in a later stage: while it waits, it asks for the first of these bytes, so that memory is
    // not idle while another thread does what cannot be shared. Nothing is read: the place need not exist any more.
    void will_read(int thread, const uint8_t* at, int64_t bytes);

    // Runs the job to its end on the calling thread and the pool's. One job at a time; callers queue.
    void run(Job& job);
    int threads() const { return int(workers_.size()) + 1; }

private:
    // A share: stage number (28 bits), end (18), begin (18) of the units not taken. It is changed by compare-and-swap
    // alone while its stage lasts, so that a thread that slept through a stage cannot take a unit of it.
    using Word = uint64_t;
    static constexpr int UNIT_BITS = 18;
    static constexpr Word UNIT_MASK = (Word(1) << UNIT_BITS) - 1, STAGE_MASK = (Word(1) << 28) - 1;
    struct alignas(64) Share {
        std::atomic<Word> word{0};
        std::atomic<const uint8_t*> ahead{nullptr};  // see will_read
        std::atomic<int64_t> ahead_bytes{0};
    };
    // The present stage: its number, and above the numbers' bits whether the job is over.
    static constexpr Word OVER = Word(1) << 32;

    void serve(int thread);
    bool take(int from, bool own, Word number, int64_t& first, int64_t& last);
    int fullest(Word number) const;
    bool take_and_work(int thread, Word seen);
    void advance();
    void publish(int64_t units);
    Word wait_while(int thread, Word seen, bool inside);

    std::vector<std::thread> workers_;
    std::vector<Share> shares_;
    const int spins_;
    std::mutex callers_, mutex_;
    std::condition_variable changed_;
    alignas(64) std::atomic<Word> state_{OVER};
    alignas(64) std::atomic<int64_t> left_{0};  // units not finished
    alignas(64) std::atomic<int> sleepers_{0};
    std::atomic<bool> stopping_{false};
    Job* job_ = nullptr;
    int stage_ = 0;
};

// Calls work(first, last) for runs that cover [0, units).
template <typename Work> void run_parallel(Pool& pool, int64_t units, Work work) {
    struct Once : Job {
        int64_t count;
        Work* body;
        int64_t units(int stage) override { return stage == 0 ? count : -1; }
        void work(int, int64_t first, int64_t last) override { (*body)(first, last); }
    } job;
    job.count = units;
    job.body = &work;
    pool.run(job);
}

}  // namespace zx
