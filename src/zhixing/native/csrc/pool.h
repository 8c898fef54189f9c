// The thread pool: runs a list of stages, each a number of independent units of work, on a few threads.
//
// A stage is over when its units are done, not when every thread has arrived. A thread that the operating system has
// taken off its processor is therefore waited for only if it holds a unit; the others do the rest of the work. Units are
// handed out in shrinking runs (guided self-scheduling), so that threads of unequal speed end together. Waiting threads
// spin for a moment, then sleep: an idle pool costs nothing, and a waiting thread frees its processor for the one that
// holds the unit.
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

    // Runs the job to its end on the calling thread and the pool's. One job at a time; callers queue.
    void run(Job& job);
    int threads() const { return int(workers_.size()) + 1; }

private:
    // Stage number (28 bits), units of the stage (18), units handed out (18): changed by compare-and-swap alone, so that
    // a thread that slept through a stage cannot take a unit of it. All units of MOST_UNITS handed out: the job is over.
    using State = uint64_t;
    static constexpr int UNIT_BITS = 18;
    static constexpr State MOST_UNITS = (State(1) << UNIT_BITS) - 1;
    static bool over(State state) { return (state & (MOST_UNITS << UNIT_BITS | MOST_UNITS)) == (MOST_UNITS << UNIT_BITS | MOST_UNITS); }

    void serve();
    bool take_and_work();
    void advance();
    void publish(int64_t units);
    State wait_while(State seen, bool inside);

    std::vector<std::thread> workers_;
    const int spins_;
    std::mutex callers_, mutex_;
    std::condition_variable changed_;
    alignas(64) std::atomic<State> state_{MOST_UNITS << UNIT_BITS | MOST_UNITS};
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
